"""Scores of texts, and what a matcher takes."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
from question_pairs import SAME

from aiopromptcache import ConfigurationError
from aiopromptcache.similarity import LexicalSimilarity, SemanticSimilarity

pytestmark = pytest.mark.anyio


def letters(texts: list[str]) -> list[list[float]]:
    """A toy model: how often each letter is there."""
    return [[text.count(letter) + 0.1 for letter in "abcdefghijklmnop"] for text in texts]


@pytest.mark.parametrize(
    ("one", "other", "least"),
    [
        ("How do I reset it?", "how do i reset it", 1.0),
        ("Ｈｅｌｌｏ", "hello!", 1.0),
        ("How do I reset my password?", "How can I reset my password?", 0.9),
        ("怎么重置密码？", "请问怎么重置密码", 0.8),
    ],
)
def test_the_lexical_score_knows_the_same_words(one: str, other: str, least: float) -> None:
    matcher = LexicalSimilarity()
    assert matcher.score(one, other) >= least
    assert matcher.score(one, other) == matcher.score(other, one)
    assert matcher.score(one, "Bananas are yellow") < 0.6


async def test_scores_are_what_an_index_finds() -> None:
    lexical, semantic = LexicalSimilarity(), SemanticSimilarity(letters, 0.9)
    assert await lexical.scores(SAME) == [lexical.score(*pair) for pair in SAME]
    scores = await semantic.scores(SAME)
    for (one, other), score in zip(SAME, scores, strict=True):
        [a], [b] = await semantic.vectors([one]), await semantic.vectors([other])
        assert score == pytest.approx(semantic.refine(one, other, float(a @ b)), abs=1e-6)
        assert 0 <= score <= 1
    assert await semantic.scores([]) == []


def test_a_semantic_score_is_the_cosine_from_0_to_1() -> None:
    matcher = SemanticSimilarity(letters, 0.9)
    assert matcher.refine("boil eggs", "boil rice", 0.95) == 0.95
    assert matcher.refine("boil eggs", "boil eggs", 1.0000001) == 1.0
    assert matcher.refine("boil eggs", "boil rice", -0.2) == 0.0


@pytest.mark.parametrize("kind", ["plain", "async", "array", "awaitable"])
async def test_vectors_come_from_any_callable(kind: str) -> None:
    async def later(texts: list[str]) -> Any:
        return letters(texts)

    embeds: dict[str, Any] = {
        "plain": letters,
        "async": later,
        "array": lambda texts: numpy.array(letters(texts)),
        "awaitable": lambda texts: later(texts),
    }
    rows = await SemanticSimilarity(embeds[kind], 0.9).vectors(["abc", "def"])
    assert rows.shape == (2, 16)
    assert rows.dtype == numpy.float32
    assert numpy.allclose(numpy.linalg.norm(rows, axis=1), 1)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ([[1.0]], "shape"),
        ([1.0, 2.0], "shape"),
        ([[], []], "shape"),
        ([[0.0], [1.0]], "zero"),
        ([[float("nan")], [1.0]], "not a number"),
    ],
)
async def test_what_are_no_vectors_is_named(given: Any, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        await SemanticSimilarity(lambda texts: given, 0.9).vectors(["a", "b"])


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"threshold": 1.1}, "threshold=1.1"),
        ({"threshold": True}, "threshold=True"),
        ({"guards": [1]}, "guards: 1"),
        ({"verify": 1}, "verify=1"),
        ({"judge": "x"}, "judge='x'"),
        ({"shadow": 0.1}, "judge"),
        ({"shadow": 2, "judge": print}, "shadow=2"),
        ({"max_error": 0}, "max_error=0"),
        ({"confidence": 1}, "confidence=1"),
        ({"max_entries": 0}, "max_entries=0"),
    ],
)
def test_bad_arguments_are_named(options: Any, word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        LexicalSimilarity(**options)
    with pytest.raises(ConfigurationError, match=word):
        SemanticSimilarity(letters, **{"threshold": 0.9, **options})


def test_a_threshold_of_0_means_0() -> None:
    assert LexicalSimilarity(0).threshold == 0.0


def test_an_embed_that_is_none_is_named() -> None:
    with pytest.raises(ConfigurationError, match="embed=None"):
        SemanticSimilarity(None, 0.9)  # type: ignore[arg-type]
