"""A threshold that keeps to a budget of errors, found on labelled pairs, with its proof."""

from __future__ import annotations

import asyncio
import bisect
import math
from collections.abc import Coroutine, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from .._errors import ConfigurationError
from ._guards import refusal
from ._matchers import Matcher, open_fraction

T = TypeVar("T")

STARTS = 4
"""Where the search for a threshold begins, each with its share of the permitted doubt."""
STEP = 1.15
"""By how much one step of the search has more hits than the step before."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What `calibrate` has found."""

    threshold: float | None
    """The lowest score that keeps to the budget; None where none can be shown to."""
    expected_hit_rate: float
    """Hits over all pairs, 0 to 1, at that threshold."""
    error_bound: float
    """Wrong hits over all hits are below this, with the confidence; 1 without a threshold."""
    hits: int
    false_hits: int
    pairs: int
    max_error: float
    confidence: float

    def __str__(self) -> str:
        budget = f"at most {self.max_error:.1%} wrong hits with {self.confidence:.0%} confidence"
        if self.threshold is None:
            return f"no threshold can be shown to keep {budget} on these {self.pairs:,} pairs"
        return (
            f"threshold {self.threshold:.4f}: {budget}; of {self.pairs:,} pairs "
            f"{self.hits:,} hit ({self.expected_hit_rate:.1%}), {self.false_hits:,} wrongly; "
            f"bound {self.error_bound:.2%}"
        )

    def __await__(self) -> Generator[Any, None, Calibration]:
        return self
        yield


def calibrate(
    pairs: Iterable[tuple[str, str, bool] | Mapping[str, Any]],
    matcher: Matcher,
    *,
    max_error: float = 0.02,
    confidence: float = 0.95,
) -> Calibration:
    """The lowest threshold at which wrong hits stay below `max_error` of all hits.

    `pairs` are `(text, other, same)`: two questions, and whether one answer serves both; mappings
    with the keys `a`, `b` and `same` will do. They should be like what the cache will see. A pair
    counts as a hit as it would in service: by the matcher's guards, then by its score.

    The promise holds with probability `confidence` for pairs of the same kind, although the
    threshold is chosen on these: thresholds are tested in a fixed order by the exact binomial bound
    (Clopper and Pearson 1934), from four beginnings that share the permitted doubt (fixed sequence
    testing, as in Angelopoulos and others, "Learn then Test", 2021).

    It blocks, and embeds all texts; in an app, `await asyncio.to_thread(calibrate, …)`. An async
    `embed` runs in an event loop of its own. `ConfigurationError` for values out of range and for a
    pair that is none.
    """
    max_error = open_fraction("max_error", max_error)
    confidence = open_fraction("confidence", confidence)
    rows = [_row(position, pair) for position, pair in enumerate(pairs)]
    live = [row for row in rows if refusal(matcher.guards, row[0], row[1]) is None]
    scores = _run(matcher.scores([(one, other) for one, other, _ in live]))
    judged = sorted(zip(scores, (same for _, _, same in live), strict=True), reverse=True)
    found = _search(judged, max_error, confidence)
    if found is None:
        return Calibration(None, 0.0, 1.0, 0, 0, len(rows), max_error, confidence)
    hits, false, upper = found
    return Calibration(
        judged[hits - 1][0], hits / len(rows), upper, hits, false, len(rows), max_error, confidence
    )


def _row(position: int, pair: Any) -> tuple[str, str, bool]:
    try:
        one, other, same = (
            (pair["a"], pair["b"], pair["same"]) if isinstance(pair, Mapping) else pair
        )
    except (TypeError, ValueError, KeyError):
        one = other = same = None
    if not isinstance(one, str) or not isinstance(other, str) or same not in (0, 1):
        raise ConfigurationError(
            f"pairs: item {position} is no (text, other, same): expected two str and a bool"
        )
    return one, other, bool(same)


def _run(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, also where an event loop is running here already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def _search(
    judged: Sequence[tuple[float, bool]], max_error: float, confidence: float
) -> tuple[int, int, float] | None:
    """The most hits that keep to the budget, how many of them are wrong, and the bound."""
    doubt = (1 - confidence) / STARTS
    steps = _steps(judged, max_error, doubt)
    wrong = [0]
    for _, same in judged:
        wrong.append(wrong[-1] + (not same))
    best: tuple[int, int, float] | None = None
    for start in range(STARTS):
        for hits in steps[len(steps) * start // STARTS :]:
            upper = bound(wrong[hits], hits, 1 - doubt)
            if upper > max_error:
                break
            if best is None or hits > best[0]:
                best = hits, wrong[hits], upper
    return best


def _steps(judged: Sequence[tuple[float, bool]], max_error: float, doubt: float) -> list[int]:
    """Numbers of hits to test, fewest first. They look at scores alone, never at labels.

    Fewer hits than the first could not prove anything. Equal scores are hits together.
    """
    falling = [-score for score, _ in judged]
    count, steps = math.log(doubt) / math.log(1 - max_error), list[int]()
    while count <= len(judged):
        hits = bisect.bisect_right(falling, falling[math.ceil(count) - 1])
        if not steps or hits > steps[-1]:
            steps.append(hits)
        count = max(count * STEP, hits)
    return steps


def bound(false_hits: int, hits: int, confidence: float) -> float:
    """The exact upper confidence bound (Clopper and Pearson) of a share of false hits."""
    if false_hits >= hits:
        return 1.0
    low, high = false_hits / hits, 1.0
    for _ in range(60):  # halves the interval each time
        middle = (low + high) / 2
        if _at_most(false_hits, hits, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def _at_most(count: int, trials: int, chance: float) -> float:
    """The probability of at most `count` successes. The largest terms come last."""
    if chance <= 0:
        return 1.0
    if chance >= 1:
        return 0.0
    log, other = math.log(chance), math.log1p(-chance)
    whole = math.lgamma(trials + 1)
    terms = [
        math.exp(
            whole
            - math.lgamma(k + 1)
            - math.lgamma(trials - k + 1)
            + k * log
            + (trials - k) * other
        )
        for k in range(count + 1)
    ]
    return min(1.0, math.fsum(terms))
