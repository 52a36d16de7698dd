"""What a Redis tier says it holds of a namespace: exact where it can be, else a fair estimate."""

from __future__ import annotations

from typing import Any

import pytest
import redis.asyncio
from servers import Cluster, Server

from aiopromptcache import PromptCache, RedisTier
from aiopromptcache.tiers import _measure
from aiopromptcache.tiers._base import Held, MeasuredTier

pytestmark = pytest.mark.anyio

KEY, OTHER = b"k" * 32, b"o" * 32


async def stored(cache: PromptCache, count: int, size: int = 200) -> None:
    """Store so many entries of so many bytes."""
    for number in range(count):
        await cache.set(f"key {number}", b"x" * size)


async def foreign(client: Any, count: int) -> None:
    """Store what is not ours."""
    pipeline = client.pipeline()
    for number in range(count):
        pipeline.set(f"session:{number}", b"y" * 1_000)
    await pipeline.execute()


def held(found: Held | None) -> Held:
    """What was told."""
    assert found is not None
    return found


@pytest.mark.parametrize(
    "options",
    [{}, {"encryption_key": KEY}, {"encryption_key": [OTHER, KEY]}, {"max_entries": 1_000}],
    ids=["plain", "encrypted", "rotated", "indexed"],
)
async def test_what_is_there_is_counted_exactly(server: Server, options: dict[str, Any]) -> None:
    tier = RedisTier(server.url, timeout=5, compress_over=None, **options)
    assert isinstance(tier, MeasuredTier)
    async with (
        PromptCache(tier, namespace="a*") as cache,
        PromptCache(RedisTier(server.url, timeout=5), namespace="a*b") as other,
    ):
        assert await tier.measure("a%2A") == Held(0, 0)
        await stored(cache, 30)
        await stored(other, 5)
        await cache.set("tagged", 1, tags=["tag"])
        with server.client() as client:
            names = list(client.scan_iter(match="aiopromptcache:a%2A:e:*"))
            used = sum(client.memory_usage(name) for name in names)
        assert len(names) == 31
        assert await tier.measure("a%2A") == Held(31, used)
        await cache.delete("key 0", "key 1")
        await cache.invalidate("tag")
        assert held(await tier.measure("a%2A")).entries == 28


async def test_many_are_estimated_within_some_percent(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_measure, "MOST", 900)
    tier = RedisTier(server.url, timeout=5, compress_over=None)
    async with (
        PromptCache(tier) as cache,
        redis.asyncio.Redis.from_url(server.url) as client,
    ):
        await stored(cache, 2_000)
        one = await client.memory_usage(b"aiopromptcache:default:e:{key 1000}")
        assert one is not None
        alone = held(await tier.measure("default"))
        await foreign(client, 2_000)
        among = held(await tier.measure("default"))
    assert not alone.exact
    assert alone.entries == pytest.approx(2_000, rel=0.01)
    assert not among.exact
    assert among.entries == pytest.approx(2_000, rel=0.25)  # four standard deviations
    for found in (alone, among):
        assert found.bytes / found.entries == pytest.approx(one, rel=0.05)


async def test_of_too_few_among_many_nothing_is_said(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_measure, "MOST", 900)
    tier = RedisTier(server.url, timeout=5)
    async with PromptCache(tier) as cache, redis.asyncio.Redis.from_url(server.url) as client:
        await stored(cache, 5)
        await foreign(client, 3_000)
        assert await tier.measure("default") is None


async def test_an_index_knows_also_few_among_many_and_forgets_what_is_gone(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_measure, "MOST", 900)
    monkeypatch.setattr(_measure, "ENOUGH", 100)
    tier = RedisTier(server.url, timeout=5, max_entries=600)
    async with PromptCache(tier) as cache, redis.asyncio.Redis.from_url(server.url) as client:
        await foreign(client, 3_000)
        await stored(cache, 80)
        assert held(await tier.measure("default"))[::2] == (80, True)
        await stored(cache, 700)
        assert held(await tier.measure("default"))[::2] == (600, False)
        names = [f"aiopromptcache:default:e:{{key {number}}}" for number in range(100, 400)]
        assert await client.unlink(*names) == 300  # as if they had expired
        assert held(await tier.measure("default")).entries == pytest.approx(300, rel=0.6)


@pytest.mark.parametrize("most", [None, 100])
async def test_being_measured_is_no_use_of_an_entry(server: Server, most: int | None) -> None:
    server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lfu")
    server.command("CONFIG", "SET", "lfu-log-factor", "0")  # each use counts
    tier = RedisTier(server.url, timeout=5, max_entries=most)
    async with PromptCache(tier) as cache:
        await cache.set("key", 1)
        name = b"aiopromptcache:default:e:{key}"
        before = server.command("OBJECT", "FREQ", name)
        for _ in range(20):
            assert held(await tier.measure("default")).entries == 1
        assert server.command("OBJECT", "FREQ", name) == before


async def test_on_a_cluster_all_masters_count(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = cluster.alive()[0].port
    async with redis.asyncio.RedisCluster(host="127.0.0.1", port=port) as client:
        for options in ({}, {"max_entries": 5_000}):
            tier = RedisTier(client, timeout=5, **options)
            async with PromptCache(tier, namespace="measured") as cache:
                await stored(cache, 300)
                found = held(await tier.measure("measured"))
                assert found[::2] == (300, True)
                assert 300 * 200 < found.bytes < 300 * 800
                with monkeypatch.context() as patch:
                    patch.setattr(_measure, "STEP", 20)
                    patch.setattr(_measure, "MOST", 40)
                    found = held(await tier.measure("measured"))
                assert found.entries == pytest.approx(300, rel=0.5)
                await cache.clear()


async def test_a_user_who_may_not_ask_is_told_nothing_and_the_tier_is_well(server: Server) -> None:
    server.command(
        "ACL", "SETUSER", "narrow", "on", ">word", "~*", "&*", "+@all", "-memory", "-scan"
    )
    url = server.url.replace("redis://", "redis://narrow:word@")
    tier = RedisTier(url, timeout=5)
    async with PromptCache(tier) as cache:
        await cache.set("key", 1)
        assert await tier.measure("default") is None
        assert await cache.get("key") == 1
        assert cache.stats.errors == 0


@pytest.mark.parametrize("fault", ["out_of_memory", "read_only"])
async def test_a_server_that_takes_no_writes_is_measured(server: Server, fault: str) -> None:
    tier = RedisTier(server.url, timeout=5)
    async with PromptCache(tier) as cache:
        await cache.set("key", 1)
        with getattr(server, fault)():
            assert held(await tier.measure("default")).entries == 1
