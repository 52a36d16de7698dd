"""What watching a cache costs: CPU per hit in memory, as ratios to a build that tells nothing.

That build is made by hand: its ledger counts, and has no word about events or observers. All are
measured in turn in one process, in CPU time; the ratio is that of the medians.

Run: pip install -e '.[test]' && python benchmarks/observing.py
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

from openai import AsyncOpenAI
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from aiopromptcache import CacheEvent, PromptCache
from aiopromptcache._entry import Entry
from aiopromptcache._ledger import Ledger
from aiopromptcache._stats import OWN, Outcome
from aiopromptcache._tally import note_hit
from aiopromptcache.dashboard import Dashboard
from aiopromptcache.metrics.opentelemetry import OpenTelemetryMetrics
from aiopromptcache.metrics.prometheus import PrometheusMetrics
from aiopromptcache.testing import OpenAIServer

ROUNDS = 15
Call = Callable[[], Awaitable[Any]]
REQUEST: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]}


class Silent(Ledger):
    """The ledger with everything about events and observers taken out."""

    def hit(
        self,
        key: str,
        entry: Entry,
        tier: str,
        similar: dict[str, Any] | None = None,
        took: float | None = None,
    ) -> float:
        """See `Ledger.hit`."""
        note_hit()
        self.saved(entry)
        age = entry.age(self.clock())
        outcome: Outcome = "hit"
        if similar is not None:
            outcome = "similar"
        elif entry.ttl is not None and age >= entry.ttl:
            outcome = "stale"
        self.stats.outcomes[entry.endpoint or OWN, outcome, tier] += 1
        return age

    def count_hit(self, key: str, entry: Entry, tier: str) -> None:
        """See `Ledger.count_hit`."""
        if entry.endpoint is not None:
            self.hit(key, entry, tier)
            return
        note_hit()
        self.stats.outcomes[OWN, "hit", tier] += 1


def heard(event: CacheEvent) -> None:
    """A hook that does nothing."""


async def calls_of(cache: PromptCache, server: OpenAIServer) -> dict[str, Call]:
    """The three kinds of hits in memory."""
    client = cache.wrap(AsyncOpenAI(api_key="-", base_url=server.base_url))

    async def make() -> str:
        return "x" * 600

    key = cache.key(question="Hi")
    calls: dict[str, Call] = {
        "get_or_create": lambda: cache.get_or_create(key, make),
        "get": lambda: cache.get(key),
        "chat.completions.create": lambda: client.chat.completions.create(**REQUEST),
    }
    for call in calls.values():
        for _ in range(50):
            await call()
    return calls


def watched(stack: ExitStack) -> dict[str, PromptCache]:
    """One cache for each way of watching."""
    caches = {
        name: PromptCache(ttl=None, hooks=[heard] if name == "a hook" else ())
        for name in (
            "nothing told",
            "no hook",
            "Prometheus",
            "OpenTelemetry",
            "in a span",
            "a dashboard",
            "a hook",
        )
    }
    caches["nothing told"]._engine.ledger.__class__ = Silent
    stack.enter_context(PrometheusMetrics(caches["Prometheus"], registry=CollectorRegistry()))
    for name in ("OpenTelemetry", "in a span"):
        metrics = OpenTelemetryMetrics(caches[name], meter_provider=METERS, tracer_provider=TRACERS)
        stack.enter_context(metrics)
    Dashboard(caches["a dashboard"])
    return caches


METERS = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
TRACERS = TracerProvider(shutdown_on_exit=False)
TRACERS.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))


async def cpu(call: Call, times: int, *, spanned: bool) -> float:
    """CPU seconds of one call."""
    with ExitStack() as stack:
        if spanned:
            stack.enter_context(TRACERS.get_tracer("app").start_as_current_span("request"))
        started = time.process_time()
        for _ in range(times):
            await call()
        took = time.process_time() - started
    await asyncio.sleep(0)  # a hook's turn, which is not the caller's
    return took / times


async def compare(name: str, calls: dict[str, Call], times: int) -> None:
    """Alternate in short rounds."""
    spent: dict[str, list[float]] = {way: [] for way in calls}
    for _ in range(ROUNDS):
        for way, call in calls.items():
            spent[way].append(await cpu(call, times, spanned=way == "in a span"))
    base = statistics.median(spent["nothing told"])
    row = [f"{statistics.median(spent[way]) / base:>14.2f}" for way in calls]
    print(f"{name:<26}{base * 1e6:>6.2f} us" + "".join(row[1:]))


async def main() -> None:
    """All of it."""
    async with OpenAIServer() as server:
        with ExitStack() as stack:
            caches = watched(stack)
            calls = {name: await calls_of(cache, server) for name, cache in caches.items()}
            print(f"{'':<26}{'alone':>9}" + "".join(f"{name:>14}" for name in list(caches)[1:]))
            print(f"{'wanted, at most':<26}{'':>9}{1.1:>14}{1.5:>14}{2.0:>14}")
            for name, times in {"get_or_create": 5_000, "get": 3_000}.items():
                await compare(name, {way: made[name] for way, made in calls.items()}, times)
            name = "chat.completions.create"
            await compare(name, {way: made[name] for way, made in calls.items()}, 1_500)
            for cache in caches.values():
                await cache.aclose()


if __name__ == "__main__":
    asyncio.run(main())
