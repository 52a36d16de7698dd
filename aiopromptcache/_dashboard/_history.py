"""What was counted when: an hour in steps of five seconds, a day in steps of two minutes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import orjson

from ._readings import Reading, add

STEP = 5
"""Seconds of one sample. Samples end at whole multiples of it, in every process."""
HOUR = 3_600
DAY = 86_400
COARSE = 120
SPANS = {900: 5, 3_600: 20, 21_600: 120, DAY: 480}
"""Seconds that a plot may reach back, and those of one point of it: 180 points each."""


def bucket(time: float, step: int) -> int:
    """The end of the step that a time is in."""
    return math.ceil(time / step) * step


class _Ring:
    """Sums by time, the last so many seconds of them, packed: most are seldom looked at."""

    def __init__(self, seconds: int, step: int) -> None:
        self._seconds = seconds
        self._step = step
        self._packed: dict[int, bytes] = {}

    def add(self, time: int, counts: Mapping[str, float]) -> None:
        at = bucket(time, self._step)
        whole: Reading = dict(counts)
        if (known := self._packed.get(at)) is not None:
            add(whole, orjson.loads(known))
        self._packed[at] = orjson.dumps(whole)
        while (oldest := next(iter(self._packed))) <= at - self._seconds:
            del self._packed[oldest]

    def points(self, step: int, after: int) -> dict[int, Reading]:
        points: dict[int, Reading] = {}
        for at, packed in self._packed.items():
            if at > after:
                add(points.setdefault(bucket(at, step), {}), orjson.loads(packed))
        return points


class History:
    """Samples of one process, or of all. Times are whole seconds."""

    def __init__(self, *, day: bool = True) -> None:
        self._fine = _Ring(HOUR, STEP)
        self._coarse = _Ring(DAY, COARSE) if day else self._fine

    def add(self, time: int, counts: Mapping[str, float]) -> None:
        """What was counted in the step that ends then."""
        if counts:
            self._fine.add(time, counts)
            if self._coarse is not self._fine:
                self._coarse.add(time, counts)

    def points(self, span: int, now: float, since: float = 0) -> list[tuple[int, Reading]]:
        """The last `span` seconds, one of `SPANS`, oldest first; steps without counts are left out.

        `since` leaves out those that ended before it; the last of them may still have grown.
        """
        step = SPANS[span]
        first = max(bucket(now, step) - span, bucket(since, step) - step if since else 0)
        ring = self._fine if span <= HOUR else self._coarse
        return sorted(ring.points(step, first).items())
