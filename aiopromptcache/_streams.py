"""A live stream: one producer, any number of readers, each at a place and a speed of its own.

It is what a flight whose answer comes bit by bit fills (`Flight.live`): the flight's work appends,
readers read by position. A reader's presence counts as a waiter of the flight, so the last one to
leave ends the work. This module knows no tier and no policy, and items are bytes to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ._errors import StreamBroken
from ._flights import Flight, FlightLost, Flights, OutOfPatience, begin_wait, end_wait

if TYPE_CHECKING:
    Future = asyncio.Future[None]

LIMIT = 16 * 2**20
"""Bytes of one stream that are kept for readers. What is longer is delivered, but not stored."""


class Live:
    """What a stream has brought so far.

    Past `LIMIT` nobody can join any more, and only what some reader has still to read is kept. A
    reader that falls so far behind the others is cut off; where all are behind, the producer waits
    (`room`).
    """

    def __init__(self) -> None:
        self.opened = False
        self.head: Any = None
        """What came before the first item."""
        self.items: list[bytes] = []
        self.first = 0
        """The position of the first item that is still kept."""
        self.end = 0
        """The position of the next item to come."""
        self.size = 0
        self.limit = LIMIT
        self.overflowed = False
        self.borrowed = False
        """True where another process reads the upstream, and this one follows it."""
        self.complete = False
        """True once all that matters has come: from then on nobody's leaving undoes it."""
        self.cursors: set[Cursor] = set()
        self._waiters: list[Future] = []
        self._moved: Future | None = None

    # The producer's side

    def open(self, head: Any = None) -> None:
        """The stream has begun: who waited for it can read from now on."""
        self.opened, self.head = True, head
        self.wake()

    def append(self, item: bytes) -> None:
        """One item more."""
        self.items.append(item)
        self.end += 1
        self.size += len(item)
        if self.size > self.limit or self.overflowed:
            self._trim()
        self.wake()

    async def room(self) -> None:
        """Wait where more is kept than may be, and even the fastest reader has not read it."""
        while self.size > self.limit:
            self._trim()
            if self.size > self.limit and not self._cut_off_slowest():
                self._moved = asyncio.get_running_loop().create_future()
                await self._moved

    def wake(self) -> None:
        """Let everyone who waits look again."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _trim(self) -> None:
        self.overflowed = True
        place = min((cursor.position for cursor in self.cursors), default=self.end)
        count = place - self.first
        self.size -= sum(map(len, self.items[:count]))
        del self.items[:count]
        self.first = place

    def _cut_off_slowest(self) -> bool:
        """False where nobody has read all: then it is the upstream that is too fast."""
        if not any(cursor.position == self.end for cursor in self.cursors):
            return False
        for cursor in [cursor for cursor in self.cursors if cursor.position == self.first]:
            cursor.lost = True
            self.cursors.discard(cursor)
        return True

    # The readers' side

    def moved(self) -> None:
        """A reader went on, or left."""
        if self._moved is not None and not self._moved.done():
            self._moved.set_result(None)

    async def changed(
        self, loop: asyncio.AbstractEventLoop, timeout: float | None, *, first: bool = False
    ) -> None:
        """Wait for the next `wake`. Raises `OutOfPatience` after `timeout` seconds.

        Who is `first` looks before the others: it passes on what came to many more.
        """
        waiter: Future = loop.create_future()
        self._waiters.insert(0 if first else len(self._waiters), waiter)
        if timeout is None:
            await waiter
            return
        timer = loop.call_later(timeout, _expire, waiter)
        try:
            await waiter
        finally:
            timer.cancel()


def _expire(waiter: Future) -> None:
    if not waiter.done():
        waiter.set_exception(OutOfPatience())


class Cursor:
    """One reader's place. The stream holds it, and not the reader, which may be dropped."""

    __slots__ = ("lost", "position")

    def __init__(self) -> None:
        self.position = 0
        self.lost = False


class Reader:
    """One consumer of a flight's live stream.

    It is present until it has read the end, is closed, or is dropped. `view`, where it is set, is
    given each position and item and returns what this consumer sees of it.
    """

    def __init__(self, flights: Flights[Any], flight: Flight[Any], *, leader: bool) -> None:
        self._flights = flights
        self._flight = flight
        self._live: Live = flight.live
        self._cursor = Cursor()
        self._live.cursors.add(self._cursor)
        self._present: Future | None = flights.enter(flight)
        self._leads = leader
        self.closed = False
        self.patience: float | None = None
        """Seconds without anything new after which this consumer gives up."""
        self.view: Callable[[int, bytes], bytes] | None = None
        self.on_end: Callable[[Any, bool], None] | None = None
        """Told once what the flight brought (None: nothing yet), and whether all was read."""

    @property
    def leader(self) -> bool:
        """Is what this consumer reads its own call's answer?"""
        return self._leads and not self._live.borrowed

    @property
    def head(self) -> Any:
        """What came before the first item."""
        return self._live.head

    @property
    def position(self) -> int:
        """How many items were read."""
        return self._cursor.position

    @property
    def failure(self) -> BaseException | None:
        """What the stream broke off with, if it did."""
        return self._flight.failure

    async def opened(self, timeout: float | None) -> bool:
        """Wait until the stream begins; False where the flight ends without one."""
        self.patience = timeout
        while not self._live.opened and not self._flight.done:
            await self._changed()
        self.patience = None
        return self._live.opened

    async def begins(self) -> Exception | None:
        """Wait for the first item; gives what ended the stream before it, or this wait."""
        try:
            while not self._live.end and not self._flight.done:
                await self._changed()
            if not self._live.end:
                self._flight.outcome(leader=self.leader)
        except FlightLost:
            pass
        except Exception as error:
            return error
        return None

    def take(self) -> bytes | None:
        """The next item if it is there already."""
        live, cursor = self._live, self._cursor
        place = cursor.position
        if place >= live.end or self.closed or cursor.lost:
            return None
        item = live.items[place - live.first]
        cursor.position = place + 1
        if live.overflowed:
            live.moved()
        return item if self.view is None else self.view(place, item)

    def back(self) -> None:
        """Let the item that was taken just now be the next again."""
        self._cursor.position -= 1

    async def next(self) -> bytes:
        """The next item.

        Raises `StopAsyncIteration` at the end, what the producer raised (an instance of this
        reader's own), and `StreamBroken` where there is no more for this reader.
        """
        while (item := self.take()) is None:
            if self._cursor.lost:
                self.leave()
                raise StreamBroken(_BEHIND)
            if self.closed:
                raise StreamBroken("the stream was closed")
            if self._flight.done:
                self._end()
            await self._changed()
        return item

    async def _changed(self) -> None:
        outer = begin_wait(self._flight)
        try:
            await self._live.changed(self._flight.loop, self.patience)
        finally:
            end_wait(outer, self._flight)

    def _end(self) -> None:
        try:
            landed = self._flight.outcome(leader=self._leads)
        except FlightLost:
            raise StreamBroken("what read the upstream for all was cancelled") from None
        finally:
            self._leave(whole=True)
        raise StopAsyncIteration(landed)

    def leave(self) -> None:
        """Be no consumer any more; nobody else notices."""
        self.closed = True
        self._leave(whole=False)
        self._live.wake()  # another task may wait for this very reader

    def _leave(self, whole: bool) -> None:
        present, self._present = self._present, None
        if present is None:
            return
        self._live.cursors.discard(self._cursor)
        self._live.moved()
        if self.on_end is not None:
            self.on_end(self._flight.landed, whole)
        self._flights.leave(self._flight, present)

    async def aclose(self) -> None:
        """Leave; where this was the last reader, wait until the upstream is closed."""
        task = self._flight.task
        self.leave()
        if task is not None and self._flight.ending and task is not asyncio.current_task():
            await asyncio.wait([task], timeout=_CLOSING_SECONDS)

    def __del__(self) -> None:
        if getattr(self, "_present", None) is None or self._flight.loop.is_closed():
            return
        if asyncio._get_running_loop() is self._flight.loop:
            self.leave()
            return
        # Collected in another thread, or between two runs of the loop. The parts live on.
        present, live, cursor = self._present, self._live, self._cursor
        flights, flight = self._flights, self._flight

        def leave() -> None:
            live.cursors.discard(cursor)
            live.moved()
            if present is not None:
                flights.leave(flight, present)

        flight.loop.call_soon_threadsafe(leave)


_BEHIND = "this reader fell too far behind the others, and what it had to read is no longer kept"
_CLOSING_SECONDS = 1.0
"""How long closing waits for work that does not end when it is cancelled."""


async def read_live(
    flights: Flights[Any], flight: Flight[Any], *, leader: bool, timeout: float | None
) -> Reader | None:
    """A reader of a flight's stream once it has begun; None where the flight ended without one.

    `timeout`: how long this consumer waits, for the beginning and for each item. Raises
    `OutOfPatience`.
    """
    reader = Reader(flights, flight, leader=leader)
    try:
        if await reader.opened(timeout):
            if timeout is not None and (flight.patience is None or timeout < flight.patience):
                reader.patience = timeout  # less than what the reading itself is given
            return reader
    except BaseException:
        reader.leave()
        raise
    reader.leave()
    return None
