"""The tiers of one cache as one: read fastest first, written and emptied together.

What is on its way when its key is invalidated is not stored: every removal and every `put` first
detaches the flights and looks of its slots. Where a tier is shared with other processes, the same
holds for what they do: their news come in through `_heed`, and a fill needs a lease.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from ._entry import Entry
from ._errors import ConfigurationError
from ._flights import Flight, Flights
from ._leases import Coordinator
from ._ledger import Ledger
from ._looks import Looks
from .tiers._base import Lease, LocalTier, News, SharedTier, Tier, TierContext
from .tiers._guard import Guard


class Found(NamedTuple):
    """An entry, and the tier that had it."""

    entry: Entry
    tier: str
    waited: bool = False
    """Did another process's flight bring it?"""


class Begun(NamedTuple):
    """How a flight begins: with what a tier has, or with the right to load it."""

    found: Found | None = None
    lease: Lease | None = None
    spent: float = 0.0
    """Seconds that remote tiers took."""


class _Keeping:
    """A flight's entry on its way into the tiers."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.newer: Entry | None = entry
        """What the slot's value is now."""

    @property
    def overtaken(self) -> bool:
        return self.newer is not self.entry


class Storage:
    """Reads and writes over all tiers, and the rule about what may still be written."""

    def __init__(self, tiers: Sequence[Tier], ledger: Ledger, flights: Flights[Any]) -> None:
        self.prefix = quote(ledger.namespace, safe="") + ":"
        self.local: LocalTier | None = None
        self.remote: list[Guard] = []
        self.shared: Coordinator | None = None
        """What makes processes act as one, on the first tier that they share."""
        self._ledger = ledger
        self._flights = flights
        self._looks: Looks[Found] = Looks(self._ask)
        self._keeping: dict[str, list[_Keeping]] = {}
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
            return
        guard = Guard(tier, context)
        self.remote.append(guard)
        if self.shared is None and isinstance(tier, SharedTier):
            self.shared = Coordinator(guard, context.namespace, self._heed)

    @property
    def local_name(self) -> str:
        """The label of the local tier."""
        return self.local.name if self.local is not None else "memory"

    # Reading

    def peek(self, slot: str) -> Entry | None:
        """The local tier's entry, fresh or not, without awaiting."""
        return self.local.peek(slot) if self.local is not None else None

    async def look(self, slot: str, *, promote: bool = True, claim: bool = False) -> Found | None:
        """The entry of the first remote tier that has one of use to anybody; promoted.

        Who asks for the same slot at once shares one look. `claim` says that the caller is going
        to load what is not there.
        """
        if claim and self.shared is not None:
            found, overtaken = await self._claim(slot)
        else:
            found, overtaken = await self._looks.look(slot)
        if found is not None and promote and not overtaken:
            self._promote(slot, found)
        return found

    async def _claim(self, slot: str) -> tuple[Found | None, bool]:
        """The shared tier's entry, or another's; a lease that comes instead waits for `begin`."""
        assert self.shared is not None
        claim, overtaken = await self.shared.claims.look(slot)
        if claim is not None and claim.entry is not None and self._fresh(claim.entry):
            return Found(claim.entry, self.shared.guard.name), overtaken
        if claim is None or len(self.remote) > 1:
            return await self._looks.look(slot)
        return None, False

    async def _ask(self, slots: Sequence[str]) -> dict[str, Found]:
        """The first fresh entries, fastest tier first."""
        if self.shared is not None and self.local is not None:
            await self.shared.listening()
        found: dict[str, Found] = {}
        for guard in self.remote:
            if rest := [slot for slot in slots if slot not in found]:
                entries = await guard.get(rest)
                fresh = {slot: e for slot, e in entries.items() if self._fresh(e)}
                found |= {slot: Found(entry, guard.name) for slot, entry in fresh.items()}
        return found

    def _fresh(self, entry: Entry) -> bool:
        return entry.ttl is None or entry.age(self._ledger.clock()) < entry.ttl

    async def begin(
        self,
        flight: Flight[Any],
        slot: str,
        usable: Callable[[Entry], bool],
        *,
        new: bool = False,
        looked: bool = False,
        spent: float = 0.0,
    ) -> Begun:
        """Begin a flight: with an entry that is usable, or else with the lease where there is one.

        `new` asks for no entry; `looked` says that the tiers were asked just now.
        """
        lease = None
        if self.shared is not None:
            got = await self.shared.obtain(slot, usable, take=new, spent=spent)
            lease, spent = got.lease, got.spent
            if got.entry is not None:
                found = Found(got.entry, self.shared.guard.name, got.waited)
                if not (flight.detached or got.overtaken):
                    self._promote(slot, found)
                return Begun(found, None, spent)
        if not (new or looked) and (lease is None or not lease.token or len(self.remote) > 1):
            try:
                elsewhere = await self.look(slot, promote=not flight.detached)
            except BaseException:
                self.give_back(lease)
                raise
            if elsewhere is not None and usable(elsewhere.entry):
                self.give_back(lease)
                return Begun(elsewhere, None, spent)
        return Begun(None, lease, spent)

    def _promote(self, slot: str, found: Found) -> None:
        if self.local is not None and found.tier != self.local.name:
            self.local.put(slot, found.entry)

    # Writing

    async def keep(
        self,
        flight: Flight[Any],
        slot: str,
        entry: Entry,
        lease: Lease | None = None,
        spent: float = 0.0,
    ) -> bool:
        """Store what a flight brought, unless the key was invalidated before or meanwhile."""
        if flight.detached or entry.ttl == 0:
            self.give_back(lease)
            return False
        keeping = _Keeping(entry)
        self._keeping.setdefault(slot, []).append(keeping)
        try:
            return await self._keep(flight, slot, keeping, lease, spent)
        finally:
            self._keeping[slot].remove(keeping)
            if not self._keeping[slot]:
                del self._keeping[slot]

    async def _keep(
        self, flight: Flight[Any], slot: str, keeping: _Keeping, lease: Lease | None, spent: float
    ) -> bool:
        stored = False
        if self.shared is not None:
            filled = await self.shared.fill(keeping.entry, lease, slot, spent)
            if filled is False:  # overtaken, here or in another process
                return False
            stored = filled or False
        if not (flight.detached or keeping.overtaken) and self.local is not None:
            stored = self.local.put(slot, keeping.entry) or stored
        others = self._others()
        for guard in others:
            stored = await guard.set({slot: keeping.entry}, spent=spent) or stored
        if not flight.detached:
            self._ledger.stats.stores += stored
            return stored
        # These writes may have come after what overtook them.
        for guard in others:
            if keeping.newer is None or not keeping.overtaken:
                await guard.delete([slot])
            else:
                await guard.set({slot: keeping.newer})
        return False

    def _others(self) -> list[Guard]:
        """Remote tiers that judge no fill by themselves."""
        shared = self.shared.guard if self.shared is not None else None
        return [guard for guard in self.remote if guard is not shared]

    def give_back(self, lease: Lease | None) -> None:
        """A flight ends without an answer to store."""
        if self.shared is not None:
            self.shared.give_back(lease)

    async def store(self, slot: str, entry: Entry) -> bool:
        """Write one entry to every tier; True where at least one took it."""
        if self.shared is not None and self.local is not None:
            await self.shared.listening()
        stored = self.local is not None and self.local.put(slot, entry)
        for guard in self.remote:
            stored = await guard.set({slot: entry}) or stored
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

    # Removing. A second time at the end: while a remote tier was asked, others may have read there
    # what was not gone yet.

    async def drop(self, slots: Sequence[str]) -> int:
        """Remove slots everywhere; their flights are not stored. Gives how many were there."""
        removed = await self._drop_local(slots)
        for guard in self.remote:
            removed |= await guard.delete(slots)
        if self.remote:
            await self._drop_local(slots)
        return len(removed)

    async def _drop_local(self, slots: Sequence[str]) -> set[str]:
        self._overtake(slots)
        return set() if self.local is None else await self.local.delete(slots)

    async def clear(self) -> int:
        """Empty this namespace in every tier; gives the largest count."""
        count = await self._clear_local()
        for guard in self.remote:
            count = max(count, await guard.clear(self.prefix[:-1]))
        if self.remote:
            await self._clear_local()
        return self._invalidated(count)

    async def _clear_local(self) -> int:
        self._flights.detach_where(lambda flight: True)
        self._forget_reads()
        self._overtake(list(self._keeping))
        return 0 if self.local is None else await self.local.clear(self.prefix[:-1])

    async def invalidate(self, tags: tuple[str, ...]) -> int:
        """Remove what carries any of the tags; gives the largest count."""
        count = await self._invalidate_local(tags)
        for guard in self.remote:
            count = max(count, await guard.invalidate(self.prefix[:-1], tags))
        if self.remote:
            await self._invalidate_local(tags)
        return self._invalidated(count)

    async def _invalidate_local(self, tags: tuple[str, ...]) -> int:
        wanted = frozenset(tags)
        self._forget_reads()  # what they bring may carry a tag
        self._flights.detach_where(lambda flight: not wanted.isdisjoint(flight.tags))
        for keepings in self._keeping.values():
            for keeping in keepings:
                if keeping.newer is not None and not wanted.isdisjoint(keeping.newer.tags):
                    keeping.newer = None
        return 0 if self.local is None else await self.local.invalidate(self.prefix[:-1], tags)

    def _invalidated(self, count: int) -> int:
        if count:
            self._ledger.tell("invalidate", size=count)
        return count

    def _overtake(self, slots: Iterable[str], newer: Entry | None = None) -> None:
        """What is on its way for these slots is not stored any more; `newer` is the value now."""
        for slot in slots:
            self._flights.detach(slot)
            self._forget(slot, newer)

    def _forget(self, slot: str, newer: Entry | None = None) -> None:
        """What is being read or kept for a slot is not its value any more."""
        self._looks.overtake(slot)
        if self.shared is not None:
            self.shared.overtake(slot)
        for keeping in self._keeping.get(slot, ()):
            keeping.newer = newer

    def _forget_reads(self) -> None:
        """What is being read may not be any slot's value any more."""
        self._looks.overtake_all()
        if self.shared is not None:
            self.shared.overtake(None)

    async def _heed(self, news: News) -> None:
        """Another process did something."""
        match news.kind:
            case "stored":  # flights that hold no lease any more are refused by the tier itself
                self._forget(news.name)
                if self.local is not None:
                    await self.local.delete([news.name])
            case "dropped":
                await self._drop_local([news.name])
            case "tag":
                await self._invalidate_local((news.name,))
            case "clear":
                await self._clear_local()
            case "listening" if news.lost and self.local is not None:
                self._forget_reads()
                await self.local.clear(self.prefix[:-1])

    async def aclose(self) -> None:
        """Close what the tiers made."""
        await self._looks.finish()
        if self.shared is not None:
            await self.shared.aclose()
        if self.local is not None:
            await self.local.aclose()
        for guard in self.remote:
            await guard.aclose()
