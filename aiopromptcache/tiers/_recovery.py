"""How a tier comes back: it is asked now and then, and given what it has missed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import islice
from typing import Any

from .._entry import Entry
from ._attempts import Attempts, Out
from ._backlog import Backlog, Missed
from ._base import Lease, SharedTier, Tier, TierContext

logger = logging.getLogger("aiopromptcache")

PROBE_SECONDS = 0.5
RETRY_SECONDS = 0.05
"""How soon what it missed is tried again, where but a connection was lost."""
CATCH_UP = 100
"""Missed writes that are made good at once."""
TRIES = 2
"""How often a missed write is tried alone, while reads are answered, before it is given up."""


class Recovery:
    """Asks one tier, until it answers and has all that it missed."""

    def __init__(
        self,
        tier: Tier,
        context: TierContext,
        attempts: Attempts,
        backlog: Backlog,
        bulk_timeout: float,
        position: Callable[[], str],
    ) -> None:
        self._tier = tier
        self._context = context
        self._attempts = attempts
        self._backlog = backlog
        self._bulk = bulk_timeout
        self._position = position
        """How far the tier's news have been heeded."""
        self._at_once = CATCH_UP
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._probing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Ask the tier now and then, from now on.

        A timer and, when it is due, a short task: a cache that nobody closes leaves nothing behind.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._wait_for_probe(loop)

    def _wait_for_probe(self, loop: asyncio.AbstractEventLoop) -> None:
        slow = self._attempts.slow or self._attempts.open
        pause = PROBE_SECONDS if slow else RETRY_SECONDS
        self._timer = loop.call_later(pause, self._due, loop, self._attempts.writes.failures)

    def hurry(self) -> None:
        """It is there again: no need to wait."""
        loop = asyncio.get_running_loop()
        probes = self._probing is not None and not self._probing.done()
        if self._loop is loop and self._timer is not None and not probes:
            self._timer.cancel()
            self._due(loop, self._attempts.writes.failures)

    def _due(self, loop: asyncio.AbstractEventLoop, failures: int) -> None:
        writes = self._attempts.writes
        if not writes.open and writes.failures > failures:
            self._wait_for_probe(loop)  # those who call are finding out
        else:
            self._probing = loop.create_task(self._recover(loop), name="aiopromptcache recovery")

    async def _recover(self, loop: asyncio.AbstractEventLoop) -> None:
        with suppress(Out):
            await self._probe()
        if self._attempts.open or self._backlog:
            self._wait_for_probe(loop)
        else:
            self._loop = None

    async def _probe(self) -> None:
        attempts = self._attempts
        was_open = attempts.open
        if attempts.reads.open:
            await self._answers()
            attempts.reads.close()
        if attempts.writes.open or self._backlog:
            await self._catch_up()
            attempts.writes.close()
        if was_open:
            attempts.is_back()

    async def _answers(self) -> None:
        slot = f"{self._context.namespace}:probe"
        attempts = self._attempts
        await attempts.make(
            "probe", attempts.reads, lambda: self._tier.get([slot]), attempts.timeout
        )

    # What it has missed

    async def _catch_up(self) -> None:
        """Write what waits; meanwhile new writes wait too, so that the newest comes last."""
        self._attempts.catching_up = True
        try:
            while self._backlog:
                await self._make_good(self._backlog)
        finally:
            self._attempts.catching_up = False

    async def _make_good(self, backlog: Backlog) -> None:
        """The oldest of it. Removals come first: nothing of what they removed is to come back."""
        namespace = self._context.namespace
        if cleared := backlog.cleared:
            await self._write(lambda: self._tier.clear(namespace), self._bulk)
            backlog.settle_clear(cleared)
        if tags := dict(islice(backlog.tags.items(), self._at_once)):
            await self._remove(
                lambda: self._tier.invalidate(namespace, frozenset(tags)), self._bulk
            )
            backlog.settle_tags(tags)
            return  # the others come before all else, too
        backlog.expire(self._context.clock())
        missed = backlog.batch(self._at_once)
        if gone := [m for m in missed if m.entry is None]:
            await self._remove(lambda: self._tier.delete([m.lease.slot for m in gone]))
            backlog.settle(gone)
        # The news may have come first.
        if live := [(m, m.entry) for m in missed if m.entry is not None and backlog.waits(m)]:
            await self._store(live)
            backlog.settle([m for m, _ in live])  # unless something newer came in the meantime

    async def _remove(
        self, operation: Callable[[], Awaitable[Any]], timeout: float | None = None
    ) -> None:
        """As many together as the tier gets done in time."""
        try:
            await self._write(operation, timeout)
        except Out:
            self._at_once = 1
            raise
        self._at_once = min(2 * self._at_once, CATCH_UP)

    async def _store(self, missed: list[tuple[Missed, Entry]]) -> None:
        entries = [(entry, self._heard(m)) for m, entry in missed]
        try:
            await self._write(lambda: self._store_all(entries))
        except Out:
            await self._suspect([m for m, _ in missed])
            raise
        self._at_once = min(2 * self._at_once, CATCH_UP)

    def _heard(self, missed: Missed) -> Lease:
        """What was heard meanwhile has been heeded: only later news count.

        Our own are among them, and the tier looks at so many at most.
        """
        position = self._position()
        if self._backlog.unchecked or not position:
            return missed.lease
        return missed.lease._replace(since=position)

    async def _suspect(self, missed: list[Missed]) -> None:
        """One entry that the tier never takes must not keep out all others: they go alone next.

        One that fails alone goes last; after some tries a removal stands in for it.
        """
        if self._attempts.refused:
            return
        self._at_once = 1
        if len(missed) > 1:
            return
        await self._answers()
        [item] = missed
        if self._backlog.waits(item):
            tries = item.tries + 1
            entry = None if tries >= TRIES else item.entry
            self._backlog.put(item._replace(entry=entry, tries=tries))

    async def _write(
        self, operation: Callable[[], Awaitable[Any]], timeout: float | None = None
    ) -> None:
        attempts = self._attempts
        await attempts.make("catch_up", attempts.writes, operation, timeout or attempts.timeout)

    async def _store_all(self, entries: list[tuple[Entry, Lease]]) -> None:
        if isinstance(self._tier, SharedTier):
            await self._tier.fill(entries)
        else:
            await self._tier.set({lease.slot: entry for entry, lease in entries})

    # The end

    async def finish(self) -> None:
        """Write what waits, for as long as the tier takes it."""
        await self.stop()
        try:
            async with asyncio.timeout(self._bulk):
                if self._backlog:
                    await self._catch_up()
        except (Out, TimeoutError):
            logger.debug("cache tier %s was closed with writes that it has missed", self._tier.name)

    async def stop(self) -> None:
        """Ask no more."""
        loop = asyncio.get_running_loop()
        if self._timer is not None and self._loop is loop:
            self._timer.cancel()
        task, self._probing, self._loop = self._probing, None, None
        if task is not None and task.get_loop() is loop:
            task.cancel()
            await asyncio.wait([task])
