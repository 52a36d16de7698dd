"""All that is counted: one list, from which each kind of metrics makes its own.

No prompt, key or partition is a label. Models are, and there are as many as `Stats` keeps apart.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Literal, NamedTuple

from .._engine import Engine
from .._stats import ModelStats, Money
from .._timings import LABELS, Histogram, What

Unit = Literal["", "bytes", "dollars", "ratio"]


class Sample(NamedTuple):
    """A number of one cache."""

    labels: tuple[str, ...]
    number: float
    of: Hashable = None
    """What several caches of a namespace may share: it counts once."""


class Family(NamedTuple):
    """One metric of every cache."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...]
    read: Callable[[Engine], Iterable[Sample]]
    unit: Unit = ""
    worst: bool = False
    """Of several caches the largest number counts, and not the sum."""

    def of(self, engines: Iterable[Engine]) -> dict[tuple[str, ...], float]:
        """The numbers by namespace and labels. Caches of one namespace count as one."""
        found: dict[tuple[str, ...], float] = {}
        counted: set[Hashable] = set()
        for engine in engines:
            for labels, number, of in self.read(engine):
                key = engine.ledger.namespace, *labels
                if of is None or (key, of) not in counted:
                    counted.add((key, of))
                    known = found.get(key, 0.0)
                    found[key] = max(known, number) if self.worst else known + number
        return found


class Duration(NamedTuple):
    """One histogram of every cache, in seconds."""

    name: str
    what: What
    help: str

    @property
    def labels(self) -> tuple[str, str]:
        """The names of its labels."""
        return LABELS[self.what]

    def of(self, engines: Iterable[Engine]) -> dict[tuple[str, ...], Histogram]:
        """The histograms by namespace and labels."""
        found: dict[tuple[str, ...], Histogram] = {}
        for engine in engines:
            for labels, one in dict(engine.ledger.timings.histograms[self.what]).items():
                if not any(one.counts):
                    continue
                whole = found.setdefault((engine.ledger.namespace, *labels), Histogram(one.bounds))
                whole.counts = [a + b for a, b in zip(whole.counts, one.counts, strict=True)]
                whole.sum += one.sum
        return found


def _stat(name: str) -> Callable[[Engine], Iterable[Sample]]:
    return lambda engine: [Sample((), getattr(engine.stats, name))]


def _similar(name: str) -> Callable[[Engine], Iterable[Sample]]:
    def read(engine: Engine) -> Iterator[Sample]:
        number = getattr(engine.stats, name)
        if engine.stats.similarity is not None and number is not None:
            yield Sample((), number)

    return read


def _by_endpoint(counts: Callable[[Engine], dict[str, int]]) -> Callable[[Engine], list[Sample]]:
    return lambda engine: [Sample((name,), count) for name, count in dict(counts(engine)).items()]


def _models(engine: Engine) -> list[ModelStats]:
    return list(dict(engine.stats.by_model).values())


def _tokens(part: Callable[[ModelStats], Money]) -> Callable[[Engine], Iterable[Sample]]:
    def read(engine: Engine) -> Iterator[Sample]:
        for row in _models(engine):
            tokens = part(row).tokens
            yield Sample((row.endpoint, row.model, "prompt"), tokens.prompt)
            yield Sample((row.endpoint, row.model, "completion"), tokens.completion)

    return read


def _cost(part: Callable[[ModelStats], Money]) -> Callable[[Engine], Iterable[Sample]]:
    def read(engine: Engine) -> Iterator[Sample]:
        for row in _models(engine):
            if (cost := part(row).cost) is not None:
                yield Sample((row.endpoint, row.model), cost)

    return read


def _unpriced(engine: Engine) -> Iterator[Sample]:
    for row in _models(engine):
        yield Sample((row.endpoint, row.model, "saved"), row.saved.unpriced)
        yield Sample((row.endpoint, row.model, "spent"), row.spent.unpriced)


def _held(engine: Engine) -> Iterator[Sample]:
    for tier, held, of in engine.sizes.look():
        yield Sample((tier,), held.entries, of)


def _size(engine: Engine) -> Iterator[Sample]:
    for tier, held, of in engine.sizes.look():
        yield Sample((tier,), held.bytes, of)


def _open(engine: Engine) -> Iterator[Sample]:
    for guard in engine.storage.remote:
        yield Sample((guard.name,), int(guard.open))


def _waiting(engine: Engine) -> Iterator[Sample]:
    for guard in engine.storage.remote:
        yield Sample((guard.name,), guard.waiting)


_MODEL = ("endpoint", "model")

FAMILIES = (
    Family(
        "requests", "counter",
        "Calls by how they were answered: hit, stale, similar, miss, collapsed, bypass.",
        ("endpoint", "outcome", "tier"),
        lambda engine: [Sample(*item) for item in dict(engine.stats.outcomes).items()],
    ),
    Family(
        "upstream_calls", "counter",
        "API calls, each with the SDK's own retries, and runs of a factory.",
        ("endpoint",), _by_endpoint(lambda engine: engine.stats.calls),
    ),
    Family(
        "upstream_errors", "counter", "Upstream calls that failed.",
        ("endpoint",), _by_endpoint(lambda engine: engine.stats.failures),
    ),
    Family("refreshes", "counter", "Answers fetched in the background.", (), _stat("refreshes")),
    Family("stores", "counter", "Answers that were stored.", (), _stat("stores")),
    Family(
        "errors", "counter", "Faults of the cache itself, and upstream calls that failed.",
        (), _stat("errors"),
    ),
    Family("evictions", "counter", "Entries that made room for others.", (), _stat("evictions")),
    Family(
        "expirations", "counter", "Entries that left memory because their time was over.",
        (), _stat("expirations"),
    ),
    Family(
        "dropped_events", "counter", "Events that a hook was too slow for.",
        (), _stat("dropped_events"),
    ),
    Family(
        "tokens_saved", "counter", "Tokens that hits and collapsed calls were not billed.",
        (*_MODEL, "type"), _tokens(lambda row: row.saved),
    ),
    Family(
        "tokens_spent", "counter", "Tokens that upstream calls were billed.",
        (*_MODEL, "type"), _tokens(lambda row: row.spent),
    ),
    Family(
        "cost_saved", "counter", "US dollars that hits and collapsed calls did not cost.",
        _MODEL, _cost(lambda row: row.saved), "dollars",
    ),
    Family(
        "cost_spent", "counter", "US dollars that upstream calls cost.",
        _MODEL, _cost(lambda row: row.spent), "dollars",
    ),
    Family(
        "unpriced_answers", "counter", "Answers whose price is not known: in no sum of money.",
        (*_MODEL, "flow"), _unpriced,
    ),
    Family(
        "similar_false_hits", "counter", "Similar hits that are known to have been wrong.",
        (), _similar("false_hits"),
    ),
    Family(
        "similar_false_hit_estimate", "gauge", "Wrong similar hits over similar hits, as known.",
        (), _similar("false_hit_rate"), "ratio", worst=True,
    ),
    Family(
        "similar_false_hit_bound", "gauge", "What that ratio is below of, with confidence.",
        (), _similar("false_hit_bound"), "ratio", worst=True,
    ),
    Family(
        "similar_threshold", "gauge", "Score that a similar hit needs, 0 to 1.",
        (), _similar("similarity_threshold"), "ratio", worst=True,
    ),
    Family(
        "flights", "gauge", "Keys that are being fetched now.",
        (), lambda engine: [Sample((), len(engine.flights))],
    ),
    Family(
        "tier_entries", "gauge",
        "Entries in a tier: of memory all, of Redis the namespace's, where many estimated.",
        ("tier",), _held,
    ),
    Family(
        "tier_size", "gauge",
        "Bytes of those entries: of memory as max_bytes counts, of Redis the server's memory.",
        ("tier",), _size, "bytes",
    ),
    Family(
        "tier_breaker_open", "gauge", "1 while calls go on without a tier that is out.",
        ("tier",), _open, worst=True,
    ),
    Family(
        "tier_waiting_writes", "gauge", "Writes that wait for a tier to return.",
        ("tier",), _waiting,
    ),
)  # fmt: skip

DURATIONS = (
    Duration("upstream_duration", "upstream", "Upstream calls; a stream's lasts to its end."),
    Duration(
        "wait_duration", "wait",
        "Callers that memory had no answer for, until they had it, or its first part.",
    ),
    Duration("tier_duration", "tier", "What a tier was asked for."),
)  # fmt: skip
