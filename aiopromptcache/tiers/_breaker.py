"""When a tier counts as out."""

from __future__ import annotations

import math
from time import perf_counter

FAILURES_TO_OPEN = 5


class Breaker:
    """Counts failures in a row."""

    def __init__(self) -> None:
        self.failures = 0
        self.open = False
        self.answered = -math.inf
        """When the tier last did what it was asked, by `perf_counter`."""

    def worked(self) -> None:
        """The tier did what it was asked."""
        self.failures = 0
        self.answered = perf_counter()

    def failed(self) -> bool:
        """Count one; True where it opened the breaker."""
        self.failures += 1
        opened = not self.open and self.failures >= FAILURES_TO_OPEN
        self.open = self.open or opened
        return opened

    def close(self) -> None:
        self.failures = 0
        self.open = False
