"""The tiers of one cache as one: read fastest first, written and emptied together.

What is on its way when its key is invalidated is not stored: every removal and every `put` first
detaches the flights and looks of its slots. Where a tier is shared with other processes, the same
holds for what they do: their news come in through `_heed`, and a fill needs a lease.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any
from urllib.parse import quote

from ._entry import Entry
from ._errors import ConfigurationError
from ._flights import Flight, Flights
from ._found import Begun, Found
from ._idle import idle_time
from ._keeping import Keeping, Turns
from ._leases import Coordinator, Wait, wait_for_news
from ._ledger import Ledger
from ._looks import Looks
from ._timings import timed
from .tiers._base import Lease, LocalTier, News, SharedTier, Tier, TierContext
from .tiers._guard import Guard


class Storage:
    """Reads and writes over all tiers, and the rule about what may still be written."""

    def __init__(self, tiers: Sequence[Tier], ledger: Ledger, flights: Flights[Any]) -> None:
        self.prefix = quote(ledger.namespace, safe="") + ":"
        self.local: LocalTier | None = None
        self.remote: list[Guard] = []
        self.shared: Coordinator | None = None
        """What makes processes act as one, on the first tier that they share."""
        self.peek: Callable[[str], Entry | None] = _nothing
        """The local tier's entry, fresh or not, without awaiting."""
        self._hearing: list[tuple[Callable[[float], None], int]] = []
        self._ledger = ledger
        self._flights = flights
        self._looks: Looks[Found] = Looks(self._ask)
        self._keeping: dict[str, list[Keeping]] = {}
        for position, tier in enumerate(tiers):
            self._adopt(position, tier)
        self._turns = Turns(2 * sum(guard.timeout for guard in self._others()))

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
            self.local, self.peek = tier, tier.peek
            self._ledger.local = tier.name
            return
        guard = Guard(tier, context, partial(self._ledger.timings.took, "tier"))
        self.remote.append(guard)
        if self.shared is None and isinstance(tier, SharedTier):
            self.shared = Coordinator(guard, context.namespace, self._heed)

    @property
    def local_name(self) -> str:
        """The label of the local tier."""
        return self.local.name if self.local is not None else "memory"

    # Reading

    def time_local(self, hear: Callable[[float], None], *, every: int = 1) -> None:
        """Tell `hear` the seconds of every so manieth look into the local tier.

        Until `untime_local`: while nobody hears, a hit costs nothing of it.
        """
        self._hearing.append((hear, every))
        self._set_peek()

    def untime_local(self, hear: Callable[[float], None]) -> None:
        """Who was given to `time_local` is told no more."""
        others = [heard for heard in self._hearing if heard[0] != hear]
        mine = [heard for heard in self._hearing if heard[0] == hear]
        self._hearing = others + mine[1:]
        self._set_peek()

    def _set_peek(self) -> None:
        if self.local is None:
            return
        self.peek = self.local.peek
        for hear, every in dict.fromkeys(self._hearing):
            self.peek = timed(self.peek, hear, every)

    async def look(self, slot: str, *, promote: bool = True, claim: bool = False) -> Found | None:
        """The entry of the first remote tier that has one of use to anybody; promoted.

        Who asks for the same slot at once shares one look. `claim` says that the caller is going
        to load what is not there.
        """
        started = perf_counter()
        if claim and self.shared is not None:
            found, overtaken = await self._claim(slot)
        else:
            found, overtaken = await self._looks.look(slot)
        if found is None:
            return None
        if promote and not overtaken:
            self._promote(slot, found)
        return found._replace(took=perf_counter() - started)

    async def look_many(self, slots: Sequence[str], *, promote: bool = True) -> dict[str, Found]:
        """Like `look` for many slots, with one read for each remote tier."""
        started = perf_counter()
        asked = {slot: self._looks.ask(slot) for slot in slots}
        found: dict[str, Found] = {}
        for slot, (waiter, look) in asked.items():
            if (one := await waiter) is not None:
                found[slot] = one._replace(took=perf_counter() - started)
                if promote and not look.overtaken:
                    self._promote(slot, one)
        return found

    async def _claim(self, slot: str) -> tuple[Found | None, bool]:
        """The shared tier's entry, or another's; a lease that comes instead waits for `begin`."""
        assert self.shared is not None
        claim, overtaken = await self.shared.claims.look(slot)
        if claim is not None and claim.entry is not None and len(self.remote) == 1:
            return Found(claim.entry, self.shared.guard.name), overtaken
        found: dict[str, Found] = {}
        if claim is not None:
            self._prefer(found, slot, claim.entry, self.shared.guard.name)
        if len(self.remote) > 1 and not self._is_fresh(found.get(slot)):
            return await self._looks.look(slot)
        return found.get(slot), overtaken

    async def _ask(self, slots: Sequence[str], waited: float) -> dict[str, Found]:
        """The first fresh entries, fastest tier first; else the youngest that are not over."""
        if self.local is not None:
            waited += await self._listening(waited)
        found: dict[str, Found] = {}
        for guard in self.remote:
            if rest := [slot for slot in slots if not self._is_fresh(found.get(slot))]:
                for slot, entry in (await guard.get(rest, spent=waited)).items():
                    self._prefer(found, slot, entry, guard.name)
        return found

    async def _listening(self, spent: float = 0.0) -> float:
        """Make sure that we hear what others do; gives the seconds that it took.

        Not for the local tier alone: what has to wait for its tier must be newer than something.
        """
        if self.shared is None:
            return 0.0
        started = idle_time()
        await self.shared.listening(spent)
        return idle_time() - started

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

    async def begin(
        self,
        flight: Flight[Any],
        slot: str,
        usable: Callable[[Entry], bool],
        *,
        new: bool = False,
        looked: bool = False,
        spent: float = 0.0,
        wait: Wait = wait_for_news,
    ) -> Begun:
        """Begin a flight: with an entry that is usable, or else with the lease where there is one.

        `new` asks for no entry; `looked` says that the tiers were asked just now; `wait` is how to
        wait while another process has the lease.
        """
        lease = None
        if self.shared is not None:
            got = await self.shared.obtain(slot, usable, take=new, spent=spent, wait=wait)
            lease, spent = got.lease, got.spent
            if got.entry is not None:
                found = Found(got.entry, self.shared.guard.name, got.waited)
                if not (flight.detached or got.overtaken):
                    self._promote(slot, found)
                return Begun(found, None, spent)
        if not (new or looked) and (self.shared is None or len(self.remote) > 1):
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
        if self.local is None or found.tier == self.local.name:
            return
        known = self.local.peek(slot)
        if known is None or known.stored_at <= found.entry.stored_at:
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
        if not self.remote:  # nothing is awaited, so nothing can overtake it
            return self._keep_here(flight, slot, entry)
        return slot in await self.keep_many({slot: Keeping(flight, entry, lease)}, spent)

    def _keep_here(self, flight: Flight[Any], slot: str, entry: Entry) -> bool:
        if flight.detached or entry.ttl == 0 or self.local is None:
            return False
        stored = self.local.put(slot, entry)
        self._ledger.stats.stores += stored
        return stored

    async def keep_many(self, kept: Mapping[str, Keeping], spent: float = 0.0) -> set[str]:
        """Like `keep` for many slots, with one write for each tier; gives what is stored."""
        for keeping in kept.values():
            if keeping.flight.detached or keeping.entry.ttl == 0:
                self.give_back(keeping.lease, shareable=keeping.entry.ttl != 0)
        live = {s: k for s, k in kept.items() if not k.flight.detached and k.entry.ttl != 0}
        for slot, keeping in live.items():
            self._keeping.setdefault(slot, []).append(keeping)
        try:
            stored = await self._keep(live, spent)
        finally:
            for slot, keeping in live.items():
                self._keeping[slot].remove(keeping)
                if not self._keeping[slot]:
                    del self._keeping[slot]
        self._ledger.stats.stores += len(stored)
        return stored

    async def _keep(self, keepings: Mapping[str, Keeping], spent: float) -> set[str]:
        kept, stored = keepings, set[str]()
        if self.shared is not None and kept:
            fills = {slot: (keeping.entry, keeping.lease) for slot, keeping in kept.items()}
            filled = await self.shared.fill(fills, lambda slot: keepings[slot].stands, spent)
            # What is False was overtaken; on a cluster it was there for a moment all the same.
            await self._forget_void([slot for slot in kept if filled[slot] is False])
            kept = {slot: keeping for slot, keeping in kept.items() if filled[slot] is not False}
            stored = {slot for slot in kept if filled[slot]}
        if self.local is not None:
            for slot, keeping in kept.items():
                if not keeping.overtaken and self.local.put(slot, keeping.entry):
                    stored.add(slot)
        return stored | await self._keep_elsewhere(kept, spent) if self._others() else stored

    async def _forget_void(self, slots: Sequence[str]) -> None:
        """What was read of these here while a tier had what is void stays nowhere."""
        for slot in slots:
            self._forget(slot)
        if slots and self.local is not None:
            await self.local.delete(slots)

    async def _keep_elsewhere(self, kept: Mapping[str, Keeping], spent: float) -> set[str]:
        """Write to tiers that judge no fill: before what overtakes it here, not before others."""
        stored, sent = set[str](), dict[str, Keeping]()
        with self._turns.taken(kept) as earlier:
            spent += await self._turns.wait(earlier)
            for guard in self._others():
                live = {slot: keeping for slot, keeping in kept.items() if not keeping.overtaken}
                sent |= live
                if live and await guard.set({s: k.entry for s, k in live.items()}, spent=spent):
                    stored |= live.keys()
            if gone := [slot for slot, keeping in sent.items() if keeping.flight.detached]:
                await self._undo(gone)
        return stored.difference(gone)

    async def _undo(self, slots: Sequence[str]) -> None:
        """Nor does what was read there meanwhile stay."""
        for guard in self._others():
            await guard.delete(slots)
        await self._forget_void(slots)

    def _others(self) -> list[Guard]:
        """Remote tiers that judge no fill by themselves."""
        shared = self.shared.guard if self.shared is not None else None
        return [guard for guard in self.remote if guard is not shared]

    async def attend(self) -> None:
        """Hear from now on what overtakes that which is stored without a lease."""
        if self.shared is not None:
            await self.shared.listening()

    async def alone(
        self, slots: Sequence[str], replaced: Callable[[str, Entry], bool]
    ) -> tuple[list[str], list[Lease]]:
        """What of these slots is still to be refreshed, and by no other process; until
        `give_back_all` they leave it to us.
        """
        if self.shared is None:
            return list(slots), []
        mine, leases = await self.shared.alone(slots)
        try:
            found = await self.look_many(mine) if mine else {}
        except BaseException:
            self.give_back_all(leases)
            raise
        rest = [s for s in mine if s not in found or not replaced(s, found[s].entry)]
        return rest, leases

    def give_back_all(self, leases: Sequence[Lease]) -> None:
        """What `alone` gave is needed no more."""
        if self.shared is not None:
            self.shared.give_back_all(leases)

    def give_back(self, lease: Lease | None, *, shareable: bool = True) -> None:
        """A flight ends without an answer to store; not `shareable`: nor will those of others."""
        if self.shared is not None:
            self.shared.give_back(lease, shareable=shareable)

    async def store(self, slot: str, entry: Entry) -> bool:
        """Write one entry to every tier; True where at least one took it."""
        spent = await self._listening()
        stored = self.local is not None and self.local.put(slot, entry)
        if self.shared is not None:
            stored = await self.shared.guard.set({slot: entry}, spent=spent) or stored
        if others := self._others():
            with self._turns.taken([slot]) as earlier:
                spent += await self._turns.wait(earlier)
                for guard in others:
                    stored = await guard.set({slot: entry}, spent=spent) or stored
        self._ledger.stats.stores += stored
        return stored

    async def put(self, key: str, slot: str, entry: Entry) -> None:
        """Store what the caller gives, over whatever is in flight. A ttl of 0 only removes."""
        if entry.ttl == 0:
            await self.drop([slot])
            return
        self._overtake([slot])
        stored = await self.store(slot, entry)
        if self.remote:  # as with removals: others may have read there what was not gone yet
            self._overtake([slot])
            if self.local is not None and self.local.peek(slot) is not entry:
                await self.local.delete([slot])
        if stored:
            self._ledger.tell("store", key=key, size=entry.size)

    # Removing. A second time at the end: while a remote tier was asked, others may have read there
    # what was not gone yet.

    async def drop(self, slots: Sequence[str]) -> int:
        """Remove slots everywhere; their flights are not stored. Gives how many were there."""
        removed = await self._drop_local(slots)
        await self._turns.wait(self._turns.earlier(slots))
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
        await self._turns.wait(self._turns.earlier())
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
        await self._turns.wait(self._turns.earlier())
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
                if not wanted.isdisjoint(keeping.entry.tags):
                    keeping.replaced = True
        return 0 if self.local is None else await self.local.invalidate(self.prefix[:-1], tags)

    def _invalidated(self, count: int) -> int:
        if count:
            self._ledger.tell("invalidate", size=count)
        return count

    def _overtake(self, slots: Iterable[str]) -> None:
        """What is on its way for these slots is not stored any more."""
        for slot in slots:
            self._flights.detach(slot)
            self._forget(slot)

    def _forget(self, slot: str) -> None:
        """What is being read or kept for a slot is not its value any more."""
        self._looks.overtake(slot)
        if self.shared is not None:
            self.shared.overtake(slot)
        for keeping in self._keeping.get(slot, ()):
            keeping.replaced = True

    def _forget_reads(self) -> None:
        """What is being read may not be any slot's value any more."""
        self._looks.overtake_all()
        if self.shared is not None:
            self.shared.overtake(None)

    async def _heed(self, news: News) -> None:
        """Another process did something."""
        if self.shared is not None:
            self.shared.guard.heed(news)
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
            case "listening" if news.lost:
                self._flights.doubt()
                self._forget_reads()
                if self.local is not None:
                    await self.local.clear(self.prefix[:-1])

    async def aclose(self) -> None:
        """Write what waits, and close what the tiers made."""
        await self._looks.finish()
        for guard in self.remote:
            await guard.finish()
        if self.shared is not None:
            await self.shared.aclose()
        if self.local is not None:
            await self.local.aclose()
        for guard in self.remote:
            await guard.aclose()


def _nothing(slot: str) -> Entry | None:
    return None
