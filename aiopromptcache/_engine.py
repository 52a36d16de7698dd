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
from urllib.parse import quote

from ._entry import Entry, Kind
from ._errors import ConfigurationError, NotCached
from ._events import CacheEvent, Dispatcher, Hook
from ._flights import Flight, FlightLost, Flights
from ._policy import Policy, Verdict, decide
from ._stats import Stats
from .tiers._base import LocalTier, Notice, Tier, TierContext
from .tiers._guard import Guard

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
    """Tiers, flights, counters and events of one cache."""

    def __init__(
        self,
        tiers: Sequence[Tier],
        *,
        namespace: str,
        hooks: Iterable[Hook],
        clock: Callable[[], float],
    ) -> None:
        if not isinstance(namespace, str) or not namespace:
            raise ConfigurationError(f"namespace={namespace!r}: expected a str that is not empty")
        if not callable(clock):
            raise ConfigurationError(f"clock={clock!r}: expected a callable that gives seconds")
        self.namespace = namespace
        self.prefix = quote(namespace, safe="") + ":"
        self.clock = clock
        self.stats = Stats()
        self.events = Dispatcher(hooks, self.stats)
        self.flights: Flights[Landed] = Flights()
        self.looks: Flights[Landed | None] = Flights()
        self._storing: dict[str, Entry | None] = {}
        """Slots that flights are being stored in, and what is their value now."""
        self.local: LocalTier | None = None
        self.remote: list[Guard] = []
        for position, tier in enumerate(tiers):
            self._adopt(position, tier)

    def _adopt(self, position: int, tier: Tier) -> None:
        if isinstance(tier, type) or not isinstance(tier, Tier):
            raise ConfigurationError(
                f"{tier!r} is no tier; expected MemoryTier, RedisTier or a Tier"
            )
        context = TierContext(
            self.prefix[:-1],
            self.clock,
            lambda kind, slot, entry, error: self._noticed(tier.name, kind, slot, entry, error),
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

    # Looking

    def peek(self, slot: str, policy: Policy) -> Entry | None:
        """A fresh entry of the local tier, without awaiting."""
        if self.local is None:
            return None
        entry = self.local.peek(slot)
        if entry is None or decide(entry, policy, self.clock()) is not Verdict.FRESH:
            return None
        return entry

    async def look(
        self, slot: str, policy: Policy, accepts: Callable[[Entry], bool]
    ) -> Landed | None:
        """A fresh entry of any tier, fastest first."""
        entry = self.peek(slot, policy)
        if entry is not None and accepts(entry):
            return Landed(entry, self.local_name)
        return await self.look_remote(slot, policy, accepts) if self.remote else None

    async def look_remote(
        self, slot: str, policy: Policy, accepts: Callable[[Entry], bool]
    ) -> Landed | None:
        """A fresh entry of a remote tier. Who asks for the same slot at once shares one look."""
        while True:
            look = self.looks.find(slot)
            leader = look is None
            if look is None:
                look = self.looks.start(slot, lambda look: self._ask_remote(slot))
            try:
                landed = await self.looks.join(look, leader=leader)
            except FlightLost:
                if leader:
                    raise asyncio.CancelledError from None
                continue
            if landed is None or not self._usable(landed.entry, policy, accepts):
                return None
            if not look.detached and not policy.no_store:  # nothing overtook the look
                self._promote(slot, landed)
            return landed

    def _usable(self, entry: Entry, policy: Policy, accepts: Callable[[Entry], bool]) -> bool:
        return decide(entry, policy, self.clock()) is Verdict.FRESH and accepts(entry)

    async def _ask_remote(self, slot: str) -> Landed | None:
        """The first fresh entry, fastest tier first."""
        for guard in self.remote:
            entry = (await guard.get([slot])).get(slot)
            if entry is not None and (entry.ttl is None or entry.age(self.clock()) < entry.ttl):
                return Landed(entry, guard.name)
        return None

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
                return self.hit(ask.key, entry, self.local_name)
        if policy.only_if_cached and (answer := await self.fetch_stored(ask)):
            return answer
        lane = self._lane(policy)
        while lane is not None and self.flights.find(ask.slot, lane) is not None:
            if (answer := await self.follow(ask)) is not None:
                return answer
        return await self._lead(ask, lane)

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
            self._count(leader=False)
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
            self._count(leader=True)
            raise asyncio.CancelledError from None
        except BaseException:
            self._count(leader=True)
            raise
        return self._answer(ask, landed, leader=True)

    async def fetch_stored(self, ask: Ask) -> Answer | None:
        """The answer of a tier, or None. Raises `NotCached` for only_if_cached."""
        if not ask.policy.no_cache and not ask.looked:
            landed = await self.look(ask.slot, ask.policy, ask.accepts)
            if landed is not None:
                return self._answer(ask, landed, leader=True)
        if ask.policy.only_if_cached:
            self._count(leader=True)
            self.tell("miss", ask)
            raise NotCached(f"only_if_cached: no tier has a usable answer for the key {ask.key}")
        return None

    def record(self, ask: Ask) -> Recording:
        """An upstream call begins whose answer comes bit by bit."""
        self._count(leader=True)
        self.stats.upstream_calls += 1
        self.tell("miss", ask)
        return Recording(self, ask)

    async def _fly(self, flight: Flight[Landed], ask: Ask) -> Landed:
        if self.remote and not ask.policy.no_cache and not ask.looked:
            started = flight.loop.time()
            landed = await self.look_remote(ask.slot, ask.policy, ask.accepts)
            ask.spent += flight.loop.time() - started
            if landed is not None:
                return landed
        loaded = await self._load(ask)
        flight.kept = True
        stored = False
        if loaded.storable and not ask.policy.no_store:
            stored = await self.keep(flight, ask.slot, loaded.entry, ask.spent)
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

    def _promote(self, slot: str, landed: Landed) -> None:
        if self.local is not None and landed.tier != self.local.name:
            self.local.put(slot, landed.entry)

    def _answer(self, ask: Ask, landed: Landed, leader: bool) -> Answer:
        entry = landed.entry
        if landed.tier is not None:
            return self.hit(ask.key, entry, landed.tier)
        self._count(leader)
        if not leader and entry.usage is not None:
            self.stats.tokens_saved.add(entry.usage)
        self.tell("miss" if leader else "collapsed", ask, entry=entry)
        fwd = "request" if ask.policy.no_cache else "miss"
        ttl = entry.ttl if landed.stored else None
        status = (ask.key, False, None, None, ttl, fwd, not leader, landed.stored)
        return Answer(entry, status, landed.extra if leader else None)

    def hit(self, key: str, entry: Entry, tier: str) -> Answer:
        """Count a hit and describe it."""
        stats = self.stats
        stats.requests += 1
        stats.hits += 1
        stats.hits_by_tier[tier] = stats.hits_by_tier.get(tier, 0) + 1
        usage = entry.usage
        if usage is not None:
            stats.tokens_saved.add(usage)
        age = entry.age(self.clock())
        if self.events.active:
            self.events.emit(
                CacheEvent(
                    kind="hit",
                    namespace=self.namespace,
                    key=key,
                    tier=tier,
                    endpoint=entry.endpoint,
                    model=entry.model,
                    size=entry.size,
                    age=age,
                    usage=usage,
                )
            )
        ttl = None if entry.ttl is None else entry.ttl - age
        return Answer(entry, (key, True, tier, age, ttl))

    def count_local_hit(self, key: str, entry: Entry) -> None:
        """Count a hit of the local tier for which nobody wants a status."""
        tier = self.local_name
        if self.events.active or entry.usage is not None:
            self.hit(key, entry, tier)
            return
        stats = self.stats
        stats.requests += 1
        stats.hits += 1
        stats.hits_by_tier[tier] = stats.hits_by_tier.get(tier, 0) + 1

    def missed(self, key: str) -> None:
        """Count a lookup that found nothing and goes nowhere."""
        self._count(leader=True)
        if self.events.active:
            self.events.emit(CacheEvent(kind="miss", namespace=self.namespace, key=key))

    def _count(self, leader: bool) -> None:
        self.stats.requests += 1
        if leader:
            self.stats.misses += 1
        else:
            self.stats.collapsed += 1

    # Storing and dropping

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

    async def keep(
        self, flight: Flight[Landed], slot: str, entry: Entry, spent: float = 0.0
    ) -> bool:
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

    async def store(self, slot: str, entry: Entry, spent: float = 0.0) -> bool:
        """Write one entry to every tier; True where at least one took it."""
        stored = self.local is not None and self.local.put(slot, entry)
        for guard in self.remote:
            stored = await guard.set({slot: entry}, spent=spent) or stored
        self.stats.stores += stored
        return stored

    async def put(self, key: str, slot: str, entry: Entry) -> None:
        """Store what the caller gives, over whatever is in flight. A ttl of 0 only removes."""
        if entry.ttl == 0:
            await self.drop([slot])
            return
        self._overtake([slot], entry)
        if await self.store(slot, entry) and self.events.active:
            self.events.emit(
                CacheEvent(kind="store", namespace=self.namespace, key=key, size=entry.size)
            )

    async def drop(self, slots: Sequence[str]) -> int:
        """Remove slots everywhere; their flights are not stored. Gives how many were there."""
        self._overtake(slots)
        removed: set[str] = set()
        for tier in self._all_tiers():
            removed |= await tier.delete(slots)
        return len(removed)

    async def clear(self) -> int:
        """Empty this namespace in every tier; gives the largest count."""
        self.flights.detach_where(lambda flight: True)
        self.looks.detach_where(lambda look: True)
        self._overtake(list(self._storing))
        count = 0
        for tier in self._all_tiers():
            count = max(count, await tier.clear(self.prefix[:-1]))
        self._tell_invalidated(count)
        return count

    async def invalidate(self, tags: tuple[str, ...]) -> int:
        """Remove what carries any of the tags; gives the largest count."""
        wanted = frozenset(tags)
        self.looks.detach_where(lambda look: True)  # what they bring may carry a tag
        self.flights.detach_where(lambda flight: not wanted.isdisjoint(flight.tags))
        for slot, newer in self._storing.items():
            if newer is not None and not wanted.isdisjoint(newer.tags):
                self._storing[slot] = None
        count = 0
        for tier in self._all_tiers():
            count = max(count, await tier.invalidate(self.prefix[:-1], tags))
        self._tell_invalidated(count)
        return count

    def _overtake(self, slots: Iterable[str], newer: Entry | None = None) -> None:
        """What is on its way for these slots is not stored any more; `newer` is the value now."""
        for slot in slots:
            self.flights.detach(slot)
            self.looks.detach(slot)
            if slot in self._storing:
                self._storing[slot] = newer

    def _all_tiers(self) -> list[Any]:
        return [*([self.local] if self.local is not None else []), *self.remote]

    async def aclose(self) -> None:
        """Let writes end, tell the hooks, close what the tiers made."""
        await self.flights.finish()
        for tier in self._all_tiers():
            await tier.aclose()
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await self.events.drain()

    # Telling

    def tell(
        self,
        kind: Any,
        ask: Ask,
        *,
        entry: Entry | None = None,
        error: BaseException | None = None,
        duration: float | None = None,
    ) -> None:
        """Emit an event about one question, if anybody listens."""
        if not self.events.active:
            return
        if entry is not None and duration is None:
            duration = entry.cost
        self.events.emit(
            CacheEvent(
                kind=kind,
                namespace=self.namespace,
                key=ask.key,
                endpoint=ask.endpoint,
                model=ask.model,
                duration=duration,
                size=entry.size if entry is not None else None,
                usage=entry.usage if entry is not None else None,
                error=error,
            )
        )

    def _tell_invalidated(self, count: int) -> None:
        if self.events.active and count:
            self.events.emit(CacheEvent(kind="invalidate", namespace=self.namespace, size=count))

    def _noticed(
        self,
        tier: str,
        kind: Notice,
        slot: str | None,
        entry: Entry | None,
        error: BaseException | None,
    ) -> None:
        """A tier tells what happened inside it."""
        if kind == "evict":
            self.stats.evictions += 1
        elif kind == "expire":
            self.stats.expirations += 1
        elif kind == "error":
            self.stats.errors += 1
        if self.events.active:
            self.events.emit(
                CacheEvent(
                    kind=kind,
                    namespace=self.namespace,
                    key=slot.partition(":")[2] if slot else None,
                    tier=tier,
                    endpoint=entry.endpoint if entry is not None else None,
                    model=entry.model if entry is not None else None,
                    size=entry.size if entry is not None else None,
                    error=error,
                )
            )


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
            stored = await self._engine.keep(self._flight, self._ask.slot, entry)
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
