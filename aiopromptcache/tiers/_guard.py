"""What makes a tier harmless: a deadline for each operation, a breaker, one log line an outage.

Every tier that is not local stands behind a guard, so a tier only has to do its work or raise.
What could not be written while a tier was out is kept (bounded, newest per slot) and written when
it is back, removals first: nothing that was deleted meanwhile comes back to life.
"""

from __future__ import annotations

import asyncio
import builtins
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from .._entry import Entry
from .._policy import seconds
from ._base import Tier, TierContext

T = TypeVar("T")

logger = logging.getLogger("aiopromptcache")

FAILURES_TO_OPEN = 5
PROBE_SECONDS = 1.0
DEFAULT_TIMEOUT = 1.0
"""Deadline of an operation, in seconds, for a tier that has no `timeout` attribute of its own."""
BACKLOG_ENTRIES = 1_000
BACKLOG_BYTES = 64 * 2**20


class Guard:
    """One tier, as its cache uses it: nothing raises, a fault is an empty answer."""

    def __init__(self, tier: Tier, context: TierContext) -> None:
        self.tier = tier
        self.name = tier.name
        self._context = context
        self._timeout = seconds("timeout", getattr(tier, "timeout", DEFAULT_TIMEOUT))
        self._failures = 0
        self._retry_at: float | None = None
        """When the next probe may go, on the loop's clock; None while the breaker is closed."""
        self._backlog = _Backlog()
        self._flushing = False

    @property
    def open(self) -> bool:
        """True while the breaker keeps calls away from the tier."""
        return self._retry_at is not None

    async def get(self, slots: Sequence[str]) -> Mapping[str, Entry]:
        """See `Tier.get`."""
        return await self._attempt(lambda: _entries(self.tier.get(slots))) or {}

    async def set(self, entries: Mapping[str, Entry], *, spent: float = 0.0) -> bool:
        """See `Tier.set`. False where the entries wait for the tier to return.

        `spent` are the seconds that the tier took of this call already.
        """
        done = await self._attempt(lambda: _true(self.tier.set(entries)), spent)
        if not done:
            for slot, entry in entries.items():
                self._backlog.put(slot, entry)
        return bool(done)

    async def delete(self, slots: Sequence[str]) -> builtins.set[str]:
        """See `Tier.delete`."""
        removed = await self._attempt(lambda: self.tier.delete(slots))
        if removed is None:
            for slot in slots:
                self._backlog.put(slot, None)
        return removed or set()

    async def clear(self, namespace: str) -> int:
        """See `Tier.clear`."""
        count = await self._attempt(lambda: self.tier.clear(namespace))
        if count is None:
            self._backlog.clear()
        return count or 0

    async def invalidate(self, namespace: str, tags: Iterable[str]) -> int:
        """See `Tier.invalidate`."""
        wanted = tuple(tags)
        count = await self._attempt(lambda: self.tier.invalidate(namespace, wanted))
        if count is None:
            self._backlog.invalidate(wanted)
        return count or 0

    async def aclose(self) -> None:
        """Write what waits, if that is possible, and close the tier."""
        if self._backlog:
            self._retry_at = None
            await self._attempt(_nothing)
        try:
            async with asyncio.timeout(self._timeout):
                await self.tier.aclose()
        except Exception as error:
            self._context.notify("error", None, None, error)

    async def _attempt(self, operation: Callable[[], Awaitable[T]], spent: float = 0.0) -> T | None:
        """The operation's result; None where the tier is out, or too slow."""
        probing = self._failures > 0
        if spent >= self._timeout or self._flushing or (self.open and not self._may_probe()):
            return None
        try:
            async with asyncio.timeout(self._timeout - spent):
                if self._backlog:
                    await self._flush()
                result = await operation()
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            self._failed(OSError(f"the tier cancelled itself: {error}"))
            return None
        except Exception as error:
            self._failed(error)
            return None
        if probing:
            self._recovered()
        return result

    def _may_probe(self) -> bool:
        """One caller at a time finds out whether the tier is back."""
        now = asyncio.get_running_loop().time()
        if self._retry_at is None or now < self._retry_at:
            return False
        self._retry_at = now + max(PROBE_SECONDS, self._timeout)
        return True

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        self._context.notify("error", None, None, error)
        logger.debug("cache tier %s failed", self.name, exc_info=error)
        if self._failures == 1:
            logger.warning(
                "cache tier %s failed with %s; calls go on without it, and what follows is counted "
                "and not logged until it is back",
                self.name,
                type(error).__name__,
            )
        if self.open or self._failures >= FAILURES_TO_OPEN:
            if not self.open:
                self._context.notify("breaker", None, None, error)
            self._retry_at = asyncio.get_running_loop().time() + PROBE_SECONDS

    def _recovered(self) -> None:
        was_open = self.open
        self._failures = 0
        self._retry_at = None
        if was_open:
            logger.warning("cache tier %s is back", self.name)
            self._context.notify("breaker", None, None, None)

    async def _flush(self) -> None:
        """Write what waits; meanwhile the tier counts as out. A failure leaves it all."""
        backlog = self._backlog
        self._flushing = True
        try:
            if backlog.cleared:
                await self.tier.clear(self._context.namespace)
                backlog.cleared = False
            if tags := frozenset(backlog.tags):
                await self.tier.invalidate(self._context.namespace, tags)
                backlog.tags -= tags
            waiting = dict(backlog.slots)
            if gone := [slot for slot, entry in waiting.items() if entry is None]:
                await self.tier.delete(gone)
            now = self._context.clock()
            live = {s: e for s, e in waiting.items() if e is not None and e.expires_at > now}
            if live:
                await self.tier.set(live)
            for slot, entry in waiting.items():
                if backlog.slots.get(slot) is entry:  # nothing newer came in the meantime
                    backlog.drop([slot])
        finally:
            self._flushing = False


class _Backlog:
    """What a tier has missed. An entry of None is a removal."""

    def __init__(self) -> None:
        self.slots: dict[str, Entry | None] = {}
        self.cleared = False
        self.tags: set[str] = set()
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self.slots) or self.cleared or bool(self.tags)

    def put(self, slot: str, entry: Entry | None) -> None:
        self.drop([slot])
        self.slots[slot] = entry
        self._bytes += entry.size if entry is not None else 0
        while len(self.slots) > BACKLOG_ENTRIES or self._bytes > BACKLOG_BYTES:
            self._shed()

    def _shed(self) -> None:
        """Give up the oldest entry; a removal given up becomes a clear, as it must not be lost."""
        slot, entry = next(iter(self.slots.items()))
        if entry is None:
            self.cleared = True
        self.drop([slot])

    def drop(self, slots: Iterable[str]) -> None:
        for slot in slots:
            entry = self.slots.pop(slot, None)
            self._bytes -= entry.size if entry is not None else 0

    def clear(self) -> None:
        self.slots.clear()
        self.tags.clear()
        self._bytes = 0
        self.cleared = True

    def invalidate(self, tags: Iterable[str]) -> None:
        self.tags.update(tags)
        self.drop([s for s, e in self.slots.items() if e is not None and self.tags & set(e.tags)])


async def _entries(operation: Awaitable[Mapping[str, Entry]]) -> Mapping[str, Entry]:
    """What a tier gave, which a third party may have written."""
    found = await operation
    if not isinstance(found, Mapping) or not all(isinstance(e, Entry) for e in found.values()):
        raise TypeError("the tier gave something else than entries by slot")
    return found


async def _true(operation: Awaitable[None]) -> bool:
    await operation
    return True


async def _nothing() -> None:
    return None
