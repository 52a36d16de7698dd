"""The index: exact, bounded, off the event loop."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from rapidfuzz import fuzz

from aiopromptcache.similarity import _letters, _vectors
from aiopromptcache.similarity._index import NEAREST, Index, VectorShelf
from aiopromptcache.similarity._letters import TextShelf
from aiopromptcache.similarity._vectors import Vectors

pytestmark = pytest.mark.anyio


def some(count: int, width: int, seed: int = 0) -> Any:
    """Unit vectors that differ more in some directions than in others, as real ones do."""
    spread = 1 / np.sqrt(1 + np.arange(width) / 8)
    rows = np.random.default_rng(seed).standard_normal((count, width)) * spread
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks and heads so small that little data goes through all of it."""
    monkeypatch.setattr(_vectors, "BLOCK", 64)
    monkeypatch.setattr(_vectors, "HEADS_BLOCK", 128)
    monkeypatch.setattr(_vectors, "SMALL", 128)
    monkeypatch.setattr(_vectors, "TAKEN", 16)
    monkeypatch.setattr(_vectors, "HEAD", 8)
    monkeypatch.setattr(_vectors, "FIRST", 3)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("width", [4, 32])
@pytest.mark.parametrize("least", [-1.0, 0.0, 0.5, 0.9])
def test_vectors_are_searched_exactly(width: int, least: float) -> None:
    rows, vectors = some(700, width), Vectors(width)
    for row in rows:
        vectors.append(row)
    kept = list(range(len(rows)))
    for place in random.Random(1).sample(range(300), 200):
        vectors.remove(place)
        kept[place] = kept[-1]
        kept.pop()
    left = rows[kept]
    for asked in some(20, width, seed=2):
        cosines = left @ asked
        best = [place for place in np.argsort(-cosines)[:5] if cosines[place] >= least]
        found = vectors.nearest(asked, 5, least)
        assert [place for place, _ in found] == best
        assert [score for _, score in found] == pytest.approx(list(cosines[best]), abs=1e-5)


@pytest.mark.usefixtures("small")
def test_equal_vectors_are_all_there() -> None:
    vectors = Vectors(32)
    one = some(1, 32)[0]
    for _ in range(300):
        vectors.append(one)
    assert len(vectors.nearest(one, 5, 0.999)) == 5


def test_no_vectors() -> None:
    vectors = Vectors(4)
    assert vectors.nearest(some(1, 4)[0], 5, -1) == []
    vectors.append(some(1, 4)[0])
    vectors.remove(0)
    assert vectors.nearest(some(1, 4)[0], 5, -1) == []


def plain_ratio(one: str, other: str, **options: Any) -> float:
    """A scorer that goes to 1, and that the shelf knows nothing of."""
    return fuzz.ratio(one, other) / 100


def texts(scorer: Any = fuzz.ratio) -> TextShelf:
    return TextShelf(scorer, 100.0 if scorer is fuzz.ratio else 1.0, NEAREST)


@pytest.mark.parametrize("scorer", [fuzz.ratio, plain_ratio])
@pytest.mark.parametrize("least", [-1.0, 0.0, 0.4, 0.6, 0.8])
@pytest.mark.parametrize("letters", ["abcd ", "abcdefghijklmnopqrstuvwxyz ", "ä好\U0001f600 "])
def test_texts_are_searched_exactly(
    monkeypatch: pytest.MonkeyPatch, scorer: Any, least: float, letters: str
) -> None:
    monkeypatch.setattr(_letters, "BLOCK", 32)
    monkeypatch.setattr(_letters, "COMPARED", 7)
    dice, shelf = random.Random(3), texts(scorer)
    kept = ["".join(dice.choices(letters, k=dice.randint(0, 24))) for _ in range(150)]
    for text in kept:
        shelf.append(text)
    for place in (5, 147, 0, 50, *range(60, 20, -1)):
        shelf.remove(place)
        kept[place] = kept[-1]
        kept.pop()
    for text in kept[:20]:
        asked = text[1:] + "x"
        scores = sorted((fuzz.ratio(asked, other) / 100 for other in kept), reverse=True)
        found = shelf.nearest(asked, least)
        assert [score for _, score in found] == pytest.approx(
            [score for score in scores if score >= least][:NEAREST]
        )
        assert all(fuzz.ratio(asked, kept[at]) / 100 == score for at, score in found)


@pytest.mark.parametrize("odd", ["", "\ud800 lone", "a" * 70_000, "a" * 65_535])
def test_odd_texts_are_found(odd: str) -> None:
    shelf = texts()
    for text in ("another", odd, "b" * 66_000):
        shelf.append(text)
    assert shelf.nearest(odd, 0.99) == [(1, 1.0)]


def test_no_texts() -> None:
    shelf = texts()
    assert shelf.nearest("text", 0.5) == []
    shelf.append("text")
    shelf.remove(0)
    assert shelf.nearest("text", 0.5) == []


async def test_families_share_nothing_but_the_bound() -> None:
    index: Index[str] = Index(3, lambda first: texts())
    for family, key, text in [
        ("a", "1", "one"),
        ("b", "2", "one"),
        ("b", "3", "ones"),
        ("b", "3", "other"),
    ]:
        index.add(family, key, text, text)
    assert [near.key for near in await index.nearest("a", "one", 0.5)] == ["1"]
    assert [near.key for near in await index.nearest("b", "one", 0.5)] == ["2", "3"]
    assert await index.nearest("c", "one", 0.0) == []
    index.add("c", "4", "one", "one")  # the oldest is out
    assert await index.nearest("a", "one", 0.0) == []
    assert len(index) == 3
    index.remove("2")
    index.remove("2")
    assert [near.key for near in await index.nearest("b", "one", 0.5)] == ["3"]
    assert len(index) == 2
    index.close()
    assert [near.key for near in await index.nearest("c", "one", 0.5)] == ["4"]
    index.close()


async def test_a_vector_of_another_width_is_an_error() -> None:
    index: Index[Any] = Index(10, VectorShelf)
    index.add("f", "k", "text", some(1, 4)[0])
    with pytest.raises(ValueError, match="8 numbers"):
        await index.nearest("f", some(1, 8)[0], 0.5)
    index.close()
