"""Upstream calls that bring several keys at once, so that overlapping questions share them.

A batch is one flight; for each of its keys it also holds a flight without work, which is what an
invalidation of that key detaches: the key is then neither stored nor shared any more.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from cachetools import TTLCache

from ._entry import Entry
from ._flights import Flight
from ._keeping import Keeping
from ._policy import keeps

if TYPE_CHECKING:
    from ._ask import Ask
    from ._engine import Engine


ODD = 1_000
ODD_SECONDS = 600.0


class Fetched(NamedTuple):
    """What an upstream call brought. `extra` is for its leader alone."""

    entries: Mapping[str, Entry]
    """By slot; some may be missing."""
    storable: bool = True
    extra: Any = None
    stored: frozenset[str] = frozenset()
    asked: frozenset[str] = frozenset()
    """What the upstream was asked for. Of a refresh, other processes may be doing the rest."""

    @property
    def brought(self) -> tuple[Entry, ...]:
        """All entries."""
        return tuple(self.entries.values())


class Batch:
    """One upstream call for several slots."""

    def __init__(self, slots: Iterable[str]) -> None:
        self.slots = frozenset(slots)
        self.marks: dict[str, Flight[Any]] = {}
        self.flight: Flight[Fetched]


class Batches:
    """The batches under way in one cache."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._by_slot: dict[str, Batch] = {}
        self._numbers = itertools.count()
        self.odd: TTLCache[bytes, bool] = TTLCache(
            ODD, ODD_SECONDS, timer=lambda: engine.ledger.clock()
        )
        """Kinds of requests whose answers cannot be taken apart."""

    def find(self, slot: str) -> Batch | None:
        """The batch that is bringing a slot, if a caller on the running loop may still join it."""
        batch = self._by_slot.get(slot)
        if batch is None or batch.flight.done or batch.flight.detached:
            return None
        name = batch.flight.key
        joinable = self._engine.flights.find(name) is not None and not batch.marks[slot].detached
        return batch if joinable else None

    def start(
        self,
        ask: Ask,
        slots: Sequence[str],
        load: Callable[[Sequence[str]], Awaitable[Fetched]],
        *,
        instead: str | None = None,
        shared: bool = True,
        replaced: Callable[[str, Entry], bool] | None = None,
    ) -> Batch:
        """Ask upstream for slots; where it is not `shared`, others do not find it.

        `instead` is a slot that the upstream may bring in their place. `replaced` is for a
        refresh: is there something newer already? Of all processes one refreshes a slot.
        """
        batch, flights = Batch(slots), self._engine.flights
        for slot in slots if instead is None else [*slots, instead]:
            batch.marks[slot] = flights.open(slot, ask.policy.tags)
        try:
            batch.flight = flights.start(
                f"batch {next(self._numbers)}",
                lambda flight: self._refresh_or_fetch(flight, batch, ask, slots, load, replaced),
                tags=ask.policy.tags,
                patience=ask.patience,
            )
        except BaseException:
            self._ended(batch)
            raise
        task = batch.flight.task
        if task is None or task.done():
            self._ended(batch)
            return batch
        if shared:
            self._by_slot.update(dict.fromkeys(batch.slots, batch))
        task.add_done_callback(lambda task: self._ended(batch))
        return batch

    async def _refresh_or_fetch(
        self,
        flight: Flight[Fetched],
        batch: Batch,
        ask: Ask,
        slots: Sequence[str],
        load: Callable[[Sequence[str]], Awaitable[Fetched]],
        replaced: Callable[[str, Entry], bool] | None,
    ) -> Fetched:
        if replaced is None:
            return await self._fetch(flight, batch, ask, slots, load)
        storage = self._engine.storage
        rest, leases = await storage.alone(slots, replaced)
        try:
            if not rest:
                return Fetched({}, asked=frozenset())
            return await self._fetch(flight, batch, ask, rest, load)
        finally:
            storage.give_back_all(leases)

    async def _fetch(
        self,
        flight: Flight[Fetched],
        batch: Batch,
        ask: Ask,
        slots: Sequence[str],
        load: Callable[[Sequence[str]], Awaitable[Fetched]],
    ) -> Fetched:
        engine = self._engine
        if keeps(ask.policy):
            await engine.storage.attend()
        fetched = await engine.answers.paid(ask, flight, lambda: load(slots))
        fetched = fetched._replace(asked=frozenset(slots))
        flight.kept = True
        if not fetched.storable or not keeps(ask.policy):
            return fetched
        entries = fetched.entries.items()
        kept = {slot: Keeping(batch.marks[slot], entry) for slot, entry in entries}
        stored = await engine.storage.keep_many(kept, ask.spent)
        if stored:
            engine.answers.tell(
                "store", ask, size=sum(fetched.entries[slot].size for slot in stored)
            )
        return fetched._replace(stored=frozenset(stored))

    def _ended(self, batch: Batch) -> None:
        for slot, mark in batch.marks.items():
            self._engine.flights.remove(mark)
            if self._by_slot.get(slot) is batch:
                del self._by_slot[slot]
