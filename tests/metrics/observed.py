"""Traffic whose every outcome is known, and what was exported of it."""

from __future__ import annotations

import asyncio
import urllib.request
from collections import Counter
from collections.abc import Iterable
from typing import Any

from engine_tools import quiet
from openai import AsyncOpenAI, InternalServerError
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.parser import text_string_to_metric_families

from aiopromptcache import PromptCache
from aiopromptcache.testing import OpenAIServer

MODEL = "gpt-4o-mini"
TENANT = "tenant-hush"
SECRET = "swordfish"
"""A word of every prompt, and so of every answer of the local upstream."""

Labels = frozenset[tuple[str, str]]


def chat(text: str = "Hi", **params: Any) -> dict[str, Any]:
    """The arguments of a chat completion."""
    message = {"role": "user", "content": f"{SECRET} {text}"}
    return {"model": MODEL, "messages": [message], **params}


async def streamed(client: AsyncOpenAI, text: str) -> None:
    """One streamed completion, read to its end."""
    stream = await client.chat.completions.create(
        **chat(text, stream=True, stream_options={"include_usage": True})
    )
    async for _ in stream:
        pass


async def many(server: OpenAIServer, *calls: Any) -> None:
    """Make calls at once, and let the upstream answer when all are there."""
    server.hold()
    tasks = [asyncio.ensure_future(call) for call in calls]
    await server.wait_active(1)
    await quiet()
    server.release()
    await asyncio.gather(*tasks)


async def traffic(cache: PromptCache, server: OpenAIServer, client: AsyncOpenAI) -> Counter[Any]:
    """Calls of all kinds; gives their outcomes, as whoever makes them knows them."""
    create = client.chat.completions.create
    known: Counter[Any] = Counter()

    def count(endpoint: str, outcome: str, times: int = 1, tier: str = "") -> None:
        known[endpoint, outcome, tier] += times

    with cache.control(partition=TENANT):
        for _ in range(3):
            await create(**chat())
        count("chat.completions", "miss")
        count("chat.completions", "hit", 2, "memory")
        for _ in range(2):
            await streamed(client, "a stream")
        count("chat.completions", "miss")
        count("chat.completions", "hit", 1, "memory")
        await many(server, *[create(**chat("at once")) for _ in range(5)])
        count("chat.completions", "miss")
        count("chat.completions", "collapsed", 4)
        await many(server, *[streamed(client, "streams at once") for _ in range(3)])
        count("chat.completions", "miss")
        count("chat.completions", "collapsed", 2)
        for inputs in (["one", "two"], ["two"], ["two", "three"]):
            await client.embeddings.create(model="vectors", input=inputs)
        count("embeddings", "miss", 2)
        count("embeddings", "hit", 1, "memory")
        server.fail(500)
        try:
            await create(**chat("that fails"))
        except InternalServerError:
            count("chat.completions", "miss")
        await create(**chat("that is kept upstream", store=True))
        count("chat.completions", "bypass")
        await client.responses.create(model=MODEL, input=SECRET)
        count("responses", "miss")
        for _ in range(2):
            await cache.get_or_create(f"{SECRET} key", lambda: asyncio.sleep(0, 1))
        count("own", "miss")
        count("own", "hit", 1, "memory")
        await cache.get("nothing")
        count("own", "miss")
    return known


FACTORIES = 1
"""Upstream calls of `traffic` that the local upstream does not see."""


# Prometheus


async def scrape(registry: CollectorRegistry) -> str:
    """What Prometheus gets over HTTP, from a thread of its own."""
    http, thread = start_http_server(0, "127.0.0.1", registry=registry)
    try:
        address = f"http://127.0.0.1:{http.server_port}/metrics"
        return await asyncio.to_thread(_read, address)
    finally:
        await asyncio.to_thread(http.shutdown)
        thread.join()
        http.server_close()


def _read(address: str) -> str:
    with urllib.request.urlopen(address) as response:
        return str(response.read().decode())


def samples(text: str) -> dict[str, dict[Labels, float]]:
    """Numbers by name and labels."""
    found: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = frozenset(item for item in sample.labels.items() if item[1])
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def by(numbers: dict[Labels, float], *names: str) -> dict[Any, float]:
    """Numbers that are not 0, added up by some of their labels."""
    found: Counter[Any] = Counter()
    for labels, number in numbers.items():
        known = dict(labels)
        found[tuple(known.get(name, "") for name in names)] += number
    return {key: number for key, number in found.items() if number}


# OpenTelemetry


class App:
    """An app's providers, which keep in memory what they would export."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.tracers.get_tracer("app")

    @property
    def providers(self) -> dict[str, Any]:
        """Arguments of `OpenTelemetryMetrics`."""
        return {"meter_provider": self.meters, "tracer_provider": self.tracers}

    def numbers(self) -> dict[str, dict[Labels, Any]]:
        """Numbers, and points of histograms, by name and attributes."""
        found: dict[str, dict[Labels, Any]] = {}
        data = self.reader.get_metrics_data()
        for metric in [
            m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics
        ]:
            known = found.setdefault(metric.name, {})
            for point in metric.data.data_points:
                labels = frozenset((name, str(value)) for name, value in point.attributes.items())
                known[labels] = getattr(point, "value", point)
        return found

    @property
    def spans(self) -> list[ReadableSpan]:
        """Those that have ended, in that order."""
        return list(self.exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        """Those of one name."""
        return [span for span in self.spans if span.name == name]

    def shutdown(self) -> None:
        """An end without a word."""
        self.tracers.shutdown()
        self.meters.shutdown()


def parent_of(span: ReadableSpan) -> int | None:
    """The id of the span that it is in."""
    return None if span.parent is None else span.parent.span_id


def ids(spans: Iterable[ReadableSpan]) -> list[int]:
    """Their ids."""
    return [span.context.span_id for span in spans]


def linked(span: ReadableSpan) -> list[int]:
    """The ids that it links to."""
    return [link.context.span_id for link in span.links]
