"""What has been stored, by family: where the nearest to a new text is found.

All work on an index is done by one thread of its own, one thing after the other: the event loop
is never held up, and nothing changes while it is being searched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

T = TypeVar("T")

NEAREST = 8
"""How many of a family are looked at more closely."""


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
        # In order of age. No OrderedDict: that holds up everything for long when it grows.
        self._where: dict[str, str] = {}
        self._thread: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, key: str) -> bool:
        return key in self._where

    def _submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Let the index's own thread do something, after all that it was told before."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="aiopromptcache similar")
        try:
            return self._thread.submit(work, *arguments)
        except RuntimeError as error:  # no thread can be started
            failed: Future[Any] = Future()
            failed.set_exception(error)
            return failed

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
        if self._where.get(key) == name:
            return
        self._remove(key)
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
