"""Acting as one with encryption, on a cluster, behind Sentinel, and with keys of every kind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import redis.asyncio
from engine_tools import gives, unwanted
from redis.asyncio.sentinel import Sentinel
from servers import Cluster, Sentinels
from together import (
    HEARD,
    Calls,
    Held,
    deaf,
    guard_of,
    lost,
    made_good,
    peeked,
    replaced,
    team,
    wait_until,
    waiting,
)

from aiopromptcache import MemoryTier, PromptCache, RedisTier

pytestmark = pytest.mark.anyio

KEY = "a-url-safe-base64-key-of-32-bytes--12345678="
OTHER = "another-safe-base64-key-of-32-byte-12345678="
KEYS = [
    "plain",
    "",
    "{",
    "}",
    "{}",
    "a{b}c",
    "}{",
    "%7D",
    "%",
    "a b\r\n",
    "\0",
    "key:with:colons",
    "\ud800",
    "ключ 键",
    "*?[a]",
    "k" * 20_000,
]
CHANGES: dict[str, Callable[[PromptCache, str], Awaitable[Any]]] = {
    "delete": lambda cache, key: cache.delete(key),
    "clear": lambda cache, key: cache.clear(),
    "invalidate": lambda cache, key: cache.invalidate("a secret tag"),
    "set": lambda cache, key: cache.set(key, 10, tags=["a secret tag"]),
}


async def act_as_one(caches: list[PromptCache], key: str = "a secret key") -> None:
    """One call for all, everyone hears of every change, and nothing overtaken is stored."""
    for name, change in CHANGES.items():
        upstream = Held()
        load = [asyncio.ensure_future(created(cache, key, upstream)) for cache in caches * 3]
        await upstream.called()
        await asyncio.sleep(0.02)
        upstream.gate.open()
        assert await asyncio.gather(*load) == [1] * len(load)
        assert upstream.count == 1
        for cache in caches:
            await wait_until("the value", lambda c=cache: held(c, key))
        await change(caches[0], key)
        newest = 10 if name == "set" else None
        for cache in caches[1:]:
            await wait_until(f"the news of {name}", lambda c=cache: peeked(c, key) != 1, HEARD)
            assert await cache.get(key) == newest
        await caches[0].clear()
        await wait_until("the end", lambda: not any(peeked(cache, key) for cache in caches))
        late = Held(5)
        flight = asyncio.ensure_future(created(caches[0], key, late))
        await late.called()
        await change(caches[-1], key)
        late.gate.open()
        assert await flight == 5
        assert [await cache.get(key) for cache in caches] == [newest] * len(caches)
        await caches[0].clear()
        await wait_until("the end", lambda: not any(peeked(cache, key) for cache in caches))
    assert all(cache.stats.errors == 0 for cache in caches)


async def created(cache: PromptCache, key: str, upstream: Any) -> Any:
    return await cache.get_or_create(key, upstream, tags=["a secret tag"])


async def held(cache: PromptCache, key: str) -> bool:
    await cache.get(key)
    return bool(peeked(cache, key) == 1)


@pytest.mark.parametrize("options", [{}, {"encryption_key": KEY}], ids=["plain", "encrypted"])
@pytest.mark.parametrize("key", KEYS, ids=lambda key: repr(key[:10]))
async def test_keys_of_every_kind(url: str, options: Any, key: str) -> None:
    async with team(url, 2, **options) as caches:
        await act_as_one(caches, key)


async def test_nothing_is_readable_with_encryption(url: str, raw: Any) -> None:
    async with team(url, 3, encryption_key=KEY) as caches:
        await act_as_one(caches)
        upstream = Held()
        flights = [asyncio.ensure_future(created(c, "a secret key", upstream)) for c in caches]
        await upstream.called()
        await asyncio.sleep(0.02)
        seen = []
        for key in await raw.keys("*"):
            dump = await raw.dump(key)
            seen.append(key)
            assert b"secret" not in key + dump
        assert any(b":l:" in key for key in seen)
        assert any(b":log" in key for key in seen)
        upstream.gate.open()
        await asyncio.gather(*flights)


@pytest.mark.parametrize("first", [0, 1])
async def test_processes_that_rotate_their_keys_one_by_one(url: str, first: int) -> None:
    """In the middle of a rotation either key may be the newest, and all know both."""
    rings = [[KEY, OTHER], [OTHER, KEY]]
    caches = [
        PromptCache(MemoryTier(), RedisTier(url, encryption_key=ring))
        for ring in (rings[first], rings[1 - first])
    ]
    for cache in caches:
        await cache.get_or_create("warm", Calls())
    for change in CHANGES.values():
        await caches[0].set("key", 1, tags=["a secret tag"])
        await wait_until("the value", lambda: held(caches[1], "key"))
        await change(caches[1], "key")
        await wait_until("the news", lambda: peeked(caches[0], "key") != 1, HEARD)
        assert await caches[0].get("key") == await caches[1].get("key") != 1
        await caches[0].clear()
        late = Held(5)
        flight = asyncio.ensure_future(created(caches[0], "key", late))
        await late.called()
        await change(caches[1], "key")
        late.gate.open()
        assert await flight == 5
        found = [await cache.get("key") for cache in caches]
        assert found[0] == found[1] != 5
        await caches[1].clear()
        await wait_until("the end", lambda: not any(peeked(c, "key") for c in caches))
    for cache in caches:
        await cache.aclose()


async def test_with_another_key_nothing_is_shared_and_nothing_breaks(url: str) -> None:
    async with team(url, 1, encryption_key=KEY) as [one]:
        async with team(url, 1, encryption_key=OTHER) as [other], team(url, 1) as [plain]:
            for number, cache in enumerate((one, other, plain)):
                assert await cache.get_or_create("key", gives(number)) == number
            for number, cache in enumerate((one, other, plain)):
                assert await cache.get_or_create("key", unwanted) == number
            await one.delete("key")  # of which the others know only that it was something
            await wait_until("the news", lambda: peeked(other, "key") is None, HEARD)
            assert [await cache.get("key") for cache in (one, other, plain)] == [None, 1, 2]


MANY = """
for i = 1, 1000 do
  redis.call('XADD', KEYS[1], '*', 'k', 'd', 'n', 'other', 's', 'default:other', 'w', 'x')
end
"""


async def test_the_log_is_bounded(url: str, raw: Any) -> None:
    async with team(url, 2, timeout=5) as [one, other]:
        log = "aiopromptcache:{default}:log"
        for _ in range(12):  # as thousands of writers would
            await raw.eval(MANY, 1, log)
        await one.set("key", 1)
        assert await raw.xlen(log) < 11_000
        assert await raw.pttl(log) > 0
        upstream = Held()
        flight = asyncio.ensure_future(other.get_or_create("new", upstream))
        await upstream.called()
        upstream.gate.open()
        assert await flight == 1
        assert await one.get("new") == 1, "a log that was trimmed does not keep new answers out"


async def test_tag_sets_are_bounded(url: str, raw: Any) -> None:
    """They hold what is there, and a little of what has left."""
    async with team(url, 1, max_entries=50, timeout=5) as [cache]:
        for first in range(0, 2_000, 100):
            keys = [f"k{first + number}" for number in range(100)]
            await asyncio.gather(*[cache.set(key, 1, ttl=60, tags=["t"]) for key in keys])
        assert await raw.zcard("aiopromptcache:{default}:t:t") <= 500
        assert 0 < await raw.pttl("aiopromptcache:{default}:t:t") <= 60_000


# A cluster, and Sentinel


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
async def clustered(cluster: Cluster, anyio_backend: Any) -> AsyncIterator[list[PromptCache]]:
    """Caches over a cluster, each with a client of its own."""
    port = cluster.nodes[0].port
    clients = [redis.asyncio.RedisCluster(host="127.0.0.1", port=port) for _ in range(3)]
    await clients[0].flushall()
    caches = [PromptCache(MemoryTier(), RedisTier(client, timeout=5)) for client in clients]
    for cache in caches:
        await cache.get_or_create("warm", Calls())
    yield caches
    for cache, client in zip(caches, clients, strict=True):
        await cache.aclose()
        await client.aclose()


@pytest.mark.parametrize("key", ["key", "a{b}c", "\ud800"])
async def test_a_cluster(clustered: list[PromptCache], key: str) -> None:
    await act_as_one(clustered, key)


@pytest.mark.parametrize("step", ["_sweeper.say", "_link.unlink"])
@pytest.mark.parametrize("change", ["delete", "invalidate"])
async def test_a_fill_between_two_steps_of_a_removal(
    clustered: list[PromptCache], change: str, step: str
) -> None:
    """On a cluster a removal takes several commands, and so does a fill."""
    leader, other, third = clustered
    owner, _, step = step.partition(".")
    target: Any = getattr(other._engine.storage.remote[0].tier, owner)
    plain, count = getattr(target, step), 0

    async def watched(*args: Any) -> Any:
        nonlocal count
        outcome = await plain(*args)
        count += 1
        late = flights.pop() if flights else None
        if late is not None:
            upstream, flight = late
            upstream.gate.open()
            await flight
        return outcome

    flights: list[Any] = []
    await other.set("key", 1, tags=["a secret tag"])
    await other.delete("key")
    await wait_until("the end", lambda: not any(peeked(cache, "key") for cache in clustered))
    for number in range(3):
        upstream = Held(5)
        flight = asyncio.ensure_future(created([leader, third][number % 2], "key", upstream))
        await upstream.called()
        flights.append((upstream, flight))
        setattr(target, step, watched)
        await CHANGES[change](other, "key")
        setattr(target, step, plain)
        upstream.gate.open()
        assert await flight == 5
        assert [await cache.get("key") for cache in clustered] == [None] * 3
    flights.clear()


async def test_what_waited_is_never_in_the_place_of_what_is_newer(
    clustered: list[PromptCache],
) -> None:
    """On a cluster the entry and the news that speak against it are in two places."""
    leader, other, _ = clustered
    tier = guard_of(leader).tier
    put, seen = tier._link.run_all, []

    async def watched(calls: Any) -> Any:
        seen.extend(calls)
        return await put(calls)

    with deaf(leader):
        with lost(leader):
            assert await leader.get_or_create("key", gives(1)) == 1
            await other.set("key", "newest")
        with replaced(tier._link, {"run_all": watched}):
            await made_good(leader)
    assert seen == [], "it was there for a moment"
    await wait_until("the news", lambda: peeked(leader, "key") is None)
    assert [await cache.get("key") for cache in clustered] == ["newest"] * 3


async def test_half_a_fill_is_not_left_behind(clustered: list[PromptCache]) -> None:
    """On a cluster an entry may be there that no tag knows yet."""
    leader, other, third = clustered
    tier = guard_of(leader).tier

    async def fail(*_: Any) -> Any:
        raise ConnectionError("lost in the middle")

    with deaf(leader):
        with replaced(tier, {"_book": fail}):
            assert await leader.get_or_create("key", gives(1), tags=["tag"]) == 1
            await other.invalidate("tag")
        assert await third.get("key") == 1, "the half was there"
        await third._engine.storage.local.clear("default")  # type: ignore[union-attr]
        await made_good(leader)
    await wait_until("the news", lambda: not any(peeked(cache, "key") for cache in clustered))
    assert [await cache.get("key") for cache in clustered] == [None] * 3


async def test_who_reads_half_a_fill_that_is_void_does_not_keep_it(
    clustered: list[PromptCache],
) -> None:
    leader, other, _ = clustered
    tier = guard_of(leader).tier
    plain, seen, upstream = tier._book, [], Held()

    async def late(*arguments: Any) -> Any:
        seen.append(await leader.get("key"))
        return await plain(*arguments)

    with deaf(leader), replaced(tier, {"_book": late}):
        flight = asyncio.ensure_future(leader.get_or_create("key", upstream, tags=["tag"]))
        await upstream.called()
        await other.invalidate("tag")
        upstream.gate.open()
        assert await flight == 1
        assert seen == [1], "it was there for a moment"
        assert peeked(leader, "key") is None
    assert [await cache.get("key") for cache in clustered] == [None] * 3


async def test_a_failover(anyio_backend: Any) -> None:
    """Leases and news of the old master may be lost; nobody hangs, and everyone is told again."""
    with Sentinels() as sentinels:
        managers = [Sentinel(sentinels.addresses) for _ in range(2)]
        clients = [manager.master_for(sentinels.service) for manager in managers]
        caches = [PromptCache(MemoryTier(), RedisTier(client, lease=1.0)) for client in clients]
        old, new = sentinels.data
        try:
            for cache in caches:
                await cache.get_or_create("warm", Calls())
            one, other = caches
            upstream, second = Held(1), Held(10)
            leading = asyncio.ensure_future(one.get_or_create("key", upstream))
            await upstream.called()
            waiter = asyncio.ensure_future(other.get_or_create("key", second))
            async with redis.asyncio.Redis(port=old.port) as raw:
                await waiting(raw, "key")
            old.kill()
            await asyncio.wait_for(second.called(), 5)
            second.gate.open()
            assert await waiter == 10
            upstream.gate.open()
            assert await leading == 1
            await wait_until("failover", lambda: asyncio.to_thread(sentinels.promoted, new), 20)
            await wait_until("the return", lambda: writes(other, one), 10)
            await wait_until("the return", lambda: writes(one, other), 10)
            await one.delete("marker")
            await wait_until("the news", lambda: peeked(other, "marker") is None, 3)
            third = Held(20)
            flights = [asyncio.ensure_future(c.get_or_create("new", third)) for c in caches]
            await third.called()
            await asyncio.sleep(0.05)
            third.gate.open()
            assert await asyncio.gather(*flights) == [20, 20]
            assert third.count == 1
        finally:
            for cache in caches:
                await cache.aclose()
            for client in clients:
                await client.aclose()
            for manager in managers:
                for sentinel in manager.sentinels:
                    await sentinel.aclose()


async def writes(one: PromptCache, other: PromptCache) -> bool:
    await one.set("marker", 1)
    return await other.get("marker") == 1
