"""The Redis tier on a real server: one round trip, shared answers, bounded, harmless."""

from __future__ import annotations

import asyncio
import base64
import math
from contextlib import AsyncExitStack
from typing import Any

import pytest
import redis.asyncio
from engine_tools import unwanted

from aiopromptcache import ConfigurationError, MemoryTier, Policy, PromptCache, RedisTier
from aiopromptcache.testing import VirtualClock
from aiopromptcache.tiers._crypt import Cipher

pytestmark = pytest.mark.anyio

KEY = "a-url-safe-base64-key-of-32-bytes--12345678="
OTHER = "another-safe-base64-key-of-32-byte-12345678="
VALUES = [None, True, 0, -1, 2**70, 1.5, math.inf, "", "text", "\ud800", [], [None], {}, b"", b"\0"]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"compress_over": 1},
    {"compress_over": None},
    {"encryption_key": KEY},
    {"encryption_key": KEY, "compress_over": 1},
    {"max_entries": 100},
]


async def count(raw: redis.asyncio.Redis) -> int:
    """Entries on the server, all counted at one moment."""
    return len(await raw.keys("*:e:*"))


async def commands(raw: redis.asyncio.Redis, name: str) -> int:
    """How often the server has run a command."""
    stats = await raw.info("commandstats")
    return int(stats.get(f"cmdstat_{name}", {}).get("calls", 0))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
async def test_what_one_cache_stores_another_reads(url: str, options: dict[str, Any]) -> None:
    async with PromptCache(RedisTier(url, **options)) as one:
        async with PromptCache(RedisTier(url, **options)) as other:
            for number, value in enumerate(VALUES):
                await one.set(str(number), value)
                found = await other.get(str(number), "missing")
                assert found == value
                assert type(found) is type(value)
            long = {"text": "many words " * 1_000}
            await one.set("long", long)
            assert await other.get("long") == long


@pytest.mark.parametrize("options", OPTIONS, ids=str)
async def test_delete_clear_and_tags(
    url: str, raw: redis.asyncio.Redis, options: dict[str, Any]
) -> None:
    async with PromptCache(RedisTier(url, **options), namespace="one") as cache:
        async with PromptCache(RedisTier(url, **options), namespace="two") as other:
            for number in range(10):
                await cache.set(f"k{number}", number, tags=["even" if number % 2 == 0 else "odd"])
            await other.set("k0", "kept", tags=["even"])
            assert await cache.delete("k0", "k1", "none") == 2
            assert await cache.invalidate("even") == 4
            assert await cache.get("k2") is None
            assert await cache.get("k3") == 3
            assert await cache.clear() == 4
            assert await other.get("k0") == "kept"
            assert await count(raw) == 1
            assert await other.clear() == 1
            logs = {f"aiopromptcache:{{{name}}}:log".encode() for name in ("one", "two")}
            assert set(await raw.keys("*")) <= logs, "only logs remain, for a day"
            assert all([await raw.pttl(log) > 0 for log in logs])


@pytest.mark.parametrize("tiers", [1, 2])
async def test_a_thousand_callers_of_one_cold_key_cost_one_round_trip(
    url: str, raw: redis.asyncio.Redis, tiers: int
) -> None:
    async with PromptCache(*[MemoryTier()][: tiers - 1], RedisTier(url)) as cache:
        async with PromptCache(RedisTier(url)) as other:
            await other.set("key", 1)
            await cache.get("another")  # the clock is read, the news are listened to
            before = await commands(raw, "mget"), await commands(raw, "evalsha")
            found = await asyncio.gather(
                *[cache.get_or_create("key", unwanted) for _ in range(1_000)]
            )
            assert found == [1] * 1_000
            assert cache.stats.hits_by_tier == {"redis": 1_000}
            after = await commands(raw, "mget"), await commands(raw, "evalsha")
            assert after == (before[0] + 1, before[1] + 1)


async def test_reads_of_the_same_moment_are_one_command(url: str, raw: redis.asyncio.Redis) -> None:
    async with PromptCache(RedisTier(url)) as cache:
        for number in range(100):
            await cache.set(str(number), number)
        before = await commands(raw, "mget")
        found = await asyncio.gather(*[cache.get(str(number)) for number in range(100)])
        assert found == list(range(100))
        assert await commands(raw, "mget") == before + 1


async def test_a_promoted_entry_keeps_the_rest_of_its_life(url: str, clock: VirtualClock) -> None:
    tier = MemoryTier()
    async with PromptCache(RedisTier(url), clock=clock, ttl=100) as writer:
        await writer.set("key", 1)
        async with PromptCache(tier, RedisTier(url), clock=clock, ttl=1_000) as reader:
            await reader.get("key")  # its clock is read once, before time moves
            await tier.clear("default")
            clock.advance(60)
            assert await reader.get("key") == 1
            assert len(tier) == 1
            clock.advance(41)
            assert await reader.get("key") is None


@pytest.mark.parametrize("skew", [3_600.0, -3_600.0])
async def test_clocks_that_disagree_agree_on_an_age(url: str, skew: float) -> None:
    here, there = VirtualClock(), VirtualClock(1_700_000_000 + skew)
    async with PromptCache(RedisTier(url), clock=here, ttl=100) as one:
        async with PromptCache(RedisTier(url), clock=there) as other:
            await one.set("key", 1)
            assert await other.get("key") == 1
            there.advance(101)
            assert await other.get("key") is None


async def test_the_server_expires_entries_itself(url: str, raw: redis.asyncio.Redis) -> None:
    policy = Policy(ttl=100, stale_while_revalidate=20, stale_if_error=50)
    async with PromptCache(RedisTier(url), policy=policy) as cache:
        await cache.set("key", 1, tags=["a"])
        [key] = [key async for key in raw.scan_iter(match="*:e:*")]
        assert 149_000 < await raw.pttl(key) <= 150_000
        [tag] = [key async for key in raw.scan_iter(match="*:t:*")]
        assert 149_000 < await raw.pttl(tag) <= 150_000
        await cache.set("forever", 1, ttl=None, tags=["a"])
        assert await raw.pttl(tag) == -1


async def test_max_entries_keeps_the_newest(url: str, raw: redis.asyncio.Redis) -> None:
    async with PromptCache(RedisTier(url, max_entries=10)) as cache:
        for number in range(50):
            await cache.set(str(number), number)
        assert await count(raw) == 10
        assert [await cache.get(str(n)) for n in range(50)] == [None] * 40 + list(range(40, 50))


async def test_max_entries_holds_under_concurrent_writers(
    url: str, raw: redis.asyncio.Redis
) -> None:
    async with AsyncExitStack() as stack:
        tiers = [RedisTier(url, max_entries=100, timeout=10) for _ in range(4)]
        caches = [await stack.enter_async_context(PromptCache(tier)) for tier in tiers]
        await asyncio.gather(
            *[cache.set(f"{i}-{n}", n) for i, cache in enumerate(caches) for n in range(500)]
        )
        assert await count(raw) == 100


async def test_compression_is_used_where_it_helps(url: str, raw: redis.asyncio.Redis) -> None:
    async with PromptCache(RedisTier(url)) as cache:
        await cache.set("key", "a" * 100_000)
        [key] = [key async for key in raw.scan_iter(match="*:e:*")]
        assert await raw.strlen(key) < 1_000


async def test_encryption_hides_values_and_keys(url: str, raw: redis.asyncio.Redis) -> None:
    async with PromptCache(RedisTier(url, encryption_key=KEY, compress_over=None)) as cache:
        await cache.set("a secret question", "a secret answer", tags=["a secret tag"])
        for key in await raw.keys("*"):
            assert b"secret" not in key
            if b":e:" in key:
                assert b"secret" not in await raw.get(key)


async def test_keys_rotate_and_a_wrong_one_is_a_miss(url: str) -> None:
    async with (
        PromptCache(RedisTier(url, encryption_key=OTHER)) as old,
        PromptCache(RedisTier(url, encryption_key=[KEY, OTHER])) as rotated,
        PromptCache(RedisTier(url, encryption_key=KEY)) as new,
    ):
        await old.set("key", 1)
        assert await rotated.get("key") == 1
        assert await new.get("key") is None
        await rotated.set("key", 2)
        assert await new.get("key") == 2
        assert await rotated.delete("key") == 1
        assert await old.get("key") is None


async def test_an_entry_moved_to_another_key_is_a_miss(url: str, raw: redis.asyncio.Redis) -> None:
    async with PromptCache(RedisTier(url, encryption_key=KEY)) as cache:
        await cache.set("one", 1)
        [first] = await raw.keys("*:e:*")
        await cache.set("two", 2)
        [second] = [key for key in await raw.keys("*:e:*") if key != first]
        await raw.set(second, await raw.get(first))
        assert await cache.get("two") is None
        assert await cache.get("one") == 1
        assert cache.stats.errors == 1


async def test_bytes_that_are_no_record_are_a_miss_and_an_event(
    url: str, raw: redis.asyncio.Redis
) -> None:
    events = []
    async with PromptCache(RedisTier(url), hooks=[events.append]) as cache:
        await cache.set("key", 1)
        [key] = await raw.keys("*:e:*")
        await raw.set(key, b"\x80\x05garbage")
        assert await cache.get("key", "missing") == "missing"
    assert [event.kind for event in events if event.kind == "error"] == ["error"]


async def test_many_keys_are_deleted_in_as_many_steps_as_it_takes(url: str) -> None:
    keys = [f"key {number}" for number in range(4_000)]  # more than one timeout is enough for
    async with PromptCache(RedisTier(url, timeout=5)) as other:
        await asyncio.gather(*[other.set(key, 1) for key in (*keys[:500], "kept")])
        async with PromptCache(RedisTier(url, timeout=0.25)) as cache:
            assert await cache.delete(*keys) == 500
            assert cache.stats.errors == 0
        assert await other.get("kept") == 1
        assert await other.get(keys[0]) is None


async def test_what_replaces_a_record_under_an_older_key_leaves_none(
    url: str, raw: redis.asyncio.Redis
) -> None:
    async with PromptCache(RedisTier(url, encryption_key=KEY)) as cache:
        await cache.set("key", "older", ttl=None)
        await cache.set("untouched", "older", ttl=None)
    async with PromptCache(RedisTier(url, encryption_key=[OTHER, KEY])) as cache:
        await cache.set("key", "newer")
        assert await cache.get("key") == "newer"
        assert await count(raw) == 2


TAGS = {"large": [], "many tags": [str(n) for n in range(6_000)], "no unicode": ["\ud800"]}


@pytest.mark.parametrize("what", TAGS)
async def test_what_redis_cannot_keep_replaces_what_it_has(url: str, what: str) -> None:
    value = bytes(65 * 2**20) if what == "large" else 1
    async with PromptCache(RedisTier(url, timeout=5)) as one:
        async with PromptCache(MemoryTier(), RedisTier(url, timeout=5)) as other:
            await one.set("key", "older")
            assert await other.get("key") == "older"
            await one.set("key", value, tags=TAGS[what])
            assert await one.get("key") is None
            async with asyncio.timeout(5):
                while await other.get("key") is not None:  # until it has heard the news
                    await asyncio.sleep(0.001)
            assert one.stats.errors == 1


@pytest.mark.parametrize("what", TAGS)
async def test_what_redis_cannot_keep_is_kept_in_memory(url: str, what: str) -> None:
    calls = []

    async def factory() -> Any:
        calls.append(1)
        return bytes(65 * 2**20) if what == "large" else 1

    async with PromptCache(MemoryTier(), RedisTier(url, timeout=5)) as cache:
        for _ in range(2):
            await cache.get_or_create("key", factory, tags=TAGS[what])
        assert len(calls) == 1
    async with PromptCache(RedisTier(url, timeout=5, lease=60)) as cache:
        async with asyncio.timeout(5):  # whoever comes next does not wait for a lease
            await cache.get_or_create("key", factory, tags=TAGS[what])
            async with PromptCache(RedisTier(url, timeout=5)) as other:
                await other.get_or_create("key", factory, tags=TAGS[what])


async def test_one_tier_object_serves_one_loop_after_another(valkey: Any) -> None:
    cache = PromptCache(RedisTier(f"redis://127.0.0.1:{valkey.port}/0"), namespace="loops")

    async def use(value: int) -> Any:
        async with cache:  # a loop that ends with open connections would leave them behind
            await cache.set("key", value)
            return await cache.get("key")

    assert [await asyncio.to_thread(asyncio.run, use(value)) for value in (1, 2)] == [1, 2]


async def test_a_client_handed_in_is_left_open(url: str, raw: redis.asyncio.Redis) -> None:
    async with PromptCache(RedisTier(raw)) as cache:
        await cache.set("key", 1)
    assert await raw.ping()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("http://example",), "http"),
        ((object(),), "object"),
        ((redis.asyncio.Redis(decode_responses=True),), "decode_responses"),
        (("redis://localhost:port",), "port from 0 to 65535"),
        (("redis://localhost:99999",), "port from 0 to 65535"),
    ],
)
def test_what_cannot_be_connected_to_is_refused(arguments: tuple[Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        RedisTier(*arguments)


def test_what_is_said_of_a_url_shows_no_password() -> None:
    with pytest.raises(ConfigurationError, match="%2F") as caught:
        RedisTier("redis://:secret/word@localhost:6379/0")
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_key_may_be_base64_without_padding() -> None:
    plain = bytes(range(32))
    padded = base64.urlsafe_b64encode(plain).decode()
    for key in (padded, padded.rstrip("=")):
        cipher = RedisTier("redis://127.0.0.1", encryption_key=[key])._cipher
        assert cipher is not None
        assert cipher.open(b"place", Cipher(plain).seal(b"place", b"text")) == b"text"


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": -1},
        {"max_entries": 0},
        {"compress_over": 0},
        {"prefix": ""},
        {"prefix": "a{b"},
        {"prefix": "a{}b"},
        {"prefix": "{a}{b}"},
        {"encryption_key": "short"},
        {"encryption_key": b"31 bytes"},
        {"encryption_key": []},
        {"encryption_key": 5},
        {"encryption_key": [5]},
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        RedisTier("redis://127.0.0.1", **options)
