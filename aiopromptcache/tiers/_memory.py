"""The memory tier: least recently used and time to live together, bounded by entries and bytes."""

from __future__ import annotations

import asyncio
import builtins
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from cachetools import Cache, TLRUCache

from .._entry import Entry
from .._errors import ConfigurationError
from ._base import TierContext

SWEEP_SECONDS = 5.0
"""How often expired entries are removed without being asked for."""

ENTRY_OVERHEAD = 900
"""Bytes that an entry costs besides its content (measured: benchmarks/memory.py)."""


class MemoryTier:
    """Entries of this process, the least recently used leaving first.

    `max_entries` and `max_bytes` bound it together; bytes count the content and a fixed overhead
    an entry. Entries whose time is over are removed within 10 seconds, asked for or not, while an
    event loop runs. Raises `ConfigurationError` for a bound below 1.
    """

    name = "memory"

    def __init__(self, max_entries: int = 10_000, max_bytes: int = 256 * 2**20) -> None:
        self.max_entries = _bound("max_entries", max_entries)
        self.max_bytes = _bound("max_bytes", max_bytes)
        self._contexts: dict[str, TierContext] = {}
        self._clock: Callable[[], float] = _unattached
        self._store = _Store(self)
        self._tagged: dict[tuple[str, str], set[str]] = {}
        self._sweep_loop: weakref.ref[asyncio.AbstractEventLoop] | None = None

    def attach(self, context: TierContext) -> None:
        """See `Tier.attach`. Caches that share a tier must share a clock."""
        if self._contexts and context.clock is not self._clock:
            raise ConfigurationError(
                "a MemoryTier can only be shared by caches with the same clock"
            )
        self._clock = context.clock
        self._contexts[context.namespace] = context

    def now(self) -> float:
        """Seconds on the clock of the cache."""
        return self._clock()

    def __len__(self) -> int:
        return len(self._store)

    @property
    def size(self) -> int:
        """Bytes in use, as `max_bytes` counts them."""
        return int(self._store.currsize)

    def held(self) -> tuple[int, int]:
        """Entries and bytes, without looking whether some have expired: from any thread."""
        return self._store.held()

    def peek(self, slot: str) -> Entry | None:
        """The entry, if it is there and not expired; it becomes the most recently used."""
        try:
            return self._store[slot]
        except KeyError:
            return None

    def put(self, slot: str, entry: Entry) -> bool:
        """Store one entry; False where it is larger than the whole tier, or expired already."""
        if slot in self._store:
            self._discard(slot)
        try:
            self._store[slot] = entry
        except ValueError:  # cachetools' word for: larger than everything
            return False
        if slot not in self._store:  # expired already
            return False
        if entry.tags:
            namespace = slot.partition(":")[0]
            for tag in entry.tags:
                self._tagged.setdefault((namespace, tag), set()).add(slot)
        self._schedule_sweep()
        return True

    async def get(self, slots: Sequence[str]) -> Mapping[str, Entry]:
        """See `Tier.get`."""
        return {slot: entry for slot in slots if (entry := self.peek(slot)) is not None}

    async def set(self, entries: Mapping[str, Entry]) -> None:
        """See `Tier.set`."""
        for slot, entry in entries.items():
            self.put(slot, entry)

    async def delete(self, slots: Sequence[str]) -> builtins.set[str]:
        """See `Tier.delete`."""
        return {slot for slot in slots if self._discard(slot)}

    async def clear(self, namespace: str) -> int:
        """See `Tier.clear`."""
        return self._discard_all(slot for slot in self._store.slots() if _inside(slot, namespace))

    async def invalidate(self, namespace: str, tags: Iterable[str]) -> int:
        """See `Tier.invalidate`."""
        tagged = [self._tagged.get((namespace, tag), ()) for tag in tags]
        return self._discard_all(set().union(*tagged))

    async def aclose(self) -> None:
        """See `Tier.aclose`. Drops everything, unless another cache shares the tier."""
        if len(self._contexts) == 1:
            self._store.clear()
            self._tagged.clear()

    def sweep(self) -> int:
        """Remove what has expired; gives how many entries that were."""
        return len(self._store.expire(self._clock()))

    def _discard_all(self, slots: Iterable[str]) -> int:
        return sum([self._discard(slot) for slot in list(slots)])

    def _discard(self, slot: str) -> bool:
        """Remove a slot without an event; tells whether a live entry was there."""
        entry = self._store.take(slot)
        if entry is None:
            return False
        self._untag(slot, entry)
        return entry.expires_at > self._clock()

    def _untag(self, slot: str, entry: Entry) -> None:
        namespace = slot.partition(":")[0]
        for tag in entry.tags:
            slots = self._tagged.get((namespace, tag))
            if slots is not None:
                slots.discard(slot)
                if not slots:
                    del self._tagged[namespace, tag]

    def _left(self, kind: Any, slot: str, entry: Entry) -> None:
        """The store dropped an entry by itself."""
        self._untag(slot, entry)
        context = self._contexts.get(slot.partition(":")[0])
        if context is not None:
            context.notify(kind, slot, entry, None)

    def _schedule_sweep(self) -> None:
        """One timer on the running loop, for as long as there is something to sweep."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # stored outside a loop: the next store inside one schedules
            return
        if self._sweep_loop is None or self._sweep_loop() is not loop:
            self._sweep_loop = weakref.ref(loop)
            tier: weakref.ref[MemoryTier] = weakref.ref(self)
            loop.call_later(SWEEP_SECONDS, _sweep, tier, self._sweep_loop)


def _sweep(
    reference: weakref.ref[MemoryTier], loop: weakref.ref[asyncio.AbstractEventLoop]
) -> None:
    tier = reference()
    if tier is None or tier._sweep_loop is not loop:
        return
    tier._sweep_loop = None
    tier.sweep()
    if len(tier):
        tier._schedule_sweep()


def _bound(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{name}={value!r}: expected an int, 1 or more")
    return value


def _unattached() -> float:
    raise RuntimeError("this tier belongs to no cache yet: give it to PromptCache(...)")


def _inside(slot: str, namespace: str) -> bool:
    return slot.partition(":")[0] == namespace


class _Store(TLRUCache[str, Entry]):
    """cachetools' store, which also counts entries and tells what leaves by itself."""

    def __init__(self, tier: MemoryTier) -> None:
        super().__init__(
            tier.max_bytes,
            ttu=lambda _slot, entry, _now: entry.expires_at,
            timer=tier.now,
            getsizeof=lambda entry: entry.size + ENTRY_OVERHEAD,
        )
        self._tier = tier

    def __setitem__(self, slot: str, entry: Entry) -> None:
        if Cache.__len__(self) >= self._tier.max_entries:
            self.expire()  # what is over makes room first
            while Cache.__len__(self) >= self._tier.max_entries and slot not in self:
                self.popitem()
        super().__setitem__(slot, entry)

    def __contains__(self, slot: object) -> bool:
        return Cache.__contains__(self, slot)  # expired or not

    def held(self) -> tuple[int, int]:
        """Entries and bytes, expired or not."""
        size: Any = Cache.currsize
        return Cache.__len__(self), int(size.fget(self))

    def take(self, slot: str) -> Entry | None:
        """Remove and return, expired or not."""
        try:
            entry: Entry = Cache.__getitem__(self, slot)
        except KeyError:
            return None
        with suppress(KeyError):  # cachetools' word for: it was there, and had expired
            del self[slot]
        return entry

    def slots(self) -> list[str]:
        """All slots, expired or not."""
        return list(Cache.__iter__(self))

    def popitem(self) -> tuple[str, Entry]:
        slot, entry = super().popitem()
        self._tier._left("evict", slot, entry)
        return slot, entry

    def expire(self, time: float | None = None) -> list[tuple[str, Entry]]:
        expired = list(super().expire(time))
        for slot, entry in expired:
            self._tier._left("expire", slot, entry)
        return expired
