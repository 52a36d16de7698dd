"""What a Redis tier says it holds: every entry under its slot, and no more than it can read."""

from __future__ import annotations

from typing import Any

import pytest
import redis.asyncio
from servers import Server

from aiopromptcache import Entry, Kind, PromptCache, RedisTier
from aiopromptcache.testing import TCPProxy
from aiopromptcache.tiers._base import Listed, ListedTier
from aiopromptcache.tiers._crypt import Cipher
from aiopromptcache.tiers._wire import encode

pytestmark = pytest.mark.anyio

KEY, OTHER = b"k" * 32, b"o" * 32
ODD_KEYS = [
    "plain",
    "",
    "a:b",
    "{a}",
    "}",
    "%7D",
    "%",
    "100%25",
    "*?[a-z]\\",
    "é\n",
    "\ud800",
    "x" * 999,
]
SETUPS: list[dict[str, Any]] = [{}, {"encryption_key": KEY}, {"encryption_key": [OTHER, KEY]}]


async def _listed(tier: RedisTier, namespace: str = "default") -> list[Listed]:
    return [found async for batch in tier.entries(namespace) for found in batch]


@pytest.mark.parametrize("options", SETUPS, ids=["plain", "encrypted", "rotated"])
async def test_every_entry_is_listed_under_its_slot(url: str, options: dict[str, Any]) -> None:
    tier = RedisTier(url, timeout=5, **options)
    assert isinstance(tier, ListedTier)
    async with PromptCache(tier) as cache:
        for number, key in enumerate(ODD_KEYS):
            await cache.set(key, number, tags=["tag"], ttl=None)
        listed = await _listed(tier)
        assert {found.slot for found in listed} == {f"default:{key}" for key in ODD_KEYS}
        for found in listed:
            assert found.slot is not None
            assert found.entry is not None
            [kept] = (await tier.get([found.slot])).values()
            assert (found.entry.payload, found.entry.tags) == (kept.payload, kept.tags)
            assert abs(found.entry.stored_at - kept.stored_at) < 0.001
            assert found.size > len(kept.payload)


async def test_only_one_namespace_and_prefix_is_listed(url: str) -> None:
    tier, foreign = RedisTier(url, timeout=5), RedisTier(url, timeout=5, prefix="other")
    async with (
        PromptCache(tier, namespace="a*") as cache,
        PromptCache(tier, namespace="ab") as neighbour,
        PromptCache(foreign, namespace="a*") as other,
    ):
        for each in (cache, neighbour, other):
            await each.set("key", 1)
        assert [found.slot for found in await _listed(tier, "a%2A")] == ["a%2A:key"]


async def test_more_than_a_batch(url: str) -> None:
    tier = RedisTier(url, timeout=5)
    async with PromptCache(tier) as cache:
        entry = Entry(Kind.JSON, b"1", stored_at=cache._engine.clock(), ttl=60.0)
        await tier.set({f"default:{n}": entry for n in range(1_500)})
        batches = [batch async for batch in tier.entries("default")]
        assert len({found.slot for batch in batches for found in batch}) == 1_500
        assert max(len(batch) for batch in batches) <= 64


async def test_what_cannot_be_read_is_listed_as_that(url: str, raw: redis.asyncio.Redis) -> None:
    async with (
        PromptCache(RedisTier(url, timeout=5)) as plain,
        PromptCache(RedisTier(url, timeout=5, encryption_key=KEY)) as sealed,
    ):
        await plain.set("plain", 1)
        await sealed.set("sealed", 1)
    await raw.set("aiopromptcache:default:e:{broken}", b"ap\x01 and no more")
    await raw.set("aiopromptcache:default:e:{\xff}".encode("latin-1"), b"no name")
    for options, readable in (({}, "plain"), ({"encryption_key": KEY}, "sealed")):
        tier = RedisTier(url, timeout=5, **options)
        async with PromptCache(tier):
            listed = await _listed(tier)
            assert len(listed) == 4
            [good] = [found for found in listed if found.entry is not None]
            assert good.slot == f"default:{readable}"


async def test_a_sealed_record_is_listed_only_in_its_own_place(
    url: str, raw: redis.asyncio.Redis
) -> None:
    tier = RedisTier(url, timeout=5, encryption_key=KEY)
    async with PromptCache(tier) as cache:
        await cache.set("one", 1)
        await cache.set("two", 2)
        names = [tier._names.places(f"default:{key}").entry for key in ("one", "two")]
        await raw.set(names[0], await raw.get(names[1]) or b"")
        listed = {found.slot: found.entry for found in await _listed(tier)}
        assert set(listed) == {None, "default:two"}
        assert await cache.get("one") is None


async def test_records_that_were_sealed_without_their_slot_are_read_and_not_listed(
    url: str, raw: redis.asyncio.Redis
) -> None:
    tier = RedisTier(url, timeout=5, encryption_key=KEY)
    async with PromptCache(tier) as cache:
        entry = Entry(Kind.JSON, b"5", stored_at=cache._engine.clock(), ttl=None)
        record = encode(entry, offset=0.0, compress_over=None)
        await raw.set(
            tier._names.places("default:old").entry, Cipher(KEY).seal(b"default:old", record)
        )
        assert await cache.get("old") == 5
        [found] = await _listed(tier)
        assert (found.slot, found.entry) == (None, None)


async def test_a_slot_is_not_readable_in_a_sealed_record(
    url: str, raw: redis.asyncio.Redis
) -> None:
    async with PromptCache(RedisTier(url, timeout=5, encryption_key=KEY)) as cache:
        await cache.set("a telling name", 1)
    [name] = [name async for name in raw.scan_iter(match="*:e:*")]
    record = await raw.get(name)
    assert record is not None
    assert b"telling" not in record
    assert b"default" not in record


async def test_a_server_that_does_not_answer_is_not_waited_for(valkey: Server) -> None:
    async with TCPProxy("127.0.0.1", valkey.port) as proxy:
        proxy.black_hole()
        tier = RedisTier(f"redis://{proxy.host}:{proxy.port}", timeout=0.05)
        with pytest.raises(TimeoutError):
            async for _ in tier.entries("default"):
                pass
        await tier.aclose()
