"""The protocol of a tier, small enough for a third party to write one (S3, SQLite, …)."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from .._entry import Entry

Notice = Literal["evict", "expire", "error", "breaker"]


@dataclass(frozen=True, slots=True)
class TierContext:
    """What a cache gives to each of its tiers.

    `namespace` is the part of a slot before its first ":". `notify(kind, slot, entry, error)`
    tells the cache what happened inside the tier; it never raises.
    """

    namespace: str
    clock: Callable[[], float]
    notify: Callable[[Notice, str | None, Entry | None, BaseException | None], Any]


@runtime_checkable
class Tier(Protocol):
    """A place that keeps entries by slot; a slot is "namespace:key".

    Any method may raise: a fault is then a miss, an event and a log line, and never reaches the
    caller. Methods must not return entries past `expires_at`, though they need not look.
    """

    name: str
    """Short label for statuses and metrics."""

    def attach(self, context: TierContext) -> None:
        """Called once by each cache that uses the tier, before anything else."""
        ...

    async def get(self, slots: Sequence[str]) -> Mapping[str, Entry]:
        """The entries that are there, by slot."""
        ...

    async def set(self, entries: Mapping[str, Entry]) -> None:
        """Store entries, replacing what was there."""
        ...

    async def delete(self, slots: Sequence[str]) -> builtins.set[str]:
        """Remove slots; gives those that were there."""
        ...

    async def clear(self, namespace: str) -> int:
        """Remove one namespace; gives how many entries were there."""
        ...

    async def invalidate(self, namespace: str, tags: Iterable[str]) -> int:
        """Remove what carries any of the tags; gives how many entries that were."""
        ...

    async def aclose(self) -> None:
        """Release what the tier made itself."""
        ...


@runtime_checkable
class LocalTier(Tier, Protocol):
    """A tier in this process, which answers without awaiting: hits then cost microseconds."""

    def peek(self, slot: str) -> Entry | None:
        """The entry, if it is there; counts as a use of it."""
        ...

    def put(self, slot: str, entry: Entry) -> bool:
        """Store one entry; False where it is larger than the whole tier."""
        ...
