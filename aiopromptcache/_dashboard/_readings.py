"""Counters of one cache as plain numbers by name, which are subtracted and summed.

Names are made of up to three parts: "miss", "hits/memory", "read/redis/7". The last is the eighth
bucket of how long reads of that tier took; bounds are those of `_timings`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from .._timings import Histogram

if TYPE_CHECKING:
    from .._ledger import Ledger
    from .._stats import Stats

Reading = dict[str, float]

_HITS = {"hit", "stale", "similar"}
_KINDS = {"get": "read", "claim": "read", "set": "write", "fill": "write"}
"""Operations of a tier that are shown."""
_PLAIN = ("refreshes", "stores", "errors", "evictions", "expirations", "dropped_events")


def plain(text: str, limit: int = 80) -> str:
    """A name that others gave, short, without what is no Unicode or no text."""
    whole = text[:limit].encode("utf-8", "replace").decode()
    return "".join(character if character.isprintable() else "?" for character in whole)


MOST = 10**15
"""No count is larger: upstreams may say anything of usage, and its sum be more than JSON has."""


def bounded(count: float) -> float:
    """A count as it is told."""
    return min(count, MOST)


def reading(ledger: Ledger, looks: Histogram, local: str) -> Reading:
    """What a cache has counted so far; `looks` are those into its local tier."""
    found: Reading = {}
    _count_calls(found, ledger.stats)
    for tier, operation in tuple(ledger.timings.histograms["tier"]):
        kind = None if tier == local else _KINDS.get(operation)  # others may time it as well
        if kind is not None:
            histogram = ledger.timings.histograms["tier"][tier, operation]
            _add_histogram(found, f"{kind}/{_part(tier)}", histogram)
    for histogram in tuple(ledger.timings.histograms["upstream"].values()):
        _add_histogram(found, "upstream", histogram)
        _add(found, "upstream_seconds", histogram.sum)
    _add_histogram(found, f"read/{_part(local)}", looks)
    return found


def _count_calls(found: Reading, stats: Stats) -> None:
    for (_, outcome, tier), count in dict(stats.outcomes).items():
        if outcome in _HITS:
            _add(found, f"hits/{_part(tier)}", count)
        if outcome != "hit":
            _add(found, outcome, count)
    for name in _PLAIN:
        _add(found, name, getattr(stats, name))
    _add(found, "calls", stats.upstream_calls)
    _add(found, "failures", sum(dict(stats.failures).values()))
    for name, money in (("saved", stats.saved), ("spent", stats.spent)):
        _add(found, f"tokens_{name}", money.tokens.total)
        _add(found, f"unpriced_{name}", money.unpriced)
        if money.cost is not None:
            found[f"cost_{name}"] = bounded(money.cost)  # 0 is not the same as unknown


def _add_histogram(found: Reading, name: str, histogram: Histogram) -> None:
    for bucket, count in enumerate(histogram.counts):
        _add(found, f"{name}/{bucket}", count)


def _add(found: Reading, name: str, count: float) -> None:
    if count:
        found[name] = bounded(found.get(name, 0) + count)


def _part(tier: str) -> str:
    """A tier's label as a part of a name."""
    return plain(tier, 40).replace("/", "-") or "?"


def difference(newer: Mapping[str, float], older: Mapping[str, float]) -> Reading:
    """What was counted in between."""
    return {
        name: count - older.get(name, 0)
        for name, count in newer.items()
        if count > older.get(name, 0)
    }


def add(into: Reading, more: Mapping[str, float]) -> None:
    """Sum up in place."""
    for name, count in more.items():
        into[name] = into.get(name, 0) + count


def total(readings: Iterable[Mapping[str, float]]) -> Reading:
    """The sum."""
    whole: Reading = {}
    for one in readings:
        add(whole, one)
    return whole
