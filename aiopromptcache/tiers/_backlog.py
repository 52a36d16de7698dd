"""What a tier has missed while it was out: the newest value of each slot, and removals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any, NamedTuple

from .._entry import Entry
from ._base import GIVEN, Lease

MAX_VALUES = 1_000
"""While the tier is out."""
MAX_BEHIND = 10_000
"""While it works, and has more to write than it gets done in time."""
MAX_BYTES = 64 * 2**20
"""Of all values together."""
MAX_REMOVALS = 10_000
"""Of slots, and of tags."""
BATCH_BYTES = 2**20
"""Bytes that are written together, unless one entry has more."""


class Missed(NamedTuple):
    """A write that is to be made good; an entry of None is a removal.

    The lease's position says what the entry may be newer than. Its token is GIVEN where what the
    tier has is void, also if this entry is overtaken.
    """

    entry: Entry | None
    lease: Lease
    tries: int = 0
    """How often it could not be written alone while the tier answered."""


class Backlog:
    """Bounded, newest per slot. Until it is written it also stands over what the tier says."""

    def __init__(self, out: Callable[[], bool] = lambda: True) -> None:
        self._out = out
        """Is the tier out?"""
        self.values: dict[str, Missed] = {}
        self.removals: dict[str, Missed] = {}
        self.cleared: object | None = None
        """Stands for a clear that the tier has not been told of; all else comes after it."""
        self.tags: dict[str, object] = {}
        """Tags that the tier has not been told of; each stands for when that was."""
        self.unchecked = False
        """May others have changed what waits here, unheard? Then it is no answer, until written."""
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self.values or self.removals or self.tags) or self.cleared is not None

    def put(self, missed: Missed) -> None:
        """Remember a write; of an entry larger than everything only that it is no longer."""
        slot = missed.lease.slot
        self.drop([slot])
        if missed.entry is None or missed.entry.size > MAX_BYTES:
            self._remove(missed)
            return
        self.values[slot] = missed
        self._bytes += missed.entry.size
        self.trim()

    def trim(self) -> None:
        """Only the newest values stay."""
        most = MAX_VALUES if self._out() else MAX_BEHIND
        while len(self.values) > most or self._bytes > MAX_BYTES:
            self._give_up(next(iter(self.values.values())))

    def _remove(self, missed: Missed) -> None:
        self.removals[missed.lease.slot] = missed._replace(entry=None)
        self._bound(self.removals)

    def _bound(self, owed: dict[str, Any]) -> None:
        """A removal must not be lost: too many of them become a clear."""
        if len(owed) > MAX_REMOVALS:
            owed.clear()
            self.cleared = object()

    def drop(self, slots: Iterable[str]) -> None:
        """Forget about slots."""
        for slot in slots:
            self.removals.pop(slot, None)
            missed = self.values.pop(slot, None)
            if missed is not None and missed.entry is not None:
                self._bytes -= missed.entry.size
        self.unchecked = self.unchecked and bool(self.values)

    def void(self, slots: Iterable[str]) -> list[Missed]:
        """Nothing that waits for these slots is their value any more; gives the removals that are
        owed all the same, until `settle`.
        """
        owed: list[Missed] = []
        for slot in slots:
            if slot in self.values:
                self._give_up(self.values[slot])
            if slot in self.removals:
                owed.append(self.removals[slot])
        return owed

    def void_all(self) -> list[Missed]:
        """Like `void` for every slot."""
        return self.void([*self.values, *self.removals])

    def settle(self, done: Iterable[Missed]) -> None:
        """The tier has these, or what makes them needless."""
        self.drop([m.lease.slot for m in done if self.waits(m)])

    def waits(self, missed: Missed) -> bool:
        """Is this still what waits for its slot?"""
        waiting = self.removals if missed.entry is None else self.values
        return waiting.get(missed.lease.slot) is missed

    def _give_up(self, missed: Missed) -> None:
        """A value is not to be written; a removal stays where the tier may have what is void."""
        self.drop([missed.lease.slot])
        if missed.lease.token == GIVEN:
            self._remove(missed)

    def clear(self) -> None:
        """Everything is void, and the tier has not been told."""
        self.drop([*self.values, *self.removals])
        self.tags.clear()
        self.cleared = object()

    def settle_clear(self, cleared: object) -> None:
        """The tier has been told of this clear."""
        if self.cleared is cleared:
            self.cleared = None

    def settle_tags(self, tags: Mapping[str, object]) -> None:
        """The tier has been told of these."""
        self.tags = {tag: when for tag, when in self.tags.items() if tags.get(tag) is not when}

    def invalidate(self, tags: Iterable[str], *, owed: bool = False) -> None:
        """What carries one of the tags is void; `owed` where the tier has not been told."""
        gone = set(tags)
        if owed:
            self.tags |= dict.fromkeys(gone, object())
            self._bound(self.tags)
        self.overtake(lambda entry, _: not gone.isdisjoint(entry.tags))

    def overtake(
        self, test: Callable[[Entry, str], bool], slots: Iterable[str] | None = None
    ) -> None:
        """Something changed: entries (of these slots) for which `test` holds are not to be written.

        Where a caller gave one, nobody can say which is newer: then neither stays.
        """
        for slot in list(self.values) if slots is None else slots:
            missed = self.values.get(slot)
            if missed is not None and missed.entry is not None and test(missed.entry, slot):
                self._give_up(missed)

    def expire(self, now: float) -> None:
        """What is over by now is not to be written."""
        self.overtake(lambda entry, _: entry.expires_at <= now)

    def batch(self, count: int) -> list[Missed]:
        """The oldest of what waits, removals first: so many at most, not too large together."""
        batch = list(islice(self.removals.values(), count))
        size = 0
        for missed in islice(self.values.values(), count - len(batch)):
            size += missed.entry.size if missed.entry is not None else 0
            if batch and size > BATCH_BYTES:
                break
            batch.append(missed)
        return batch

    # Over what the tier says

    def __contains__(self, slot: str) -> bool:
        """Does anything wait for this slot itself?"""
        return slot in self.values or slot in self.removals

    def knows(self, slot: str) -> bool:
        """Is what the tier says about this slot void?"""
        return self.cleared is not None or slot in self

    def precedes(self, slot: str, entry: Entry) -> bool:
        """Does something wait that, made good after this entry was written, would undo it?"""
        return self.knows(slot) or not self.tags.keys().isdisjoint(entry.tags)

    def entry(self, slot: str) -> Entry | None:
        """What the tier should say about a slot."""
        missed = self.values.get(slot)
        return missed.entry if missed is not None and not self.unchecked else None

    def voiding(self) -> Callable[[Entry], bool]:
        """A test for entries of the tier that are void. Made before the tier is asked: what it
        gives may be from before an invalidation that is made good meanwhile."""
        tags = frozenset(self.tags)
        return lambda entry: not tags.isdisjoint(entry.tags)
