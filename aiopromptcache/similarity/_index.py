"""What has been stored, by family: where the nearest to a new text is found.

All work on an index is done by one thread of its own, one thing after the other: the event loop
is never held up, and nothing changes while it is being searched.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

T = TypeVar("T")

NEAREST = 8
"""How many of a family are looked at more closely."""
_TEXTS = 4_000
"""Texts that are compared before other threads get their turn."""
_TURN_SECONDS = 20e-6


class Near(NamedTuple):
    """A stored question near the one that is asked."""

    key: str
    text: str
    score: float


class Shelf(Protocol):
    """The questions of one family, each by the place that it has in it."""

    def append(self, given: Any) -> None:
        """Put one at the end; `given` is what `Index.prepare` made of its text."""

    def remove(self, place: int) -> None:
        """Take one away: the last takes its place."""

    def nearest(self, given: Any, least: float) -> list[tuple[int, float]]:
        """Places and scores of at most `NEAREST` that have `least`, the best first."""
        ...


class _Family:
    """One family's questions, and where each is."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.keys: list[str] = []
        self.texts: list[str] = []
        self.places: dict[str, int] = {}

    def add(self, key: str, text: str, given: Any) -> None:
        self.shelf.append(given)
        self.places[key] = len(self.keys)
        self.keys.append(key)
        self.texts.append(text)

    def remove(self, key: str) -> None:
        place, last = self.places.pop(key), len(self.keys) - 1
        self.shelf.remove(place)
        if place != last:
            self.keys[place], self.texts[place] = self.keys[last], self.texts[last]
            self.places[self.keys[place]] = place
        del self.keys[last], self.texts[last]


class Index(Generic[T]):
    """The questions of all families, `max_entries` of them at most, the oldest out first."""

    def __init__(self, max_entries: int, shelf: Callable[[T], Shelf]) -> None:
        self._max_entries = max_entries
        self._shelf = shelf
        self._families: dict[str, _Family] = {}
        self._where: OrderedDict[str, str] = OrderedDict()
        self._thread: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return len(self._where)

    def _submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Let the index's own thread do something, after all that it was told before."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="aiopromptcache similar")
        return self._thread.submit(work, *arguments)

    async def nearest(self, family: str, given: T, least: float) -> list[Near]:
        """The best of a family that score at least `least`."""
        work = self._submit(self._nearest, family, given, least)
        found: list[Near] = await asyncio.wrap_future(work)
        return found

    def add(self, family: str, key: str, text: str, given: T) -> Future[Any]:
        """Keep a question; one that is kept already stays as it is."""
        return self._submit(self._add, family, key, text, given)

    def remove(self, key: str) -> None:
        """Forget a question."""
        self._submit(self._remove, key)

    def _nearest(self, name: str, given: T, least: float) -> list[Near]:
        family = self._families.get(name)
        if family is None:
            return []
        found = family.shelf.nearest(given, least)
        return [Near(family.keys[place], family.texts[place], score) for place, score in found]

    def _add(self, name: str, key: str, text: str, given: T) -> None:
        if key in self._where:
            return
        family = self._families.get(name)
        if family is None:
            family = self._families[name] = _Family(self._shelf(given))
        family.add(key, text, given)
        self._where[key] = name
        while len(self._where) > self._max_entries:
            self._remove(next(iter(self._where)))

    def _remove(self, key: str) -> None:
        name = self._where.pop(key, None)
        if name is not None:
            family = self._families[name]
            family.remove(key)
            if not family.keys:
                del self._families[name]

    def close(self) -> None:
        """End the thread; what is kept stays, for a cache that is used again."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown(wait=False, cancel_futures=True)


class TextShelf:
    """Prepared texts, compared one by one, with a pause now and then for other threads."""

    def __init__(self, scorer: Any, scale: float) -> None:
        from rapidfuzz import process

        self._extract = process.extract
        self._scorer = scorer
        self._scale = scale
        self._texts: list[str] = []

    def append(self, given: str) -> None:
        """See `Shelf`."""
        self._texts.append(given)

    def remove(self, place: int) -> None:
        """See `Shelf`."""
        last = self._texts.pop()
        if place != len(self._texts):
            self._texts[place] = last

    def nearest(self, given: str, least: float) -> list[tuple[int, float]]:
        """See `Shelf`."""
        found: list[tuple[int, float]] = []
        for start in range(0, len(self._texts), _TEXTS):
            if start:
                time.sleep(_TURN_SECONDS)  # the comparing itself holds the interpreter's lock
            some = self._texts[start : start + _TEXTS]
            best = self._extract(
                given,
                some,
                scorer=self._scorer,
                limit=NEAREST,
                score_cutoff=max(0.0, least) * self._scale,
            )
            found += [(start + at, score / self._scale) for _, score, at in best]
        return sorted(found, key=lambda one: -one[1])[:NEAREST]


class VectorShelf:
    """Normalised vectors (see `_vectors`)."""

    def __init__(self, first: Any) -> None:
        from ._vectors import Vectors

        self._vectors = Vectors(len(first))

    def append(self, given: Any) -> None:
        """See `Shelf`."""
        self._fits(given)
        self._vectors.append(given)

    def remove(self, place: int) -> None:
        """See `Shelf`."""
        self._vectors.remove(place)

    def nearest(self, given: Any, least: float) -> list[tuple[int, float]]:
        """See `Shelf`."""
        self._fits(given)
        return self._vectors.nearest(given, NEAREST, least)

    def _fits(self, given: Any) -> None:
        if len(given) != self._vectors.width:
            raise ValueError(
                f"embed gave {len(given)} numbers for a text, and {self._vectors.width} before"
            )
