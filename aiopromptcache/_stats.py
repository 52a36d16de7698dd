"""Counters: what the cache did so far, and what that saved."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from ._entry import Usage


@dataclass(slots=True)
class TokenCount:
    """A number of tokens, as the upstream's `usage` counts them."""

    prompt: int = 0
    completion: int = 0
    total: int = 0

    def add(self, usage: Usage) -> None:
        """Count one answer more."""
        self.prompt += usage.prompt
        self.completion += usage.completion
        self.total += usage.total


class Estimate(Protocol):
    """How often similar hits were wrong."""

    @property
    def threshold(self) -> float: ...
    @property
    def false_hits(self) -> int: ...
    @property
    def rate(self) -> float | None: ...
    @property
    def bound(self) -> float | None: ...


@dataclass(slots=True)
class Stats:
    """Counters since the cache was made. Read them; the cache writes them.

    Every lookup is one of `requests`, and ends as exactly one of `hits`, `misses` or `collapsed`.
    Calls that may not be cached at all are only counted in `bypassed` and `upstream_calls`.
    """

    requests: int = 0
    hits: int = 0
    misses: int = 0
    collapsed: int = 0
    """Answered by the flight of another caller."""
    stale: int = 0
    """Hits that were past their fresh life."""
    refreshes: int = 0
    """Answers that were fetched in the background."""
    bypassed: int = 0
    """Calls that may not be cached."""
    upstream_calls: int = 0
    """Calls that were made: API calls and runs of a factory."""
    stores: int = 0
    errors: int = 0
    """Faults of the cache itself, and upstream calls that failed."""
    evictions: int = 0
    """Entries that made room for others."""
    expirations: int = 0
    """Entries that left memory because their time was over."""
    dropped_events: int = 0
    """Events that a hook was too slow for."""
    hits_by_tier: dict[str, int] = field(default_factory=dict)
    tokens_saved: TokenCount = field(default_factory=TokenCount)
    """What hits and collapsed calls would have been billed."""
    cost_saved: float | None = None
    """Money saved, where the price of every model involved is known; None otherwise."""
    similar_hits: int = 0
    """Hits that answered a question in other words."""
    similarity: Estimate | None = None
    """What is known of their quality; None without similarity."""

    @property
    def hit_rate(self) -> float:
        """Hits over requests, 0 to 1; 0 before the first. Collapsed calls are no hits."""
        return self.hits / self.requests if self.requests else 0.0

    @property
    def false_hits(self) -> int:
        """Similar hits that are known to have been wrong: reported, or found by shadow checks."""
        return 0 if self.similarity is None else self.similarity.false_hits

    @property
    def false_hit_rate(self) -> float | None:
        """Wrong similar hits over similar hits at the threshold in force, as far as is known."""
        return None if self.similarity is None else self.similarity.rate

    @property
    def false_hit_bound(self) -> float | None:
        """What that rate is below of, with the matcher's confidence."""
        return None if self.similarity is None else self.similarity.bound

    @property
    def similarity_threshold(self) -> float | None:
        """The threshold in force; None without similarity."""
        return None if self.similarity is None else self.similarity.threshold

    def as_dict(self) -> dict[str, Any]:
        """All counters and the hit rate, as plain JSON values."""
        counters: dict[str, Any] = {
            name: getattr(self, name) for name in self.__slots__ if name not in _APART
        }
        counters["hits_by_tier"] = dict(self.hits_by_tier)
        tokens = self.tokens_saved
        counters["tokens_saved"] = {
            "prompt": tokens.prompt,
            "completion": tokens.completion,
            "total": tokens.total,
        }
        counters["hit_rate"] = self.hit_rate
        if self.similarity is not None:
            counters.update({name: getattr(self, name) for name in _OF_SIMILAR})
        return counters

    def __str__(self) -> str:
        tiers = ", ".join(f"{tier} {count:,}" for tier, count in self.hits_by_tier.items())
        saved = "unknown" if self.cost_saved is None else f"{self.cost_saved:,.4f}"
        rows = [
            ("requests", f"{self.requests:,}"),
            ("hits", f"{self.hits:,} ({self.hit_rate:.1%})" + (f": {tiers}" if tiers else "")),
            ("misses", f"{self.misses:,}"),
            ("collapsed", f"{self.collapsed:,}"),
            ("stale", f"{self.stale:,}"),
            ("refreshes", f"{self.refreshes:,}"),
            ("bypassed", f"{self.bypassed:,}"),
            ("upstream calls", f"{self.upstream_calls:,}"),
            ("errors", f"{self.errors:,}"),
            ("evictions", f"{self.evictions:,}"),
            ("tokens saved", f"{self.tokens_saved.total:,}"),
            ("cost saved", saved),
        ]
        if self.similarity is not None:
            rows.append(("similar hits", self._similar_row()))
        return "\n".join(f"{name:<15} {value}" for name, value in rows)

    def _similar_row(self) -> str:
        parts = [f"{self.similar_hits:,} (at {self.similarity_threshold:.3g})"]
        rate, bound = self.false_hit_rate, self.false_hit_bound
        if rate is not None and bound is not None:
            parts.append(f"{self.false_hits:,} known to be wrong: {rate:.1%}, below {bound:.1%}")
        return ", ".join(parts)


_OF_SIMILAR = (
    "similar_hits",
    "false_hits",
    "false_hit_rate",
    "false_hit_bound",
    "similarity_threshold",
)
_APART = frozenset({"tokens_saved", "similarity", *_OF_SIMILAR})
