"""What a tier has missed while it was out: the newest value of each slot, and removals."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import NamedTuple

from .._entry import Entry
from ._base import GIVEN, Lease

MAX_ENTRIES = 1_000
MAX_BYTES = 64 * 2**20
BATCH_BYTES = 2**20
"""Bytes that are written together, unless one entry has more."""


class Missed(NamedTuple):
    """A write that is to be made good; an entry of None is a removal.

    The lease's position says what the entry may be newer than.
    """

    entry: Entry | None
    lease: Lease
    tries: int = 0
    """How often it could not be written alone while the tier answered."""
    over: bool = False
    """Did it take the place of something that waited here?"""

    @property
    def owes(self) -> bool:
        """Is what the tier has void, also where this is not to be written any more?"""
        return self.over or self.lease.token == GIVEN


class Backlog:
    """Bounded, newest per slot. Until it is written it also stands over what the tier says."""

    def __init__(self) -> None:
        self.slots: dict[str, Missed] = {}
        self.cleared: object | None = None
        """Stands for a clear that the tier has not been told of."""
        self.tags: set[str] = set()
        self.unchecked = False
        """May others have changed what waits here, unheard? Then it is no answer, until written."""
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self.slots) or self.cleared is not None or bool(self.tags)

    def put(self, missed: Missed) -> None:
        """Remember a write; of an entry larger than everything only that it is no longer."""
        slot = missed.lease.slot
        if _size(missed) > MAX_BYTES:
            missed = missed._replace(entry=None)
        self.drop([slot])
        self.slots[slot] = missed
        self._bytes += _size(missed)
        while len(self.slots) > MAX_ENTRIES or self._bytes > MAX_BYTES:
            self._shed()

    def _shed(self) -> None:
        """Give up the oldest entry; a removal given up becomes a clear, as it must not be lost."""
        slot, missed = next(iter(self.slots.items()))
        if missed.entry is None:
            self.cleared = object()
        self.drop([slot])

    def drop(self, slots: Iterable[str]) -> None:
        """Forget about slots."""
        for slot in slots:
            missed = self.slots.pop(slot, None)
            self._bytes -= _size(missed) if missed is not None else 0
        self.unchecked = self.unchecked and bool(self.slots)

    def void(self, slots: Iterable[str]) -> dict[str, Missed]:
        """Nothing that waits for these slots is their value any more; gives the removals that are
        owed all the same, until `settle`.
        """
        known = [slot for slot in slots if slot in self.slots]
        for slot in known:
            self._give_up(slot, self.slots[slot])
        return {slot: self.slots[slot] for slot in known if slot in self.slots}

    def settle(self, owed: Iterable[Missed]) -> None:
        """The tier has what makes these removals needless."""
        self.drop([m.lease.slot for m in owed if self.slots.get(m.lease.slot) is m])

    def _give_up(self, slot: str, missed: Missed) -> None:
        """Not to be written; a removal stays where the tier may have what is void."""
        if missed.entry is not None:
            self.drop([slot])
            if missed.owes:
                self.put(missed._replace(entry=None))

    def clear(self, *, owed: bool) -> None:
        """Everything is void; `owed` where the tier has not been told."""
        self.slots.clear()
        self.tags.clear()
        self._bytes = 0
        self.cleared = object() if owed else None

    def invalidate(self, tags: Iterable[str], *, owed: bool) -> None:
        """What carries one of the tags is void; `owed` where the tier has not been told."""
        gone = set(tags)
        if owed:
            self.tags |= gone
        for slot, missed in list(self.slots.items()):
            if missed.entry is not None and not gone.isdisjoint(missed.entry.tags):
                self._give_up(slot, missed)

    def overtake(self, test: Callable[[Entry, str], bool]) -> None:
        """Others changed something: entries for which `test` holds are not to be written.

        Where a caller gave one, nobody can say which is newer: then neither stays.
        """
        for slot, missed in list(self.slots.items()):
            if missed.entry is not None and test(missed.entry, slot):
                self._give_up(slot, missed)

    def batch(self, count: int) -> list[Missed]:
        """The oldest of what waits: so many at most, and not too large together."""
        batch: list[Missed] = []
        size = 0
        for missed in islice(self.slots.values(), count):
            size += _size(missed)
            if batch and size > BATCH_BYTES:
                break
            batch.append(missed)
        return batch

    # Over what the tier says

    def knows(self, slot: str) -> bool:
        """Is what the tier says about this slot void?"""
        return self.cleared is not None or slot in self.slots

    def entry(self, slot: str) -> Entry | None:
        """What the tier should say about a slot."""
        missed = self.slots.get(slot)
        return missed.entry if missed is not None and not self.unchecked else None

    def voiding(self) -> Callable[[Entry], bool]:
        """A test for entries of the tier that are void. Made before the tier is asked: what it
        gives may be from before an invalidation that is made good meanwhile."""
        tags = frozenset(self.tags)
        return lambda entry: not tags.isdisjoint(entry.tags)


def _size(missed: Missed) -> int:
    return missed.entry.size if missed.entry is not None else 0
