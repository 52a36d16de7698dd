"""A clock for how long others let us wait: it stands still while the event loop is busy.

A reply may have come long before a busy loop reads it, and that is nobody's fault but ours. So what
a tier may add to a call is measured by this clock, and not by the loop's own.
"""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

TICK = 0.005
"""Seconds between two looks at the loop's own clock."""
LATE = 0.005
"""Seconds that timers may be late, as they are on an idle loop. Of one that comes round to them
later it is the rest that does not count: it was busy, or the machine did not run it."""
AWAKE = 1.0
"""Seconds that a clock goes on ticking after somebody looked at it."""


class _Clock:
    """The clock of one event loop, which it does not keep alive."""

    __slots__ = ("_due", "_looked", "_lost", "_ticks")

    def __init__(self) -> None:
        self._due = self._looked = self._lost = 0.0
        self._ticks = False

    def time(self, loop: asyncio.AbstractEventLoop) -> float:
        now = self._looked = loop.time()
        if not self._ticks:
            self._wait(loop, now)
        return min(now, self._due) - self._lost

    def _wait(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        self._ticks = True
        self._due = now + TICK + LATE
        loop.call_later(TICK, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._ticks = False
        now = loop.time()
        self._lost += max(0.0, now - self._due)
        if now - self._looked < AWAKE:
            self._wait(loop, now)


_clocks: WeakKeyDictionary[asyncio.AbstractEventLoop, _Clock] = WeakKeyDictionary()


def idle_time() -> float:
    """The running loop's time in seconds, without that in which it was busy.

    For differences of less than `AWAKE`, or where somebody looks as often as that.
    """
    loop = asyncio.get_running_loop()
    clock = _clocks.get(loop)
    if clock is None:
        clock = _clocks[loop] = _Clock()
    return clock.time(loop)
