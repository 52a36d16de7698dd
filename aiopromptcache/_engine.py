"""The driver: it does what the policy decides, over tiers and flights.

Every fill (a first load, a reload, a takeover) goes through `Engine._fly`, so all of them obey the
same rule: what a key's invalidation overtook is not stored.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from ._entry import Entry, Kind
from ._errors import NotCached
from ._events import Hook
from ._flights import Flight, FlightLost, Flights
from ._ledger import Ledger
from ._policy import Policy, Verdict, decide
from ._status import LiveStatus
from ._storage import Storage
from ._streams import Live, Reader, read_live
from .tiers._base import Tier

NO_STORE_LANE = "no-store"
SIDE = "/stream"
"""After a slot: where a stream is kept whose plain form is kept already, and cannot be played."""
DRAIN_SECONDS = 1.0
"""How long closing waits for hooks that are still busy."""


class Loaded(NamedTuple):
    """What an upstream call brought. `extra` is for its leader alone and is never stored."""

    entry: Entry
    storable: bool = True
    extra: Any = None


class Landed(NamedTuple):
    """What a flight brought: from a tier (`tier` names it), or from upstream."""

    entry: Entry
    tier: str | None = None
    stored: bool = False
    extra: Any = None


class Answer(NamedTuple):
    """One caller's answer; `status` are the arguments of a CacheStatus.

    An answer that is still coming has `COMING` as its entry, and its `Reader` as `extra`.
    """

    entry: Entry
    status: Any
    extra: Any = None


COMING = Entry(Kind.SSE, b"", stored_at=0.0, ttl=0.0)


@dataclass(slots=True, kw_only=True)
class Ask:
    """One caller's question."""

    key: str
    slot: str
    policy: Policy
    load: Callable[[], Awaitable[Loaded]]
    accepts: Callable[[Entry], bool] = lambda entry: True
    """False where an entry is there but of no use to this caller: then it is a miss."""
    outlasts: Callable[[Exception, float | None], bool] = lambda error, patience: False
    """Told a flight's error and its leader's patience: does this caller rather try by itself?"""
    patience: float | None = None
    live: Live | None = None
    """The stream that `load` fills; then its caller gets a reader as soon as it has begun."""
    leads: str = ""
    """What its flight will bring, as part of its lane."""
    follows: tuple[str, ...] = ("",)
    """Whose answers serve this caller, best first."""
    looked: bool = False
    """True where the tiers were asked just now, and had nothing."""
    spent: float = 0.0
    """Seconds that remote tiers took of this call already."""
    endpoint: str | None = None
    model: str | None = None


class Engine:
    """Answers questions over the tiers and flights of one cache."""

    def __init__(
        self,
        tiers: Sequence[Tier],
        *,
        namespace: str,
        hooks: Iterable[Hook],
        clock: Callable[[], float],
    ) -> None:
        self.ledger = Ledger(namespace, hooks, clock)
        self.flights: Flights[Landed] = Flights()
        self.storage = Storage(tiers, self.ledger, self.flights)
        self.clock = clock
        self.stats = self.ledger.stats
        self.prefix = self.storage.prefix

    # Looking

    def peek(self, slot: str, policy: Policy) -> Entry | None:
        """A fresh entry of the local tier, without awaiting."""
        entry = self.storage.peek(slot)
        if entry is None or decide(entry, policy, self.clock()) is not Verdict.FRESH:
            return None
        return entry

    async def look(
        self, slot: str, policy: Policy, accepts: Callable[[Entry], bool]
    ) -> Landed | None:
        """A fresh entry of any tier, fastest first."""
        entry = self.peek(slot, policy)
        if entry is not None and accepts(entry):
            return Landed(entry, self.storage.local_name)
        return await self.look_remote(slot, policy, accepts) if self.storage.remote else None

    async def look_remote(
        self, slot: str, policy: Policy, accepts: Callable[[Entry], bool]
    ) -> Landed | None:
        """A fresh entry of a remote tier."""
        found = await self.storage.look(slot, promote=not policy.no_store)
        if found is None or not self._usable(found.entry, policy, accepts):
            return None
        return Landed(found.entry, found.tier)

    def _usable(self, entry: Entry, policy: Policy, accepts: Callable[[Entry], bool]) -> bool:
        return decide(entry, policy, self.clock()) is Verdict.FRESH and accepts(entry)

    # Answering

    async def fetch(self, ask: Ask) -> Answer:
        """The answer to one question: from a tier, from another caller's flight, or from upstream.

        Raises what the upstream raised, `NotCached` for only_if_cached, and `OutOfPatience` for a
        follower whose own time is up.
        """
        policy = ask.policy
        if not policy.no_cache and not ask.looked:
            entry = self.peek(ask.slot, policy)
            if entry is not None and ask.accepts(entry):
                return self.hit(ask.key, entry, self.storage.local_name)
        if policy.only_if_cached and (answer := await self.fetch_stored(ask)):
            return answer
        lane = self._lane(policy)
        while self.joinable(ask.slot, policy, ask.follows) is not None:
            if (answer := await self.follow(ask)) is not None:
                return answer
        return await self._lead(ask, lane)

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
        return await self.flights.join(flight, leader=leader, timeout=patience)

    async def follow(self, ask: Ask) -> Answer | None:
        """The answer of the flight that is there; None where it was lost, or not patient enough.

        Raises what the upstream raised, and `OutOfPatience`.
        """
        flight = self.joinable(ask.slot, ask.policy, ask.follows)
        if flight is None:
            return None
        try:
            landed = await self._join(flight, ask, leader=False)
        except FlightLost:
            return None
        except BaseException as error:
            # Of a stream that broke off, another call may still be answered.
            broke = flight.done and flight.live is not None and flight.live.opened
            if isinstance(error, Exception) and (broke or ask.outlasts(error, flight.patience)):
                return None
            self.ledger.count_request(leader=False)
            raise
        if isinstance(landed, Reader):
            return self._coming(ask, landed)
        if not ask.accepts(landed.entry):
            return None  # another caller wanted another type
        if landed.tier is not None and not self._usable(landed.entry, ask.policy, ask.accepts):
            return None  # another caller accepted older answers
        return self._answer(ask, landed, leader=False)

    async def _lead(self, ask: Ask, lane: str | None) -> Answer:
        flight = self.flights.start(
            ask.slot,
            lambda flight: self._fly(flight, ask),
            lane=None if lane is None else lane + ask.leads,
            tags=ask.policy.tags,
            patience=ask.patience,
            live=ask.live,
        )
        try:
            landed = await self._join(flight, ask, leader=True)
        except FlightLost:
            self.ledger.count_request(leader=True)
            raise asyncio.CancelledError from None
        except BaseException:
            self.ledger.count_request(leader=True)
            raise
        if isinstance(landed, Reader):
            return self._coming(ask, landed)
        return self._answer(ask, landed, leader=True)

    async def fetch_stored(self, ask: Ask) -> Answer | None:
        """The answer of a tier, or None. Raises `NotCached` for only_if_cached."""
        if not ask.policy.no_cache and not ask.looked:
            landed = await self.look(ask.slot, ask.policy, ask.accepts)
            if landed is not None:
                return self._answer(ask, landed, leader=True)
        if ask.policy.only_if_cached:
            self.ledger.count_request(leader=True)
            self.tell("miss", ask)
            raise NotCached(f"only_if_cached: no tier has a usable answer for the key {ask.key}")
        return None

    async def _fly(self, flight: Flight[Landed], ask: Ask) -> Landed:
        if self.storage.remote and not ask.policy.no_cache and not ask.looked:
            started = flight.loop.time()
            landed = await self.look_remote(ask.slot, ask.policy, ask.accepts)
            ask.spent += flight.loop.time() - started
            if landed is not None:
                return landed
        loaded = await self._load(ask)
        flight.kept = True
        stored = False
        if loaded.storable and not ask.policy.no_store:
            stored = await self.storage.keep(flight, ask.slot, loaded.entry, ask.spent)
        if stored:
            self.tell("store", ask, entry=loaded.entry)
        return Landed(loaded.entry, None, stored, loaded.extra)

    async def _load(self, ask: Ask) -> Loaded:
        self.stats.upstream_calls += 1
        started = self.clock()
        try:
            loaded = await ask.load()
        except Exception as error:
            self.stats.errors += 1
            self.tell("error", ask, error=error, duration=self.clock() - started)
            raise
        loaded.entry.cost = max(0.0, self.clock() - started)
        return loaded

    def _answer(self, ask: Ask, landed: Landed, leader: bool) -> Answer:
        entry = landed.entry
        if landed.tier is not None:
            return self.hit(ask.key, entry, landed.tier)
        self.ledger.count_request(leader=leader)
        if not leader and entry.usage is not None:
            self.stats.tokens_saved.add(entry.usage)
        self.tell("miss" if leader else "collapsed", ask, entry=entry)
        fwd = "request" if ask.policy.no_cache else "miss"
        ttl = entry.ttl if landed.stored else None
        status = (ask.key, False, None, None, ttl, fwd, not leader, landed.stored)
        return Answer(entry, status, landed.extra if leader else None)

    def _coming(self, ask: Ask, reader: Reader) -> Answer:
        """One caller's share of an answer that is still coming; its status is final at the end."""
        leader = reader.leader
        self.ledger.count_request(leader=leader)
        if leader:
            self.tell("miss", ask)
        fwd = "request" if ask.policy.no_cache else "miss"
        status = LiveStatus((ask.key, False, None, None, None, fwd, not leader, False))

        def ended(landed: Landed | None, whole: bool) -> None:
            entry = None if landed is None else landed.entry
            if landed is not None and landed.stored:
                ttl = landed.entry.ttl
                status.arguments = (ask.key, False, None, None, ttl, fwd, not leader, True)
            if not leader:
                if whole and entry is not None and entry.usage is not None:
                    self.stats.tokens_saved.add(entry.usage)
                self.tell("collapsed", ask, **({} if entry is None else {"entry": entry}))

        reader.on_end = ended
        return Answer(COMING, status, reader)

    def hit(self, key: str, entry: Entry, tier: str) -> Answer:
        """Count a hit and describe it."""
        age = self.ledger.hit(key, entry, tier)
        ttl = None if entry.ttl is None else entry.ttl - age
        return Answer(entry, (key, True, tier, age, ttl))

    # Making entries

    def entry(
        self,
        kind: Kind,
        payload: bytes,
        policy: Policy,
        **fields: Any,
    ) -> Entry:
        """A new entry with the life that the policy gives it."""
        ttl = cast(float | None, policy.ttl)  # a Policy has made seconds of it
        if ttl is not None and policy.jitter:
            ttl *= 1 - policy.jitter * random.random()
        return Entry(
            kind,
            payload,
            stored_at=self.clock(),
            ttl=ttl,
            stale_while_revalidate=cast(float, policy.stale_while_revalidate),
            stale_if_error=cast(float, policy.stale_if_error),
            tags=policy.tags,
            **fields,
        )

    def tell(self, kind: Any, ask: Ask, **fields: Any) -> None:
        """Emit an event about one question, if anybody listens."""
        if self.ledger.events.active:
            if (entry := fields.get("entry")) is not None:
                fields.setdefault("duration", entry.cost)
            self.ledger.tell(kind, key=ask.key, endpoint=ask.endpoint, model=ask.model, **fields)

    async def aclose(self) -> None:
        """Let writes end, tell the hooks, close what the tiers made."""
        await self.flights.finish()
        await self.storage.aclose()
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await self.ledger.events.drain()
