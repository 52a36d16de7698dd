"""OpenTelemetry's metrics: what is exported is what the upstream and the callers counted."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from typing import Any

import pytest
from observed import FACTORIES, MODEL, SECRET, TENANT, App, by, chat, traffic

from aiopromptcache import ConfigurationError, PromptCache
from aiopromptcache.metrics.opentelemetry import SAMPLED, OpenTelemetryMetrics
from aiopromptcache.testing import FaultyTier, OpenAIServer

pytestmark = pytest.mark.anyio


async def test_what_is_exported_is_what_upstream_and_callers_counted(
    server: OpenAIServer, app: App
) -> None:
    async with PromptCache(namespace="shop") as cache:
        with OpenTelemetryMetrics(cache, **app.providers):
            known = await traffic(cache, server, cache.wrap(server.client(max_retries=0)))
            found = app.numbers()

            requests = by(found["aiopromptcache.requests"], "endpoint", "outcome", "tier")
            assert requests == known
            calls = by(found["aiopromptcache.upstream_calls"], "endpoint")
            assert sum(calls.values()) == server.calls + FACTORIES
            timed = _counts(found["aiopromptcache.upstream_duration"], "endpoint")
            assert timed == calls
            operations = _counts(
                found["gen_ai.client.operation.duration"], "gen_ai.operation.name", "error.type"
            )
            chats = server.calls_for("chat/completions") + server.calls_for("responses")
            assert operations == {
                ("chat", ""): chats - 1,
                ("chat", "500"): 1,
                ("embeddings", ""): server.calls_for("embeddings"),
            }
            tokens = found["gen_ai.client.token.usage"]
            billed = {kind: _sum(tokens, kind) for kind in ("input", "output")}
            spent = cache.stats.tokens_spent
            assert billed == {"input": spent.prompt, "output": spent.completion}
            waits = _counts(found["aiopromptcache.wait_duration"], "outcome")
            assert waits["collapsed",] == known["chat.completions", "collapsed", ""]
            assert by(found["aiopromptcache.tier_entries"])[()] == cache.stats.stores


def _counts(points: Any, *names: str) -> dict[Any, float]:
    return by({labels: point.count for labels, point in points.items()}, *names)


def _sum(points: Any, kind: str) -> float:
    return sum(p.sum for labels, p in points.items() if ("gen_ai.token.type", kind) in labels)


async def test_no_prompt_key_or_partition_is_told(server: OpenAIServer, app: App) -> None:
    keys: set[str] = set()
    async with PromptCache(hooks=[lambda event: keys.add(event.key or "-")]) as cache:
        with OpenTelemetryMetrics(cache, **app.providers):
            await traffic(cache, server, cache.wrap(server.client(max_retries=0)))
            await cache.aclose()
            told = str(app.numbers()) + "".join(span.to_json() for span in app.spans)
    assert len(app.spans) > 10
    assert MODEL in told
    assert len(keys) > 5
    assert not [word for word in (SECRET, TENANT, *keys - {"-"}) if word in told]


async def test_one_look_into_memory_in_so_many_is_timed(app: App) -> None:
    async with PromptCache() as cache:
        with OpenTelemetryMetrics(cache, **app.providers):
            await cache.set("key", 1)
            for _ in range(10 * SAMPLED):
                await cache.get("key")
            looks = _counts(app.numbers()["aiopromptcache.tier_duration"], "tier", "operation")
            assert 10 <= looks["memory", "get"] <= 11


async def test_operations_of_a_tier_that_is_elsewhere_are_all_recorded(app: App) -> None:
    async with PromptCache(FaultyTier()) as cache:
        with OpenTelemetryMetrics(cache, **app.providers):
            await cache.set("key", 1)
            for _ in range(3):
                await cache.get("key")
            operations = _counts(app.numbers()["aiopromptcache.tier_duration"], "operation")
            assert operations == {("set",): 1, ("get",): 3}


async def test_several_caches_share_instruments(app: App, caplog: pytest.LogCaptureFixture) -> None:
    async with PromptCache(namespace="one") as one, PromptCache(namespace="two") as two:
        with (
            OpenTelemetryMetrics(one, **app.providers),
            OpenTelemetryMetrics(two, **app.providers) as second,
        ):
            await one.get("nothing")
            for _ in range(2):
                await two.get("nothing")
            requests = app.numbers()["aiopromptcache.requests"]
            assert by(requests, "namespace") == {("one",): 1, ("two",): 2}
            second.close()
            second.close()
            await two.get("nothing")
            assert by(app.numbers()["aiopromptcache.requests"], "namespace") == {("one",): 1}
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


async def test_nothing_keeps_a_cache_alive(server: OpenAIServer, app: App) -> None:
    cache = PromptCache()
    metrics = OpenTelemetryMetrics(cache, **app.providers)
    await cache.wrap(server.client()).chat.completions.create(**chat())
    await cache.aclose()
    assert by(app.numbers()["aiopromptcache.requests"])[()] == 1
    engine = weakref.ref(cache._engine)
    del cache
    gc.collect()
    assert engine() is None
    assert by(app.numbers().get("aiopromptcache.requests", {})) == {}
    metrics.close()


async def test_a_cache_can_be_attached_once_and_again_after_that(app: App) -> None:
    async with PromptCache(namespace="once") as cache:
        metrics = OpenTelemetryMetrics(cache, **app.providers)
        with pytest.raises(ConfigurationError, match="'once'"):
            OpenTelemetryMetrics(cache, **app.providers)
        metrics.close()
        assert not cache._engine.ledger.timings.heard
        assert not cache._engine.ledger.heard
        OpenTelemetryMetrics(cache, **app.providers).close()


@pytest.mark.parametrize("name", ["meter_provider", "tracer_provider"])
def test_what_is_no_provider_is_named(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}='none'"):
        OpenTelemetryMetrics(PromptCache(), **{name: "none"})
    with pytest.raises(ConfigurationError, match="caches"):
        OpenTelemetryMetrics()


async def test_without_an_sdk_nothing_is_made_and_nothing_breaks(server: OpenAIServer) -> None:
    async with PromptCache() as cache:
        with OpenTelemetryMetrics(cache):
            client = cache.wrap(server.client())
            for _ in range(2):
                await client.chat.completions.create(**chat())
            assert cache.stats.hits == 1


EARLY_AND_LATE = """
import asyncio
from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from aiopromptcache import PromptCache
from aiopromptcache.metrics.opentelemetry import OpenTelemetryMetrics

early, late = PromptCache(namespace="early"), PromptCache(namespace="late")
OpenTelemetryMetrics(early)
reader = InMemoryMetricReader()
set_meter_provider(MeterProvider([reader], shutdown_on_exit=False))
OpenTelemetryMetrics(late)
for cache in (early, late):
    asyncio.run(cache.get("nothing"))
[scope] = reader.get_metrics_data().resource_metrics[0].scope_metrics
[requests] = [metric for metric in scope.metrics if metric.name == "aiopromptcache.requests"]
print(*sorted(point.attributes["namespace"] for point in requests.data.data_points))
"""


def test_caches_are_attached_before_and_after_the_app_has_set_its_provider() -> None:
    """In a process of its own: a provider is set once."""
    ran = subprocess.run(
        [sys.executable, "-c", EARLY_AND_LATE], capture_output=True, text=True, check=False
    )
    assert (ran.stdout, ran.stderr) == ("early late\n", "")
