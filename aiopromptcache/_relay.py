"""A live stream passed on to other processes that want the same answer.

The process that leads writes nothing until another asks for it (in the news). Then a sender reads
the stream as one more reader, and passes on all that came so far and what comes. It counts as
present for as long as somebody elsewhere does, so that the last one anywhere ends the upstream.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ._flights import Flight, Flights, OutOfPatience
from ._follow import Follower, Form
from ._found import Begun, Found
from ._leases import Coordinator, Wait, wait_for_news
from ._passed import End, Record, pack
from ._stats import told_name
from ._streams import Cursor, Live
from .tiers._base import Lease, News, RelayTier

if TYPE_CHECKING:
    from ._ask import Ask

logger = logging.getLogger("aiopromptcache")

BEATS = 3
"""How often a stream that brings nothing says within a lease that it is still there."""
PAUSES = 50
"""How often, at most, within a lease a record is written that fails to be."""
RECORD = 2**20
"""Bytes of items, about, in one record."""
FOLLOWED = 100
"""Streams that one process follows at once, a connection each. More wait for the stored answer."""
REMEMBERED = 1_000
"""Slots at most that were wanted before their stream was known."""


class _Led(NamedTuple):
    """A live stream that this process reads from the upstream."""

    flight: Flight[Any]
    slot: str
    stream: str
    form: Form


class Relays:
    """All that one cache passes on, and all that it follows."""

    def __init__(
        self, flights: Flights[Any], shared: Coordinator | None, clock: Callable[[], float]
    ) -> None:
        tier = None if shared is None else shared.guard.tier
        self._tier = tier if isinstance(tier, RelayTier) else None
        self._shared = cast("Coordinator", shared)
        self._flights = flights
        self._clock = clock
        self._led: dict[str, _Led] = {}
        self._wanted: dict[str, float] = {}
        self._senders: dict[Flight[Any], _Sender] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._following = 0
        if self._tier is not None and shared is not None:
            shared.heard = self._heard

    # Leading

    def leads(self, flight: Flight[Any], ask: Ask, lease: Lease | None) -> None:
        """A flight begins to load; others may want its stream."""
        if self._tier is None or flight.live is None or ask.form is None or lease is None:
            return
        led = self._led[lease.slot] = _Led(flight, lease.slot, lease.token, ask.form)
        wanted = self._wanted.pop(lease.slot, None)
        if wanted is not None and flight.loop.time() - wanted < self._tier.lease:
            self._send(led)

    def over(self, flight: Flight[Any]) -> None:
        """It has loaded. A sender still tells how that ended."""
        led = self._led.get(flight.key)
        if led is not None and led.flight is flight:
            del self._led[flight.key]

    def _heard(self, news: News) -> None:
        led, loop = self._led.get(news.name), asyncio.get_running_loop()
        if news.kind == "unwanted":
            for sender in list(self._senders.values()):
                if sender.led.slot == news.name:
                    self._spawn(sender.check())
        elif led is not None and led.flight.loop is loop:
            self._send(led)
        else:  # the flight may be about to begin: a lease is claimed a moment before
            self._wanted.pop(news.name, None)
            self._wanted[news.name] = loop.time()
            if len(self._wanted) > REMEMBERED:
                del self._wanted[next(iter(self._wanted))]

    def _send(self, led: _Led) -> None:
        if led.flight not in self._senders and not led.flight.done and self._tier is not None:
            sender = _Sender(led, self._flights, self._tier, self._shared.guard.timeout)
            self._senders[led.flight] = sender
            self._spawn(self._sending(sender))

    async def _sending(self, sender: _Sender) -> None:
        try:
            await sender.run()
        except Exception as error:  # whoever still wants it asks again
            logger.debug("a live stream was not passed on: %r", error)
        finally:
            self._senders.pop(sender.led.flight, None)
            sender.leave()

    # Following

    async def begin(
        self, flight: Flight[Any], ask: Ask, begin: Callable[[Wait], Awaitable[Begun]]
    ) -> Begun:
        """Begin a flight; while another process has the lease, follow what it reads."""
        tier, form, live = self._tier, ask.form, cast(Live | None, flight.live)
        if tier is None or form is None or live is None or self._following >= FOLLOWED:
            return await begin(wait_for_news)
        follower = Follower(tier, self._shared.guard, ask.slot, live, form)
        self._following += 1
        try:
            begun = await begin(follower.wait)
            await self._rest(follower, begun)
        finally:
            self._following -= 1
            follower.stop()
            if follower.stream is not None:
                self._spawn(follower.unwant())
        return begun if follower.end is None else self._followed(ask, follower, begun)

    async def _rest(self, follower: Follower, begun: Begun) -> None:
        try:
            await follower.rest()
        except BaseException:
            self._shared.give_back(begun.lease)
            raise

    def _followed(self, ask: Ask, follower: Follower, begun: Begun) -> Begun:
        """All came: as it was stored, or else as it is."""
        if (found := begun.found) is None:
            self._shared.give_back(begun.lease)
            entry = follower.entry(self._clock(), endpoint=ask.endpoint, model=ask.model)
            found = Found(entry, self._shared.guard.name)
        return Begun(found._replace(waited=True), None, begun.spent)

    # Tasks

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name="aiopromptcache relay")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Tell followers elsewhere that no more comes from here."""
        loop = asyncio.get_running_loop()
        for sender in self._senders.values():
            if sender.led.flight.loop is loop:
                sender.close()
        if tasks := [task for task in self._tasks if task.get_loop() is loop]:
            await asyncio.wait(tasks, timeout=2 * self._shared.guard.timeout)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


class _Sender:
    """Passes on one stream, as one of its readers."""

    def __init__(self, led: _Led, flights: Flights[Any], tier: RelayTier, timeout: float) -> None:
        self.led = led
        self._live: Live = led.flight.live
        self._flights = flights
        self._tier = tier
        self._timeout = timeout
        self._present: asyncio.Future[None] | None = flights.enter(led.flight)
        self._cursor = Cursor()
        self._cursor.position = self._live.first
        self._live.cursors.add(self._cursor)
        self._headed = False
        self._closed = False
        self._kept: deque[tuple[str, int]] = deque()
        self._size = 0

    async def run(self) -> None:
        """Until the stream ends, or nobody elsewhere reads it any more."""
        loop, lease = asyncio.get_running_loop(), self._tier.lease
        checked = loop.time()
        while True:
            record = self._next()
            if record is None:
                try:
                    await self._live.changed(loop, lease / BEATS, first=True)
                    continue
                except OutOfPatience:
                    record = Record(self._cursor.position)
            await self._publish(record)
            if record.end is not None:
                return
            if loop.time() - checked >= lease:
                checked = loop.time()
                if not await self._wanted():
                    return

    def _next(self) -> Record | None:
        """What is to be passed on now."""
        live, cursor, flight = self._live, self._cursor, self.led.flight
        place = cursor.position
        if place and not self._headed:
            return Record(0, end=End(False, why=_LONG, shut=True))
        if cursor.lost:
            return Record(place, end=End(False, why=_BEHIND))
        items = self._batch(place)
        whole = place + len(items) == live.end
        end = _end_of(flight) if flight.done and whole else None
        if end is None and self._closed:
            end = End(False, why=_CLOSED)
        if not items and end is None:
            return None
        head = None
        if not self._headed and live.opened:
            head, self._headed = self.led.form.pack(live.head), True
        cursor.position = place + len(items)
        if live.overflowed:
            live.moved()
        return Record(place, items, head, end)

    def _batch(self, place: int) -> list[bytes]:
        items: list[bytes] = []
        size = 0
        for item in self._live.items[place - self._live.first :]:
            if items and size + len(item) > RECORD:
                break
            items.append(item)
            size += len(item)
        return items

    async def _publish(self, record: Record) -> None:
        """Write it, and keep no more on the server than is kept here."""
        data = pack(record)
        self._size += len(data)
        while self._kept and self._size > self._live.limit:
            self._size -= self._kept.popleft()[1]
        oldest = self._kept[0][0] if self._kept else ""
        self._kept.append((await self._write(data, oldest), len(data)))

    async def _write(self, data: bytes, oldest: str) -> str:
        """Its place. What fails is written again, for as long as followers wait for it.

        A record that is there twice after all harms nobody: each takes only what it lacks.
        """
        led, relay, loop = self.led, self._tier.relay, asyncio.get_running_loop()
        until = loop.time() + self._tier.lease
        while True:
            try:
                async with asyncio.timeout(self._timeout):
                    return await relay.publish(led.slot, led.stream, data, oldest)
            except Exception as error:
                if self._closed or loop.time() >= until:
                    raise
                logger.debug("a part of a live stream is written again: %r", error)
            await asyncio.sleep(self._tier.lease / PAUSES)

    async def _wanted(self) -> bool:
        """Does anybody elsewhere read it? Yes, where that is not known."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._tier.relay.wanted(self.led.slot, self.led.stream)
        except Exception as error:
            logger.debug("it is not known who reads a stream: %r", error)
            return True

    async def check(self) -> None:
        """Somebody left: where it was the last one elsewhere, be no reader any more."""
        if not await self._wanted():
            self.leave()

    def close(self) -> None:
        """The cache is closed."""
        self._closed = True
        self._live.wake()

    def leave(self) -> None:
        """Count as a reader no more."""
        present, self._present = self._present, None
        if present is not None:
            self._live.cursors.discard(self._cursor)
            self._live.moved()
            self._flights.leave(self.led.flight, present)


def _end_of(flight: Flight[Any]) -> End:
    try:
        landed = flight.outcome(leader=False)
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        return End(False, why=f"in the process that read it, it failed: {error!r}")
    entry = landed.entry
    billed, service = (name and told_name(name) for name in (entry.billed, entry.service))
    return End(True, landed.stored, entry.usage, billed=billed, service=service)


_LONG = "the stream is too long to be joined now"
_BEHIND = "what is passed on to other processes fell too far behind the stream"
_CLOSED = "the cache of the process that read it was closed"
