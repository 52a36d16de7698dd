"""OpenTelemetry metrics and spans of one or several caches.

    metrics = OpenTelemetryMetrics(cache)

Counters and sizes are read when metrics are collected, so counting costs nothing per call. Of the
looks into the memory tier one in 64 is timed. Spans are made for callers that wait and for
upstream calls; a hit in memory makes none, and is counted by the span that is current, as its
attribute "aiopromptcache.hits". Needs the extra "opentelemetry".
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

try:
    from opentelemetry.metrics import MeterProvider, get_meter_provider
    from opentelemetry.trace import TracerProvider, get_tracer_provider
except ImportError as error:
    raise ImportError(
        "aiopromptcache.metrics.opentelemetry needs opentelemetry-api: "
        "pip install 'aiopromptcache[opentelemetry]'"
    ) from error

from .._cache import PromptCache
from .._engine import Engine
from .._errors import ConfigurationError
from ._attached import Attached
from ._instruments import Hear, HearMemory, instruments_of
from ._spans import Spans

__all__ = ["OpenTelemetryMetrics"]

SAMPLED = 64
"""Of so many looks into the memory tier one is timed: recording one costs as much as the hit."""


class OpenTelemetryMetrics:
    """Attaches caches to the providers (the global ones, unless given), until `close` or the end
    of a `with`.

    Metrics are named "aiopromptcache.…" and have the attribute "namespace": give caches namespaces
    of their own, those that have the same are added up. Upstream calls are also
    "gen_ai.client.operation.duration" and "gen_ai.client.token.usage". Durations are in seconds,
    sizes in bytes, money in US dollars.

    Each upstream call is a client span by the GenAI conventions, current for what it calls; one
    that nobody waits for begins a trace of its own and links to what caused it. Each caller that
    waits has a span with its outcome, and links to the upstream calls of others that answered it.
    No prompt, answer, key or partition is in them, and no message of an error. What Redis holds is
    measured because metrics are collected, and told the next time; see `PrometheusMetrics`.

    Nothing here keeps a cache alive. `ConfigurationError` for what is no `PromptCache` or no
    provider, and for a cache that is attached already: close what attached it first.
    """

    def __init__(
        self,
        *caches: PromptCache,
        meter_provider: MeterProvider | None = None,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        for name, given, kind in (
            ("meter_provider", meter_provider, MeterProvider),
            ("tracer_provider", tracer_provider, TracerProvider),
        ):
            if given is not None and not isinstance(given, kind):
                raise ConfigurationError(f"{name}={given!r}: expected a {kind.__name__}")
        self._attached = Attached(caches)
        engines = list(self._attached)
        if taken := [e.ledger.namespace for e in engines if e.ledger.observer is not None]:
            raise ConfigurationError(f"a cache is attached already: namespace {taken[0]!r}")
        self._instruments = instruments_of(meter_provider or get_meter_provider())
        tracer = (tracer_provider or get_tracer_provider()).get_tracer("aiopromptcache")
        self._instruments.attached.append(self._attached)
        for engine in engines:
            engine.ledger.observe(Spans(tracer, engine.ledger.namespace, self._instruments))
            engine.ledger.timings.heard.append(self._hear(engine))
            engine.storage.time_local(self._hear_memory(engine), every=SAMPLED)
            engine.sizes.attend()

    def close(self) -> None:
        """Detach the caches. A second time does nothing."""
        for engine in self._attached:
            self._detach(engine)
        if self._attached in self._instruments.attached:
            self._instruments.attached.remove(self._attached)
        self._attached.clear()

    def _detach(self, engine: Engine) -> None:
        engine.ledger.observe(None)
        engine.ledger.timings.heard.remove(self._hear(engine))
        engine.storage.untime_local(self._hear_memory(engine))
        engine.sizes.leave()

    def _hear(self, engine: Engine) -> Hear:
        return Hear(self._instruments, engine.ledger.namespace)

    def _hear_memory(self, engine: Engine) -> HearMemory:
        return HearMemory(self._instruments, engine.ledger.namespace, engine.storage.local_name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
