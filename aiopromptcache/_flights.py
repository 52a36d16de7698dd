"""Single flight: one piece of work per key, awaited by all who ask while it runs.

State changes happen synchronously; what is awaited is only ever a waiter's own future. A flight
runs in a task of its own, in a copy of its first caller's context, so no caller's cancellation or
deadline reaches it; the last waiter to leave cancels it. This module knows no tier and no policy.
"""

from __future__ import annotations

import asyncio
import copy as copying
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any, Generic, TypeVar, cast

from ._errors import ReentrantCall

T = TypeVar("T")

_current: ContextVar[Flight[Any] | None] = ContextVar("aiopromptcache flight", default=None)


class FlightLost(Exception):
    """The flight was cancelled by none of its waiters. Whoever still wants it starts anew."""


class OutOfPatience(Exception):
    """A waiter's own time was up; the flight goes on for the others."""


class Flight(Generic[T]):
    """Work in progress for one key.

    `patience` is how long its leader gives the upstream (None: unlimited). `detached` is set when
    the key was invalidated meanwhile: the waiters get their answer, and it is not stored.
    """

    __slots__ = (
        "_error",
        "_error_traceback",
        "_result",
        "_waiters",
        "awaits",
        "detached",
        "done",
        "home",
        "kept",
        "key",
        "lane",
        "live",
        "loop",
        "parent",
        "patience",
        "tags",
        "task",
        "trace",
        "unled",
        "unsure",
    )

    def __init__(
        self,
        key: str,
        lane: str | None,
        loop: asyncio.AbstractEventLoop,
        tags: tuple[str, ...],
        patience: float | None,
        live: Any = None,
    ) -> None:
        self.live = live
        """The stream that the work fills, if its answer comes bit by bit."""
        self.key = key
        self.lane = lane
        self.loop = loop
        self.tags = tags
        self.patience = patience
        self.detached = False
        self.unsure = False
        """May it have been invalidated by others, unheard?"""
        self.kept = False
        """True once the answer is there: from then on the work ends even if nobody waits."""
        self.done = False
        self.task: asyncio.Task[None] | None = None
        self.trace: Any = None
        """What an observer tells others of its upstream call."""
        self.home: object = None
        """The flights that this is one of."""
        self.unled = False
        """Has the caller left that it was started for?"""
        self.parent: Flight[Any] | None = None
        """Whose work started this one."""
        self.awaits: list[Flight[Any]] = []
        """Flights that this one's own work waits for now."""
        self._waiters: set[asyncio.Future[None]] = set()
        self._result: T | None = None
        self._error: BaseException | None = None
        self._error_traceback: Any = None

    @property
    def waiting(self) -> int:
        """How many callers wait now."""
        return len(self._waiters)

    @property
    def settled(self) -> bool:
        """The answer is there: nobody's leaving ends the work any more."""
        return self.kept or (self.live is not None and self.live.complete)

    @property
    def ending(self) -> bool:
        """Its last waiter left before the answer was there."""
        return self.detached and not self.done and not self._waiters and not self.settled

    @property
    def landed(self) -> T | None:
        """The result, once there is one."""
        return self._result

    @property
    def failure(self) -> BaseException | None:
        """What it ended with in place of a result."""
        return self._error

    def land(self, result: T | None, error: BaseException | None = None) -> None:
        """Settle the outcome and wake everyone."""
        self.done = True
        self._result = result
        self._error = error
        if error is not None:
            self._error_traceback = error.__traceback__
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        if self.live is not None:
            self.live.wake()

    def outcome(self, *, leader: bool) -> T:
        """The result, or the error: the leader's own instance, a twin of it for everyone else."""
        error = self._error
        if error is None:
            return cast(T, self._result)
        if leader or isinstance(error, FlightLost):
            raise error
        raise twin(error, self._error_traceback)


class Flights(Generic[T]):
    """The flights of one cache. A key has at most one that can be joined in each lane."""

    def __init__(self) -> None:
        self._flights: dict[str, list[Flight[T]]] = {}
        self._tasks: dict[asyncio.Task[None], Flight[T]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def find(self, key: str, lane: str = "") -> Flight[T] | None:
        """The flight of this key and lane that a caller on the running loop can still join."""
        for flight in self._flights.get(key, ()):
            # Another loop's flight is passed over: that loop has ended, it will never land. So is
            # a stream whose beginning is no longer kept.
            if (
                flight.lane == lane
                and flight.loop is asyncio.get_running_loop()
                and not (flight.live is not None and flight.live.overflowed)
            ):
                return flight
        return None

    def start(
        self,
        key: str,
        work: Callable[[Flight[T]], Coroutine[Any, Any, T]],
        *,
        lane: str | None = "",
        tags: tuple[str, ...] = (),
        patience: float | None = None,
        live: Any = None,
    ) -> Flight[T]:
        """Start work for a key; in the lane None nobody can join it.

        `live` is the stream that the work fills, if any: then a `Reader` waits for its items, and
        `join` for its end.
        """
        loop = asyncio.get_running_loop()
        flight: Flight[T] = Flight(key, lane, loop, tags, patience, live)
        flight.home, flight.parent = self, self._parent_of(key)
        self._flights.setdefault(key, []).append(flight)
        flight.task = task = loop.create_task(self._run(flight, work), name="aiopromptcache flight")
        self._tasks[task] = flight
        task.add_done_callback(self._ended)
        return flight

    def _parent_of(self, key: str) -> Flight[Any] | None:
        """The flight whose work we are in. Work that starts itself anew would never end."""
        outer = _current.get()
        if outer is None or outer.done:
            return None
        ancestor: Flight[Any] | None = outer
        while ancestor is not None:
            if ancestor.home is self and ancestor.key == key and not ancestor.done:
                raise ReentrantCall("the work for a key starts that work again; use another key")
            ancestor = ancestor.parent
        return outer

    def open(self, key: str, tags: tuple[str, ...]) -> Flight[T]:
        """A flight without work of its own, to be detached like others; `remove` ends it."""
        flight: Flight[T] = Flight(key, None, asyncio.get_running_loop(), tags, None)
        self._flights.setdefault(key, []).append(flight)
        return flight

    async def join(self, flight: Flight[T], *, leader: bool, timeout: float | None = None) -> T:
        """Wait for a flight's outcome.

        Raises `OutOfPatience` when `timeout` seconds have passed, `ReentrantCall` where waiting
        would never end, `FlightLost` where the flight was cancelled from outside.
        """
        if flight.done:
            return flight.outcome(leader=leader)
        outer = begin_wait(flight)
        try:
            return await self._wait(flight, leader, timeout)
        finally:
            end_wait(outer, flight)

    async def _wait(self, flight: Flight[T], leader: bool, timeout: float | None) -> T:
        waiter = self.enter(flight)
        timer = None
        if timeout is not None:
            timer = flight.loop.call_later(timeout, _expire, waiter)
        try:
            await waiter
        finally:
            if timer is not None:
                timer.cancel()
            self.leave(flight, waiter)
        return flight.outcome(leader=leader)

    def enter(self, flight: Flight[T]) -> asyncio.Future[None]:
        """Be one of those for whom the work is done, until `leave`. Resolved when it lands."""
        waiter: asyncio.Future[None] = flight.loop.create_future()
        flight._waiters.add(waiter)
        return waiter

    def leave(self, flight: Flight[T], waiter: asyncio.Future[None]) -> None:
        """The last one to leave ends the work."""
        flight._waiters.discard(waiter)
        if not flight.done and not flight._waiters and not flight.settled:
            self._abandon(flight)

    def _abandon(self, flight: Flight[T]) -> None:
        """The last waiter left: end the work, and let nobody join it any more."""
        self.remove(flight)
        flight.detached = True  # also where the work ignores its cancellation
        if flight.task is not None:
            flight.task.cancel()

    def remove(self, flight: Flight[T]) -> None:
        """Make this very flight unjoinable; others of its key stay."""
        flights = self._flights.get(flight.key, [])
        if flight in flights:
            flights.remove(flight)
            if not flights:
                del self._flights[flight.key]

    def detach(self, key: str) -> list[Flight[T]]:
        """The key was invalidated: what its flights bring is not stored, newcomers start anew."""
        flights = self._flights.pop(key, [])
        for flight in flights:
            flight.detached = True
        return flights

    def detach_where(self, test: Callable[[Flight[T]], bool]) -> list[Flight[T]]:
        """Detach every flight for which `test` holds."""
        keys = [
            key for key, flights in self._flights.items() if any(test(flight) for flight in flights)
        ]
        return [flight for key in keys for flight in self.detach(key)]

    def doubt(self) -> None:
        """News of what others invalidate were lost: each flight may be concerned."""
        for flights in self._flights.values():
            for flight in flights:
                flight.unsure = True

    async def _run(
        self, flight: Flight[T], work: Callable[[Flight[T]], Coroutine[Any, Any, T]]
    ) -> None:
        _current.set(flight)
        try:
            result = await work(flight)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.remove(flight)
            flight.land(None, error)
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
        else:
            self.remove(flight)
            flight.land(result)

    def _ended(self, task: asyncio.Task[None]) -> None:
        flight = self._tasks.pop(task)
        flight.task = None  # a circle: the task's context holds the flight
        flight.parent = None
        if not task.cancelled():
            task.exception()  # it has been told to whom it concerns
        if not flight.done:  # cancelled, perhaps before it ever ran
            self.remove(flight)
            flight.land(None, FlightLost())

    async def finish(self) -> None:
        """Wait for what is still being stored. Calls that are upstream go on by themselves."""
        loop = asyncio.get_running_loop()
        if storing := [
            task for task, flight in self._tasks.items() if flight.settled and flight.loop is loop
        ]:
            await asyncio.wait(storing)


def _expire(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(OutOfPatience())


def begin_wait(flight: Flight[Any]) -> Flight[Any] | None:
    """The work that we are in is about to wait for a flight: `ReentrantCall` for a circle."""
    outer = _current.get()
    if outer is None or outer.done or outer.loop is not flight.loop:
        return None
    _refuse_circle(outer, flight)
    outer.awaits.append(flight)
    return outer


def end_wait(outer: Flight[Any] | None, flight: Flight[Any]) -> None:
    """What `begin_wait` gave waits no more."""
    if outer is not None:
        outer.awaits.remove(flight)


def _refuse_circle(outer: Flight[Any], wanted: Flight[Any]) -> None:
    """Work may not wait for a flight that waits, over any number of flights, for that work."""
    rest, seen = [wanted], set()
    while rest:
        flight = rest.pop()
        if flight is outer:
            raise ReentrantCall("the work for a key waits for that same key; give it another key")
        if flight not in seen:
            seen.add(flight)
            rest.extend(flight.awaits)


def twin(error: BaseException, traceback: Any = None) -> BaseException:
    """An equal exception that shares no mutable state with the original.

    One instance raised in many tasks would share its context, notes and traceback. Where a class
    cannot be rebuilt, the original is all there is.
    """
    try:
        copy = _rebuilt(error)
    except Exception:
        try:
            copy = copying.copy(error)  # a class with a way of its own, like pydantic's
        except Exception:
            return error
    if "__notes__" in copy.__dict__:
        copy.__notes__ = list(error.__notes__)
    copy.__cause__ = error.__cause__
    copy.__context__ = error.__context__
    copy.__suppress_context__ = error.__suppress_context__
    return copy.with_traceback(traceback)


def _rebuilt(error: BaseException) -> BaseException:
    kind = type(error)
    _, arguments, *state = cast(tuple[Any, ...], error.__reduce__())
    copy: BaseException = kind.__new__(kind, *arguments)
    _builtin_base(kind).__init__(copy, *arguments)  # state that only C code can set
    copy.args = error.args
    if state and state[0]:
        copy.__setstate__(state[0])
    copy.__dict__.update(error.__dict__)
    for name in _slots(kind):
        if hasattr(error, name):
            setattr(copy, name, getattr(error, name))
    return copy


def _slots(kind: type) -> list[str]:
    """Attributes that a class keeps outside of its instances' dictionaries."""
    slots = [vars(base).get("__slots__", ()) for base in kind.__mro__]
    return [name for names in slots for name in ((names,) if isinstance(names, str) else names)]


def _builtin_base(kind: type[BaseException]) -> type[BaseException]:
    return next(base for base in kind.__mro__ if base.__module__ == "builtins")
