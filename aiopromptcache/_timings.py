"""How long things took: histograms in this process, for whoever reads them now and then."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from time import perf_counter
from typing import Literal, TypeVar

T = TypeVar("T")

What = Literal["upstream", "wait", "tier"]
"""An upstream call, a caller's waiting, an operation of a tier."""

Labels = tuple[str, str]
"""What tells one histogram from the others of its kind: see `LABELS`."""

LABELS: dict[What, Labels] = {
    "upstream": ("endpoint", "outcome"),
    "wait": ("endpoint", "outcome"),
    "tier": ("tier", "operation"),
}

BOUNDS: dict[What, tuple[float, ...]] = {
    # Of the GenAI semantic conventions.
    "upstream": tuple(0.01 * 2**power for power in range(14)),
    "wait": tuple(0.001 * 2**power for power in range(17)),
    # From a look into memory to a server that does not answer.
    "tier": (1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3,
             1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0),
}  # fmt: skip
"""Upper bounds of the buckets, in seconds; above the last there is one more."""


class Histogram:
    """Measurements in seconds, counted by bucket."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        """Count one measurement."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds


class Timings:
    """All histograms of one cache. What is measured per answer from memory is not among them,
    unless somebody asks for it (`Storage.time_local`).
    """

    def __init__(self) -> None:
        self.histograms: dict[What, dict[Labels, Histogram]] = {what: {} for what in BOUNDS}
        self.heard: list[Callable[[What, Labels, float], None]] = []
        """Told each measurement as well."""

    def of(self, what: What, labels: Labels) -> Histogram:
        """One histogram, made where it is the first time."""
        known = self.histograms[what]
        found = known.get(labels)
        return found or known.setdefault(labels, Histogram(BOUNDS[what]))

    def took(self, what: What, labels: Labels, seconds: float) -> None:
        """Count a measurement."""
        self.of(what, labels).add(seconds)
        for hear in self.heard:
            hear(what, labels, seconds)


def timed(
    look: Callable[[str], T], hear: Callable[[float], None], every: int
) -> Callable[[str], T]:
    """The same look-up, which tells how long every so manieth of them took."""
    left = every

    def timed_look(slot: str) -> T:
        nonlocal left
        left -= 1
        if left:
            return look(slot)
        left = every
        started = perf_counter()
        found = look(slot)
        hear(perf_counter() - started)
        return found

    return timed_look
