"""Names and numbers that callers, upstreams and other people's code make up."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from observed import App, by, chat, samples
from openai import APIError
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from aiopromptcache import ConfigurationError, Price, PromptCache
from aiopromptcache._stats import LONGEST_NAME, MODELS, Stats
from aiopromptcache.metrics.opentelemetry import OpenTelemetryMetrics
from aiopromptcache.metrics.prometheus import PrometheusMetrics
from aiopromptcache.testing import OpenAIServer

pytestmark = pytest.mark.anyio

ODD = '<script>alert("x")</script>\n{}\\"'
MOST = 2**63 - 1


def bogus(request: Any) -> dict[str, Any]:
    """An answer whose usage cannot be."""
    message = {"role": "assistant", "content": "hi"}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": ODD,
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {"prompt_tokens": 2**62, "completion_tokens": 2**62, "total_tokens": MOST},
    }


async def test_odd_names_are_scraped_as_they_are(
    server: OpenAIServer, registry: CollectorRegistry
) -> None:
    async with PromptCache(namespace=ODD) as cache:
        with PrometheusMetrics(cache, registry=registry):
            create = cache.wrap(server.client()).chat.completions.create
            with cache.control(partition=ODD, tags=[ODD]):
                await create(**chat() | {"model": ODD})
            found = samples(generate_latest(registry).decode())
    spent = by(found["aiopromptcache_tokens_spent_total"], "namespace", "model", "type")
    assert {key[:2] for key in spent} == {(ODD, ODD)}
    assert by(found["aiopromptcache_requests_total"]) == {(): 1}


async def test_a_long_name_is_cut(server: OpenAIServer, registry: CollectorRegistry) -> None:
    async with PromptCache() as cache:
        with PrometheusMetrics(cache, registry=registry):
            create = cache.wrap(server.client()).chat.completions.create
            for _ in range(2):
                await create(**chat() | {"model": "m" * 100_000})
            assert len(generate_latest(registry)) < 100_000
    [row] = cache.stats.by_model.values()
    assert row.model == "m" * LONGEST_NAME
    assert row.saved.tokens == row.spent.tokens


def test_what_is_no_unicode_is_told_in_other_words() -> None:
    stats = Stats()
    for _ in range(2):
        stats.of_model("chat.completions", "\ud800").spent.unpriced += 1
    [row] = stats.by_model.values()
    assert (row.model, row.spent.unpriced) == ("?", 2)
    with pytest.raises(ConfigurationError, match="Unicode"):
        PromptCache(namespace="\ud800")


async def test_callers_that_go_at_once_do_not_use_up_the_names(server: OpenAIServer) -> None:
    async with PromptCache() as cache:
        client = cache.wrap(server.client(max_retries=0))
        server.hold()
        for number in range(3):
            call = asyncio.create_task(
                client.chat.completions.create(**chat() | {"model": f"made up {number}"})
            )
            await server.wait_active(1)
            call.cancel()
            await asyncio.wait([call])
            await server.wait_idle()
        server.release()
    [row] = cache.stats.by_model.values()
    assert (row.model, row.spent.unpriced) == ("other", 3)


async def test_opentelemetry_tells_so_many_models_apart(
    server: OpenAIServer, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiopromptcache.metrics._instruments.MODELS", 5)
    async with PromptCache() as cache:
        with OpenTelemetryMetrics(cache, **app.providers):
            create = cache.wrap(server.client(max_retries=0)).chat.completions.create
            for number in range(8):
                server.fail(404)
                with pytest.raises(APIError):
                    await create(**chat() | {"model": f"made up {number}"})
            points = app.numbers()["gen_ai.client.operation.duration"]
    models = Counter[str]()
    for labels, point in points.items():
        models[dict(labels)["gen_ai.request.model"]] += point.count
    assert models == {**{f"made up {number}": 1 for number in range(5)}, "_OTHER": 3}
    names = {span.attributes["gen_ai.request.model"] for span in app.spans if span.attributes}
    assert names == {f"made up {number}" for number in range(8)}


async def test_opentelemetry_is_given_names_and_numbers_that_can_be_exported(
    server: OpenAIServer, app: App
) -> None:
    server.answer = bogus
    async with PromptCache() as cache:
        with OpenTelemetryMetrics(cache, **app.providers):
            create = cache.wrap(server.client(max_retries=0)).chat.completions.create
            for _ in range(4):
                await create(**chat())
            with pytest.raises(UnicodeEncodeError):
                await create(**chat() | {"model": "\ud800"})
            numbers = app.numbers()
    for name in ("tokens_saved", "tokens_spent"):
        assert all(value <= MOST for value in numbers[f"aiopromptcache.{name}"].values())
    for labels in [labels for points in numbers.values() for labels in points]:
        assert str(labels).encode()
        assert all(value.encode() for _, value in labels)
    for span in app.spans:
        assert span.name.encode()
        assert all(str(value).encode() for value in (span.attributes or {}).values())


def test_a_registry_with_the_name_of_another_is_told_and_not_half_attached(
    registry: CollectorRegistry,
) -> None:
    taken = Gauge("aiopromptcache_flights", "Somebody else's.", registry=registry)
    cache = PromptCache()
    with pytest.raises(ValueError, match="aiopromptcache_flights"):
        PrometheusMetrics(cache, registry=registry)
    assert not cache._engine.ledger.timings.heard
    registry.unregister(taken)
    with PrometheusMetrics(cache, registry=registry):
        assert b"aiopromptcache_flights{" in generate_latest(registry)


def test_models_are_as_many_as_stats_tell_apart(registry: CollectorRegistry) -> None:
    cache = PromptCache(prices={"m": Price(1.0)})
    for number in range(3 * MODELS):
        cache.stats.of_model("chat.completions", f"m{number}").spent.tokens.prompt += 1
    with PrometheusMetrics(cache, registry=registry):
        found = samples(generate_latest(registry).decode())
    spent = by(found["aiopromptcache_tokens_spent_total"], "model")
    assert len(spent) == MODELS + 1
    assert spent["other",] == 2 * MODELS
