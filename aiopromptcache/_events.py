"""What happens inside, told to those who listen: off the caller's path, and harmless to it."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal

from ._entry import Usage
from ._errors import ConfigurationError
from ._stats import Stats

logger = logging.getLogger("aiopromptcache")

EventKind = Literal[
    "hit", "miss", "store", "collapsed", "stale", "refresh", "similar",
    "evict", "expire", "invalidate", "error", "breaker",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEvent:
    """One thing that happened. Fields that do not apply to its kind are None.

    What was paid for is in "miss" (of a stream when it has ended) and "refresh", each once. Calls
    that may not be cached are in the statistics, and are told by no event.
    """

    kind: EventKind
    namespace: str
    key: str | None = None
    tier: str | None = None
    endpoint: str | None = None
    """"chat.completions", "responses", …; None for the caller's own keys."""
    model: str | None = None
    duration: float | None = None
    """Seconds that the upstream call took; of a hit, those that it took a tier that is not in this
    process to find it."""
    size: int | None = None
    """Bytes of the stored content; of "invalidate", how many entries were dropped."""
    age: float | None = None
    """Seconds since the entry was stored."""
    usage: Usage | None = None
    """Tokens that the answer was billed for."""
    cost: float | None = None
    """US dollars that it was billed, or that a hit saved; None where its price is not known."""
    error: BaseException | None = None
    state: Literal["open", "closed"] | None = None
    """Of "breaker": while it is open, calls go on without the tier."""
    asked_key: str | None = None
    """Of "similar": the key of the question that was asked; `key` is the answer's."""
    similar_key: str | None = None
    """The key of the stored question that was found similar."""
    similarity: float | None = None
    """Its score, 0 to 1."""
    reason: str | None = None
    """Of "miss": why that question's answer was not given, as a guard or `verify` says."""


Hook = Callable[[CacheEvent], Any]
"""A plain or async callable of one event. A plain one runs on the event loop: it must not block."""

QUEUE_LIMIT = 10_000
"""Events that wait for one hook; past that the newest are dropped and counted."""

TURN_SECONDS = 0.002
"""After so long the others on the event loop have their turn, however many events wait."""


class Dispatcher:
    """Gives events to hooks, each through a queue of its own, after the caller went on."""

    def __init__(self, hooks: Iterable[Hook], stats: Stats) -> None:
        if not isinstance(hooks, Iterable):
            raise ConfigurationError(f"hooks={hooks!r}: expected an iterable of callables")
        self._queues = [_HookQueue(hook, stats) for hook in hooks]
        self.active = bool(self._queues)
        """False when nobody listens: then no event needs to be made."""

    def emit(self, event: CacheEvent) -> None:
        """Hand over one event. Never blocks, never raises."""
        for queue in self._queues:
            queue.put(event)

    async def drain(self) -> None:
        """Wait until every hook has seen what was emitted so far."""
        for queue in self._queues:
            await queue.drain()


class _HookQueue:
    def __init__(self, hook: Hook, stats: Stats) -> None:
        if not callable(hook):
            raise ConfigurationError(f"hooks: {hook!r} is not callable")
        self._hook = hook
        self._stats = stats
        self._events: deque[CacheEvent] = deque()
        self._task: asyncio.Task[None] | None = None
        self._warned = False

    def put(self, event: CacheEvent) -> None:
        if len(self._events) >= QUEUE_LIMIT:
            self._stats.dropped_events += 1
            return
        self._events.append(event)
        if self._task is None or self._task.done() or self._task.get_loop().is_closed():
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:  # outside a loop: told when the next event comes inside one
                return
            # Not create_task: an eager task would run the hook on the caller's path.
            self._task = asyncio.Task(self._run(), loop=loop, name="aiopromptcache hook")

    async def _run(self) -> None:
        began = perf_counter()
        while self._events:
            if perf_counter() - began >= TURN_SECONDS:
                await asyncio.sleep(0)
                began = perf_counter()
            event = self._events.popleft()
            try:
                result = self._hook(event)
                if inspect.isawaitable(result):
                    await result
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                self._report(error)  # the hook's own affair: what comes next is told all the same
            except Exception as error:
                self._report(error)

    def _report(self, error: BaseException) -> None:
        self._stats.erred("hook", None, error)
        if not self._warned:
            self._warned = True
            logger.warning(
                "a cache hook failed with %s; further failures of it are only counted",
                type(error).__name__,
            )
        logger.debug("cache hook failed", exc_info=error)

    async def drain(self) -> None:
        task = self._task
        if task is not None and not task.done() and task.get_loop() is asyncio.get_running_loop():
            await asyncio.wait([task])
