"""What one process changes, every other's memory hears of, after a lost connection too."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from engine_tools import gives, unwanted
from servers import Server
from together import HEARD, Calls, peeked, team, wait_until

from aiopromptcache import MemoryTier, PromptCache, RedisTier
from aiopromptcache.testing import TCPProxy
from aiopromptcache.tiers import _news
from aiopromptcache.tiers._link import Link

pytestmark = pytest.mark.anyio

BEAT = 0.2
"""How long the server may be silent in these tests."""
BACK = 1.0
"""Seconds after the end of an outage in which everyone listens again."""


async def refresh(cache: PromptCache) -> None:
    with cache.control(no_cache=True):
        await cache.get_or_create("key", gives("new"))


async def reload_with_another_type(cache: PromptCache) -> None:
    await cache.get_or_create("key", gives(7), type=int)


Change = Callable[[PromptCache], Awaitable[Any]]
REMOVALS: dict[str, Change] = {
    "delete": lambda cache: cache.delete("another", "key"),
    "clear": lambda cache: cache.clear(),
    "invalidate": lambda cache: cache.invalidate("no such tag", "tag"),
    "set to nothing": lambda cache: cache.set("key", "new", ttl=0),
}
CHANGES: dict[str, Change] = {
    **REMOVALS,
    "set": lambda cache: cache.set("key", "new"),
    "refresh": refresh,
    "reload": reload_with_another_type,
}
any_change = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
any_removal = pytest.mark.parametrize("change", REMOVALS.values(), ids=REMOVALS)


@pytest.fixture
def quick_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_news, "BEAT_SECONDS", BEAT)


async def all_hold(caches: list[PromptCache], value: Any = "old") -> None:
    """One stores a value, and all others have it in memory."""
    await caches[0].set("key", value, tags=["tag"])

    async def held() -> bool:
        await asyncio.gather(*[cache.get("key") for cache in caches])
        return all(peeked(cache, "key") == value for cache in caches)

    await wait_until("the value", held)


def dropped(*caches: PromptCache) -> Callable[[], bool]:
    return lambda: all(peeked(cache, "key") != "old" for cache in caches)


@any_change
async def test_a_change_reaches_every_memory(url: str, change: Change) -> None:
    async with team(url, 4) as caches:
        await all_hold(caches)
        await change(caches[0])
        assert peeked(caches[0], "key") != "old"
        await wait_until("the news", dropped(*caches), HEARD)
        newest = await caches[0].get("key")
        assert newest != "old"
        assert [await cache.get("key") for cache in caches] == [newest] * 4


@pytest.mark.parametrize("ways", [2, 3])
async def test_caches_that_share_one_tier_object(url: str, ways: int) -> None:
    tier = RedisTier(url)
    caches = [PromptCache(MemoryTier(), tier) for _ in range(ways)]
    for name, change in CHANGES.items():
        await all_hold(caches)
        await change(caches[0])
        await wait_until(f"the news of {name}", dropped(*caches[1:]), HEARD)
    upstream = Calls()
    await caches[0].clear()
    await asyncio.sleep(0.02)
    found = await asyncio.gather(*[c.get_or_create("cold", upstream) for c in caches * 10])
    assert (found, upstream.count) == ([1] * ways * 10, 1)
    for cache in caches:
        await cache.aclose()


async def test_namespaces_and_prefixes_hear_nothing_of_each_other(url: str, raw: Any) -> None:
    names = ["a", "a:b", "b", "*", "{a}", "a b", "%", "é"]
    async with team(url, 1, prefix="other", namespace="a") as [stranger]:
        caches = [PromptCache(MemoryTier(), RedisTier(url), namespace=name) for name in names]
        everyone = [stranger, *caches]
        for cache in everyone:
            await cache.set("key", cache.namespace, tags=["tag"])
        for number, (cache, change) in enumerate(zip(caches, REMOVALS.values(), strict=False)):
            await change(cache)
            await asyncio.sleep(0.02)
            for other in everyone:
                gone = other in caches[: number + 1]
                assert peeked(other, "key") == (None if gone else other.namespace)
                assert await other.get("key") == (None if gone else other.namespace)
        for cache in caches:
            await cache.aclose()


# While the news do not come


@asynccontextmanager
async def listening_through(url: str) -> AsyncIterator[tuple[PromptCache, TCPProxy]]:
    """A cache whose news, and nothing else, come by a way that can be broken."""
    port = int(url.rsplit(":", 1)[1].split("/")[0])
    async with TCPProxy("127.0.0.1", port) as proxy:
        tier = RedisTier(url)
        tier._link.connection = Link(  # type: ignore[method-assign]
            f"redis://127.0.0.1:{proxy.port}/0", 0.1
        ).connection
        async with PromptCache(MemoryTier(), tier) as cache:
            await cache.get_or_create("warm", Calls())
            yield cache, proxy


@pytest.mark.parametrize("fault", ["refuse", "drop", "black_hole"])
@any_change
async def test_memory_answers_meanwhile_and_is_true_afterwards(
    url: str, change: Change, fault: str, quick_beat: None
) -> None:
    async with team(url, 1) as [one], listening_through(url) as (other, proxy):
        await all_hold([one, other])
        before = proxy.connections
        getattr(proxy, fault)()
        await change(one)
        if fault == "black_hole":  # until it has given up on that connection
            await wait_until("silence", lambda: proxy.connections > before, 3)
        else:
            await asyncio.sleep(BEAT)
        assert peeked(other, "key") == "old"
        assert await other.get_or_create("key", unwanted) == "old"
        proxy.pass_through()
        await wait_until("the news", dropped(other), BACK)
        assert await other.get("key") == await one.get("key") != "old"


async def trim(raw: Any) -> None:
    await raw.xtrim("aiopromptcache:{default}:log", maxlen=0, approximate=False)


async def trim_all_but_one(raw: Any) -> None:
    await raw.xtrim("aiopromptcache:{default}:log", maxlen=1, approximate=False)


async def remove(raw: Any) -> None:
    await raw.delete("aiopromptcache:{default}:log")


async def empty(raw: Any) -> None:
    await raw.flushall()


LOSSES = [trim, trim_all_but_one, remove, empty]
any_loss = pytest.mark.parametrize("lose", LOSSES, ids=lambda lose: lose.__name__)


@any_loss
async def test_news_that_were_lost_cost_all_that_is_held(url: str, raw: Any, lose: Any) -> None:
    async with team(url, 1) as [one], listening_through(url) as (other, proxy):
        await all_hold([one, other])
        await other.set("bystander", 1)
        proxy.refuse()
        await one.delete("key")
        await lose(raw)
        await one.set("yet another", 1)
        assert peeked(other, "key") == "old"
        proxy.pass_through()
        await wait_until("the end of what was held", dropped(other), BACK)
        assert peeked(other, "bystander") is None
        assert await other.get("key") is None


@pytest.mark.parametrize("lose", [remove, empty], ids=lambda lose: lose.__name__)
@any_removal
async def test_a_log_that_is_removed_while_all_listen(
    url: str, raw: Any, lose: Any, change: Change, quick_beat: None
) -> None:
    async with team(url, 3) as [one, *others]:
        await all_hold([one, *others])
        await lose(raw)
        await change(one)
        await wait_until("the news", dropped(*others), 2 * BEAT + BACK)


@any_removal
async def test_a_log_that_is_removed_and_made_anew(
    url: str, raw: Any, change: Change, quick_beat: None
) -> None:
    """Who comes next makes it anew; the others must not take it for the old one."""
    async with team(url, 3) as [one, *others]:
        await all_hold([one, *others])
        await remove(raw)
        await change(one)
        async with team(url, 1):
            await wait_until("the news", dropped(*others), 2 * BEAT + BACK)


async def test_connections_that_are_killed_all_the_time(url: str, raw: Any) -> None:
    async with team(url, 3) as [one, *others]:
        rng = random.Random(4)
        for number in range(30):
            await all_hold([one, *others])
            await raw.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            change = rng.choice(list(REMOVALS.values()))
            await change(one)
            await wait_until(f"the news of {number}", dropped(*others), HEARD)
        assert one.stats.errors == 0


# The server is lost


@pytest.mark.parametrize("empty", [True, False], ids=["restarted empty", "stopped"])
async def test_memory_outlives_the_server(server: Server, empty: bool, quick_beat: None) -> None:
    async with team(server.url, 2, timeout=0.1) as [one, other]:
        await all_hold([one, other])
        server.kill() if empty else server.pause()
        for _ in range(10):
            assert await other.get_or_create("key", unwanted) == "old"
        await asyncio.sleep(2 * BEAT)
        await one.delete("key")
        assert await one.get("key") is None
        assert await other.get("key") == "old"
        await (asyncio.to_thread(server.start) if empty else asyncio.to_thread(server.resume))
        await wait_until("the news", dropped(other), 2 * BACK)
        await wait_until("the tier's return", lambda: kept(one, other), 3)
        assert await other.get("key") is None


async def kept(one: PromptCache, other: PromptCache) -> bool:
    await one.set("marker", 1)
    return await other.get("marker") == 1


async def test_a_process_that_starts_while_the_server_is_down(server: Server) -> None:
    server.kill()
    tiers = [RedisTier(server.url, timeout=0.1) for _ in range(2)]
    async with PromptCache(MemoryTier(), tiers[0]) as one:
        async with PromptCache(MemoryTier(), tiers[1]) as other:
            for cache in (one, other):
                assert await cache.get_or_create("key", gives("old")) == "old"
            await one.delete("key")
            await asyncio.to_thread(server.start)
            await wait_until("the news", dropped(other), 2 * BACK)
            await wait_until("the tier's return", lambda: kept(one, other), 3)
            assert await other.get("key") is None
            assert await one.get("key") is None
