"""What callers are told of their answers, and what is counted for them."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any, Protocol, TypeVar, cast

from ._ask import COMING, Answer, Ask, Landed
from ._entry import Entry, Kind
from ._flights import Flight
from ._ledger import Ledger
from ._observer import Calling
from ._policy import Policy
from ._stats import OWN
from ._status import LiveStatus, outcome_of
from ._streams import Reader
from ._tally import note_stale

T = TypeVar("T")


class Brought(Protocol):
    """What an upstream call gives."""

    @property
    def brought(self) -> tuple[Entry, ...]:
        """The entries that it is made of."""
        ...


AnswerT = TypeVar("AnswerT", Answer, Answer | None)
BroughtT = TypeVar("BroughtT", bound=Brought)


class Called:
    """An upstream call under way."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started = clock()
        self.seen: Calling | None = None

    @property
    def took(self) -> float:
        """Seconds since it began; never negative, also when a clock was set back."""
        return max(0.0, self._clock() - self._started)

    def done(self, entries: tuple[Entry, ...]) -> float:
        """It has brought these; gives the seconds that it took."""
        took = self.took
        if self.seen is not None:
            self.seen.brought(entries, took)
        return took


def _streams(ask: Ask) -> bool:
    """Has what a caller waits for begun to come? The miss is told at its end, with its price."""
    return ask.live is not None and ask.live.opened and not ask.background


class Answers:
    """Counts and describes the answers of one cache."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.stats = ledger.stats
        self.clock = ledger.clock

    def hit(
        self,
        key: str,
        entry: Entry,
        tier: str,
        *,
        took: float | None = None,
        fwd: str | None = None,
    ) -> Answer:
        """Count a hit and describe it; `took`: the seconds that a remote tier took to find it;
        `fwd` where the upstream was asked before, and failed.
        """
        age = self.ledger.hit(key, entry, tier, None, took)
        ttl = None if entry.ttl is None else entry.ttl - age
        if ttl is None or ttl > 0:
            return Answer(entry, (key, True, tier, age, ttl))
        note_stale()
        return Answer(entry, (key, True, tier, age, ttl, fwd, False, False, True))

    def brought(self, ask: Ask, landed: Landed, *, leader: bool) -> Answer:
        """Count and describe what an upstream call brought; `leader`: this caller's own call."""
        entry = landed.entry
        self.ledger.count_request(ask.endpoint, leader=leader)
        if not leader:
            self.ledger.saved(entry)
        self.tell("miss" if leader else "collapsed", ask, entry=entry)
        if leader:
            self.ledger.paid(entry, stored=landed.stored)
        fwd = "request" if ask.policy.no_cache else ask.fwd if leader else "miss"
        ttl = entry.ttl if landed.stored or landed.waited else None
        if ttl is not None and landed.waited:
            ttl -= entry.age(self.clock())
        status = (ask.key, False, None, None, ttl, fwd, not leader, landed.stored)
        return Answer(entry, status, landed.extra if leader else None)

    def coming(self, ask: Ask, reader: Reader) -> Answer:
        """One caller's share of an answer that is still coming; its status is final at the end."""
        leader = reader.leader
        self.ledger.count_request(ask.endpoint, leader=leader)
        fwd = "request" if ask.policy.no_cache else ask.fwd if leader else "miss"
        status = LiveStatus((ask.key, False, None, None, None, fwd, not leader, False))

        def ended(landed: Landed | None, whole: bool) -> None:
            entry = None if landed is None else landed.entry
            if landed is not None and (landed.stored or landed.waited):
                ttl, stored = landed.entry.ttl, landed.stored
                status.arguments = (ask.key, False, None, None, ttl, fwd, not leader, stored)
            if leader:
                if landed is not None and entry is not None:
                    self.ledger.paid(entry, stored=landed.stored)
            else:
                if whole and entry is not None:
                    self.ledger.saved(entry)
                self.tell("collapsed", ask, **({} if entry is None else {"entry": entry}))

        reader.on_end = ended
        return Answer(COMING, status, reader)

    async def paid(
        self, ask: Ask, flight: Flight[Any] | None, load: Callable[[], Awaitable[BroughtT]]
    ) -> BroughtT:
        """What one upstream call gives; counted, timed, billed."""
        call = Called(self.clock)
        try:
            with self.calling(ask, flight, call):
                loaded = await load()
                took = call.done(loaded.brought)
        except BaseException as error:
            self._given_up(ask, call, error)
            if isinstance(error, Exception):
                self.stats.erred("upstream", ask.endpoint or OWN, error)
                self.tell("error", ask, error=error, duration=call.took)
            raise
        for entry in loaded.brought:
            entry.cost = took
            self.ledger.spent(entry)
        if _streams(ask):
            self.tell("miss", ask, entry=loaded.brought[0])
        return loaded

    def _given_up(self, ask: Ask, call: Called, error: BaseException) -> None:
        """What nobody waits for any more, or broke off, may be billed: nobody says how much."""
        answered, left = _streams(ask), not isinstance(error, Exception)
        if answered or left:
            self.ledger.spent_unknown(ask.endpoint, ask.model, answered=answered)
        if answered and left:
            self.tell("miss", ask, duration=call.took)

    @contextmanager
    def calling(self, ask: Ask, flight: Flight[Any] | None, call: Called) -> Iterator[None]:
        """Count, time and show one upstream call, which is made inside."""
        ledger, endpoint = self.ledger, ask.endpoint or OWN
        observer, outcome = ledger.observer, "cancelled"
        ledger.stats.calls[endpoint] += 1
        try:
            if observer is None:
                yield
            else:
                with observer.calling(ask, flight) as call.seen:
                    yield
            outcome = "ok"
        except Exception:
            outcome = "error"
            ledger.stats.failures[endpoint] += 1
            raise
        finally:
            ledger.timings.took("upstream", (endpoint, outcome), call.took)

    async def bypassed(
        self, ask: Ask, load: Callable[[], Awaitable[T]], billed: Callable[[T], Entry]
    ) -> T:
        """What an upstream call gives that may not be cached; `billed`: what is known of its price,
        which is not stored.
        """
        self.ledger.count_bypass(ask.endpoint)
        call = Called(self.clock)
        try:
            with self.calling(ask, None, call):
                reply = await load()
                entry = billed(reply)
                entry.cost = call.done((entry,))
        except BaseException as error:
            self._given_up(ask, call, error)
            raise
        self.ledger.spent(entry)
        self.ledger.paid(entry, stored=False)
        return reply

    async def waited(self, ask: Ask, work: Callable[[Ask], Awaitable[AnswerT]]) -> AnswerT:
        """The answer that `work` gives, for which its caller waits: timed and shown.

        Of a stream the wait ends when it begins. What was waited before counts too.
        """
        observer = self.ledger.observer
        started, outcome = perf_counter() - ask.waited, "cancelled"
        try:
            if observer is None:
                answer = await work(ask)
            else:
                with observer.waiting(ask) as ask.waiting:
                    answer = await work(ask)
                    ask.waiting.answered(answer)
            outcome = outcome_of(None if answer is None else answer.status)
        except Exception:
            outcome = "error"
            raise
        finally:
            self.ledger.waited(ask.endpoint, outcome, perf_counter() - started)
        return answer

    def tell(self, kind: Any, ask: Ask, **fields: Any) -> None:
        """Emit an event about one question, if anybody listens."""
        if self.ledger.events.active:
            if (entry := fields.get("entry")) is not None:
                fields.setdefault("duration", entry.cost)
            if kind == "miss" and ask.remarks is not None:
                fields.update(ask.remarks)
            self.ledger.tell(
                kind, key=ask.key or None, endpoint=ask.endpoint, model=ask.model, **fields
            )

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
