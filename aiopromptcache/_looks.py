"""Reads of remote tiers: shared by all who ask for the same, merged with what is asked for at the
same moment, and cancelled by nobody who leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

from ._idle import idle_time

T = TypeVar("T")

BATCH = 1_000
"""Slots that are asked for together at most."""
UNDER_WAY = 4
"""Batches under way at once; what comes meanwhile waits, and goes together."""


class Look(Generic[T]):
    """One slot that is being read. `overtaken` once it changed meanwhile."""

    __slots__ = ("at", "overtaken", "waiters")

    def __init__(self, at: float) -> None:
        self.at = at
        self.overtaken = False
        self.waiters: list[asyncio.Future[T | None]] = []


class Looks(Generic[T]):
    """Calls `ask` with many slots; gives each caller what it found for its own.

    `ask` is told, in seconds, how long the first of these slots has waited for its turn.
    """

    def __init__(self, ask: Callable[[Sequence[str], float], Awaitable[Mapping[str, T]]]) -> None:
        self._ask = ask
        self._joinable: dict[str, Look[T]] = {}
        self._settled: dict[str, list[Look[T]]] = {}
        """Those whose callers are about to hear what was found."""
        self._queue: list[tuple[str, Look[T]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def look(self, slot: str) -> tuple[T | None, bool]:
        """What was found, and whether the slot changed while it was looked for.

        Raises what `ask` raised.
        """
        waiter, look = self.ask(slot)
        return await waiter, look.overtaken

    def ask(self, slot: str) -> tuple[asyncio.Future[T | None], Look[T]]:
        """Like `look`, to be awaited later."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # what another, ended loop left will never be answered
            self._loop = loop
            self._joinable, self._queue, self._tasks = {}, [], set()
        look = self._joinable.get(slot)
        if look is None:
            look = self._joinable[slot] = Look(idle_time())
            self._queue.append((slot, look))
            self._start(loop)
        waiter: asyncio.Future[T | None] = loop.create_future()
        look.waiters.append(waiter)
        return waiter, look

    def overtake(self, slot: str) -> None:
        """The slot changes: what is being read for it is nobody's who asks from now on."""
        if (look := self._joinable.pop(slot, None)) is not None:
            look.overtaken = True
        for look in self._settled.get(slot, ()):
            look.overtaken = True

    def overtake_all(self) -> None:
        """Any slot may have changed."""
        for slot in [*self._joinable, *self._settled]:
            self.overtake(slot)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        # A new task runs only after all who are asking now have asked.
        if len(self._tasks) < UNDER_WAY and len(self._queue) % BATCH == 1:
            self._spawn(loop)

    def _spawn(self, loop: asyncio.AbstractEventLoop) -> None:
        # Not create_task: an eager task would not wait for the others.
        task = asyncio.Task(self._work(), loop=loop, name="aiopromptcache look")
        self._tasks.add(task)

    async def _work(self) -> None:
        batch: list[tuple[str, Look[T]]] = []
        try:
            waited = 0.0  # the time until a new task runs is the loop's own
            while self._queue:
                batch, self._queue = self._queue[:BATCH], self._queue[BATCH:]
                found = await self._ask([slot for slot, _ in batch], waited)
                for slot, look in batch:
                    self._settle(slot, look, found.get(slot))
                batch = []
                if self._queue:
                    waited = idle_time() - self._queue[0][1].at
        except Exception as error:
            for slot, look in batch:
                self._fail(slot, look, error)
        finally:
            for slot, look in batch:
                self._cancel(slot, look)
            task = asyncio.current_task()
            if task is not None:
                self._tasks.discard(task)

    def _ended(self, slot: str, look: Look[T]) -> list[asyncio.Future[T | None]]:
        if self._joinable.get(slot) is look:
            del self._joinable[slot]
        return [waiter for waiter in look.waiters if not waiter.done()]

    def _settle(self, slot: str, look: Look[T], found: T | None) -> None:
        for waiter in self._ended(slot, look):
            waiter.set_result(found)
        # Until they have run, the slot may still change under them.
        self._settled.setdefault(slot, []).append(look)
        asyncio.get_running_loop().call_soon(self._heard, slot, look)

    def _heard(self, slot: str, look: Look[T]) -> None:
        looks = self._settled.get(slot, [])
        if look in looks:
            looks.remove(look)
            if not looks:
                del self._settled[slot]

    def _fail(self, slot: str, look: Look[T], error: Exception) -> None:
        for waiter in self._ended(slot, look):
            waiter.set_exception(error)

    def _cancel(self, slot: str, look: Look[T]) -> None:
        for waiter in self._ended(slot, look):
            waiter.cancel()

    async def finish(self) -> None:
        """Wait for what is under way."""
        while self._loop is asyncio.get_running_loop() and self._tasks:
            await asyncio.wait(self._tasks)
