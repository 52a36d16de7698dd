"""What makes a tier harmless: a deadline for each operation, a breaker, one log line an outage.

Every tier that is not local stands behind a guard, so a tier only has to do its work or raise.
After a few failures in a row calls pay nothing for it any more; a task of the guard's own finds out
when it is back, and writes what it missed, removals first: nothing that was deleted meanwhile comes
back to life.
"""

from __future__ import annotations

import asyncio
import builtins
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from time import perf_counter
from typing import Any, TypeVar, cast

from .._entry import Entry
from .._policy import seconds
from ._backlog import Backlog, Missed
from ._base import GIVEN, Claim, Lease, News, Refused, SharedTier, Tier, TierContext
from ._breaker import Breaker
from ._deadlines import Deadlines

T = TypeVar("T")

Took = Callable[[tuple[str, str], float], None]
"""Told the names of a tier and of what it was asked for, and the seconds that this took."""

logger = logging.getLogger("aiopromptcache")

PROBE_SECONDS = 0.5
RETRY_SECONDS = 0.05
"""How soon what it missed is tried again, where but a connection was lost."""
QUIET_SECONDS = 60.0
"""A tier that fails now and then, and never for long, is in the log this often."""
DEFAULT_TIMEOUT = 1.0
"""Deadline of an operation, in seconds, for a tier that has no `timeout` attribute of its own."""
BEGINNING = "0-0"
"""The position of who has heard nothing yet: all news count."""
CATCH_UP = 100
"""Missed writes that are made good at once."""
TRIES = 2
"""How often a missed write is tried alone, while reads are answered, before it is given up."""


class _Out(Exception):
    """The tier was not asked, or gave no answer in time."""


class Guard:
    """One tier, as its cache uses it: nothing raises, a fault is an empty answer."""

    def __init__(self, tier: Tier, context: TierContext, took: Took) -> None:
        self.tier = tier
        self.name = tier.name
        self.is_shared = isinstance(tier, SharedTier)
        self.position = ""
        """How far the news of a shared tier have been heeded."""
        self._context = context
        self._took = took
        self.timeout = seconds("timeout", getattr(tier, "timeout", DEFAULT_TIMEOUT))
        self._bulk = seconds("bulk_timeout", getattr(tier, "bulk_timeout", self.timeout))
        self._deadlines = Deadlines(self.timeout)
        self._reads, self._writes = Breaker(), Breaker()
        self._backlog = Backlog()
        self._catching_up = False
        self._recovering: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._probing: asyncio.Task[None] | None = None
        self._slow = False
        """Was the latest failure one that took its time?"""
        self._refused = False
        """Was it the tier's word that it takes no writes?"""
        self._at_once = CATCH_UP
        self._warned = False
        self._quiet_until = 0.0

    def _shared(self) -> SharedTier:
        return cast(SharedTier, self.tier)  # checked when it was adopted

    @property
    def open(self) -> bool:
        """Does the breaker keep calls away from the tier?"""
        return self._reads.open

    @property
    def waiting(self) -> int:
        """Writes that wait for the tier to return."""
        return len(self._backlog.values) + len(self._backlog.removals)

    # Reading

    async def get(self, slots: Sequence[str], *, spent: float = 0.0) -> Mapping[str, Entry]:
        """See `Tier.get`."""
        if not self._backlog:
            return await self._get(slots, spent)
        found = {slot: self._backlog.entry(slot) for slot in slots if self._backlog.knows(slot)}
        rest = [slot for slot in slots if slot not in found]
        void = self._backlog.voiding()
        asked = await self._get(rest, spent) if rest else {}
        return {slot: e for slot, e in [*found.items(), *asked.items()] if e and not void(e)}

    async def _get(self, slots: Sequence[str], spent: float) -> Mapping[str, Entry]:
        with suppress(_Out):
            return await self._attempt(
                "get", self._reads, lambda: _entries(self.tier.get(slots)), spent
            )
        return {}

    async def claim(
        self,
        slots: Sequence[str],
        *,
        past: bytes = b"",
        take: bool = False,
        spent: float = 0.0,
    ) -> Mapping[str, Claim]:
        """See `SharedTier.claim`; slots are missing where the tier is out, or owes a removal."""
        backlog = self._backlog
        if not backlog:
            return await self._claim(slots, past, take, spent)
        known: dict[str, Claim] = {}
        if not (past or take):
            owed = [(slot, backlog.entry(slot)) for slot in slots]
            known = {slot: Claim(entry, b"missed") for slot, entry in owed if entry is not None}
        rest = [slot for slot in slots if not backlog.knows(slot)]
        void = backlog.voiding()
        claims = await self._claim(rest, past, take, spent) if rest else {}
        return known | {s: c for s, c in claims.items() if not (c.entry and void(c.entry))}

    async def _claim(
        self, slots: Sequence[str], past: bytes, take: bool, spent: float
    ) -> dict[str, Claim]:
        tier = self._shared()
        try:
            claims = await self._attempt(
                "claim", self._writes, lambda: tier.claim(slots, past=past, take=take), spent
            )
        except _Out:
            if take or past or self._reads.failures:  # it does not answer at all
                return {}
            entries = await self._get(slots, spent)  # it takes no writes, or has yet to catch up
            return {slot: Claim(entry, b"read") for slot, entry in entries.items()}
        return dict(zip(slots, claims, strict=True))

    # Writing

    async def set(self, entries: Mapping[str, Entry], *, spent: float = 0.0) -> bool:
        """See `Tier.set`. False where the entries wait for the tier to return.

        `spent` are the seconds that the tier took of this call already.
        """
        # What waits comes first: made good later, it would undo this.
        if not any(self._backlog.precedes(slot, entry) for slot, entry in entries.items()):
            with suppress(_Out):
                await self._attempt("set", self._writes, lambda: self.tier.set(entries), spent)
                return True
        self._miss([Missed(entry, self.right(slot, GIVEN)) for slot, entry in entries.items()])
        return False

    async def fill(
        self,
        entries: Sequence[tuple[Entry, Lease]],
        *,
        stands: Callable[[str], bool],
        spent: float = 0.0,
    ) -> Sequence[bool | None]:
        """See `SharedTier.fill`; None where an entry waits for the tier to return, if it still
        `stands`: what was heard so far has not overtaken it."""
        tier, precedes = self._shared(), self._backlog.precedes
        if not any(precedes(lease.slot, entry) for entry, lease in entries):
            with suppress(_Out):
                return await self._attempt("fill", self._writes, lambda: tier.fill(entries), spent)
        # A lease may be over by then; what the news said since it began counts as well.
        good = [(entry, lease) for entry, lease in entries if stands(lease.slot)]
        tokens = [GIVEN if precedes(lease.slot, entry) else "" for entry, lease in good]
        self._miss(
            Missed(entry, lease._replace(token=token))
            for (entry, lease), token in zip(good, tokens, strict=True)
        )
        waits = {lease.slot for _, lease in good}
        return [None if lease.slot in waits else False for _, lease in entries]

    def right(self, slot: str, token: str = "") -> Lease:
        """No lease, but a position: what may be stored unless news say otherwise."""
        return Lease(slot, token, self.position or BEGINNING)

    async def keep_leases(self, held: Sequence[Lease]) -> None:
        """See `SharedTier.renew`."""
        await self.quietly("renew", lambda tier: tier.renew(held))

    async def give_back(self, leases: Sequence[Lease], *, shareable: bool = True) -> None:
        """See `SharedTier.release`."""
        await self.quietly("release", lambda tier: tier.release(leases, shareable=shareable))

    async def quietly(
        self, name: str, operation: Callable[[Any], Awaitable[T]], *, reads: bool = False
    ) -> T | None:
        """What else the tier can do gives, or None; what `reads` also if it takes no writes."""
        breaker = self._reads if reads else self._writes
        with suppress(_Out):
            return await self._attempt(name, breaker, lambda: operation(self.tier))
        return None

    # Removing

    async def delete(self, slots: Sequence[str]) -> builtins.set[str]:
        """See `Tier.delete`."""
        owed = self._backlog.void(slots)
        timeout = self._bulk if len(slots) > CATCH_UP else None  # its steps have the usual one
        try:
            gone = await self._attempt(
                "delete", self._writes, lambda: self.tier.delete(slots), timeout=timeout
            )
        except _Out:
            self._miss([Missed(None, self.right(slot)) for slot in slots])
            return set()
        self._backlog.settle(owed)
        return gone

    async def clear(self, namespace: str) -> int:
        """See `Tier.clear`."""
        backlog = self._backlog
        cleared, tags, owed = backlog.cleared, dict(backlog.tags), backlog.void_all()
        try:
            count = await self._attempt(
                "clear", self._writes, lambda: self.tier.clear(namespace), timeout=self._bulk
            )
        except _Out:
            backlog.clear()
            self._start_recovery()
            return 0
        backlog.settle(owed)
        backlog.settle_tags(tags)
        backlog.settle_clear(cleared)
        return count

    async def invalidate(self, namespace: str, tags: Iterable[str]) -> int:
        """See `Tier.invalidate`."""
        wanted = tuple(tags)
        self._backlog.invalidate(wanted)
        try:
            return await self._attempt(
                "invalidate",
                self._writes,
                lambda: self.tier.invalidate(namespace, wanted),
                timeout=self._bulk,
            )
        except _Out:
            self._backlog.invalidate(wanted, owed=True)
            self._start_recovery()
            return 0

    def _miss(self, missed: Iterable[Missed]) -> None:
        for item in missed:
            self._backlog.put(item)
        self._start_recovery()

    def heed(self, news: News) -> None:
        """What another process did counts for what waits here too."""
        backlog = self._backlog
        match news.kind:
            case "stored" | "dropped":
                backlog.overtake(lambda _, slot: slot == news.name)
            case "tag":
                backlog.overtake(lambda entry, _: news.name in entry.tags)
            case "clear":
                backlog.overtake(lambda *_: True)
            case "listening":
                backlog.unchecked = bool(backlog.values) and (backlog.unchecked or news.lost)
                self._hurry()

    # Attempts

    async def _attempt(
        self,
        name: str,
        breaker: Breaker,
        operation: Callable[[], Awaitable[T]],
        spent: float = 0.0,
        timeout: float | None = None,
    ) -> T:
        """The operation's result. Raises `_Out` where the tier is out, or too slow."""
        left = (timeout or self.timeout) - spent
        if left <= 0 or breaker.open or (self._catching_up and breaker is self._writes):
            raise _Out
        return await self._try(name, breaker, operation, left)

    async def _try(
        self, name: str, breaker: Breaker, operation: Callable[[], Awaitable[T]], timeout: float
    ) -> T:
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
            raise _Out from None
        except Exception as error:
            self._failed(error, loop.time() - started)
            raise _Out from None
        finally:
            self._took((self.name, name), perf_counter() - began)
        if not breaker.open:
            self._worked(breaker)
        return result

    def _worked(self, breaker: Breaker) -> None:
        breaker.failures = 0
        if breaker is self._writes:
            self._reads.failures = 0
        if not (self._reads.failures or self._writes.failures or self._backlog):
            self._warned = False

    def _failed(self, error: Exception, took: float) -> None:
        logger.debug("cache tier %s failed", self.name, exc_info=error)
        if not self._reads.open:  # what follows belongs to the same outage
            self._context.notify("error", None, None, error)
        self._slow = took > RETRY_SECONDS or isinstance(error, Refused)
        self._refused = refused = isinstance(error, Refused)
        opened = self._writes.failed()
        opened = (not refused and self._reads.failed()) or (refused and opened)
        self._warn(error, always=opened)
        if opened:
            self._context.notify("breaker", None, None, error)
        if self._reads.open or self._writes.open:
            self._start_recovery()

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
            self.name,
            type(error).__name__,
        )

    # Recovering

    def _start_recovery(self) -> None:
        """Ask the tier now and then, until it answers and has all that it missed.

        A timer and, when it is due, a short task: a cache that nobody closes leaves nothing behind.
        """
        loop = asyncio.get_running_loop()
        if self._recovering is not loop:
            self._recovering = loop
            self._wait_for_probe(loop)

    def _wait_for_probe(self, loop: asyncio.AbstractEventLoop) -> None:
        slow = self._slow or self._reads.open or self._writes.open
        pause = PROBE_SECONDS if slow else RETRY_SECONDS
        self._timer = loop.call_later(pause, self._due, loop, self._writes.failures)

    def _hurry(self) -> None:
        """It is there again: no need to wait."""
        loop = asyncio.get_running_loop()
        probes = self._probing is not None and not self._probing.done()
        if self._recovering is loop and self._timer is not None and not probes:
            self._timer.cancel()
            self._due(loop, self._writes.failures)

    def _due(self, loop: asyncio.AbstractEventLoop, failures: int) -> None:
        if not self._writes.open and self._writes.failures > failures:
            self._wait_for_probe(loop)  # those who call are finding out
        else:
            self._probing = loop.create_task(self._recover(loop), name="aiopromptcache recovery")

    async def _recover(self, loop: asyncio.AbstractEventLoop) -> None:
        with suppress(_Out):
            await self._probe()
        if self._reads.open or self._writes.open or self._backlog:
            self._wait_for_probe(loop)
        else:
            self._recovering = None

    async def _probe(self) -> None:
        was_open = self._reads.open or self._writes.open
        if self._reads.open:
            await self._answers()
            self._reads.close()
        if self._writes.open or self._backlog:
            await self._catch_up()
            self._writes.close()
        if was_open:
            self._warned = False
            logger.warning("cache tier %s is back", self.name)
            self._context.notify("breaker", None, None, None)

    async def _answers(self) -> None:
        slot = f"{self._context.namespace}:probe"
        await self._try("probe", self._reads, lambda: self.tier.get([slot]), self.timeout)

    async def _catch_up(self) -> None:
        """Write what waits; meanwhile new writes wait too, so that the newest comes last."""
        self._catching_up = True
        try:
            while self._backlog:
                await self._make_good(self._backlog)
        finally:
            self._catching_up = False

    async def _make_good(self, backlog: Backlog) -> None:
        namespace = self._context.namespace
        if cleared := backlog.cleared:
            await self._write(lambda: self.tier.clear(namespace), self._bulk)
            backlog.settle_clear(cleared)
        if tags := dict(backlog.tags):
            await self._write(lambda: self.tier.invalidate(namespace, frozenset(tags)), self._bulk)
            backlog.settle_tags(tags)
        missed = backlog.batch(self._at_once)
        if gone := [m for m in missed if m.entry is None]:
            slots = [m.lease.slot for m in gone]
            await self._write(lambda: self.tier.delete(slots))
            backlog.settle(gone)
        now = self._context.clock()
        values = [m for m in missed if m.entry and backlog.waits(m)]  # the news may have come first
        live = [(m.entry, self._heard(m)) for m in values if m.entry and m.entry.expires_at > now]
        if live:
            try:
                await self._write(lambda: self._store(live))
            except _Out:
                await self._suspect(values)
                raise
            self._at_once = min(2 * self._at_once, CATCH_UP)
        backlog.settle(values)  # unless something newer came in the meantime

    def _heard(self, missed: Missed) -> Lease:
        """What was heard meanwhile has been heeded: only later news count.

        Our own are among them, and the tier looks at so many at most.
        """
        if self._backlog.unchecked or not self.position:
            return missed.lease
        return missed.lease._replace(since=self.position)

    async def _suspect(self, missed: list[Missed]) -> None:
        """One entry that the tier never takes must not keep out all others: they go alone next.

        One that fails alone goes last; after some tries a removal stands in for it.
        """
        if self._refused:
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
        await self._try("catch_up", self._writes, operation, timeout or self.timeout)

    async def _store(self, entries: list[tuple[Entry, Lease]]) -> None:
        if self.is_shared:
            await self._shared().fill(entries)
        else:
            await self.tier.set({lease.slot: entry for entry, lease in entries})

    async def aclose(self) -> None:
        """Write what waits, if that is possible, and close the tier."""
        await self._stop_recovery()
        try:
            async with asyncio.timeout(self.timeout):
                if self._backlog:
                    await self._catch_up()
        except (_Out, TimeoutError):
            logger.debug("cache tier %s was closed with writes that it has missed", self.name)
        with suppress(_Out):
            await self._try("close", self._reads, self.tier.aclose, self.timeout)
        await self._stop_recovery()

    async def _stop_recovery(self) -> None:
        loop = asyncio.get_running_loop()
        if self._timer is not None and self._recovering is loop:
            self._timer.cancel()
        task, self._probing, self._recovering = self._probing, None, None
        if task is not None and task.get_loop() is loop:
            task.cancel()
            await asyncio.wait([task])


async def _entries(operation: Awaitable[Mapping[str, Entry]]) -> Mapping[str, Entry]:
    """What a tier gave, which a third party may have written."""
    found = await operation
    if not isinstance(found, Mapping) or not all(isinstance(e, Entry) for e in found.values()):
        raise TypeError("the tier gave something else than entries by slot")
    return found
