"""Counters: what the cache did so far, and what that saved."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from ._entry import Usage


@dataclass(slots=True)
class TokenCount:
    """A number of tokens, as the upstream's `usage` counts them."""

    prompt: int = 0
    completion: int = 0
    total: int = 0
    cached: int = 0
    """Those of the prompts that the provider had in a cache of its own."""

    def add(self, usage: Usage | TokenCount) -> None:
        """Count one answer more."""
        self.prompt += usage.prompt
        self.completion += usage.completion
        self.total += usage.total
        self.cached += usage.cached


@dataclass(slots=True)
class Money:
    """What answers were billed: their tokens, and US dollars where the price is known."""

    tokens: TokenCount = field(default_factory=TokenCount)
    cost: float | None = None
    """Dollars, as far as prices are known; None where there are answers and none is known."""
    unpriced: int = 0
    """Answers whose price is not known, as of a stream that was left. They are not in `cost`."""

    def add(self, usage: Usage | None, price: float | None) -> None:
        """Count one answer more."""
        if usage is not None:
            self.tokens.add(usage)
        if price is None:
            self.unpriced += 1
        else:
            self.cost = price + (self.cost or 0.0)

    def merge(self, other: Money) -> None:
        """Count what another has counted."""
        self.tokens.add(other.tokens)
        self.unpriced += other.unpriced
        if other.cost is not None:
            self.cost = other.cost + (self.cost or 0.0)


@dataclass(slots=True)
class ModelStats:
    """One model at one endpoint."""

    endpoint: str
    model: str
    saved: Money = field(default_factory=Money)
    """What hits and collapsed calls would have been billed."""
    spent: Money = field(default_factory=Money)
    """What upstream calls were billed."""


MODELS = 500
"""Models that are counted each by its own name; the others together, as "other"."""
LONGEST_NAME = 200
"""Characters of a model's name that are told: callers may name anything."""


def told_name(name: str) -> str:
    """A name that others gave, as all can be told that take Unicode, and none too long."""
    return name[:LONGEST_NAME].encode("utf-8", "replace").decode()


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


class RecentError(NamedTuple):
    """A fault, without the words of its error: a prompt may be among them."""

    time: float
    """Seconds, as `time.time()` gives them."""
    kind: Literal["tier", "upstream", "hook", "similarity", "request"]
    """What failed: "request" is a call that could not be given a key."""
    where: str | None
    """The tier or the endpoint."""
    error: str
    """The type of the error."""


RECENT = 50
"""Errors that are remembered."""

Outcome = Literal["hit", "stale", "similar", "miss", "collapsed", "bypass"]
_HITS = frozenset({"hit", "stale", "similar"})
OWN = "own"
"""The endpoint of the caller's own keys: `get`, `get_or_create`, `cached`, `stream`."""


@dataclass(slots=True)
class Stats:
    """Counters since the cache was made. Read them; the cache writes them.

    Every lookup is one of `requests`, and ends as exactly one of `hits`, `misses` or `collapsed`.
    Calls that may not be cached at all are only counted in `bypassed` and `upstream_calls`.
    """

    outcomes: dict[tuple[str, Outcome, str], int] = field(default_factory=lambda: defaultdict(int))
    """Calls by endpoint ("own" for the caller's own keys), outcome, and the tier of a hit ("" of
    others). Past its fresh life a hit is "stale", for a question in other words it is "similar"."""
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Upstream calls that were made, by endpoint: API calls, and runs of a factory."""
    failures: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Those that failed."""
    refreshes: int = 0
    """Answers that were fetched in the background."""
    stores: int = 0
    errors: int = 0
    """Faults of the cache itself, and upstream calls that failed."""
    recent_errors: deque[RecentError] = field(default_factory=lambda: deque(maxlen=RECENT))
    """The last of them, oldest first."""
    evictions: int = 0
    """Entries that made room for others."""
    expirations: int = 0
    """Entries that left memory because their time was over."""
    dropped_events: int = 0
    """Events that a hook was too slow for."""
    by_model: dict[tuple[str, str], ModelStats] = field(default_factory=dict)
    """Tokens and money by endpoint and model, as the calls name them."""
    similarity: Estimate | None = None
    """What is known of their quality; None without similarity."""

    def _count(self, *outcomes: str) -> int:
        # A copy, because whoever reads may be in another thread.
        counts = dict(self.outcomes).items()
        return sum(count for (_, outcome, _), count in counts if outcome in outcomes)

    @property
    def requests(self) -> int:
        """Calls that could have been answered from the cache."""
        return sum(dict(self.outcomes).values()) - self.bypassed

    @property
    def hits(self) -> int:
        """Answered by a tier."""
        return self._count(*_HITS)

    @property
    def misses(self) -> int:
        """Answered by an upstream call of their own, or not at all."""
        return self._count("miss")

    @property
    def collapsed(self) -> int:
        """Answered by the flight of another caller."""
        return self._count("collapsed")

    @property
    def stale(self) -> int:
        """Hits that were past their fresh life."""
        return self._count("stale")

    @property
    def similar_hits(self) -> int:
        """Hits that answered a question in other words."""
        return self._count("similar")

    @property
    def bypassed(self) -> int:
        """Calls that may not be cached."""
        return self._count("bypass")

    @property
    def hits_by_tier(self) -> dict[str, int]:
        """Hits by the name of the tier."""
        found: dict[str, int] = {}
        for (_, _, tier), count in dict(self.outcomes).items():
            if tier:
                found[tier] = found.get(tier, 0) + count
        return found

    @property
    def upstream_calls(self) -> int:
        """Calls that were made: API calls and runs of a factory."""
        return sum(dict(self.calls).values())

    def erred(self, kind: Any, where: str | None, error: BaseException | None) -> None:
        """Count a fault."""
        self.errors += 1
        name = "unknown" if error is None else type(error).__name__
        self.recent_errors.append(RecentError(time.time(), kind, where, name))

    def of_model(self, endpoint: str, model: str | None, *, new: bool = True) -> ModelStats:
        """The counters of one model at one endpoint, to be counted on.

        Not `new`: one that nothing is known of, and may be no model, is counted as "other".
        """
        found = self.by_model.get((endpoint, model or "unknown"))
        if found is None:
            name = told_name(model or "unknown") if new and len(self.by_model) < MODELS else "other"
            found = self.by_model.setdefault((endpoint, name), ModelStats(endpoint, name))
        return found

    def _rows(self) -> list[ModelStats]:
        return list(self.by_model.values())  # see `_count`

    @property
    def saved(self) -> Money:
        """What hits and collapsed calls would have been billed, over all models."""
        return _sum(row.saved for row in self._rows())

    @property
    def spent(self) -> Money:
        """What upstream calls were billed, over all models."""
        return _sum(row.spent for row in self._rows())

    @property
    def tokens_saved(self) -> TokenCount:
        """Tokens that hits and collapsed calls would have been billed."""
        return self.saved.tokens

    @property
    def tokens_spent(self) -> TokenCount:
        """Tokens that upstream calls were billed."""
        return self.spent.tokens

    @property
    def cost_saved(self) -> float | None:
        """US dollars that hits and collapsed calls would have cost, as far as prices are known;
        None where nothing was saved, or no price is known.
        """
        return self.saved.cost

    @property
    def cost_spent(self) -> float | None:
        """US dollars that upstream calls cost, as far as prices are known."""
        return self.spent.cost

    @property
    def hit_rate(self) -> float:
        """Hits over requests, 0 to 1; 0 before the first. Collapsed calls are no hits."""
        requests = self.requests
        return self.hits / requests if requests else 0.0

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
        counters: dict[str, Any] = {name: getattr(self, name) for name in _PLAIN}
        counters["outcomes"] = [
            {"endpoint": endpoint, "outcome": outcome, "tier": tier, "count": count}
            for (endpoint, outcome, tier), count in dict(self.outcomes).items()
        ]
        counters |= _plain("saved", self.saved) | _plain("spent", self.spent)
        counters["by_model"] = [
            {"endpoint": row.endpoint, "model": row.model}
            | _plain("saved", row.saved)
            | _plain("spent", row.spent)
            for row in self._rows()
        ]
        counters["recent_errors"] = [error._asdict() for error in tuple(self.recent_errors)]
        counters["hit_rate"] = self.hit_rate
        if self.similarity is not None:
            counters.update({name: getattr(self, name) for name in _OF_SIMILAR})
        return counters

    def __str__(self) -> str:
        tiers = ", ".join(f"{tier} {count:,}" for tier, count in self.hits_by_tier.items())
        saved, spent = self.saved, self.spent
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
            ("tokens saved", f"{saved.tokens.total:,}"),
            ("cost saved", _dollars(saved)),
            ("tokens spent", f"{spent.tokens.total:,}"),
            ("cost spent", _dollars(spent)),
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
_PLAIN = (
    "requests",
    "hits",
    "misses",
    "collapsed",
    "stale",
    "refreshes",
    "bypassed",
    "upstream_calls",
    "stores",
    "errors",
    "evictions",
    "expirations",
    "dropped_events",
    "hits_by_tier",
)


def _sum(parts: Iterable[Money]) -> Money:
    whole = Money()
    for part in parts:
        whole.merge(part)
    return whole


def _plain(name: str, money: Money) -> dict[str, Any]:
    tokens = money.tokens
    counts = {part: getattr(tokens, part) for part in tokens.__slots__}
    return {
        f"tokens_{name}": counts,
        f"cost_{name}": money.cost,
        f"unpriced_{name}": money.unpriced,
    }


def money_text(dollars: float) -> str:
    """US dollars for people; what is something does not look like nothing."""
    if 0 < dollars < 0.00005:
        return "<$0.0001"
    return f"${dollars:,.2f}" if dollars >= 100 else f"${dollars:,.4f}"


def _dollars(money: Money) -> str:
    known = "unknown" if money.cost is None else money_text(money.cost)
    return f"{known}, and {money.unpriced:,} answers without a price" if money.unpriced else known
