"""What tiers hold, in Prometheus and OpenTelemetry: of Redis too, and nobody waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from observed import App, by, samples
from prometheus_client import CollectorRegistry, generate_latest
from servers import Server

from aiopromptcache import ConfigurationError, MemoryTier, PromptCache, RedisTier
from aiopromptcache.metrics.opentelemetry import OpenTelemetryMetrics
from aiopromptcache.metrics.prometheus import PrometheusMetrics
from aiopromptcache.testing import FaultyTier, TCPProxy
from aiopromptcache.tiers._base import Held

pytestmark = pytest.mark.anyio


def entries(registry: CollectorRegistry) -> dict[Any, float]:
    """Entries by tier, without what is 0, as one scrape tells them."""
    found = samples(generate_latest(registry).decode())
    sizes = by(found.get("aiopromptcache_tier_size_bytes", {}), "tier")
    counts = by(found.get("aiopromptcache_tier_entries", {}), "tier")
    assert sizes.keys() == counts.keys()
    return counts


async def measured(cache: PromptCache) -> None:
    """What a scrape has begun is over."""
    await asyncio.sleep(0)  # it begins in the loop
    task = cache._engine.sizes._task
    if task is not None:
        await asyncio.wait([task])


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look has the tiers measured."""
    monkeypatch.setattr("aiopromptcache._sizes.EVERY_SECONDS", 0.0)


@pytest.fixture
async def cache(url: str) -> AsyncIterator[PromptCache]:
    """Memory over Redis."""
    async with PromptCache(MemoryTier(), RedisTier(url, timeout=5)) as cache:
        yield cache


@pytest.mark.usefixtures("at_once")
async def test_a_scrape_tells_what_the_one_before_had_measured(
    cache: PromptCache, registry: CollectorRegistry
) -> None:
    with PrometheusMetrics(cache, registry=registry):
        for number in range(3):
            await cache.set(str(number), number)
        assert entries(registry) == {("memory",): 3}
        await measured(cache)
        assert entries(registry) == {("memory",): 3, ("redis",): 3}
        await measured(cache)
        await cache.delete("0")
        assert entries(registry) == {("memory",): 2, ("redis",): 3}
        await measured(cache)
        assert entries(registry) == {("memory",): 2, ("redis",): 2}
        await measured(cache)


@pytest.mark.usefixtures("at_once")
async def test_opentelemetry_tells_the_same(cache: PromptCache, app: App) -> None:
    with OpenTelemetryMetrics(cache, **app.providers):
        await cache.set("key", 1)
        app.numbers()
        await measured(cache)
        found = app.numbers()
        assert by(found["aiopromptcache.tier_entries"], "tier") == {("memory",): 1, ("redis",): 1}
        assert by(found["aiopromptcache.tier_size"], "tier")["redis",] > 0
        await measured(cache)


@pytest.mark.usefixtures("at_once")
async def test_a_scrape_from_another_thread_has_the_cache_measured_in_its_loop(
    cache: PromptCache, registry: CollectorRegistry
) -> None:
    with PrometheusMetrics(cache, registry=registry):
        await cache.set("key", 1)
        threads: list[int] = []
        tier: Any = cache._engine.storage.remote[0].tier
        plain = tier.measure

        async def measure(namespace: str) -> Held | None:
            threads.append(threading.get_ident())
            found: Held | None = await plain(namespace)
            return found

        tier.measure = measure
        await asyncio.to_thread(generate_latest, registry)
        await measured(cache)
        found = await asyncio.to_thread(entries, registry)
        await measured(cache)
    assert found["redis",] == 1
    assert set(threads) == {threading.get_ident()}


async def test_it_is_measured_only_because_somebody_looks_and_not_each_time(
    cache: PromptCache, registry: CollectorRegistry, valkey: Server
) -> None:
    with PrometheusMetrics(cache, registry=registry):
        await cache.set("key", 1)
        asked = cache._engine.ledger.timings.histograms["tier"]
        assert ("redis", "measure") not in asked
        for _ in range(5):
            generate_latest(registry)
            await measured(cache)
        assert sum(asked["redis", "measure"].counts) == 1


@pytest.mark.usefixtures("at_once")
async def test_caches_of_one_namespace_do_not_count_twice_what_they_share(
    url: str, registry: CollectorRegistry
) -> None:
    memory = MemoryTier()
    async with (
        PromptCache(memory, RedisTier(url, timeout=5)) as one,
        PromptCache(memory, RedisTier(url, timeout=5)) as two,
        PromptCache(MemoryTier(), RedisTier(url, timeout=5)) as three,
    ):
        with PrometheusMetrics(one, two, three, registry=registry):
            await one.set("key", 1)
            for _ in range(2):  # what is read while it begins to listen is not kept
                await three.get("key")
            entries(registry)
            for cache in (one, two, three):
                await measured(cache)
            assert entries(registry) == {("memory",): 2, ("redis",): 1}
            for cache in (one, two, three):
                await measured(cache)


@pytest.mark.usefixtures("at_once")
async def test_a_tier_that_is_out_gives_nothing_and_no_scrape_waits(
    valkey: Server, registry: CollectorRegistry
) -> None:
    valkey.command("FLUSHALL")
    async with (
        TCPProxy("127.0.0.1", valkey.port) as proxy,
        PromptCache(
            MemoryTier(), RedisTier(f"redis://127.0.0.1:{proxy.port}/0", timeout=0.2)
        ) as cache,
    ):
        with PrometheusMetrics(cache, registry=registry):
            await cache.set("key", 1)
            while ("redis",) not in entries(registry):
                await measured(cache)
            await measured(cache)
            proxy.black_hole()
            assert entries(registry)["redis",] == 1  # nobody knows yet
            await measured(cache)
            assert entries(registry) == {("memory",): 1}
            while not cache._engine.storage.remote[0].open:
                await measured(cache)
                assert entries(registry) == {("memory",): 1}
            proxy.pass_through()


@pytest.mark.usefixtures("at_once")
async def test_what_was_measured_long_ago_is_not_told(
    cache: PromptCache, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PrometheusMetrics(cache, registry=registry):
        await cache.set("key", 1)
        entries(registry)
        await measured(cache)
        monkeypatch.setattr("aiopromptcache._sizes.OLD_SECONDS", 0.0)
        assert entries(registry) == {("memory",): 1}
        await measured(cache)


@pytest.mark.usefixtures("at_once")
async def test_a_closed_cache_is_read_and_not_measured(
    url: str, registry: CollectorRegistry
) -> None:
    cache = PromptCache(MemoryTier(), RedisTier(url, timeout=5))
    with PrometheusMetrics(cache, registry=registry):
        await cache.set("key", 1)
        entries(registry)
        closing = asyncio.ensure_future(cache.aclose())
        while not closing.done():
            entries(registry)
            await asyncio.sleep(0)
        entries(registry)
        await measured(cache)
        assert ("redis",) not in entries(registry)
        link: Any = cache._engine.storage.remote[0].tier
        assert link._link._loop is None, "it has connected again"


@pytest.mark.usefixtures("at_once")
async def test_what_a_third_party_measures_is_told_and_its_nonsense_is_its_fault(
    registry: CollectorRegistry,
) -> None:
    class Disk(FaultyTier):
        told: Any = Held(7, 70)

        async def measure(self, namespace: str) -> Held | None:
            answer: Held | None = self.told
            return answer

    disk = Disk()
    async with PromptCache(MemoryTier(), disk) as cache:
        with PrometheusMetrics(cache, registry=registry):
            await cache.get("nothing")
            entries(registry)
            await measured(cache)
            assert entries(registry) == {("faulty",): 7}
            disk.told = "seven"
            await measured(cache)
            entries(registry)
            await measured(cache)
            assert entries(registry) == {}
            assert cache.stats.errors > 0
            await measured(cache)


async def test_a_tier_that_fails_to_say_what_it_holds_spoils_no_scrape(
    registry: CollectorRegistry,
) -> None:
    class Broken(FaultyTier):
        def held(self) -> tuple[int, int]:
            raise LookupError("a fault")

    async with PromptCache(MemoryTier(), Broken()) as cache:
        with PrometheusMetrics(cache, registry=registry):
            await cache.set("key", 1)
            assert entries(registry) == {("memory",): 1}


async def test_nobody_is_attended_after_the_last_has_left(registry: CollectorRegistry) -> None:
    cache = PromptCache()
    heard = cache._engine.ledger.timings.heard
    first, second = (PrometheusMetrics(cache, registry=registry) for _ in range(2))
    first.close()
    assert heard
    second.close()
    second.close()
    assert not heard


def test_arguments_are_checked_before_anything_is_attached() -> None:
    cache = PromptCache()
    with pytest.raises(ConfigurationError):
        PrometheusMetrics(cache, "no cache")  # type: ignore[arg-type]
    assert not cache._engine.ledger.timings.heard
