"""What makes a tier harmless: a fault of it is an empty answer, and what it missed is made good.

Every tier that is not local stands behind a guard, so a tier only has to do its work or raise. Each
operation is one of its `Attempts`. After a few failures in a row calls pay nothing for it any more;
its `Recovery` finds out when it is back, and writes what the `Backlog` has kept, removals first:
nothing that was deleted meanwhile comes back to life.
"""

from __future__ import annotations

import builtins
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from typing import Any, TypeVar, cast

from .._entry import Entry
from .._policy import seconds
from ._attempts import Attempts, Out, Took
from ._backlog import Backlog, Missed
from ._base import GIVEN, Claim, Lease, News, SharedTier, Tier, TierContext
from ._recovery import CATCH_UP, Recovery

T = TypeVar("T")

DEFAULT_TIMEOUT = 1.0
"""Deadline of an operation, in seconds, for a tier that has no `timeout` attribute of its own."""
BEGINNING = "0-0"
"""The position of who has heard nothing yet: all news count."""


class Guard:
    """One tier, as its cache uses it: nothing raises, a fault is an empty answer."""

    def __init__(self, tier: Tier, context: TierContext, took: Took) -> None:
        self.tier = tier
        self.name = tier.name
        self.is_shared = isinstance(tier, SharedTier)
        self.position = ""
        """How far the news of a shared tier have been heeded."""
        self.timeout = seconds("timeout", getattr(tier, "timeout", DEFAULT_TIMEOUT))
        self._bulk = seconds("bulk_timeout", getattr(tier, "bulk_timeout", self.timeout))
        self._backlog = backlog = Backlog(lambda: self._attempts.writes.open)
        self._attempts = attempts = Attempts(
            tier.name, self.timeout, context, took, backlog, lambda: self._recovery.start()
        )
        self._recovery = Recovery(
            tier, context, attempts, backlog, self._bulk, lambda: self.position
        )

    def _shared(self) -> SharedTier:
        return cast(SharedTier, self.tier)  # checked when it was adopted

    @property
    def open(self) -> bool:
        """Does the breaker keep calls away from the tier?"""
        return self._attempts.reads.open

    @property
    def waiting(self) -> int:
        """Writes that wait for the tier to return."""
        return len(self._backlog.values) + len(self._backlog.removals)

    # Reading

    async def get(self, slots: Sequence[str], *, spent: float = 0.0) -> Mapping[str, Entry]:
        """See `Tier.get`."""
        if not self._backlog:
            return await self._get(slots, spent)
        self._recovery.start()
        owed = {slot: self._backlog.entry(slot) for slot in slots if self._backlog.knows(slot)}
        rest = [slot for slot in slots if slot not in owed]
        void = self._backlog.voiding()
        asked = await self._get(rest, spent) if rest else {}
        found = {slot: entry for slot, entry in owed.items() if entry is not None}
        return found | {slot: entry for slot, entry in asked.items() if not void(entry)}

    async def _get(self, slots: Sequence[str], spent: float) -> Mapping[str, Entry]:
        try:
            return await self._attempts.read(
                "get", lambda: _entries(self.tier.get(slots)), spent=spent
            )
        except Out:
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
        self._recovery.start()
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
            claims = await self._attempts.write(
                "claim", lambda: tier.claim(slots, past=past, take=take), spent=spent
            )
        except Out:
            if take or past or self._attempts.reads.failures:  # it does not answer at all
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
            with suppress(Out):
                await self._attempts.write("set", lambda: self.tier.set(entries), spent=spent)
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
            with suppress(Out):
                return await self._attempts.write("fill", lambda: tier.fill(entries), spent=spent)
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
        """What something else that the tier can do gives; None where the tier is out.

        What only `reads` is also asked of a tier that takes no writes.
        """
        attempt = self._attempts.read if reads else self._attempts.write
        try:
            return await attempt(name, lambda: operation(self.tier))
        except Out:
            return None

    # Removing

    async def delete(self, slots: Sequence[str]) -> builtins.set[str]:
        """See `Tier.delete`."""
        owed = self._backlog.void(slots)
        timeout = self._bulk if len(slots) > CATCH_UP else None  # its steps have the usual one
        try:
            gone = await self._attempts.write(
                "delete", lambda: _of(Set, self.tier.delete(slots)), timeout=timeout
            )
        except Out:
            self._miss([Missed(None, self.right(slot)) for slot in slots])
            return set()
        self._backlog.settle(owed)
        return {*gone}

    async def clear(self, namespace: str) -> int:
        """See `Tier.clear`."""
        backlog = self._backlog
        cleared, tags, owed = backlog.cleared, dict(backlog.tags), backlog.void_all()
        try:
            count = await self._attempts.write(
                "clear", lambda: _of(int, self.tier.clear(namespace)), timeout=self._bulk
            )
        except Out:
            backlog.clear()
            self._recovery.start()
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
            return await self._attempts.write(
                "invalidate",
                lambda: _of(int, self.tier.invalidate(namespace, wanted)),
                timeout=self._bulk,
            )
        except Out:
            self._backlog.invalidate(wanted, owed=True)
            self._recovery.start()
            return 0

    def _miss(self, missed: Iterable[Missed]) -> None:
        for item in missed:
            self._backlog.put(item)
        self._recovery.start()

    def heed(self, news: News) -> None:
        """What another process did counts for what waits here too."""
        backlog = self._backlog
        match news.kind:
            case "stored" | "dropped":
                backlog.overtake(lambda *_: True, [news.name])
            case "tag":
                backlog.overtake(lambda entry, _: news.name in entry.tags)
            case "clear":
                backlog.overtake(lambda *_: True)
            case "listening":
                backlog.unchecked = bool(backlog.values) and (backlog.unchecked or news.lost)
                if backlog or self._attempts.open:
                    self._recovery.start()
                self._recovery.hurry()

    async def finish(self) -> None:
        """Write what waits, for as long as the tier takes it.

        Before what a shared tier tells is no longer heard: what was heard need not be looked at
        again for each write.
        """
        await self._recovery.finish()

    async def aclose(self) -> None:
        """Close the tier."""
        attempts = self._attempts
        with suppress(Out):
            await attempts.make("close", attempts.reads, self.tier.aclose, self.timeout)
        await self._recovery.stop()


async def _of(kind: Any, operation: Awaitable[T]) -> T:
    """What a tier gave, which a third party may have written."""
    found = await operation
    if not isinstance(found, kind):
        raise TypeError(
            f"the tier gave a {type(found).__qualname__}; expected: {kind.__qualname__}"
        )
    return found


async def _entries(operation: Awaitable[Mapping[str, Entry]]) -> Mapping[str, Entry]:
    found = await operation
    if not isinstance(found, Mapping) or not all(isinstance(e, Entry) for e in found.values()):
        raise TypeError("the tier gave something else than entries by slot")
    return found
