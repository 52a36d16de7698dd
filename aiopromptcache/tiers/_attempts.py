"""What a tier is asked for, one operation at a time: a deadline, a breaker, one line an outage."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import TypeVar

from ._backlog import Backlog
from ._base import Refused, TierContext
from ._breaker import Breaker
from ._deadlines import Deadlines

T = TypeVar("T")

Took = Callable[[tuple[str, str], float], None]
"""Told the names of a tier and of what it was asked for, and the seconds that this took."""

logger = logging.getLogger("aiopromptcache")

SLOW_SECONDS = 0.05
"""A failure that took longer may be that of a tier that hangs."""
QUIET_SECONDS = 60.0
"""A tier that fails now and then, and never for long, is in the log this often."""


class Out(Exception):
    """The tier was not asked, or gave no answer in time."""


class Attempts:
    """Every operation on one tier. Reads have a breaker of their own, as writes may be refused."""

    def __init__(
        self,
        name: str,
        timeout: float,
        context: TierContext,
        took: Took,
        backlog: Backlog,
        broken: Callable[[], None],
    ) -> None:
        self.timeout = timeout
        self.reads, self.writes = Breaker(), Breaker()
        self.catching_up = False
        """Do new writes wait behind those that were missed?"""
        self.slow = False
        """Was the latest failure one that took its time?"""
        self.refused = False
        """Was it the tier's word that it takes no writes?"""
        self._name = name
        self._context = context
        self._took = took
        self._backlog = backlog
        self._broken = broken
        self._deadlines = Deadlines(timeout)
        self._warned = False
        self._quiet_until = 0.0

    @property
    def open(self) -> bool:
        """Does a breaker keep any calls away from the tier?"""
        return self.reads.open or self.writes.open

    async def read(
        self, name: str, operation: Callable[[], Awaitable[T]], *, spent: float = 0.0
    ) -> T:
        """The operation's result. Raises `Out` where the tier is out, or too slow.

        `spent` are the seconds that the tier took of the caller's time already.
        """
        if self.reads.open:
            self._broken()  # it may have been in another loop, which has ended
            raise Out
        return await self.make(name, self.reads, operation, self.timeout - spent)

    async def write(
        self,
        name: str,
        operation: Callable[[], Awaitable[T]],
        *,
        spent: float = 0.0,
        timeout: float | None = None,
    ) -> T:
        """Like `read`, for what changes something; not while the tier catches up."""
        if self.writes.open or self.catching_up or self._backlog:
            self._broken()
        if self.writes.open or self.catching_up:
            raise Out
        return await self.make(name, self.writes, operation, (timeout or self.timeout) - spent)

    async def make(
        self, name: str, breaker: Breaker, operation: Callable[[], Awaitable[T]], timeout: float
    ) -> T:
        """The operation's result within so many seconds, whatever the breaker says."""
        if timeout <= 0:
            raise Out
        loop = asyncio.get_running_loop()
        started, began = loop.time(), perf_counter()  # uvloop's time goes by milliseconds
        try:
            with self._deadlines.within(timeout):
                result = await operation()
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            self._failed(OSError(f"the tier cancelled itself: {error}"), loop.time() - started)
            raise Out from None
        except Exception as error:
            # One that ran out of time while others were answered says that there is too much to do.
            behind = isinstance(error, TimeoutError) and breaker.answered > began
            self._failed(error, loop.time() - started, behind=behind)
            raise Out from None
        finally:
            self._took((self._name, name), perf_counter() - began)
        if not breaker.open:
            self._worked(breaker)
        return result

    def _worked(self, breaker: Breaker) -> None:
        breaker.worked()
        if breaker is self.writes:
            self.reads.worked()
        if not (self.reads.failures or self.writes.failures or self._backlog):
            self._warned = False

    def _failed(self, error: Exception, took: float, *, behind: bool = False) -> None:
        """Count a failure, but not that of a tier that is `behind`: of those one is told."""
        logger.debug("cache tier %s failed", self._name, exc_info=error)
        told = self._warned or asyncio.get_running_loop().time() < self._quiet_until
        if not (self.reads.open or (behind and told)):  # what follows belongs to the same outage
            self._context.notify("error", None, None, error)
        self.slow = took > SLOW_SECONDS or isinstance(error, Refused)
        self.refused = refused = isinstance(error, Refused)
        opened = not behind and self.writes.failed()
        if opened:
            self._backlog.trim()
        if not refused:
            opened = not behind and self.reads.failed()
        self._warn(error, always=opened)
        if opened:
            self._context.notify("breaker", None, None, error)
        if self.open:
            self._broken()

    def _warn(self, error: Exception, *, always: bool) -> None:
        """One line an outage, and not one each time for a tier that fails now and then."""
        now = asyncio.get_running_loop().time()
        if self._warned or (now < self._quiet_until and not always):
            return
        self._warned = True
        self._quiet_until = now + QUIET_SECONDS
        logger.warning(
            "cache tier %s failed with %s; calls go on without it, and what follows is counted "
            "and not logged until it is back",
            self._name,
            type(error).__name__,
        )

    def is_back(self) -> None:
        """Say so, after an outage."""
        self._warned = False
        logger.warning("cache tier %s is back", self._name)
        self._context.notify("breaker", None, None, None)
