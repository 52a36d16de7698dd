"""Outages of a Redis, and what everybody may expect of a cache while one lasts and when it ends.

A fault is a context manager over a `Place`: what is broken inside it is whole again after it.
`Callers` ask a cache, know which answers are right, and count what the tier did meanwhile.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import statistics
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest
from engine_tools import quiet
from servers import Server, wait_for

from aiopromptcache import CacheEvent, PromptCache, Tier
from aiopromptcache.testing import TCPProxy

TIMEOUT = 0.2
"""The tier's `timeout` in these tests: short, so that they are quick."""
MARGIN = 0.3
"""Seconds by which a busy machine may be late."""
BACK_WITHIN = 2.0
"""Seconds from the end of a fault until the tier is used again."""
WAITING = 990
"""Answers that are sure to wait for the tier's return: of 1,000 writes some may be removals."""
TO_OPEN = 5
"""Failed operations after which the breaker must be open."""
PROBES = 1.5
"""Probes a second, at most."""


class Place(NamedTuple):
    """Where a tier's server is, and the way to it."""

    server: Server
    proxy: TCPProxy

    @property
    def url(self) -> str:
        """The way that can be broken."""
        return f"redis://{self.proxy.host}:{self.proxy.port}/0"


# Faults of the way


@contextmanager
def refused(place: Place) -> Iterator[None]:
    """The process is gone."""
    place.proxy.refuse()
    yield
    place.proxy.pass_through()


@contextmanager
def dropped(place: Place) -> Iterator[None]:
    """The machine is gone."""
    place.proxy.drop()
    yield
    place.proxy.pass_through()


@contextmanager
def black_hole(place: Place) -> Iterator[None]:
    """Connections are made, and nothing comes."""
    place.proxy.black_hole()
    yield
    place.proxy.pass_through()


@contextmanager
def slow(place: Place) -> Iterator[None]:
    """Every reply is a second late."""
    place.proxy.delay(1)
    yield
    place.proxy.pass_through()


@contextmanager
def cut(place: Place) -> Iterator[None]:
    """Each connection is reset in the middle of its first reply."""
    place.proxy.reset(after=3)
    yield
    place.proxy.pass_through()


def answers_with(reply: bytes) -> Callable[[Place], Any]:
    """A server that answers every command so."""

    @contextmanager
    def fault(place: Place) -> Iterator[None]:
        with Parrot(reply) as parrot:
            place.proxy.refuse()  # what is connected to the server itself goes
            place.proxy.target, before = ("127.0.0.1", parrot.port), place.proxy.target
            place.proxy.pass_through()
            yield
            place.proxy.refuse()
            place.proxy.target = before
            place.proxy.pass_through()

    return fault


# Faults of the server


@contextmanager
def stopped(place: Place) -> Iterator[None]:
    """SIGSTOP."""
    place.server.pause()
    try:
        yield
    finally:
        place.server.resume()


@contextmanager
def killed(place: Place) -> Iterator[None]:
    """Killed, and restarted empty at the end."""
    place.server.kill()
    yield
    place.server.start()


@contextmanager
def locked(place: Place) -> Iterator[None]:
    """Restarted, empty, with a password that we were not told."""
    place.server.restart(requirepass="secret")
    yield
    place.server.command("CONFIG", "SET", "requirepass", "", password="secret")


@contextmanager
def out_of_memory(place: Place) -> Iterator[None]:
    """Reads are answered; writes are OOM."""
    with place.server.out_of_memory():
        yield


@contextmanager
def read_only(place: Place) -> Iterator[None]:
    """Reads are answered; writes are READONLY."""
    with place.server.read_only():
        yield


@contextmanager
def loading(place: Place) -> Iterator[None]:
    """Restarted with so much on its disk that it is LOADING all the time."""
    server = place.server
    with server.client() as client:
        client.mset({f"ballast:{number}": "x" * 500 for number in range(5_000)})
        client.save()
    server.kill()
    # Five milliseconds a key, and a look at what clients want every second key.
    server.launch(key_load_delay=5_000, loading_process_events_interval_bytes=1_024)
    wait_for("loading", lambda: _loads(server))
    try:
        yield
    finally:
        with server.client() as client:
            client.config_set("key-load-delay", 0)
        wait_for("the end of loading", lambda: server.client().ping())
        Path(server.directory / "dump.rdb").unlink()


def _loads(server: Server) -> bool:
    with server.client() as client:
        return bool(client.info("persistence")["loading"])


class Parrot:
    """A server that knows RESP as far as to answer each command, always with the same bytes."""

    def __init__(self, reply: bytes) -> None:
        self._reply = reply
        self._handlers: set[asyncio.Task[Any]] = set()

    def __enter__(self) -> Self:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.port = self._socket.getsockname()[1]
        self._accepting = asyncio.ensure_future(self._accept())
        return self

    def __exit__(self, *_: object) -> None:
        self._accepting.cancel()
        for handler in self._handlers:
            handler.cancel()
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(self._socket)
            reader, writer = await asyncio.open_connection(sock=connection)
            handler = loop.create_task(self._serve(reader, writer))
            self._handlers.add(handler)
            handler.add_done_callback(self._handlers.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readline():
                for _ in range(int(head[1:])):
                    length = int((await reader.readline())[1:])
                    await reader.readexactly(length + 2)
                writer.write(self._reply)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()


# Those who want answers


class Callers:
    """They ask one cache, and each of them gets the right answer or the test fails."""

    def __init__(self, tier: Tier, caplog: pytest.LogCaptureFixture, **options: Any) -> None:
        self._events: list[CacheEvent] = []
        self.cache = PromptCache(tier, hooks=[self._events.append], **options)
        self.asked: list[str] = []
        """Questions of which each was paid for once."""
        self._numbers = itertools.count()
        self._caplog = caplog
        caplog.set_level("INFO", "aiopromptcache")

    @property
    def failures(self) -> int:
        """Operations of the tier that failed so far."""
        return self.cache.stats.errors

    @property
    def lines(self) -> list[str]:
        """What the cache has logged."""
        records = self._caplog.records
        return [record.getMessage() for record in records if record.name == "aiopromptcache"]

    async def open(self) -> bool:
        """Is the breaker open?"""
        await quiet()
        changes = [event.error for event in self._events if event.kind == "breaker"]
        return bool(changes) and changes[-1] is not None

    async def ask(self, question: str | None = None) -> float:
        """One caller, with a question never asked before unless given. Gives the time it took."""
        key = question if question is not None else f"question {next(self._numbers)}"
        right = {"answer to": key}

        async def factory() -> Any:
            self.asked.append(key)
            return right

        loop = asyncio.get_running_loop()
        started = loop.time()
        assert await self.cache.get_or_create(key, factory) == right
        return loop.time() - started

    async def ask_until(self, done: Callable[[], bool]) -> list[float]:
        """One caller after another, until something has happened."""
        took = []
        while not done():
            took.append(await self.ask())
            await asyncio.sleep(0.005)
        return took


async def eventually(what: str, condition: Callable[[], Awaitable[bool]], within: float) -> None:
    """Try until something holds; it must within so many seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within
    while not await condition():
        assert loop.time() < end, f"{what} took more than {within} s"
        await asyncio.sleep(0.01)


async def survive(
    callers: Callers,
    direct: Tier,
    fault: Any,
    *,
    opens: bool = True,
    keeps: bool = True,
) -> None:
    """Go through one outage. `direct` is another tier over the same server, by an unbroken way.

    `opens`: does all that the tier does fail, so that the breaker must open? `keeps`: does the
    server keep what it had?
    """
    other = PromptCache(direct)
    await other.set("kept", 1)
    await callers.cache.set("doomed", 1)
    await callers.ask("before")
    assert callers.failures == 0, "it failed while all was well"
    callers.asked.clear()
    with fault:
        await _begins(callers, opens)
        await callers.cache.delete("doomed")
        await _lasts(callers, opens)
        assert len(callers.lines) == 1, "an outage is one line"
    await _is_over(callers, other, keeps)
    await callers.cache.aclose()
    await other.aclose()


async def _begins(callers: Callers, opens: bool) -> None:
    """Callers lose no more than the tier's timeout, until the breaker opens."""
    loop = asyncio.get_running_loop()
    end = loop.time() + 2 * TO_OPEN * TIMEOUT
    for number in itertools.count():
        assert await callers.ask() < TIMEOUT + MARGIN
        # While the tier is being tried again in the background, calls do not ask it.
        if await callers.open() or (number > 2 * TO_OPEN and (not opens or loop.time() > end)):
            break
        await asyncio.sleep(0)
    assert callers.failures > 0, "the fault was not noticed"
    if opens:
        assert await callers.open(), "the breaker should be open"
        assert callers.failures <= TO_OPEN


async def _lasts(callers: Callers, opens: bool) -> None:
    """From now on they lose nothing, whether they come one by one or all at once."""
    loop = asyncio.get_running_loop()
    before, started = callers.failures, loop.time()
    took = [await callers.ask() for _ in range(30)]
    crowd = loop.time()
    await asyncio.gather(*[callers.ask() for _ in range(100)], callers.ask("before"))
    assert loop.time() - crowd < TIMEOUT + MARGIN
    if not opens:
        return
    probes = callers.failures - before
    assert probes <= 1 + (loop.time() - started) * PROBES, "only probes may try"
    assert statistics.median(took) < 0.01
    assert sum(seconds > TIMEOUT / 2 for seconds in took) <= probes


async def _is_over(callers: Callers, other: PromptCache, keeps: bool) -> None:
    """The tier is used again at once, and has what was paid for without it."""
    cache = callers.cache
    await other.set("after", 2)

    async def used() -> bool:
        return bool(await cache.get("after") == 2)

    async def written() -> bool:
        newest = list(dict.fromkeys(callers.asked))[-WAITING:]
        return all([await other.get(question) for question in newest])

    await eventually("the tier's return", used, BACK_WITHIN)
    await eventually("the writing of what was paid for", written, BACK_WITHIN)
    assert await other.get("doomed") is None, "what was deleted came back"
    assert await other.get("kept") == (1 if keeps else None)

    async def told() -> bool:  # a stopped server may do what it was sent before it is back
        return len(callers.lines) >= 2

    await eventually("the line about the return", told, BACK_WITHIN)
    assert len(callers.lines) == 2, "the return is one line"
    assert not await callers.open()
    before = callers.failures
    for _ in range(5):
        await callers.ask()
    assert callers.failures == before, "it failed after its return"
    assert len(callers.lines) == 2


def named(faults: Iterable[Callable[[Place], Any]]) -> list[Any]:
    """Faults as parameters of a test."""
    return [pytest.param(fault, id=fault.__name__.replace("_", "-")) for fault in faults]
