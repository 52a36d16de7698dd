"""A tier that fails on purpose."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from .._entry import Entry
from .._errors import ConfigurationError
from ..tiers._base import Tier, TierContext
from ..tiers._memory import MemoryTier

T = TypeVar("T")

OPERATIONS = ("get", "set", "delete", "clear", "invalidate", "aclose")


class FaultyTier:
    """A remote tier whose faults a test controls; without any it keeps entries like a good one.

    `fail(error, times=…, only=…)` lets the next operations raise; `hang()` lets them wait until
    `resume()`, or until whoever waits gives up. `calls` counts operations by name, `started` them
    all. `inner` is where entries are kept: a `MemoryTier` unless given.
    """

    def __init__(self, inner: Tier | None = None, *, name: str = "faulty", timeout: float = 0.25):
        self.name = name
        self.timeout = timeout
        """Seconds that one operation may take before its cache goes on without it."""
        self.inner: Tier = inner if inner is not None else MemoryTier()
        self.calls: dict[str, int] = dict.fromkeys(OPERATIONS, 0)
        self._error: BaseException | None = None
        self._times: int | None = 0
        self._only: frozenset[str] = frozenset(OPERATIONS)
        self._running = asyncio.Event()
        self._running.set()

    @property
    def started(self) -> int:
        """How many operations were asked for."""
        return sum(self.calls.values())

    def fail(
        self,
        error: BaseException | None = None,
        *,
        times: int | None = None,
        only: Iterable[str] = OPERATIONS,
    ) -> None:
        """Raise `error` (an OSError unless given) from the next `times` operations; None: all."""
        unknown = set(only) - set(OPERATIONS)
        if unknown:
            raise ConfigurationError(f"only={sorted(unknown)}: allowed are {', '.join(OPERATIONS)}")
        self._error = error if error is not None else OSError("this tier fails on purpose")
        self._times = times
        self._only = frozenset(only)

    def hang(self) -> None:
        """Let operations wait until `resume`."""
        self._running.clear()

    def resume(self) -> None:
        """Work properly from now on."""
        self._running.set()
        self._times = 0

    def attach(self, context: TierContext) -> None:
        """See `Tier.attach`."""
        self.inner.attach(context)

    async def get(self, slots: Sequence[str]) -> Mapping[str, Entry]:
        """See `Tier.get`."""
        return await self._do("get", lambda: self.inner.get(slots))

    async def set(self, entries: Mapping[str, Entry]) -> None:
        """See `Tier.set`."""
        await self._do("set", lambda: self.inner.set(entries))

    async def delete(self, slots: Sequence[str]) -> builtins.set[str]:
        """See `Tier.delete`."""
        return await self._do("delete", lambda: self.inner.delete(slots))

    async def clear(self, namespace: str) -> int:
        """See `Tier.clear`."""
        return await self._do("clear", lambda: self.inner.clear(namespace))

    async def invalidate(self, namespace: str, tags: Iterable[str]) -> int:
        """See `Tier.invalidate`."""
        return await self._do("invalidate", lambda: self.inner.invalidate(namespace, tags))

    async def aclose(self) -> None:
        """See `Tier.aclose`."""
        await self._do("aclose", self.inner.aclose)

    async def _do(self, name: str, operation: Callable[[], Awaitable[T]]) -> T:
        self.calls[name] += 1
        await self._running.wait()
        if self._error is not None and name in self._only and self._times != 0:
            if self._times is not None:
                self._times -= 1
            raise self._error
        return await operation()
