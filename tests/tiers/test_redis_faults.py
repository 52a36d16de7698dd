"""The Redis tier while Redis is broken: nobody notices, except by an event, a line and the bill.

Each fault is one of a real server, or of the way to it. What must hold is in `outages`.
"""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any

import pytest
import redis.asyncio
import redis.exceptions
from outages import (
    BACK_WITHIN,
    MARGIN,
    TIMEOUT,
    Callers,
    Place,
    answers_with,
    black_hole,
    cut,
    dropped,
    eventually,
    killed,
    loading,
    locked,
    named,
    out_of_memory,
    read_only,
    refused,
    slow,
    stopped,
    survive,
)
from redis.asyncio.sentinel import Sentinel
from servers import Cluster, Sentinels, Server, wait_for

from aiopromptcache import MemoryTier, PromptCache, RedisTier, cache_status
from aiopromptcache._entry import Entry
from aiopromptcache.testing import OpenAIServer, TCPProxy
from aiopromptcache.tiers._base import Lease
from aiopromptcache.tiers._link import Link

pytestmark = pytest.mark.anyio

PLAIN = pytest.param(("asyncio", {}), id="asyncio")
UVLOOP = pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop")
both_loops = pytest.mark.parametrize("anyio_backend", [PLAIN, UVLOOP], indirect=True)
only_valkey = pytest.mark.parametrize("standalone", ["valkey"], indirect=True)
HOST = "127.0.0.1"
REPLIES = [
    b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
]


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Plain asyncio, and others where a test says so: these tests take real time."""
    return getattr(request, "param", ("asyncio", {}))


@pytest.fixture
async def place(server: Server, anyio_backend: Any) -> AsyncIterator[Place]:
    """A server of its own for each test, and a way to it."""
    async with TCPProxy("127.0.0.1", server.port) as proxy:
        yield Place(server, proxy)


def tier_of(place: Place) -> RedisTier:
    """A tier that has to go the way that can be broken."""
    return RedisTier(place.url, timeout=TIMEOUT)


# One outage


@only_valkey
@both_loops
async def test_a_black_hole(place: Place, caplog: Any) -> None:
    callers, direct = Callers(tier_of(place), caplog), RedisTier(place.server.url)
    await survive(callers, direct, black_hole(place))


@only_valkey
@pytest.mark.parametrize("fault", named([refused, dropped, slow, cut]))
async def test_a_broken_way(place: Place, fault: Any, caplog: Any) -> None:
    await survive(Callers(tier_of(place), caplog), RedisTier(place.server.url), fault(place))


@only_valkey
@pytest.mark.parametrize("reply", REPLIES, ids=lambda reply: reply.split()[0].decode())
async def test_a_server_that_has_but_one_reply(place: Place, reply: bytes, caplog: Any) -> None:
    fault = answers_with(reply)(place)
    await survive(Callers(tier_of(place), caplog), RedisTier(place.server.url), fault)


@only_valkey
async def test_a_server_that_is_stopped(place: Place, caplog: Any) -> None:
    callers, direct = Callers(tier_of(place), caplog), RedisTier(place.server.url)
    await survive(callers, direct, stopped(place))


async def test_a_server_that_is_loading(place: Place, caplog: Any) -> None:
    callers, direct = Callers(tier_of(place), caplog), RedisTier(place.server.url)
    await survive(callers, direct, loading(place))


@pytest.mark.parametrize("fault", named([killed, locked]))
async def test_a_server_that_lost_everything(place: Place, fault: Any, caplog: Any) -> None:
    callers, direct = Callers(tier_of(place), caplog), RedisTier(place.server.url)
    await survive(callers, direct, fault(place), keeps=False)


@pytest.mark.parametrize("fault", named([out_of_memory, read_only]))
async def test_a_server_that_refuses_writes(place: Place, fault: Any, caplog: Any) -> None:
    callers, direct = Callers(tier_of(place), caplog), RedisTier(place.server.url)
    await survive(callers, direct, fault(place), opens=False)


@only_valkey
@pytest.mark.parametrize("fault", named([dropped, stopped]))
async def test_a_client_handed_in_with_its_own_retries(
    place: Place, fault: Any, caplog: Any
) -> None:
    """By itself one GET of this client takes 3 to 59 seconds to fail."""
    async with redis.asyncio.Redis(port=place.proxy.port) as client:
        callers = Callers(RedisTier(client, timeout=TIMEOUT), caplog)
        await survive(callers, RedisTier(place.server.url), fault(place))


@only_valkey
async def test_a_client_handed_in_whose_server_restarts(place: Place, caplog: Any) -> None:
    async with redis.asyncio.Redis(port=place.proxy.port) as client:
        callers = Callers(RedisTier(client, timeout=TIMEOUT), caplog)
        await survive(callers, RedisTier(place.server.url), killed(place), keeps=False)


# Through the wrapper


@only_valkey
@pytest.mark.parametrize("fault", named([black_hole, killed, out_of_memory]))
async def test_a_wrapped_client_does_not_notice(place: Place, fault: Any, caplog: Any) -> None:
    async with OpenAIServer() as openai:
        callers = Callers(tier_of(place), caplog)
        client = callers.cache.wrap(openai.client())

        async def ask(text: str) -> Any:
            return await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": text}]
            )

        first = await ask("before")
        with fault(place):
            for number in range(10):
                answer = await ask(f"meanwhile {number}")
                assert f"meanwhile {number}" in answer.choices[0].message.content
            assert (await ask("before")).choices == first.choices
            answers = await asyncio.gather(*[ask("together") for _ in range(100)])
            assert len({answer.choices[0].message.content for answer in answers}) == 1
        paid = openai.calls
        assert paid in {12, 13}  # "before" again only where nothing can be read

        async def hit() -> bool:
            status = cache_status(await ask("meanwhile 9"))
            return bool(status and status.hit and status.tier == "redis")

        await eventually("the tier's return", hit, BACK_WITHIN)
        assert openai.calls <= paid + BACK_WITHIN / 0.01

        async def told() -> bool:
            return len(callers.lines) == 2

        await eventually("the line about it", told, BACK_WITHIN)
        await callers.cache.aclose()


# What happens meanwhile


@only_valkey
async def test_what_is_removed_meanwhile_stays_removed(place: Place, caplog: Any) -> None:
    names = ("delete", "clear", "invalidate")
    caches = {n: PromptCache(tier_of(place), namespace=n) for n in names}
    others = {n: PromptCache(RedisTier(place.server.url), namespace=n) for n in names}
    for cache in caches.values():
        await cache.set("old", 1, tags=["tag"])
        await cache.set("untouched", 2)
    with refused(place):
        for cache in caches.values():
            await cache.set("newer", 3, tags=["tag"])
        await caches["delete"].delete("old", "newer")
        await caches["clear"].clear()
        await caches["invalidate"].invalidate("tag")
        for cache in caches.values():
            await cache.set("after", 4, tags=["tag"])
    for name, other in others.items():

        async def written(name: str = name, other: PromptCache = other) -> bool:
            await caches[name].get("after")
            return await other.get("after") is not None

        await eventually("the writing", written, BACK_WITHIN)
        assert await other.get("old") is None, name
        assert await other.get("newer") is None, name
        assert await other.get("after") == 4
        assert await other.get("untouched") == (None if name == "clear" else 2)
    for cache in [*caches.values(), *others.values()]:
        await cache.aclose()


@only_valkey
async def test_callers_may_leave_meanwhile(place: Place, caplog: Any) -> None:
    callers = Callers(tier_of(place), caplog)
    await callers.ask("before")
    with black_hole(place):
        leaving = [asyncio.ensure_future(callers.ask()) for _ in range(50)]
        staying = [asyncio.ensure_future(callers.ask()) for _ in range(50)]
        await asyncio.sleep(TIMEOUT / 4)
        for task in leaving:
            task.cancel()
        assert max(await asyncio.gather(*staying)) < TIMEOUT + MARGIN
        left = await asyncio.gather(*leaving, return_exceptions=True)
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in left)
    await eventually("the return", lambda: in_use(callers, "before"), BACK_WITHIN)
    await callers.cache.aclose()


# What an outage costs


@only_valkey
async def test_reading_and_writing_share_one_timeout(place: Place, caplog: Any) -> None:
    callers = Callers(RedisTier(place.url, timeout=0.5), caplog)
    await callers.ask("warm")
    place.proxy.delay(0.4)
    took = [await callers.ask() for _ in range(3)]
    place.proxy.pass_through()
    assert max(took) < 0.5 + MARGIN / 2  # one after the other would be 0.8 seconds
    assert len(callers.lines) <= 1
    await callers.cache.aclose()


@only_valkey
@pytest.mark.parametrize("way", ["get", "set", "get_or_create"])
async def test_the_first_call_of_all_has_one_timeout(place: Place, way: str) -> None:
    place.proxy.black_hole()
    async with PromptCache(MemoryTier(), RedisTier(place.url, timeout=0.5)) as cache:

        async def factory() -> int:
            return 1

        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "get": lambda: cache.get("key"),
            "set": lambda: cache.set("key", 1),
            "get_or_create": lambda: cache.get_or_create("key", factory),
        }
        loop = asyncio.get_running_loop()
        started = loop.time()
        await calls[way]()
        assert loop.time() - started < 0.5 + MARGIN


@only_valkey
async def test_two_hundred_calls_a_second_into_a_black_hole(place: Place, caplog: Any) -> None:
    callers = Callers(tier_of(place), caplog)
    await callers.ask("before")
    loop = asyncio.get_running_loop()
    started = loop.time()
    with black_hole(place):
        early, late = [], []
        while (now := loop.time()) < started + 2.5:
            tasks = early if now < started + 1 else late
            tasks.append(loop.create_task(callers.ask()))
            await asyncio.sleep(0.005)
        took, took_late = await asyncio.gather(*early), await asyncio.gather(*late)
    assert statistics.median(took + took_late) < 0.001
    assert max(took) < TIMEOUT + MARGIN
    # Only those who came before the breaker opened paid; later ones do not even pay for probes.
    assert sum(seconds > TIMEOUT / 2 for seconds in took) <= 200 * TIMEOUT * 2 + 10
    assert max(took_late) < TIMEOUT / 2, "a probe is at nobody's expense"
    assert len(callers.lines) == 1
    await callers.cache.aclose()


@only_valkey
async def test_memory_answers_all_the_same(place: Place, caplog: Any) -> None:
    async with PromptCache(MemoryTier(), tier_of(place)) as cache:
        await cache.set("key", 1)
        with black_hole(place):
            loop = asyncio.get_running_loop()
            started = loop.time()
            assert [await cache.get("key") for _ in range(100)] == [1] * 100
            assert loop.time() - started < TIMEOUT / 2


@only_valkey
@pytest.mark.parametrize("handed_in", [False, True], ids=["url", "client"])
@pytest.mark.parametrize("fault", named([black_hole, dropped]))
async def test_closing_does_not_wait_for_an_outage(
    place: Place, fault: Any, handed_in: bool, caplog: Any
) -> None:
    client = redis.asyncio.Redis(port=place.proxy.port)
    async with aclosing(client):
        callers = Callers(RedisTier(client if handed_in else place.url, timeout=TIMEOUT), caplog)
        await callers.ask("before")
        with fault(place):
            await callers.ask("meanwhile")
            async with asyncio.timeout(1.0 + 2 * TIMEOUT + MARGIN):
                await callers.cache.aclose()


@only_valkey
async def test_a_clear_that_is_cut_off_in_the_middle_does_not_wait(
    place: Place, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    callers = Callers(tier_of(place), caplog)
    await callers.ask("before")
    unlink = Link.unlink

    async def silenced(self: Link, keys: Sequence[bytes]) -> int:
        place.proxy.black_hole()
        return await unlink(self, keys)

    monkeypatch.setattr(Link, "unlink", silenced)
    async with asyncio.timeout(TIMEOUT + MARGIN):
        assert await callers.cache.clear() == 0
    monkeypatch.undo()
    place.proxy.pass_through()

    async def empty() -> bool:
        return entries(place.server) == 0

    await eventually("the clearing", empty, BACK_WITHIN)
    await callers.cache.aclose()


@pytest.mark.parametrize("handed_in", [False, True], ids=["url", "client"])
async def test_a_restart_between_two_calls_is_not_noticed(
    place: Place, handed_in: bool, caplog: Any
) -> None:
    """Not once for each pooled connection either."""
    client = redis.asyncio.Redis(port=place.server.port)
    async with aclosing(client):
        tier = RedisTier(client if handed_in else place.server.url, timeout=1)
        callers = Callers(tier, caplog)
        for number in range(20):  # reads and writes at once, over several connections
            await asyncio.gather(*[callers.ask(f"{number} {n}") for n in range(20)])
        if handed_in:
            await asyncio.gather(*[client.get("x") for _ in range(20)])
        place.server.restart()
        for _ in range(30):
            await callers.ask()
        assert callers.failures == 0
        assert callers.lines == []
        await callers.cache.aclose()


# Crowds


@only_valkey
@pytest.mark.parametrize("options", [{}, {"max_connections": 5}], ids=["default-pool", "pool-of-5"])
async def test_ten_thousand_at_once_see_no_pool_error(
    server: Server, options: dict[str, Any], caplog: Any
) -> None:
    async with redis.asyncio.Redis(port=server.port, **options) as client:
        callers = Callers(RedisTier(client, timeout=30), caplog)
        await asyncio.gather(*[callers.ask(str(number)) for number in range(10_000)])
        assert callers.failures == 0
        assert callers.lines == []
        assert len(callers.asked) == 10_000
        assert entries(server) == 10_000
        await callers.cache.aclose()


@only_valkey
async def test_ten_thousand_in_a_black_hole(place: Place, caplog: Any) -> None:
    callers = Callers(tier_of(place), caplog)
    await callers.ask("before")
    with black_hole(place):
        await asyncio.gather(*[callers.ask() for _ in range(10_000)])
        assert len(callers.lines) == 1
        assert callers.failures <= 100, "a fault is one event, and not one a call"
    await eventually("the return", lambda: in_use(callers, "before"), BACK_WITHIN)
    await callers.cache.aclose()


@only_valkey
async def test_much_that_waits_does_not_keep_the_tier_out(place: Place, caplog: Any) -> None:
    """A thousand answers of 20 KB take longer to write than one operation may."""
    callers = Callers(tier_of(place), caplog)
    await callers.ask("before")
    with black_hole(place):
        while not await callers.open():
            await callers.ask()
        for number in range(1_200):
            await callers.cache.set(f"large {number}", random.randbytes(20_000))
    await eventually("the return", lambda: in_use(callers, "before"), BACK_WITHIN)

    async def written() -> bool:
        return entries(place.server) >= 1_000

    await eventually("the writing", written, 3 * BACK_WITHIN)
    async with PromptCache(RedisTier(place.server.url, timeout=5)) as other:
        newest = [await other.get(f"large {number}") for number in range(200, 1_200)]
    assert None not in newest, "the newest thousand are kept"
    await callers.cache.aclose()


@only_valkey
async def test_all_that_may_wait_is_written(place: Place, caplog: Any) -> None:
    """A thousand writes are a thousand news, which do not speak against the last of them."""
    callers = Callers(tier_of(place), caplog)
    await callers.ask("before")
    with black_hole(place):
        while not await callers.open():
            await callers.ask()
        for _ in range(1_200):
            await callers.ask()
        async with PromptCache(RedisTier(place.server.url, timeout=5)) as other:
            for number in range(50):
                await other.set(f"another's {number}", 1)
    await eventually("the return", lambda: closed(callers), 3 * BACK_WITHIN)
    async with PromptCache(RedisTier(place.server.url, timeout=5)) as other:
        found = [await other.get(question) for question in callers.asked[-1_000:]]
        assert None not in found
    await callers.cache.aclose()


@only_valkey
async def test_a_cache_that_only_sets_loses_nothing(place: Place, caplog: Any) -> None:
    callers = Callers(tier_of(place), caplog)
    for number in range(1_100):  # more news than a write is checked against
        await callers.cache.set(f"before {number}", 1)
    with black_hole(place):
        while not await callers.open():
            await callers.cache.set("meanwhile", 1)
    await eventually("the return", lambda: closed(callers), 2 * BACK_WITHIN)
    async with PromptCache(RedisTier(place.server.url, timeout=5)) as other:
        assert await other.get("meanwhile") == 1
    await callers.cache.aclose()


@only_valkey
async def test_one_that_is_never_written_does_not_keep_the_others_out(
    place: Place, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = tier_of(place)
    fill = tier.fill

    async def picky(filled: Sequence[tuple[Entry, Lease]]) -> Sequence[bool | None]:
        if any(lease.slot.endswith(":bad") for _, lease in filled):
            raise TypeError("not this one")
        return await fill(filled)

    monkeypatch.setattr(tier, "fill", picky)
    callers = Callers(tier, caplog)
    await callers.ask("before")
    await callers.cache.set("bad", "older")
    with black_hole(place):
        while not await callers.open():
            await callers.ask()
        for key in ["first", "bad", *[str(number) for number in range(200)]]:
            await callers.cache.set(key, 1)
    async with PromptCache(RedisTier(place.server.url, timeout=5)) as other:

        async def written() -> bool:
            keys = ["first", *[str(number) for number in range(200)]]
            return all([await other.get(key) for key in keys])

        await eventually("the writing of the others", written, 2 * BACK_WITHIN)

        async def gone() -> bool:
            return await other.get("bad") is None

        await eventually("the end of the older value", gone, 2 * BACK_WITHIN)
        await eventually("the return", lambda: closed(callers), BACK_WITHIN)
        await callers.ask("now")
        assert await other.get("now") == {"answer to": "now"}
    await callers.cache.aclose()


async def closed(callers: Callers) -> bool:
    """Has the cache said that the tier is back?"""
    return len(callers.lines) == 2


@only_valkey
async def test_what_is_too_large_to_wait_does_not_push_out_the_rest(
    place: Place, caplog: Any
) -> None:
    callers = Callers(tier_of(place), caplog)
    await callers.ask("before")
    await callers.cache.set("large", "older")
    with refused(place):
        while not await callers.open():
            await callers.ask()
        await callers.cache.set("small", 1)
        await callers.cache.set("large", bytes(65 * 2**20))
    async with PromptCache(RedisTier(place.server.url, timeout=5)) as other:

        async def written() -> bool:
            return await other.get("small") == 1 and await other.get("large") is None

        await eventually("the writing", written, 2 * BACK_WITHIN)
    await callers.cache.aclose()


@only_valkey
async def test_a_thousand_callers_of_a_cold_key_cost_one_read(server: Server, caplog: Any) -> None:
    callers = Callers(RedisTier(server.url, timeout=5), caplog)
    await callers.ask("warm")
    before = reads(server)
    await asyncio.gather(*[callers.ask("cold") for _ in range(1_000)])
    assert reads(server) - before == 1
    assert callers.asked == ["warm", "cold"]
    await callers.cache.aclose()


def reads(server: Server) -> int:
    """How many reads of values the server has run."""
    with server.client() as client:
        stats = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("get", "mget"))


def entries(server: Server) -> int:
    """How many answers are there."""
    with server.client() as client:
        return sum(1 for _ in client.scan_iter(match="*:e:*", count=1_000))


async def in_use(callers: Callers, key: str) -> bool:
    """Is this an answer that the tier gives?"""
    return await callers.cache.get(key) is not None


# Sentinel and cluster


async def test_sentinel_failover(sentinels: Sentinels, caplog: Any) -> None:
    manager = Sentinel(sentinels.addresses)
    client = manager.master_for(sentinels.service)
    old, new = sentinels.data
    try:
        callers = Callers(RedisTier(client, timeout=TIMEOUT), caplog)
        await callers.ask("before")
        replicated = asyncio.to_thread(old.command, "WAIT", 1, 5_000)
        assert await replicated == 1
        callers.asked.clear()
        old.kill()
        over = asyncio.ensure_future(asyncio.to_thread(until_promoted, sentinels, new))
        took = await callers.ask_until(over.done)
        assert max(took) < TIMEOUT + MARGIN
        assert sum(seconds > TIMEOUT / 2 for seconds in took) <= 8, "the breaker did not open"
        async with PromptCache(RedisTier(new.url)) as other:
            await other.set("after", 1)
            await eventually("the return", lambda: in_use(callers, "after"), BACK_WITHIN)

            async def written() -> bool:
                return all([await other.get(q) for q in callers.asked[-1_000:]])

            await eventually("the writing", written, BACK_WITHIN)
            assert await other.get("before") is not None
        assert len(callers.lines) == 2
        await callers.cache.aclose()
    finally:
        await client.aclose()
        for sentinel in manager.sentinels:
            await sentinel.aclose()


def until_promoted(sentinels: Sentinels, server: Server) -> None:
    wait_for("failover", lambda: sentinels.promoted(server))


@pytest.fixture
async def clustered(cluster: Cluster, anyio_backend: Any) -> AsyncIterator[Any]:
    """A client of the cluster, with redis-py's defaults."""
    async with redis.asyncio.RedisCluster(host=HOST, port=cluster.alive()[0].port) as client:

        async def flushed() -> bool:  # a test before may have left it without a master
            try:
                return bool(await client.flushall())
            except redis.exceptions.RedisError:
                return False

        await eventually("the cluster", flushed, 10)
        yield client


@pytest.fixture
async def other(clustered: Any, cluster: Cluster) -> AsyncIterator[PromptCache]:
    """What another process sees."""
    async with redis.asyncio.RedisCluster(host=HOST, port=cluster.alive()[-1].port) as client:
        async with PromptCache(RedisTier(client, timeout=5)) as cache:
            yield cache


async def test_a_cluster_shares_answers(clustered: Any, other: PromptCache, caplog: Any) -> None:
    callers = Callers(RedisTier(clustered, timeout=5), caplog)
    await asyncio.gather(*[callers.ask() for _ in range(200)])
    found = await asyncio.gather(*[other.get(question) for question in callers.asked])
    assert all(found)
    assert callers.failures == other.stats.errors == 0
    await callers.cache.aclose()


@pytest.mark.parametrize("way", ["delete", "clear", "invalidate"])
async def test_a_cluster_forgets(clustered: Any, other: PromptCache, way: str, caplog: Any) -> None:
    callers = Callers(RedisTier(clustered, timeout=5), caplog)
    cache = callers.cache
    for number in range(50):
        await cache.set(f"key {number}", number, tags=["tag", f"tag {number}"])
    await cache.set("kept", 1, tags=["other"])
    keys = [f"key {number}" for number in range(50)]
    if way == "delete":
        assert await other.delete(*keys) == 50
    elif way == "invalidate":
        assert await other.invalidate("tag") == 50
    else:
        assert await other.clear() == 51
    assert not any(await asyncio.gather(*[cache.get(key) for key in keys]))
    assert await cache.get("kept") == (None if way == "clear" else 1)
    assert callers.failures == other.stats.errors == 0
    await callers.cache.aclose()


async def test_a_cluster_may_have_a_namespace_in_one_place(clustered: Any, caplog: Any) -> None:
    callers = Callers(RedisTier(clustered, timeout=5, prefix="mine:{app}", max_entries=5), caplog)
    for number in range(10):
        await callers.cache.set(f"key {number}", number, tags=["tag"])
    assert await callers.cache.get("key 9") == 9
    assert await callers.cache.invalidate("tag") == 5
    assert callers.failures == 0
    await callers.cache.aclose()


async def test_a_cluster_keeps_odd_keys(clustered: Any, other: PromptCache, caplog: Any) -> None:
    callers = Callers(RedisTier(clustered, timeout=5), caplog)
    for key in ["", "%", "}", "{", "{}", "a:b", "\ud800", "\n"]:
        await callers.ask(key)
        assert await other.get(key) == {"answer to": key}
        assert await other.delete(key) == 1
        assert await other.get(key) is None
    assert callers.failures == other.stats.errors == 0
    await callers.cache.aclose()


async def test_a_cluster_is_bounded(clustered: Any, other: PromptCache, caplog: Any) -> None:
    callers = Callers(RedisTier(clustered, timeout=5, max_entries=50), caplog)
    for at in range(0, 300, 10):
        await asyncio.gather(*[callers.ask(str(number)) for number in range(at, at + 10)])
    found = await asyncio.gather(*[other.get(str(number)) for number in range(300)])
    kept = [number for number, value in enumerate(found) if value is not None]
    assert len(kept) <= 50
    assert set(range(260, 300)) <= set(kept), "the newest stay"
    assert callers.failures == 0
    await callers.cache.aclose()


async def test_a_cluster_loses_a_node(
    cluster: Cluster, clustered: Any, other: PromptCache, caplog: Any
) -> None:
    callers = Callers(RedisTier(clustered, timeout=TIMEOUT), caplog)
    questions = [f"before {number}" for number in range(50)]
    for question in questions:
        await callers.ask(question)
    assert callers.failures == 0
    callers.asked.clear()
    lost = cluster.masters()[0]
    lost.kill()
    try:
        over = asyncio.ensure_future(asyncio.to_thread(until_served, cluster))
        took = await callers.ask_until(over.done)
        assert max(took) < 2 * (TIMEOUT + MARGIN)  # a node is sought first
        markers = [f"after {number}" for number in range(30)]
        for marker in markers:
            await eventually("a write", lambda m=marker: wrote(other, m), BACK_WITHIN)

        async def used() -> bool:
            return all([await callers.cache.get(marker) for marker in markers])

        async def written() -> bool:
            return all([await other.get(q) for q in callers.asked[-1_000:]])

        await eventually("the return of all slots", used, BACK_WITHIN)
        await eventually("the writing of what was paid for", written, BACK_WITHIN)
        assert len(callers.lines) <= 4  # the other nodes did work
        await callers.cache.aclose()
    finally:
        await asyncio.to_thread(lost.start)
        await asyncio.to_thread(cluster.settle)


def until_served(cluster: Cluster) -> None:
    wait_for("the loss", lambda: not all(map(cluster.serves, cluster.alive())))
    cluster.serving()


async def wrote(cache: PromptCache, key: str) -> bool:
    """Write one value; True once it is there."""
    await cache.set(key, 1)
    return await cache.get(key) == 1


async def test_a_cluster_moves_slots(cluster: Cluster, clustered: Any, caplog: Any) -> None:
    callers = Callers(RedisTier(clustered, timeout=TIMEOUT), caplog)
    questions = [f"question {number}" for number in range(100)]
    await asyncio.gather(*[callers.ask(question) for question in questions])
    assert callers.failures == 0
    source, target = cluster.masters()[:2]
    moved = {source.command("CLUSTER", "KEYSLOT", key) for key in source.command("KEYS", "*:e:*")}
    for slot in sorted(moved)[:3]:
        for _ in cluster.move(slot, source, target):
            for question in questions:
                assert await callers.ask(question) < TIMEOUT + MARGIN
            await asyncio.gather(*[callers.ask(question) for question in questions])

    async def all_hits() -> bool:
        before = callers.cache.stats.hits
        found = await asyncio.gather(*[callers.cache.get(question) for question in questions])
        return all(found) and callers.cache.stats.hits == before + len(questions)

    await eventually("the return of all slots", all_hits, BACK_WITHIN)
    assert len(callers.lines) <= 2
    await callers.cache.aclose()
