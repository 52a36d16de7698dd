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
from ._storage import Found, Storage
from .tiers._base import Lease, Tier

NO_STORE_LANE = "no-store"
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
    waited: bool = False
    """Did the flight of another process bring it?"""


class Answer(NamedTuple):
    """One caller's answer; `status` are the arguments of a CacheStatus."""

    entry: Entry
    status: tuple[Any, ...]
    extra: Any = None


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
        self,
        slot: str,
        policy: Policy,
        accepts: Callable[[Entry], bool],
        *,
        claim: bool = False,
    ) -> Landed | None:
        """A fresh entry of a remote tier; `claim` where the caller goes on to load it."""
        claim = claim and not policy.no_store
        found = await self.storage.look(slot, promote=not policy.no_store, claim=claim)
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
        if self._may_look(ask, lane) and (answer := await self._look_first(ask)) is not None:
            return answer
        while lane is not None and self.flights.find(ask.slot, lane) is not None:
            if (answer := await self.follow(ask)) is not None:
                return answer
        return await self._lead(ask, lane)

    def _may_look(self, ask: Ask, lane: str | None) -> bool:
        """May a remote tier know, and is nobody waiting already for what it does not know?"""
        return (
            lane is not None
            and bool(self.storage.remote)
            and not ask.looked
            and self.flights.find(ask.slot, lane) is None
        )

    async def _look_first(self, ask: Ask) -> Answer | None:
        """A remote tier's answer; a flight is only for what none of them has."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        landed = await self.look_remote(ask.slot, ask.policy, ask.accepts, claim=True)
        ask.spent += loop.time() - started
        ask.looked = True
        return None if landed is None else self._answer(ask, landed, leader=True)

    def _lane(self, policy: Policy) -> str | None:
        """Which callers may share a flight. Who wants a new answer neither joins nor lends one."""
        if policy.no_cache:
            return None
        return NO_STORE_LANE if policy.no_store else ""

    async def follow(self, ask: Ask) -> Answer | None:
        """The answer of the flight that is there; None where it was lost, or not patient enough.

        Raises what the upstream raised, and `OutOfPatience`.
        """
        flight = self.flights.find(ask.slot, self._lane(ask.policy) or "")
        if flight is None:
            return None
        try:
            landed = await self.flights.join(flight, leader=False, timeout=ask.patience)
        except FlightLost:
            return None
        except BaseException as error:
            if isinstance(error, Exception) and ask.outlasts(error, flight.patience):
                return None
            self.ledger.count_request(leader=False)
            raise
        if not ask.accepts(landed.entry):
            return None  # another caller wanted another type
        if landed.tier is not None and not self._usable(landed.entry, ask.policy, ask.accepts):
            return None  # another caller accepted older answers
        return self._answer(ask, landed, leader=False)

    async def _lead(self, ask: Ask, lane: str | None) -> Answer:
        flight = self.flights.start(
            ask.slot,
            lambda flight: self._fly(flight, ask),
            lane=lane,
            tags=ask.policy.tags,
            patience=ask.patience,
        )
        try:
            landed = await self.flights.join(flight, leader=True)
        except FlightLost:
            self.ledger.count_request(leader=True)
            raise asyncio.CancelledError from None
        except BaseException:
            self.ledger.count_request(leader=True)
            raise
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

    def record(self, ask: Ask) -> Recording:
        """An upstream call begins whose answer comes bit by bit."""
        self.ledger.count_request(leader=True)
        self.stats.upstream_calls += 1
        self.tell("miss", ask)
        return Recording(self, ask)

    async def _fly(self, flight: Flight[Landed], ask: Ask) -> Landed:
        lease = None
        if self.storage.remote:
            found, lease = await self._begin(flight, ask)
            if found is not None:
                return Landed(found.entry, found.tier, waited=found.waited)
        try:
            loaded = await self._load(ask)
            flight.kept = True
            stored = False
            if loaded.storable and not ask.policy.no_store:
                stored = await self.storage.keep(flight, ask.slot, loaded.entry, lease, ask.spent)
        finally:
            self.storage.give_back(lease)
        if stored:
            self.tell("store", ask, entry=loaded.entry)
        return Landed(loaded.entry, None, stored, loaded.extra)

    async def _begin(self, flight: Flight[Landed], ask: Ask) -> tuple[Found | None, Lease | None]:
        """What a tier has of use, or the lease to load it where tiers are shared."""
        policy, slot = ask.policy, ask.slot
        if policy.no_store:  # nothing to fill: no lease is needed
            found = None
            if not (policy.no_cache or ask.looked):
                found = await self.storage.look(slot, promote=False)
            usable = found is not None and self._usable(found.entry, policy, ask.accepts)
            return found if usable else None, None
        begun = await self.storage.begin(
            flight,
            slot,
            lambda entry: self._usable(entry, policy, ask.accepts),
            new=policy.no_cache,
            looked=ask.looked,
            spent=ask.spent,
        )
        ask.spent = begun.spent
        return begun.found, begun.lease

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
        if landed.tier is not None and not landed.waited:
            return self.hit(ask.key, entry, landed.tier)
        leader = leader and not landed.waited
        self.ledger.count_request(leader=leader)
        if not leader and entry.usage is not None:
            self.stats.tokens_saved.add(entry.usage)
        self.tell("miss" if leader else "collapsed", ask, entry=entry)
        fwd = "request" if ask.policy.no_cache else "miss"
        ttl = entry.ttl if landed.stored or landed.waited else None
        if ttl is not None and landed.waited:
            ttl -= entry.age(self.clock())
        status = (ask.key, False, None, None, ttl, fwd, not leader, landed.stored)
        return Answer(entry, status, landed.extra if leader else None)

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


class Recording:
    """An answer that comes bit by bit: stored whole, unless its key is invalidated meanwhile."""

    def __init__(self, engine: Engine, ask: Ask) -> None:
        self._engine = engine
        self._ask = ask
        self._started = engine.clock()
        self._flight = engine.flights.open(ask.slot, ask.policy.tags)

    async def keep(self, entry: Entry) -> bool:
        """Store what came; True where a tier took it."""
        entry.cost = max(0.0, self._engine.clock() - self._started)
        stored = False
        if not self._ask.policy.no_store:
            stored = await self._engine.storage.keep(self._flight, self._ask.slot, entry)
        self.end()
        if stored:
            self._engine.tell("store", self._ask, entry=entry)
        return stored

    def failed(self, error: BaseException) -> None:
        """The upstream failed, or its caller left before it answered."""
        self.end()
        if isinstance(error, Exception):
            self._engine.stats.errors += 1
            self._engine.tell("error", self._ask, error=error)

    def end(self) -> None:
        """Nothing more will come."""
        self._engine.flights.remove(self._flight)
