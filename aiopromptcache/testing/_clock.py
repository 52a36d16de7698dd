"""Time that moves when a test says so."""

from __future__ import annotations

from datetime import timedelta


class VirtualClock:
    """Seconds that stand still until `advance` is called; give it as `clock=`.

    `start` is in seconds since the epoch, as `time.time` counts them.
    """

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._now = float(start)

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float | timedelta) -> None:
        """Move on by seconds; a negative number sets the clock back, as an operator might."""
        self._now += seconds.total_seconds() if isinstance(seconds, timedelta) else seconds

    def __repr__(self) -> str:
        return f"VirtualClock({self._now})"
