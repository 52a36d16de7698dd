"""How often similar hits were wrong so far, and the threshold that follows from it."""

from __future__ import annotations

import math
from collections import deque
from typing import Literal

HITS = 10_000
"""Similar hits that are remembered: the newest."""

Verdict = Literal["served", "right", "wrong", "reported"]


class Budget:
    """The running estimate of one namespace.

    Two sources speak of it. Hits that were checked against a fresh answer are a fair sample.
    Reports are counted over all hits, so they say no more than what was reported. The estimate is
    the higher of both. It is about the threshold in force: what a higher one would have kept out
    counts no more.
    """

    def __init__(self, threshold: float, max_error: float | None, confidence: float) -> None:
        self._base = threshold
        self._max_error = max_error
        self._confidence = confidence
        self._hits: deque[tuple[float, Verdict]] = deque(maxlen=HITS)
        self.floor = 0.0
        """What false hits have raised the threshold to; 0 where they have not."""
        self.false_hits = 0
        """All that are known."""

    @property
    def threshold(self) -> float:
        """The threshold in force."""
        return max(self._base, self.floor)

    def served(self, score: float) -> None:
        """A similar hit was given to a caller."""
        self._hits.append((score, "served"))

    def checked(self, score: float, *, right: bool) -> None:
        """One was compared with a fresh answer."""
        self._hits.append((score, "right" if right else "wrong"))
        if not right:
            self._false()

    def reported(self, score: float) -> None:
        """A user says that one was wrong."""
        self._hits.append((score, "reported"))
        self._false()

    def _false(self) -> None:
        self.false_hits += 1
        if self._max_error is not None and self._rate(self.threshold) > self._max_error:
            self.floor = self._tightened(self._max_error)

    def _tightened(self, max_error: float) -> float:
        """The lowest step above a false hit's score at which the rate is within the budget."""
        lowest = self.threshold
        false = {score for score, verdict in self._hits if verdict in ("wrong", "reported")}
        steps = sorted(math.nextafter(score, 2.0) for score in false if score >= lowest)
        return next(step for step in steps if self._rate(step) <= max_error)

    def _counts(self, threshold: float) -> tuple[tuple[int, int], tuple[int, int]]:
        """False hits and hits from a threshold on: of those checked, and of all by reports."""
        seen: dict[str, int] = {"served": 0, "right": 0, "wrong": 0, "reported": 0}
        for score, verdict in self._hits:
            if score >= threshold:
                seen[verdict] += 1
        reported = min(seen["reported"], max(seen["served"], 1))
        return (
            (seen["wrong"], seen["right"] + seen["wrong"]),
            (reported, max(seen["served"], reported)),
        )

    def _rate(self, threshold: float) -> float:
        return max(false / hits if hits else 0.0 for false, hits in self._counts(threshold))

    @property
    def rate(self) -> float | None:
        """Wrong hits over hits, 0 to 1, as far as is known; None before the first hit."""
        known = any(hits for _, hits in self._counts(self.threshold))
        return self._rate(self.threshold) if known else None

    @property
    def bound(self) -> float | None:
        """What the rate is below of, with the matcher's confidence; None before the first hit.

        By checked hits where there are any, else by reports, as if all false hits were reported.
        """
        from ._calibrate import bound

        checked, reported = self._counts(self.threshold)
        of_reports = bound(*reported, self._confidence) if reported[0] or not checked[1] else 0.0
        if not (checked[1] or reported[1]):
            return None
        return max(bound(*checked, self._confidence) if checked[1] else 0.0, of_reports)
