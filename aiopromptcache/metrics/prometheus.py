"""Prometheus metrics of one or several caches.

    metrics = PrometheusMetrics(cache)

Nothing is done per call: the numbers are read when Prometheus asks. Only a look into the memory
tier is timed while metrics are attached, which costs a quarter of a microsecond. Needs the extra
"prometheus".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self
from weakref import WeakKeyDictionary

try:
    from prometheus_client import REGISTRY, CollectorRegistry
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric,
    )
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImportError(
        "aiopromptcache.metrics.prometheus needs prometheus-client: "
        "pip install 'aiopromptcache[prometheus]'"
    ) from error

from .._cache import PromptCache
from .._engine import Engine
from .._errors import ConfigurationError
from .._timings import Histogram
from ._attached import Attached, all_of
from ._families import DURATIONS, FAMILIES, Duration, Family

__all__ = ["PrometheusMetrics"]


class PrometheusMetrics:
    """Attaches caches to a registry, until `close` or the end of a `with`.

    Every name begins with "aiopromptcache_", and every metric has the label "namespace": give
    caches namespaces of their own, those that have the same are added up. Durations are in
    seconds, sizes in bytes, money in US dollars. No prompt, key or partition is a label.

    A cache that is closed can still be read; one that is gone is left out, and nothing here keeps
    it alive. Attaching twice changes nothing. The numbers are those of this process: with several
    workers, each is scraped by itself. `ConfigurationError` for what is no `PromptCache` or
    `CollectorRegistry`.

    No scrape waits for a tier. What Redis holds of the namespace is measured because of a scrape,
    every ten seconds at most, and told by the next; it is exact for a few thousand keys and an
    estimate beyond, and left out where that cannot be made or Redis is out. A tier of one's own is
    shown with what it holds where it has a method `held`, which gives entries and bytes from any
    thread, or `async def measure(namespace)`, which gives an object with `entries`, `bytes` and
    `exact`.
    """

    def __init__(self, *caches: PromptCache, registry: CollectorRegistry = REGISTRY) -> None:
        if not isinstance(registry, CollectorRegistry):
            raise ConfigurationError(f"registry={registry!r}: expected a CollectorRegistry")
        self._attached = Attached(caches)
        self._registry = registry
        collector = _collectors.get(registry)
        if collector is None:
            collector = _Collector()
            registry.register(collector)  # raises where somebody else has one of the names
            _collectors[registry] = collector
        collector.attached.append(self._attached)
        for engine in self._attached:
            engine.storage.time_local(_memory(engine).add)
            engine.sizes.attend()

    def close(self) -> None:
        """Detach the caches. A second time does nothing."""
        for engine in self._attached:
            engine.storage.untime_local(_memory(engine).add)
            engine.sizes.leave()
        self._attached.clear()
        collector = _collectors.get(self._registry)
        if collector is not None and self._attached in collector.attached:
            collector.attached.remove(self._attached)
            if not collector.attached:
                del _collectors[self._registry]
                self._registry.unregister(collector)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _memory(engine: Engine) -> Histogram:
    """Where looks into the memory tier are counted."""
    return engine.ledger.timings.of("tier", (engine.storage.local_name, "get"))


class _Collector(Collector):
    """All caches of one registry: so that a name is registered once."""

    def __init__(self) -> None:
        self.attached: list[Attached] = []

    def describe(self) -> Iterable[Metric]:
        """The names, by which the registry knows who is there twice."""
        return self._collect([])

    def collect(self) -> Iterable[Metric]:
        """What is there now; called by the registry, from any thread."""
        return self._collect(all_of(self.attached))

    def _collect(self, engines: list[Engine]) -> Iterator[Metric]:
        for family in FAMILIES:
            yield _numbers(family, engines)
        for duration in DURATIONS:
            yield _histogram(duration, engines)


def _numbers(family: Family, engines: list[Engine]) -> Metric:
    unit = f"_{family.unit}" if family.unit else ""
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(
        f"aiopromptcache_{family.name}{unit}", family.help, labels=("namespace", *family.labels)
    )
    for labels, number in family.of(engines).items():
        metric.add_metric(labels, number)
    return metric


def _histogram(duration: Duration, engines: list[Engine]) -> Metric:
    metric = HistogramMetricFamily(
        f"aiopromptcache_{duration.name}_seconds",
        duration.help,
        labels=("namespace", *duration.labels),
    )
    for labels, histogram in duration.of(engines).items():
        metric.add_metric(labels, buckets=_buckets(histogram), sum_value=histogram.sum)
    return metric


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """As Prometheus has them: each counts all that is not above its bound."""
    bounds = [f"{bound:g}" for bound in histogram.bounds]
    counted, buckets = 0, list[tuple[str, float]]()
    for bound, count in zip([*bounds, "+Inf"], histogram.counts, strict=True):
        counted += count
        buckets.append((bound, counted))
    return buckets


_collectors: WeakKeyDictionary[CollectorRegistry, _Collector] = WeakKeyDictionary()
