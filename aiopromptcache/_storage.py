"""The tiers of one cache as one: read fastest first, written and emptied together.

What is on its way when its key is invalidated is not stored: every removal and every `put` first
detaches the flights and looks of its slots.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from ._entry import Entry
from ._errors import ConfigurationError
from ._flights import Flight, FlightLost, Flights
from ._ledger import Ledger
from .tiers._base import LocalTier, Tier, TierContext
from .tiers._guard import Guard


class Found(NamedTuple):
    """An entry, and the tier that had it."""

    entry: Entry
    tier: str


class Storage:
    """Reads and writes over all tiers, and the rule about what may still be written."""

    def __init__(self, tiers: Sequence[Tier], ledger: Ledger, flights: Flights[Any]) -> None:
        self.prefix = quote(ledger.namespace, safe="") + ":"
        self.local: LocalTier | None = None
        self.remote: list[Guard] = []
        self._ledger = ledger
        self._flights = flights
        self._looks: Flights[Found | None] = Flights()
        self._storing: dict[str, Entry | None] = {}
        """Slots that flights are being stored in, and what is their value now."""
        for position, tier in enumerate(tiers):
            self._adopt(position, tier)

    def _adopt(self, position: int, tier: Tier) -> None:
        if isinstance(tier, type) or not isinstance(tier, Tier):
            raise ConfigurationError(
                f"{tier!r} is no tier; expected MemoryTier, RedisTier or a Tier"
            )
        context = TierContext(
            self.prefix[:-1],
            self._ledger.clock,
            lambda kind, slot, entry, error: self._ledger.noticed(
                tier.name, kind, slot, entry, error
            ),
        )
        tier.attach(context)
        if position == 0 and isinstance(tier, LocalTier):
            self.local = tier
        else:
            self.remote.append(Guard(tier, context))

    @property
    def local_name(self) -> str:
        """The label of the local tier."""
        return self.local.name if self.local is not None else "memory"

    # Reading

    def peek(self, slot: str) -> Entry | None:
        """The local tier's entry, fresh or not, without awaiting."""
        return self.local.peek(slot) if self.local is not None else None

    async def look(self, slot: str, *, promote: bool = True) -> Found | None:
        """The entry of the first remote tier that has one of use to anybody; promoted.

        Who asks for the same slot at once shares one look.
        """
        while True:
            look = self._looks.find(slot)
            leader = look is None
            if look is None:
                look = self._looks.start(slot, lambda look: self._ask_remote(slot))
            try:
                found = await self._looks.join(look, leader=leader)
            except FlightLost:
                if leader:
                    raise asyncio.CancelledError from None
                continue
            if found is not None and promote and not look.detached:  # nothing overtook the look
                self._promote(slot, found)
            return found

    async def look_many(self, slots: Sequence[str], *, promote: bool = True) -> dict[str, Found]:
        """Like `look` for many slots, with one read for each remote tier."""
        looks = {slot: self._looks.open(slot, ()) for slot in slots}
        found: dict[str, Found] = {}
        try:
            for guard in self.remote:
                if missing := [slot for slot in slots if not self._is_fresh(found.get(slot))]:
                    entries = await guard.get(missing)
                    for slot in missing:
                        self._prefer(found, slot, entries.get(slot), guard.name)
        finally:
            for look in looks.values():
                self._looks.remove(look)
        for slot, one in found.items():
            if promote and not looks[slot].detached:
                self._promote(slot, one)
        return found

    def _is_fresh(self, found: Found | None) -> bool:
        if found is None:
            return False
        ttl = found.entry.ttl
        return ttl is None or found.entry.age(self._ledger.clock()) < ttl

    def _prefer(self, found: dict[str, Found], slot: str, entry: Entry | None, tier: str) -> None:
        """Of several records of a slot a fresh one counts, else the youngest that is not over."""
        if entry is None or entry.expires_at <= self._ledger.clock():
            return
        known = found.get(slot)
        if known is None or entry.stored_at > known.entry.stored_at:
            found[slot] = Found(entry, tier)

    async def _ask_remote(self, slot: str) -> Found | None:
        """The first fresh entry, fastest tier first; else the youngest that is not over."""
        found: dict[str, Found] = {}
        for guard in self.remote:
            self._prefer(found, slot, (await guard.get([slot])).get(slot), guard.name)
            if self._is_fresh(found.get(slot)):
                break
        return found.get(slot)

    def _promote(self, slot: str, found: Found) -> None:
        if self.local is None or found.tier == self.local.name:
            return
        known = self.local.peek(slot)
        if known is None or known.stored_at <= found.entry.stored_at:
            self.local.put(slot, found.entry)

    # Writing

    async def keep(self, flight: Flight[Any], slot: str, entry: Entry, spent: float = 0.0) -> bool:
        """Store what a flight brought, unless the key was invalidated before or meanwhile."""
        if flight.detached or entry.ttl == 0:
            return False
        self._storing[slot] = entry
        try:
            stored = await self.store(slot, entry, spent)
        finally:
            newer = self._storing.pop(slot, None)
        if not flight.detached:
            return stored
        # The remote write may have come after what overtook it. Memory was written before that.
        for guard in self.remote:
            if newer is None or newer is entry:
                await guard.delete([slot])
            else:
                await guard.set({slot: newer})
        return False

    async def keep_many(
        self, kept: Mapping[str, tuple[Flight[Any], Entry]], spent: float = 0.0
    ) -> set[str]:
        """Like `keep` for many slots, with one write for each tier; gives what is stored."""
        live = {
            slot: entry
            for slot, (flight, entry) in kept.items()
            if not flight.detached and entry.ttl != 0
        }
        self._storing.update(live)
        try:
            stored = await self._store_many(live, spent)
        finally:
            newer = {slot: self._storing.pop(slot, None) for slot in live}
        overtaken = {slot for slot in live if kept[slot][0].detached}
        if overtaken:
            again = {s: e for s in overtaken if (e := newer[s]) is not None and e is not live[s]}
            for guard in self.remote:
                if gone := overtaken - again.keys():
                    await guard.delete(list(gone))
                if again:
                    await guard.set(again)
        return stored - overtaken

    async def _store_many(self, entries: Mapping[str, Entry], spent: float) -> set[str]:
        stored: set[str] = set()
        if self.local is not None:
            stored = {slot for slot, entry in entries.items() if self.local.put(slot, entry)}
        if entries:
            for guard in self.remote:
                if await guard.set(entries, spent=spent):
                    stored = set(entries)
        self._ledger.stats.stores += len(stored)
        return stored

    async def store(self, slot: str, entry: Entry, spent: float = 0.0) -> bool:
        """Write one entry to every tier; True where at least one took it."""
        stored = self.local is not None and self.local.put(slot, entry)
        for guard in self.remote:
            stored = await guard.set({slot: entry}, spent=spent) or stored
        self._ledger.stats.stores += stored
        return stored

    async def put(self, key: str, slot: str, entry: Entry) -> None:
        """Store what the caller gives, over whatever is in flight. A ttl of 0 only removes."""
        if entry.ttl == 0:
            await self.drop([slot])
            return
        self._overtake([slot], entry)
        if await self.store(slot, entry):
            self._ledger.tell("store", key=key, size=entry.size)

    # Removing

    async def drop(self, slots: Sequence[str]) -> int:
        """Remove slots everywhere; their flights are not stored. Gives how many were there."""
        self._overtake(slots)
        removed: set[str] = set()
        for tier in self._all():
            removed |= await tier.delete(slots)
        return len(removed)

    async def clear(self) -> int:
        """Empty this namespace in every tier; gives the largest count."""
        self._flights.detach_where(lambda flight: True)
        self._looks.detach_where(lambda look: True)
        self._overtake(list(self._storing))
        count = 0
        for tier in self._all():
            count = max(count, await tier.clear(self.prefix[:-1]))
        return self._invalidated(count)

    async def invalidate(self, tags: tuple[str, ...]) -> int:
        """Remove what carries any of the tags; gives the largest count."""
        wanted = frozenset(tags)
        self._looks.detach_where(lambda look: True)  # what they bring may carry a tag
        self._flights.detach_where(lambda flight: not wanted.isdisjoint(flight.tags))
        for slot, newer in self._storing.items():
            if newer is not None and not wanted.isdisjoint(newer.tags):
                self._storing[slot] = None
        count = 0
        for tier in self._all():
            count = max(count, await tier.invalidate(self.prefix[:-1], tags))
        return self._invalidated(count)

    def _invalidated(self, count: int) -> int:
        if count:
            self._ledger.tell("invalidate", size=count)
        return count

    def _overtake(self, slots: Iterable[str], newer: Entry | None = None) -> None:
        """What is on its way for these slots is not stored any more; `newer` is the value now."""
        for slot in slots:
            self._flights.detach(slot)
            self._looks.detach(slot)
            if slot in self._storing:
                self._storing[slot] = newer

    def _all(self) -> list[Any]:
        return [*([self.local] if self.local is not None else []), *self.remote]

    async def aclose(self) -> None:
        """Close what the tiers made."""
        for tier in self._all():
            await tier.aclose()
