"""How much each tier holds, for those who look now and then: metrics and dashboards.

What a tier does not know at once is measured in the loop that uses it, because somebody looked and
after they were told what was known. Nobody waits for a tier; what nobody looks at costs nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable, Iterator
from time import monotonic
from typing import Any, NamedTuple

from ._storage import Storage
from ._timings import Timings
from .tiers._base import Held, HeldTier, MeasuredTier
from .tiers._guard import Guard

logger = logging.getLogger("aiopromptcache")

EVERY_SECONDS = 10.0
"""How often a tier is measured at most."""
OLD_SECONDS = 300.0
"""What was measured longer ago is not told any more."""


class TierSize(NamedTuple):
    """What one tier holds."""

    tier: str
    held: Held
    of: Hashable
    """The same for two caches of a namespace that share what is held."""


class _Measured(NamedTuple):
    held: Held
    at: float


class Sizes:
    """What the tiers of one cache hold."""

    def __init__(self, storage: Storage, timings: Timings) -> None:
        self._storage = storage
        self._timings = timings
        self._namespace = storage.prefix[:-1]
        self._known: dict[Guard, _Measured] = {}
        self._asked = float("-inf")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    # From any thread

    def attend(self) -> None:
        """Somebody may look: notice from now on which loop the tiers are used in."""
        self._timings.heard.append(self._used)

    def leave(self) -> None:
        """One who has said so looks no more."""
        self._timings.heard.remove(self._used)

    def look(self) -> Iterator[TierSize]:
        """What is known now. Has it measured anew where that is some time ago."""
        self._ask()
        local, now = self._storage.local, monotonic()
        if local is not None and (size := _told(local)):
            yield TierSize(local.name, size, id(local))
        for position, guard in enumerate(self._storage.remote):
            size, measured = _told(guard.tier), self._known.get(guard)
            if measured is not None and not guard.open and now - measured.at < OLD_SECONDS:
                size = measured.held
            if size is not None:
                yield TierSize(guard.name, size, position)

    def _ask(self) -> None:
        loop, now = self._loop, monotonic()
        if loop is None or loop.is_closed() or now - self._asked < EVERY_SECONDS:
            return
        self._asked = now
        try:
            loop.call_soon_threadsafe(self._begin, loop)
        except RuntimeError:  # it was closed just now
            self._loop = None

    # In the loop

    def _used(self, *_: Any) -> None:
        self._loop = asyncio.get_running_loop()

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        running = self._task is not None and not self._task.done()
        if loop is self._loop and not self._closing and not (running and self._in(loop)):
            self._task = loop.create_task(self._measure(), name="aiopromptcache sizes")

    def _in(self, loop: asyncio.AbstractEventLoop) -> bool:
        return self._task is not None and self._task.get_loop() is loop

    def begin(self) -> asyncio.Task[None] | None:
        """Measure, unless that was done just now; gives what is under way."""
        loop = self._loop = asyncio.get_running_loop()
        if monotonic() - self._asked >= EVERY_SECONDS:
            self._asked = monotonic()
            self._begin(loop)
        return self._task if self._in(loop) else None

    async def _measure(self) -> None:
        for guard in self._storage.remote:
            if isinstance(guard.tier, MeasuredTier):
                held = await guard.quietly("measure", self._held_by, reads=True)
                self._known.pop(guard, None)
                if held is not None:
                    self._known[guard] = _Measured(held, monotonic())

    async def _held_by(self, tier: MeasuredTier) -> Held | None:
        """What a tier says, which a third party may have written: its fault where it is no such."""
        held = await tier.measure(self._namespace)
        if held is not None and not (held.entries >= 0 and held.bytes >= 0):
            raise ValueError("the tier gave something else than what it holds")
        return held

    async def aclose(self) -> None:
        """Measure nothing until `rest`: the tiers are about to be closed."""
        self._closing = True
        if self._task is not None and self._in(asyncio.get_running_loop()):
            await asyncio.wait([self._task])  # the guard's deadline ends it

    def rest(self) -> None:
        """They are closed: nothing is measured until they are used again."""
        self._closing, self._loop, self._asked = False, None, float("-inf")
        self._known.clear()


def _told(tier: object) -> Held | None:
    """What a tier knows at once. One of a third party that fails spoils no view of the others."""
    if not isinstance(tier, HeldTier):
        return None
    try:
        entries, size = tier.held()
        return Held(int(entries), int(size))
    except Exception as error:
        logger.debug("cache tier %s does not say what it holds", tier, exc_info=error)
        return None
