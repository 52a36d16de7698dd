"""The driver: it does what the policy decides, over tiers and flights.

Every fill (a first load, a refresh, a takeover) goes through `Engine.fly`, so all of them obey the
same rule: what a key's invalidation overtook is not stored.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ._answers import Answers
from ._ask import Answer, Ask, Landed
from ._batches import Batches
from ._entry import Entry
from ._errors import NotCached
from ._events import Hook
from ._flights import Flight, FlightLost, Flights, OutOfPatience
from ._found import Found
from ._idle import idle_time
from ._ledger import Ledger
from ._policy import Policy, Verdict, decide, due_early, refused_as
from ._prices import Price
from ._refresh import Refreshes, replaces
from ._relay import Relays
from ._similar import Similar
from ._sizes import Sizes
from ._storage import Storage
from ._streams import Reader, read_live
from .tiers._base import Lease, Tier

NO_STORE_LANE = "no-store"
DRAIN_SECONDS = 1.0
"""How long closing waits for hooks that are still busy."""


class Engine:
    """Answers questions over the tiers and flights of one cache."""

    def __init__(
        self,
        tiers: Sequence[Tier],
        *,
        namespace: str,
        hooks: Iterable[Hook],
        clock: Callable[[], float],
        prices: Mapping[str, Price],
        similarity: Any = None,
    ) -> None:
        self.ledger = Ledger(namespace, hooks, clock, prices)
        self.answers = Answers(self.ledger)
        self.flights: Flights[Any] = Flights()
        self.storage = Storage(tiers, self.ledger, self.flights)
        self.relays = Relays(self.flights, self.storage.shared, clock)
        self.refreshes = Refreshes(self.flights, self.fly, self._refreshed, clock)
        self.batches = Batches(self)
        self.sizes = Sizes(self.storage, self.ledger.timings)
        self.clock = clock
        self.stats = self.ledger.stats
        self.prefix = self.storage.prefix
        self.similar = None if similarity is None else Similar(similarity, self)
        self.watch: Any = None
        """What samples it for a dashboard, if there is one."""

    # Looking

    def peek(self, slot: str, policy: Policy) -> Entry | None:
        """A fresh entry of the local tier about which nothing else is to be decided."""
        entry = self.storage.peek(slot)
        return entry if entry is not None and self.settled(entry, policy) else None

    def settled(self, entry: Entry, policy: Policy) -> bool:
        """Is an entry fresh, and nothing else to be decided about it?"""
        return not policy.refresh_ahead and decide(entry, policy, self.clock()) is Verdict.FRESH

    def is_due(self, entry: Entry, policy: Policy) -> bool:
        """Draw lots: is a fresh entry to be refreshed ahead of time?"""
        if not policy.refresh_ahead:
            return False
        return due_early(entry, policy, self.clock(), random.random())

    def local(self, ask: Ask) -> Answer | None:
        """The local tier's answer, without awaiting."""
        entry = self.storage.peek(ask.slot)
        return None if entry is None else self.offer(ask, Found(entry, self.storage.local_name))

    async def remote(self, ask: Ask, *, claim: bool = False) -> Answer | None:
        """A remote tier's answer; `claim` where the caller goes on to load it."""
        if not self.storage.remote:
            return None
        keeps = not ask.policy.no_store
        found = await self.storage.look(ask.slot, promote=keeps, claim=claim and keeps)
        return None if found is None else self.offer(ask, found)

    async def find(
        self, key: str, slot: str, policy: Policy, accepts: Callable[[Entry], bool]
    ) -> Answer | None:
        """What any tier has that is good without a refresh: fresh, or within max_stale."""
        final = {Verdict.FRESH, Verdict.ACCEPTED}
        if policy.max_stale is not None:
            final.add(Verdict.REVALIDATE)

        def usable(entry: Entry, verdict: Verdict) -> bool:
            return verdict in final and accepts(entry)

        async def look(ask: Ask) -> Answer | None:
            found = await self._found_elsewhere(slot, policy, usable)
            if found is None:
                return None
            return self.answers.hit(key, found.entry, found.tier, took=found.took)

        if (entry := self._found_here(slot, policy, usable)) is not None:
            return self.answers.hit(key, entry, self.storage.local_name)
        if not self.storage.remote:
            return None
        return await self.answers.waited(Ask(key=key, slot=slot, policy=policy), look)

    def _found_here(
        self, slot: str, policy: Policy, usable: Callable[[Entry, Verdict], bool]
    ) -> Entry | None:
        """The local tier's entry, if it is of use."""
        entry = self.storage.peek(slot)
        if entry is not None and usable(entry, decide(entry, policy, self.clock())):
            return entry
        return None

    async def _found(
        self, slot: str, policy: Policy, usable: Callable[[Entry, Verdict], bool]
    ) -> Found | None:
        """The first entry of use, fastest tier first."""
        if (entry := self._found_here(slot, policy, usable)) is not None:
            return Found(entry, self.storage.local_name)
        return await self._found_elsewhere(slot, policy, usable) if self.storage.remote else None

    async def _found_elsewhere(
        self, slot: str, policy: Policy, usable: Callable[[Entry, Verdict], bool]
    ) -> Found | None:
        found = await self.storage.look(slot, promote=not policy.no_store)
        if found is not None and usable(found.entry, decide(found.entry, policy, self.clock())):
            return found
        return None

    def offer(self, ask: Ask, found: Found) -> Answer | None:
        """The answer that an entry is for this caller, if it is one.

        A refresh that it needs is begun. Where it is no answer, the question remembers why.
        """
        entry, policy, now = found.entry, ask.policy, self.clock()
        if not ask.accepts(entry):
            return None
        verdict = decide(entry, policy, now)
        old = verdict is Verdict.REVALIDATE
        refresh = old or (verdict is Verdict.FRESH and self.is_due(entry, policy))
        if not refresh and not self._good(verdict, ask.slot):
            ask.fwd = refused_as(entry, now)
            return None
        took = found.took
        if took is None and found.tier != self.storage.local_name:
            took = ask.spent or None  # a flight of this caller's has found it
        answer = self.answers.hit(ask.key, entry, found.tier, took=took)
        if refresh:  # on a loop with eager tasks it may be over at once
            self.refreshes.start(ask, entry)
        return answer

    def _good(self, verdict: Verdict, slot: str) -> bool:
        """May an entry be given without asking the upstream first?"""
        if verdict is Verdict.ON_ERROR:
            return self.refreshes.failures.lately(slot, outage=True)
        return verdict is not Verdict.UNUSABLE

    def _lands(self, ask: Ask, entry: Entry) -> bool:
        """Is a tier's entry all that a flight has to bring?"""
        if not ask.accepts(entry):
            return False
        now = self.clock()
        verdict = decide(entry, ask.policy, now)
        if ask.seen is not None:
            return verdict is Verdict.FRESH and replaces(entry, ask.seen)
        if not self._good(verdict, ask.slot):
            ask.fwd = refused_as(entry, now)
            return False
        return True

    # Answering

    async def fetch(self, ask: Ask) -> Answer:
        """The answer to one question: from a tier, from another caller's flight, or from upstream.

        Raises what the upstream raised, `NotCached` for only_if_cached, and `OutOfPatience` for a
        follower whose own time is up.
        """
        if not ask.policy.no_cache and not ask.looked and (answer := self.local(ask)) is not None:
            return answer
        return await self.answers.waited(ask, self._fetch)

    async def _fetch(self, ask: Ask) -> Answer:
        """What no memory has, so that the caller waits for it."""
        policy = ask.policy
        if policy.only_if_cached and (answer := await self.fetch_stored(ask)):
            return answer
        lane = self._lane(policy)
        waited = ask.waited > 0
        if self._may_look(ask, lane):
            waited = True
            if (answer := await self._look_first(ask)) is not None:
                return answer
        while self.joinable(ask.slot, policy, ask.follows) is not None:
            waited = True
            if (answer := await self.follow(ask)) is not None:
                return answer
        if waited and lane is not None and (answer := self.local(ask)) is not None:
            return answer  # another caller's flight came and went meanwhile
        return await self._lead(ask, lane)

    def _may_look(self, ask: Ask, lane: str | None) -> bool:
        """May a remote tier know, and is nobody waiting already for what it does not know?"""
        return (
            lane is not None
            and bool(self.storage.remote)
            and not ask.looked
            and self.joinable(ask.slot, ask.policy, ask.follows) is None
        )

    async def _look_first(self, ask: Ask) -> Answer | None:
        """A remote tier's answer; a flight is only for what none of them has."""
        started = idle_time()
        answer = await self.remote(ask, claim=True)
        ask.spent += idle_time() - started
        ask.looked = True
        return answer

    def _lane(self, policy: Policy) -> str | None:
        """Which callers may share a flight. Who wants a new answer neither joins nor lends one."""
        if policy.no_cache:
            return None
        return NO_STORE_LANE if policy.no_store else ""

    def joinable(
        self, slot: str, policy: Policy, follows: tuple[str, ...]
    ) -> Flight[Landed] | None:
        """The flight of another caller that one of this policy may share, best first."""
        if not len(self.flights) or (lane := self._lane(policy)) is None:
            return None
        found = (self.flights.find(slot, lane + form) for form in follows)
        return next((flight for flight in found if flight is not None), None)

    async def _join(self, flight: Flight[Landed], ask: Ask, *, leader: bool) -> Landed | Reader:
        """What a flight brought, or where this caller can read what it is bringing."""
        patience = None if leader else ask.patience
        if ask.live is not None and flight.live is not None:
            reader = await read_live(self.flights, flight, leader=leader, timeout=patience)
            if reader is not None:
                return reader
        landed: Landed = await self.flights.join(flight, leader=leader, timeout=patience)
        return landed

    async def follow(self, ask: Ask) -> Answer | None:
        """The answer of the flight that is there; None where it was lost, or not patient enough.

        Raises what the upstream raised, and `OutOfPatience`.
        """
        flight = self.joinable(ask.slot, ask.policy, ask.follows)
        if flight is None:
            return None
        if ask.waiting is not None:
            ask.waiting.follows(flight)
        try:
            landed = await self._join(flight, ask, leader=False)
        except FlightLost:
            return None
        except BaseException as error:
            # Of a stream that broke off, another call may still be answered.
            broke = flight.done and flight.live is not None and flight.live.opened
            if isinstance(error, Exception):
                if broke or ask.outlasts(error, flight.patience):
                    return None
                if (answer := await self.rescue(ask, error)) is not None:
                    return answer
            self.ledger.count_request(ask.endpoint, leader=False)
            raise
        if isinstance(landed, Reader):
            return await self._begun(ask, landed)
        if landed.near is not None and self.similar is not None:
            return self.similar.offer(ask, landed)
        if not ask.accepts(landed.entry):
            return None  # another caller wanted another type
        if landed.tier is not None and not landed.waited:
            # None where another caller accepted older answers.
            return self.offer(ask, Found(landed.entry, landed.tier))
        return self.answered(ask, landed, leader=False)

    async def _lead(self, ask: Ask, lane: str | None) -> Answer:
        flight = self.flights.start(
            ask.slot,
            lambda flight: self.fly(flight, ask),
            lane=None if lane is None else lane + ask.leads,
            tags=ask.policy.tags,
            patience=ask.patience,
            live=ask.live,
        )
        try:
            landed = await self._join(flight, ask, leader=True)
        except FlightLost:
            self.ledger.count_request(ask.endpoint, leader=True)
            raise asyncio.CancelledError from None
        except BaseException as error:
            flight.unled = True
            if isinstance(error, Exception) and (answer := await self.rescue(ask, error)):
                return answer
            self.ledger.count_request(ask.endpoint, leader=True)
            raise
        if isinstance(landed, Reader):
            return await self._begun(ask, landed)
        return self.answered(ask, landed, leader=True)

    async def _begun(self, ask: Ask, reader: Reader) -> Answer:
        """What a stream is bringing. Where there is an old answer for errors, the upstream has
        until its first item to fail.
        """
        if ask.policy.stale_if_error and ask.fwd == "stale":
            try:
                error = await reader.begins()
                answer = None if error is None else await self.rescue(ask, error)
            except BaseException:
                reader.leave()
                raise
            if answer is not None:
                reader.leave()
                return answer
        return self.answers.coming(ask, reader)

    async def rescue(self, ask: Ask, error: Exception) -> Answer | None:
        """The old answer in place of an upstream's failure, where stale_if_error allows it.

        The failure is remembered for a moment, in which others get the old answer at once.
        """
        policy = ask.policy
        impatient = isinstance(error, OutOfPatience)  # the flight may yet bring something
        if policy.no_cache or not policy.stale_if_error or not (impatient or ask.outage(error)):
            return None
        if not impatient:
            self.refreshes.failures.note(ask.slot, outage=True)
        found = await self._found(
            ask.slot,
            policy,
            lambda entry, verdict: verdict is not Verdict.UNUSABLE and ask.accepts(entry),
        )
        if found is None:
            return None
        return self.answers.hit(ask.key, found.entry, found.tier, fwd="stale")

    async def fetch_stored(self, ask: Ask) -> Answer | None:
        """The answer of a tier, or None. Raises `NotCached` for only_if_cached."""
        if not ask.policy.no_cache and not ask.looked:
            answer = self.local(ask) or await self.remote(ask)
            if answer is not None:
                return answer
        if ask.policy.only_if_cached:
            if self.similar is not None and (answer := await self.similar.fetch_stored(ask)):
                return answer
            self.ledger.count_request(ask.endpoint, leader=True)
            self.answers.tell("miss", ask)
            raise NotCached(f"only_if_cached: no tier has a usable answer for the key {ask.key}")
        return None

    async def fly(self, flight: Flight[Landed], ask: Ask) -> Landed:
        """One flight: what a tier has, what a similar question has, or what the upstream says."""
        lease = None
        if self.storage.remote:
            found, lease = await self._begin(flight, ask)
            if found is not None:
                return Landed(found.entry, found.tier, waited=found.waited)
        shareable = True
        try:
            if self.similar is not None and (landed := await self.similar.find(ask)) is not None:
                return await self.similar.stored_copy(flight, ask, landed, lease)
            self.relays.leads(flight, ask, lease)
            loaded = await self.answers.paid(ask, flight, ask.load)
            flight.kept, shareable = True, loaded.storable
            stored = False
            if loaded.storable and not ask.policy.no_store:
                stored = await self.storage.keep(flight, ask.slot, loaded.entry, lease, ask.spent)
        finally:
            self.relays.over(flight)
            self.storage.give_back(lease, shareable=shareable)
        if stored:
            self.answers.tell("store", ask, entry=loaded.entry)
            if self.similar is not None:
                self.similar.learn(ask, loaded.entry)
        if flight.unled and ask.live is None:  # else who leads it tells that, or the stream's end
            self.answers.tell("miss", ask, entry=loaded.entry)
        return Landed(loaded.entry, None, stored, loaded.extra)

    async def _begin(self, flight: Flight[Landed], ask: Ask) -> tuple[Found | None, Lease | None]:
        """What a tier has of use, or the lease to load it where tiers are shared."""
        policy, slot = ask.policy, ask.slot
        if policy.no_store:  # nothing to fill: no lease is needed
            found = None
            if not (policy.no_cache or ask.looked):
                found = await self.storage.look(slot, promote=False)
            return found if found is not None and self._lands(ask, found.entry) else None, None
        begun = await self.relays.begin(
            flight,
            ask,
            lambda wait: self.storage.begin(
                flight,
                slot,
                lambda entry: self._lands(ask, entry),
                new=policy.no_cache,
                looked=ask.looked,
                spent=ask.spent,
                wait=wait,
            ),
        )
        ask.spent = begun.spent
        return begun.found, begun.lease

    def answered(self, ask: Ask, landed: Landed, *, leader: bool) -> Answer:
        """Count and describe what a flight brought to one of its callers."""
        entry = landed.entry
        if landed.near is not None and self.similar is not None:
            return self.similar.hit(ask, landed, leader=leader)
        if landed.tier is not None and not landed.waited:
            found = Found(entry, landed.tier)
            return self.offer(ask, found) or self.answers.hit(ask.key, entry, landed.tier)
        return self.answers.brought(ask, landed, leader=leader and not landed.waited)

    def _refreshed(self, ask: Ask, landed: Landed) -> None:
        """A refresh has ended well."""
        if landed.tier is not None:  # another process was faster
            return
        self.stats.refreshes += 1
        self.answers.tell("refresh", ask, entry=landed.entry)
        if not landed.stored:  # nobody shall pay for such an answer again and again
            self.refreshes.failures.note(ask.slot, outage=False)

    async def aclose(self) -> None:
        """End refreshes, let writes end, tell the hooks, close what the tiers made."""
        if self.watch is not None:
            await self.watch.aclose()
        await self.sizes.aclose()
        await self.refreshes.aclose()
        if self.similar is not None:
            await self.similar.aclose()
        await self.flights.finish()
        await self.relays.aclose()
        await self.storage.aclose()
        self.sizes.rest()
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await self.ledger.events.drain()
        if self.watch is not None:
            self.watch.arm()
