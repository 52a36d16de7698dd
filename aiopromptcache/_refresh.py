"""Refreshes that nobody waits for, and a short memory of what failed.

A refresh is a flight like any other: it is joined, stored and overtaken by invalidation by the
same code. What is special is only that its first waiter is a task of the cache's own, so that it
goes on when every caller has left, and ends when the cache is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ._entry import Entry
from ._errors import PromptCacheError, ReentrantCall
from ._flights import Flight, FlightLost, Flights

if TYPE_CHECKING:
    from ._ask import Ask, Landed

FAILURE_SECONDS = 2.0
"""How long, on the cache's clock, a failure is remembered: nobody asks again at once."""
FAILURES = 10_000
"""Keys whose failure is remembered at most; the oldest is forgotten first."""
DRAIN_SECONDS = 1.0
"""How long closing waits for work that ignores its cancellation."""

TRANSIENT = frozenset({408, 409, 425, 429})
"""Statuses below 500 that are not the caller's fault: the SDK tries them again, too."""
_CALLERS_FAULT = (PromptCacheError, TypeError, NameError, ImportError, NotImplementedError)


def is_outage(error: Exception) -> bool:
    """Is a failure the upstream's, so that an old answer may stand in for it?

    By its HTTP status where it carries one (5xx and the transient ones of 4xx). Otherwise
    everything is, but errors of this library, and those that Python raises for a wrong call or a
    value that cannot be stored.
    """
    status = http_status(error)
    if status is not None:
        return status >= 500 or status in TRANSIENT
    return not isinstance(error, _CALLERS_FAULT)


def http_status(error: Exception) -> int | None:
    """The status that an error carries, as openai's, httpx's and aiohttp's do."""
    response = getattr(error, "response", None)
    for owner, name in ((error, "status_code"), (response, "status_code"), (error, "status")):
        status = getattr(owner, name, None)
        if type(status) is int:
            return status
    return None


def replaces(entry: Entry, seen: Entry) -> bool:
    """Is an entry another and a newer one? Ages that come from elsewhere are not exact."""
    tolerance = min(1.0, (seen.ttl or 0.0) / 2)
    return entry.stored_at > seen.stored_at + tolerance


def in_background(ask: Ask, **changes: Any) -> Ask:
    """The same question, asked by nobody who waits."""
    return replace(
        ask, background=True, waiting=None, looked=False, spent=0.0, waited=0.0, **changes
    )


class Failures:
    """What failed a moment ago."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._known: dict[str, tuple[float, bool]] = {}

    def note(self, slot: str, *, outage: bool) -> None:
        """Asking for a slot came to nothing; `outage`: by the upstream's fault."""
        self._known.pop(slot, None)
        self._known[slot] = (self._clock(), outage)
        if len(self._known) > FAILURES:
            del self._known[next(iter(self._known))]

    def lately(self, slot: str, *, outage: bool = False) -> bool:
        """Did it come to nothing a moment ago? With `outage`: by the upstream's fault?"""
        if not self._known:
            return False
        at, fault = self._known.get(slot, (-FAILURE_SECONDS, False))
        return 0 <= self._clock() - at < FAILURE_SECONDS and (fault or not outage)


class Refreshes:
    """The background refreshes of one cache: at most one for a key."""

    def __init__(
        self,
        flights: Flights[Any],
        fly: Callable[[Flight[Landed], Ask], Coroutine[Any, Any, Landed]],
        brought: Callable[[Ask, Landed], None],
        clock: Callable[[], float],
    ) -> None:
        self.failures = Failures(clock)
        self._flights = flights
        self._fly = fly
        self._brought = brought
        self._tasks: dict[asyncio.Task[None], Flight[Any]] = {}

    def start(self, ask: Ask, seen: Entry) -> None:
        """Fetch something newer than `seen`, unless that is under way or failed a moment ago.

        Runs in a copy of the caller's context, and goes on when the caller leaves.
        """
        slot = ask.slot
        if ask.policy.only_if_cached or self.failures.lately(slot):
            return
        if any(self._flights.find(slot, lane) for lane in {"", *ask.follows}):
            return
        ask.settle()
        own = in_background(ask, seen=seen)
        try:
            flight = self._flights.start(
                slot,
                lambda flight: self._fly(flight, own),
                tags=ask.policy.tags,
                patience=ask.patience,
            )
        except ReentrantCall:  # we are in the work for this very key
            return
        self.watch(flight, own, [slot], lambda landed: self._brought(own, landed))

    def watch(
        self,
        flight: Flight[Any],
        ask: Ask,
        slots: Sequence[str],
        brought: Callable[[Any], None],
    ) -> None:
        """Let a flight for some slots go on though no caller waits for it; tell what it brings."""
        # A context of its own: what the caller is part of does not wait for this.
        task = flight.loop.create_task(
            self._wait(flight, ask, slots, brought),
            name="aiopromptcache refresh",
            context=Context(),
        )
        if not task.done():
            self._tasks[task] = flight
            task.add_done_callback(lambda task: self._tasks.pop(task, None))

    async def _wait(
        self,
        flight: Flight[Any],
        ask: Ask,
        slots: Sequence[str],
        brought: Callable[[Any], None],
    ) -> None:
        try:
            landed = await self._flights.join(flight, leader=True)
        except FlightLost:
            return
        except Exception as error:  # it has been counted and told where it was raised
            for slot in slots:
                self.failures.note(slot, outage=ask.outage(error))
        else:
            brought(landed)

    async def aclose(self) -> None:
        """End all refreshes; one whose answer is there is still stored."""
        loop = asyncio.get_running_loop()
        own = {task: flight for task, flight in self._tasks.items() if flight.loop is loop}
        for task in own:
            task.cancel()
        if own:
            await asyncio.wait(own)
        works = {work for flight in own.values() if (work := self._end(flight)) is not None}
        if works:
            await asyncio.wait(works, timeout=DRAIN_SECONDS)

    def _end(self, flight: Flight[Any]) -> asyncio.Task[None] | None:
        """Cancel a flight that nobody else waits for; gives what is still to end."""
        if flight.waiting or flight.kept or flight.task is None:
            return None
        self._flights.remove(flight)
        flight.detached = True
        flight.task.cancel()
        return flight.task
