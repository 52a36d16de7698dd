"""What the engine's tests share: ticks instead of sleeps, gates, tiers that wait or misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from aiopromptcache import Entry, MemoryTier, TierContext


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its time passes only when nothing is left to do, and then at once."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        selector: Any = self._selector  # type: ignore[attr-defined]
        ready = selector.select

        def select(timeout: float | None) -> Any:
            assert timeout is not None, "everybody waits, and nothing is going to happen"
            self._now += max(0.0, timeout)
            return ready(0)

        selector.select = select

    def time(self) -> float:
        return self._now

    def busy(self, seconds: float) -> None:
        """Some code of the app's has run for so long."""
        self._now += seconds


async def until(condition: Callable[[], bool]) -> None:
    """Let others run until something holds; fails where it never does."""
    for _ in range(1_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("what was waited for did not happen")


async def quiet() -> None:
    """Let everyone run until they wait for something that a test has to do."""
    for _ in range(20):
        await asyncio.sleep(0)


async def finish(task: asyncio.Future[Any]) -> Any:
    """The outcome of a task that has nothing to wait for; a deadlock fails the test."""
    try:
        await until(task.done)
    finally:
        task.cancel()
        await asyncio.wait([task])
    return task.result()


async def cancel(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and see each of them end so."""
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)


class Gate:
    """Holds whoever comes until it is opened."""

    def __init__(self) -> None:
        self.arrived = 0
        self._open = asyncio.Event()

    async def wait(self) -> None:
        self.arrived += 1
        await self._open.wait()

    def open(self) -> None:
        self._open.set()

    async def reached(self, count: int = 1) -> None:
        await until(lambda: self.arrived >= count)


class Upstream:
    """A factory that waits at a gate; its values tell which call made them."""

    def __init__(self) -> None:
        self.calls = 0
        self.cancelled = 0
        self.gate = Gate()

    async def __call__(self) -> Any:
        self.calls += 1
        mine = self.calls
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return {"call": mine}


def gives(value: Any) -> Callable[[], Awaitable[Any]]:
    """A factory that gives a value at once."""

    async def factory() -> Any:
        return value

    return factory


async def unwanted() -> Any:
    """A factory that must not run."""
    raise AssertionError("nobody may go upstream here")


class Plain:
    """A remote tier in this process. Whoever inherits from it changes one thing."""

    name = "remote"
    timeout = 60.0

    def __init__(self) -> None:
        self.inner = MemoryTier()

    def attach(self, context: TierContext) -> None:
        self.inner.attach(context)

    async def get(self, slots: Sequence[str]) -> Mapping[str, Entry]:
        return await self.inner.get(slots)

    async def set(self, entries: Mapping[str, Entry]) -> None:
        await self.inner.set(entries)

    async def delete(self, slots: Sequence[str]) -> Any:
        return await self.inner.delete(slots)

    async def clear(self, namespace: str) -> int:
        return await self.inner.clear(namespace)

    async def invalidate(self, namespace: str, tags: Iterable[str]) -> int:
        return await self.inner.invalidate(namespace, tags)

    async def aclose(self) -> None:
        await self.inner.aclose()


class Gated(Plain):
    """A remote tier that can be stopped before a write and after a read."""

    def __init__(self) -> None:
        super().__init__()
        self.reading: Gate | None = None
        """Holds reads that have their entries already."""
        self.writing: Gate | None = None
        """Holds writes that have not happened yet."""

    async def get(self, slots: Sequence[str]) -> Mapping[str, Entry]:
        found = await super().get(slots)
        if self.reading is not None:
            await self.reading.wait()
        return found

    async def set(self, entries: Mapping[str, Entry]) -> None:
        if self.writing is not None:
            await self.writing.wait()
        await super().set(entries)


class LoopClock:
    """An event loop's time, standing still until a test moves it."""

    def __init__(self, start: float) -> None:
        self.now = start

    def advance(self, seconds: float) -> None:
        self.now += seconds


@contextmanager
def frozen_loop() -> Iterator[LoopClock]:
    """Hold the running loop's time. Its timers still go by the real one on uvloop."""
    loop: Any = asyncio.get_running_loop()
    clock = LoopClock(loop.time())
    loop.time = lambda: clock.now
    try:
        yield clock
    finally:
        del loop.time
