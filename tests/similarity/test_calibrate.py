"""A threshold keeps to its budget on pairs that it was not found on, or there is none."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest

from aiopromptcache import ConfigurationError
from aiopromptcache.similarity import Calibration, SemanticSimilarity, calibrate
from aiopromptcache.similarity._calibrate import bound
from aiopromptcache.similarity._matchers import Matcher

pytestmark = pytest.mark.anyio


class Scored(Matcher):
    """The text says how alike a pair is."""

    def __init__(self, guards: Any = ()) -> None:
        super().__init__(0.9, guards=guards)

    async def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        return [float(one) for one, _ in pairs]


def drawn(seed: int, count: int, sharp: float = 1.0) -> list[tuple[str, str, bool]]:
    """Pairs whose chance to be the same rises with their score."""
    chance = random.Random(seed)
    scores = [chance.random() for _ in range(count)]
    return [(str(score), "", chance.random() < score**sharp) for score in scores]


@pytest.mark.parametrize(
    ("false_hits", "hits", "confidence", "expected"),
    [
        (0, 10, 0.95, 0.2588656),
        (0, 149, 0.95, 0.0199055),
        (1, 10, 0.95, 0.3941633),
        (5, 100, 0.95, 0.1022534),
        (5, 100, 0.975, 0.1128349),
        (0, 0, 0.95, 1.0),
        (7, 7, 0.95, 1.0),
        (400, 20_000, 0.95, 0.0217060),
    ],
)
def test_the_bound_is_exact(false_hits: int, hits: int, confidence: float, expected: float) -> None:
    assert bound(false_hits, hits, confidence) == pytest.approx(expected, rel=2e-4)


def test_the_bound_is_where_so_few_would_be_a_rare_chance() -> None:
    for false_hits, hits in ((0, 3), (2, 50), (30, 400)):
        upper = bound(false_hits, hits, 0.9)
        chance = sum(_binomial(k, hits, upper) for k in range(false_hits + 1))
        assert chance == pytest.approx(0.1, rel=1e-6)


def _binomial(k: int, n: int, p: float) -> float:
    from math import comb

    return comb(n, k) * p**k * (1 - p) ** (n - k)


@pytest.mark.parametrize("max_error", [0.05, 0.1, 0.2])
def test_the_budget_is_kept_on_other_pairs(max_error: float) -> None:
    """The promise is 95%: of 40 calibrations some 2 may break it, and 7 would be a defect."""
    broken = found = 0
    for seed in range(40):
        result = calibrate(drawn(seed, 2_000, 0.3), Scored(), max_error=max_error)
        if result.threshold is None:
            continue
        found += 1
        t = result.threshold  # the true share of wrong hits above it: 1 - mean of score ** 0.3
        true = 1 - (1 - t**1.3) / 1.3 / (1 - t)
        broken += true > max_error
        assert result.error_bound <= max_error
        assert 0 < result.expected_hit_rate == result.hits / 2_000
    assert broken <= 6
    assert found > 25


def test_what_cannot_be_shown_has_no_threshold() -> None:
    few = calibrate([("1", "", True)] * 10, Scored())
    assert (few.threshold, few.error_bound, few.hits) == (None, 1.0, 0)
    assert "no threshold" in str(few)
    wrong = calibrate([("1", "", False)] * 1_000, Scored(), max_error=0.5)
    assert wrong.threshold is None
    assert calibrate([], Scored()).threshold is None


def test_perfect_pairs_prove_just_as_much_as_there_are() -> None:
    result = calibrate([("0.7", "", True)] * 1_000, Scored(), max_error=0.02)
    assert (result.threshold, result.hits, result.false_hits) == (0.7, 1_000, 0)
    assert 0 < result.error_bound < 0.02
    assert "threshold 0.7000" in str(result)


def test_what_a_guard_refuses_is_no_hit() -> None:
    pairs = [("0.9", "wrong", False)] * 500 + [("0.9", "right", True)] * 500

    def guard(asked: str, stored: str) -> str | None:
        return "wrong" if stored == "wrong" else None

    assert calibrate(pairs, Scored()).threshold is None
    result = calibrate(pairs, Scored([guard]))
    assert (result.hits, result.false_hits, result.expected_hit_rate) == (500, 0, 0.5)


async def test_an_async_embed_works_inside_a_loop_and_outside() -> None:
    async def embed(texts: list[str]) -> list[list[float]]:
        await asyncio.sleep(0)
        return [[1.0, 0.0] for _ in texts]

    matcher = SemanticSimilarity(embed, 0.9, guards=())
    pairs = [{"a": "one", "b": "other", "same": 1}] * 400
    inside = await calibrate(pairs, matcher)
    outside = await asyncio.to_thread(calibrate, pairs, matcher)
    assert inside == outside
    assert isinstance(inside, Calibration)
    assert inside.hits == 400


@pytest.mark.parametrize(
    ("pairs", "options", "word"),
    [
        ([("a", "b")], {}, "item 0"),
        ([("a", "b", True), ("a", 1, True)], {}, "item 1"),
        ([("a", "b", 2)], {}, "item 0"),
        ([{"a": "x", "b": "y"}], {}, "item 0"),
        ([], {"max_error": 0}, "max_error=0"),
        ([], {"max_error": 1}, "max_error=1"),
        ([], {"confidence": 1.5}, "confidence=1.5"),
    ],
)
def test_bad_arguments_are_named(pairs: Any, options: Any, word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        calibrate(pairs, Scored(), **options)
