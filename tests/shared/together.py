"""Caches that share a server and nothing else: in this process, or each in one of its own."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from engine_tools import Gate
from servers import Server

from aiopromptcache import MemoryTier, PromptCache, RedisTier

HEARD = 0.25
"""Seconds in which what one process did must have reached the others."""
PATIENCE = 10.0
"""Seconds until what never happens fails a test."""


async def wait_until(what: str, condition: Callable[[], Any], within: float = PATIENCE) -> float:
    """Wait until something holds, which may be awaitable; gives the seconds that it took."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    while True:
        outcome = condition()
        if isinstance(outcome, Awaitable):
            outcome = await outcome
        took = loop.time() - started
        if outcome:
            return took
        assert took < within, f"{what}: not within {within} s"
        await asyncio.sleep(0.002)


@asynccontextmanager
async def team(
    url: str | Sequence[str], count: int = 2, **options: Any
) -> AsyncIterator[list[PromptCache]]:
    """Caches with a memory tier and a Redis tier each, over one server, or one way to it each."""
    urls = [url] * count if isinstance(url, str) else list(url)
    options.setdefault("timeout", 2.0)  # a busy machine is no fault of the tier
    policy = {name: options.pop(name) for name in ("ttl", "namespace", "clock") if name in options}
    caches = [PromptCache(MemoryTier(), RedisTier(url, **options), **policy) for url in urls]
    try:
        for cache in caches:  # each listens to the news, and knows the server's clock
            await cache.get_or_create("warm", Calls(1))
        yield caches
    finally:
        for cache in caches:
            await cache.aclose()


class Calls:
    """A factory that counts how often it was called; its values are one more each time."""

    def __init__(self, first: int = 1) -> None:
        self.count = 0
        self._first = first

    async def __call__(self) -> int:
        self.count += 1
        return self._first + self.count - 1


class Held(Calls):
    """A factory that waits until a test lets it go on, or fail."""

    def __init__(self, first: int = 1) -> None:
        super().__init__(first)
        self.gate = Gate()
        self.error: Exception | None = None
        self.cancelled = 0

    async def __call__(self) -> int:
        value = await super().__call__()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return value

    async def called(self, count: int = 1) -> None:
        """Wait until it was."""
        await wait_until(f"call {count} of the upstream", lambda: self.count >= count)


def peeked(cache: PromptCache, key: str) -> Any:
    """What the memory tier holds, without asking anybody else."""
    entry = cache._engine.storage.peek(cache._engine.prefix + key)
    return None if entry is None else json.loads(entry.payload)


async def waiting(raw: Any, key: str) -> None:
    """Wait until another process waits for the lease on a key."""

    async def marked() -> bool:
        held = await raw.get(f"aiopromptcache:default:l:{{{key}}}")
        return held is not None and held.endswith(b"w")

    await wait_until(f"a waiter for {key}", marked)


async def leases(raw: Any) -> list[bytes]:
    """Leases that are held now."""
    return [key async for key in raw.scan_iter(match="*:l:*", count=1_000)]


def commands(server: Server) -> int:
    """Commands that the server has run so far, those inside scripts too, ours not."""
    with server.client() as client:
        stats = client.info("commandstats")
    ours = ("cmdstat_info", "cmdstat_flushall", "cmdstat_client|setinfo")
    return sum(line["calls"] for name, line in stats.items() if name not in ours)


# What a tier misses

WRITES = ("set", "fill", "delete", "clear", "invalidate")


def guard_of(cache: PromptCache) -> Any:
    """What stands before the tier that a cache shares."""
    assert cache._engine.storage.shared is not None
    return cache._engine.storage.shared.guard


@contextmanager
def lost(cache: PromptCache, *names: str) -> Iterator[None]:
    """Writes of a cache do not arrive."""
    tier = guard_of(cache).tier

    async def fail(*_: Any) -> Any:
        raise ConnectionError("it was lost")

    with replaced(tier, dict.fromkeys(names or WRITES, fail)):
        yield


@contextmanager
def replaced(tier: Any, methods: dict[str, Any]) -> Iterator[None]:
    """Other methods of a tier, for a while."""
    plain = {name: getattr(tier, name) for name in methods}
    for name, method in methods.items():
        setattr(tier, name, method)
    try:
        yield
    finally:
        for name, method in plain.items():
            setattr(tier, name, method)


@contextmanager
def deaf(cache: PromptCache) -> Iterator[None]:
    """It does not hear what others do, until the end."""
    shared: Any = cache._engine.storage.shared
    plain, heard = shared._heed, Gate()

    async def heed_late(news: Any) -> None:
        await heard.wait()
        await plain(news)

    shared._heed = heed_late
    yield
    heard.open()


async def made_good(*caches: PromptCache) -> None:
    """Wait until the shared tier has all that it missed."""
    for cache in caches:
        guard = guard_of(cache)
        await wait_until("the return", lambda g=guard: not g._backlog)


# Processes of their own

_WORKER = Path(__file__).with_name("worker.py")


class Worker:
    """A process with a cache, that does what it is told; see `worker`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._numbers = itertools.count()
        self.events: list[dict[str, Any]] = []
        self._reading = asyncio.ensure_future(self._read())

    @classmethod
    async def start(cls, url: str, **options: Any) -> Worker:
        """Start one; returns when its cache listens to the news."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(_WORKER),
            json.dumps({"url": url, **options}),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        worker = cls(process)
        await wait_until("the start of a worker", lambda: worker.of("ready"), 90)
        return worker

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self.events.append(json.loads(line))

    def of(self, kind: str, **fields: Any) -> list[dict[str, Any]]:
        """What it said so far, of one kind."""
        fields["event"] = kind
        return [event for event in self.events if fields.items() <= event.items()]

    def tell(self, do: str, **arguments: Any) -> int:
        """Let it do something; gives the number by which its answer is known."""
        assert self._process.stdin is not None
        number = next(self._numbers)
        line = json.dumps({"do": do, "number": number, **arguments})
        self._process.stdin.write(line.encode() + b"\n")
        return number

    async def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Let it do something, and wait for the answer."""
        return await self.answer(self.tell(do, **arguments))

    async def answer(self, number: int, within: float = PATIENCE) -> dict[str, Any]:
        """The answer to what it was told."""
        await wait_until("an answer", lambda: self.of("done", number=number), within)
        return self.of("done", number=number)[0]

    async def kill(self) -> None:
        """SIGKILL."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await self._reading


@asynccontextmanager
async def workers(url: str, count: int, **options: Any) -> AsyncIterator[list[Worker]]:
    """Some of them, which end with the test."""
    started = await asyncio.gather(*[Worker.start(url, **options) for _ in range(count)])
    try:
        yield list(started)
    finally:
        for worker in started:
            await worker.kill()
