"""Prometheus: what is scraped is what the upstream and the callers counted."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import weakref
from collections import Counter
from typing import Any

import pytest
from engine_tools import quiet
from observed import FACTORIES, MODEL, SECRET, TENANT, by, chat, samples, scrape, traffic
from openai import InternalServerError
from prometheus_client import CollectorRegistry, generate_latest

from aiopromptcache import (
    CacheEvent,
    ConfigurationError,
    MemoryTier,
    Price,
    PromptCache,
    RedisTier,
    cache_status,
)
from aiopromptcache.metrics.prometheus import PrometheusMetrics
from aiopromptcache.similarity import LexicalSimilarity
from aiopromptcache.testing import FaultyTier, OpenAIServer, VirtualClock

pytestmark = pytest.mark.anyio

ENDPOINTS = {
    "chat.completions": "chat/completions",
    "embeddings": "embeddings",
    "responses": "responses",
}


def read(registry: CollectorRegistry) -> dict[str, Any]:
    """What would be scraped, without the way there."""
    return samples(generate_latest(registry).decode())


async def test_what_is_scraped_is_what_upstream_and_callers_counted(
    server: OpenAIServer, registry: CollectorRegistry
) -> None:
    prices = {MODEL: Price(input=1_000_000.0)}  # a dollar a token
    async with PromptCache(namespace="shop", prices=prices) as cache:
        metrics = PrometheusMetrics(cache, registry=registry)
        client = cache.wrap(server.client(max_retries=0))
        known = await traffic(cache, server, client)
        text = await scrape(registry)
        found = samples(text)

        assert by(found["aiopromptcache_requests_total"], "endpoint", "outcome", "tier") == known
        calls = by(found["aiopromptcache_upstream_calls_total"], "endpoint")
        seen = {(name,): server.calls_for(path) for name, path in ENDPOINTS.items()}
        assert calls == {**seen, ("own",): FACTORIES}
        assert sum(calls.values()) == server.calls + FACTORIES == cache.stats.upstream_calls
        timed = by(found["aiopromptcache_upstream_duration_seconds_count"], "endpoint")
        assert timed == calls
        assert by(found["aiopromptcache_upstream_errors_total"], "endpoint") == {
            ("chat.completions",): 1
        }
        for flow in ("saved", "spent"):
            tokens = by(found[f"aiopromptcache_tokens_{flow}_total"], "type")
            counted = getattr(cache.stats, f"tokens_{flow}")
            assert tokens == {("prompt",): counted.prompt, ("completion",): counted.completion}
            dollars = by(found[f"aiopromptcache_cost_{flow}_dollars_total"])
            assert dollars[()] == getattr(cache.stats, f"cost_{flow}")
        assert by(found["aiopromptcache_unpriced_answers_total"], "model").keys() == {("vectors",)}
        assert by(found["aiopromptcache_tier_entries"], "tier") == {("memory",): cache.stats.stores}
        assert by(found["aiopromptcache_tier_size_bytes"], "tier")["memory",] > 0
        assert {dict(labels)["namespace"] for rows in found.values() for labels in rows} == {"shop"}
        metrics.close()


async def test_no_prompt_key_or_partition_is_told(
    server: OpenAIServer, registry: CollectorRegistry
) -> None:
    keys: set[str] = set()
    async with PromptCache(hooks=[lambda event: keys.add(event.key or "-")]) as cache:
        with PrometheusMetrics(cache, registry=registry):
            await traffic(cache, server, cache.wrap(server.client(max_retries=0)))
            await cache.aclose()
            text = await scrape(registry)
    assert len(keys) > 5
    assert not [word for word in (SECRET, TENANT, *keys - {"-"}) if word in text]
    assert hashlib.sha256(TENANT.encode()).hexdigest() not in text


async def test_waits_and_looks_are_timed(server: OpenAIServer, registry: CollectorRegistry) -> None:
    async with PromptCache() as cache:
        client = cache.wrap(server.client())
        await client.chat.completions.create(**chat("before"))
        with PrometheusMetrics(cache, registry=registry):
            for _ in range(4):
                await client.chat.completions.create(**chat())
            found = read(registry)
            waits = found["aiopromptcache_wait_duration_seconds_count"]
            assert by(waits, "endpoint", "outcome") == {("chat.completions", "miss"): 2}
            looks = by(found["aiopromptcache_tier_duration_seconds_count"], "tier", "operation")
            assert looks.keys() == {("memory", "get")}
            looked = looks["memory", "get"]
            await cache.get("nothing")
            again = read(registry)["aiopromptcache_tier_duration_seconds_count"]
            assert by(again)[()] == looked + 1
        PrometheusMetrics(cache, registry=registry)
        await cache.get("nothing")
        again = read(registry)["aiopromptcache_tier_duration_seconds_count"]
        assert by(again)[()] == looked + 2, "while nobody reads, nothing is timed"


async def test_waits_that_fail_or_are_given_up_are_told_apart(
    server: OpenAIServer, registry: CollectorRegistry
) -> None:
    async with PromptCache() as cache:
        create = cache.wrap(server.client(max_retries=0)).chat.completions.create
        with PrometheusMetrics(cache, registry=registry):
            server.fail(500)
            with pytest.raises(InternalServerError):
                await create(**chat())
            server.hold()
            task = asyncio.ensure_future(create(**chat()))
            await server.wait_active(1)
            task.cancel()
            await asyncio.wait([task])
            await server.wait_disconnects(1)
            await quiet()
            found = read(registry)
            for metric in ("wait", "upstream"):
                counts = found[f"aiopromptcache_{metric}_duration_seconds_count"]
                assert by(counts, "outcome") == {("error",): 1, ("cancelled",): 1}
            assert by(found["aiopromptcache_upstream_calls_total"])[()] == server.calls == 2
            assert by(found["aiopromptcache_upstream_errors_total"])[()] == 1


async def test_buckets_count_what_is_not_above_their_bound(
    server: OpenAIServer, registry: CollectorRegistry, clock: VirtualClock
) -> None:
    async with PromptCache(clock=clock) as cache:

        async def slow(seconds: float) -> int:
            clock.advance(seconds)
            return 1

        with PrometheusMetrics(cache, registry=registry):
            for seconds in (0.01, 0.5, 100.0):
                await cache.get_or_create(str(seconds), lambda s=seconds: slow(s))
            found = read(registry)
            buckets = by(found["aiopromptcache_upstream_duration_seconds_bucket"], "le")
            counts = {float(bound): count for (bound,), count in buckets.items()}
            assert counts[0.02] == 1
            assert counts[0.64] == 2
            assert counts[81.92] == 2
            assert counts[float("inf")] == 3
            total = by(found["aiopromptcache_upstream_duration_seconds_sum"])[()]
            assert total == pytest.approx(100.51)


async def test_hits_from_redis_by_a_second_cache(
    server: OpenAIServer, registry: CollectorRegistry, url: str
) -> None:
    events: list[CacheEvent] = []

    def make(*tiers: Any, **options: Any) -> PromptCache:
        return PromptCache(*tiers, RedisTier(url, timeout=5.0), **options)

    first = make(MemoryTier(), namespace="shop")
    second = make(MemoryTier(), namespace="shop", hooks=[events.append])
    third = make(namespace="other")
    with PrometheusMetrics(first, second, third, registry=registry):
        told: Counter[Any] = Counter()
        for cache in (first, second):
            client = cache.wrap(server.client())
            for _ in range(2):
                answer: Any = await client.chat.completions.create(**chat())
                told["chat.completions", *_told(answer)] += 1
            answer = await client.embeddings.create(model="vectors", input=["one", "two"])
            told["embeddings", *_told(answer)] += 1
        found = samples(await scrape(registry))
        requests = by(found["aiopromptcache_requests_total"], "endpoint", "outcome", "tier")
        assert requests == told
        assert told["embeddings", "hit", "redis"] == 1
        assert told["chat.completions", "hit", "redis"] >= 1
        assert by(found["aiopromptcache_upstream_calls_total"])[()] == server.calls == 2
        waits = by(found["aiopromptcache_wait_duration_seconds_count"], "endpoint", "outcome")
        assert waits == {key[:2]: count for key, count in told.items() if key[2] != "memory"}
        operations = by(found["aiopromptcache_tier_duration_seconds_count"], "tier", "operation")
        assert operations["redis", "claim"] >= 2
        assert operations["redis", "fill"] >= 1
        breakers = found["aiopromptcache_tier_breaker_open"]
        assert {dict(labels)["namespace"] for labels in breakers} == {"shop", "other"}
        assert set(breakers.values()) == {0}
    for cache in (first, second, third):
        await cache.aclose()
    timed = [event.duration for event in events if event.kind == "hit" and event.tier == "redis"]
    assert len(timed) >= 2
    assert all(seconds is not None and seconds > 0 for seconds in timed)
    assert not any(event.duration for event in events if event.tier == "memory")


def _told(answer: Any) -> tuple[str, str]:
    status = cache_status(answer)
    assert status is not None
    return "hit" if status.hit else "miss", status.tier or ""


async def test_a_breaker_opens_and_closes(registry: CollectorRegistry) -> None:
    events: list[CacheEvent] = []
    faulty = FaultyTier()
    async with PromptCache(MemoryTier(), faulty, hooks=[events.append]) as cache:
        with PrometheusMetrics(cache, registry=registry):
            faulty.fail()
            for number in range(6):
                await cache.set(str(number), 1)
            found = read(registry)
            assert by(found["aiopromptcache_tier_breaker_open"], "tier") == {("faulty",): 1}
            assert by(found["aiopromptcache_tier_waiting_writes"])[()] == 6
            assert by(found["aiopromptcache_errors_total"])[()] == cache.stats.errors > 0
    assert [event.state for event in events if event.kind == "breaker"] == ["open"]
    assert {event.state for event in events if event.kind != "breaker"} == {None}


async def test_similar_hits_and_what_is_known_of_them(
    server: OpenAIServer, registry: CollectorRegistry
) -> None:
    matcher = LexicalSimilarity(threshold=0.7)
    async with PromptCache(similarity=matcher, namespace="similar") as cache:
        with PrometheusMetrics(cache, registry=registry):
            create = cache.wrap(server.client()).chat.completions.create
            await create(**chat("How does a bicycle stay upright when it moves?"))
            await quiet()
            answer = await create(**chat("How does a bicycle stay upright when it is moving?"))
            found = read(registry)
            requests = by(found["aiopromptcache_requests_total"], "outcome", "tier")
            assert requests == {("miss", ""): 1, ("similar", "memory"): 1}
            assert by(found["aiopromptcache_similar_false_hits_total"]) == {}
            assert by(found["aiopromptcache_similar_threshold_ratio"])[()] == 0.7
            status = cache_status(answer)
            assert status is not None
            cache.report_false_hit(status)
            found = read(registry)
            assert by(found["aiopromptcache_similar_false_hits_total"])[()] == 1
            assert by(found["aiopromptcache_similar_false_hit_estimate_ratio"])[()] == 1.0
            bound = by(found["aiopromptcache_similar_false_hit_bound_ratio"])[()]
            assert bound == cache.stats.false_hit_bound


async def test_evictions_expirations_and_dropped_events(
    registry: CollectorRegistry, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiopromptcache._events.QUEUE_LIMIT", 3)
    memory = MemoryTier(max_entries=2)
    async with PromptCache(memory, ttl=10, clock=clock, hooks=[lambda event: None]) as cache:
        with PrometheusMetrics(cache, registry=registry):
            for number in range(5):  # nobody else runs meanwhile
                memory.put(f"default:{number}", cache._engine.answers.entry(*_one(cache)))
            clock.advance(11)
            memory.sweep()
            found = read(registry)
            assert by(found["aiopromptcache_evictions_total"])[()] == 3
            assert by(found["aiopromptcache_expirations_total"])[()] == 2
            assert by(found["aiopromptcache_dropped_events_total"])[()] == 2
            assert by(found["aiopromptcache_tier_entries"]) == {}


def _one(cache: PromptCache) -> Any:
    from aiopromptcache import Kind

    return Kind.JSON, b"1", cache.policy


# Attaching


async def test_a_cache_that_is_made_anew_is_attached_anew(registry: CollectorRegistry) -> None:
    for _ in range(2):
        async with PromptCache(namespace="again") as cache:
            PrometheusMetrics(cache, registry=registry)
            PrometheusMetrics(cache, registry=registry)
            await cache.get("nothing")
            found = read(registry)
            requests = by(found["aiopromptcache_requests_total"], "namespace")
            assert requests == {("again",): 1}
        del cache
        gc.collect()


async def test_nothing_keeps_a_cache_alive_and_a_closed_one_is_read(
    registry: CollectorRegistry,
) -> None:
    cache = PromptCache()
    metrics = PrometheusMetrics(cache, registry=registry)
    await cache.get("nothing")
    await cache.aclose()
    assert by(read(registry)["aiopromptcache_requests_total"])[()] == 1
    engine, kept = weakref.ref(cache._engine), weakref.ref(cache)
    del cache
    gc.collect()
    assert engine() is None
    assert kept() is None
    assert "aiopromptcache_requests_total" not in read(registry)
    metrics.close()


async def test_a_client_whose_cache_is_forgotten_is_still_counted(
    server: OpenAIServer, registry: CollectorRegistry
) -> None:
    cache = PromptCache()
    PrometheusMetrics(cache, registry=registry)
    client = cache.wrap(server.client())
    engine = cache._engine
    del cache
    gc.collect()
    await client.chat.completions.create(**chat())
    assert by(read(registry)["aiopromptcache_requests_total"])[()] == 1
    await engine.aclose()


async def test_closing_detaches_and_leaves_the_registry_as_it_was(
    registry: CollectorRegistry,
) -> None:
    async with PromptCache(namespace="one") as one, PromptCache(namespace="two") as two:
        first = PrometheusMetrics(one, registry=registry)
        second = PrometheusMetrics(two, registry=registry)
        for cache in (one, two):
            await cache.get("nothing")
        first.close()
        first.close()
        requests = read(registry)["aiopromptcache_requests_total"]
        assert by(requests, "namespace") == {("two",): 1}
        assert one._engine.storage.peek == one._engine.storage.local.peek  # type: ignore[union-attr]
        second.close()
        assert read(registry) == {}


async def test_caches_without_memory_are_read_too(registry: CollectorRegistry) -> None:
    async with PromptCache(FaultyTier()) as cache:
        with PrometheusMetrics(cache, registry=registry):
            await cache.get("nothing")
            found = read(registry)
            operations = found["aiopromptcache_tier_duration_seconds_count"]
            assert by(operations, "tier", "operation") == {("faulty", "get"): 1}


async def test_tiers_that_know_what_they_hold_are_shown_with_it(
    registry: CollectorRegistry,
) -> None:
    class Disk(MemoryTier):
        name = "disk"

    async with PromptCache(MemoryTier(max_entries=2), Disk(), FaultyTier()) as cache:
        with PrometheusMetrics(cache, registry=registry):
            for number in range(3):
                await cache.set(str(number), number)
            entries = by(read(registry)["aiopromptcache_tier_entries"], "tier")
            assert entries == {("memory",): 2, ("disk",): 3}


@pytest.mark.parametrize(
    ("arguments", "options", "named"),
    [
        ((), {}, "caches"),
        (("no cache",), {}, "no cache"),
        ((PromptCache(),), {"registry": "none"}, "registry='none'"),
    ],
)
def test_what_is_no_cache_or_no_registry_is_named(arguments: Any, options: Any, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        PrometheusMetrics(*arguments, **options)


async def test_reading_from_another_thread_while_calls_are_counted(
    registry: CollectorRegistry,
) -> None:
    async with PromptCache() as cache:
        with PrometheusMetrics(cache, registry=registry):
            reading = asyncio.get_running_loop().run_in_executor(
                None, lambda: [generate_latest(registry) for _ in range(20)]
            )
            count = 0
            while not reading.done():
                await cache.get_or_create(str(count), lambda: asyncio.sleep(0, 1))
                count += 1
            await reading
            found = by(read(registry)["aiopromptcache_requests_total"], "outcome")
            assert found == {("miss",): count}
