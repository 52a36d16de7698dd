"""What is asked for at the same moment goes to the server together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from ._deadlines import Deadlines

I = TypeVar("I")  # noqa: E741  # an item
O = TypeVar("O")  # noqa: E741  # its outcome

BATCH = 256
"""Items that go together at most."""
UNDER_WAY = 4
"""Batches under way at once; what comes meanwhile waits, and goes together."""


class Batcher(Generic[I, O]):
    """Calls `run` with lists of items; gives each caller its own item's outcome.

    A batch runs in a task of its own, for `timeout` seconds at most: a caller that leaves does not
    cancel it.
    """

    def __init__(self, run: Callable[[list[I]], Awaitable[Sequence[O]]], timeout: float) -> None:
        self._run = run
        self._timeout = timeout
        self._deadlines = Deadlines(timeout)
        self._queue: deque[tuple[I, asyncio.Future[O]]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._scheduled = False

    async def do(self, item: I) -> O:
        """The outcome of one item. Raises what `run` raised."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # what another, ended loop left will never be answered
            self._loop, self._scheduled = loop, False
            self._queue.clear()
            self._tasks.clear()
        future: asyncio.Future[O] = loop.create_future()
        self._queue.append((item, future))
        self._schedule(loop)
        return await future

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._queue and not self._scheduled and len(self._tasks) < UNDER_WAY:
            self._scheduled = True
            loop.call_soon(self._start, loop)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._scheduled = False
        batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
        wanted = [(item, future) for item, future in batch if not future.done()]
        if wanted:
            task = loop.create_task(self._work(wanted), name="aiopromptcache batch")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._schedule(loop)

    async def _work(self, batch: list[tuple[I, asyncio.Future[O]]]) -> None:
        try:
            with self._deadlines.within(self._timeout):
                outcomes = await self._run([item for item, _ in batch])
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        else:
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                if not future.done():
                    future.set_result(outcome)
        finally:
            asyncio.get_running_loop().call_soon(self._schedule, asyncio.get_running_loop())

    async def finish(self) -> None:
        """Wait for what is under way."""
        while self._loop is asyncio.get_running_loop() and self._tasks:
            await asyncio.wait(self._tasks)
