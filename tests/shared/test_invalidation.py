"""What is invalidated during a flight, here or elsewhere, is not what the flight stores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from engine_tools import gives, quiet
from together import HEARD, Held, leases, peeked, team, wait_until, waiting

from aiopromptcache import PromptCache
from aiopromptcache.testing import OpenAIServer

pytestmark = pytest.mark.anyio

KEY = "key"
ENTRY = "aiopromptcache:default:e:{%s}"
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}

Change = Callable[[PromptCache, str], Awaitable[Any]]
CHANGES: dict[str, Change] = {
    "delete": lambda cache, key: cache.delete(key),
    "clear": lambda cache, key: cache.clear(),
    "invalidate": lambda cache, key: cache.invalidate("tag"),
    "set": lambda cache, key: cache.set(key, "newer"),
    "set to nothing": lambda cache, key: cache.set(key, "newer", ttl=0),
}


@pytest.fixture(params=CHANGES)
def way(request: pytest.FixtureRequest) -> Any:
    return request.param


# Ways in which an answer comes to be stored


async def created(cache: PromptCache, upstream: Held) -> Any:
    return await cache.get_or_create(KEY, upstream, tags=["tag"])


async def created_anew(cache: PromptCache, upstream: Held) -> Any:
    with cache.control(no_cache=True):
        return await cache.get_or_create(KEY, upstream, tags=["tag"])


async def iterated(cache: PromptCache, upstream: Held) -> Any:
    async def items() -> AsyncIterator[Any]:
        yield await upstream()

    with cache.control(tags=["tag"]):
        return [item async for item in cache.stream(KEY, items)]


FILLS = [created, created_anew, iterated]


@pytest.mark.parametrize("fill", FILLS, ids=lambda fill: fill.__name__)
@pytest.mark.parametrize("where", ["here", "elsewhere", "elsewhere, and heard of"])
async def test_what_a_flight_brings_then_is_stored_nowhere(
    url: str, raw: Any, fill: Any, where: str, way: str
) -> None:
    async with team(url, 3) as [leader, other, third]:
        upstream = Held()
        flight = asyncio.ensure_future(fill(leader, upstream))
        await upstream.called()
        await CHANGES[way](leader if where == "here" else other, KEY)
        if where == "elsewhere, and heard of":
            await asyncio.sleep(0.02)
        upstream.gate.open()
        assert await flight in (1, [1])
        newest = "newer" if way == "set" else None
        await asyncio.sleep(0.01)
        assert [await cache.get(KEY) for cache in (leader, other, third)] == [newest] * 3
        assert bool(await raw.exists(ENTRY % KEY)) == (newest is not None)
        assert await leases(raw) == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_nor_what_a_wrapped_client_brings(
    url: str, raw: Any, stream: bool, where: str, way: str
) -> None:
    async with OpenAIServer() as openai, team(url, 2) as [leader, other]:
        clients = [cache.wrap(openai.client()) for cache in (leader, other)]

        async def ask(client: Any) -> Any:
            answer = await client.chat.completions.create(**CHAT, stream=stream)
            return [part async for part in answer] if stream else answer

        with leader.control(tags=["tag"]):
            await ask(clients[0])
            [key] = [k.partition(b":e:{")[2][:-1].decode() for k in await answers(raw)]
            await leader.delete(key)
            openai.hold()
            flight = asyncio.ensure_future(ask(clients[0]))
        await openai.wait_calls(2)
        await CHANGES[way](leader if where == "here" else other, key)
        openai.release()
        await flight
        await wait_until("the release", lambda: without_leases(raw))
        if way != "set":
            assert await answers(raw) == []
            assert peeked_raw(leader, key) is peeked_raw(other, key) is None
        calls = openai.calls
        await ask(clients[1])
        assert openai.calls == calls + 1


def peeked_raw(cache: PromptCache, key: str) -> Any:
    return cache._engine.storage.peek(cache._engine.prefix + key)


async def answers(raw: Any) -> list[bytes]:
    return [key for key in await raw.keys("*:e:*") if not key.endswith(b"{warm}")]


async def without_leases(raw: Any) -> bool:
    return not await leases(raw)


@pytest.mark.parametrize("where", ["the leader", "a waiter", "a third"])
async def test_waiters_get_the_answer_and_store_it_neither(
    url: str, raw: Any, where: str, way: str
) -> None:
    """Those who asked before get some answer; those who ask after it do not get the old one."""
    async with team(url, 3) as caches:
        leader, waiter, _ = caches
        upstream, second = Held(), Held(2)
        leading = asyncio.ensure_future(created(leader, upstream))
        await upstream.called()
        waiting_there = asyncio.ensure_future(created(waiter, second))
        await waiting(raw, KEY)
        await CHANGES[way](caches[["the leader", "a waiter", "a third"].index(where)], KEY)
        late = [asyncio.ensure_future(created(cache, second)) for cache in caches]
        await asyncio.sleep(0.02)
        upstream.gate.open()
        second.gate.open()
        assert await leading == 1
        newest = "newer" if way == "set" else None
        assert await waiting_there in (1, 2, 3, newest)
        found = await asyncio.gather(*late)
        assert all(value in ((newest,) if newest else (2, 3, 4)) for value in found)
        for cache in caches:
            assert await cache.get(KEY) not in (1, "old")
        await wait_until("the release", lambda: without_leases(raw))


async def test_a_change_just_as_the_answer_is_stored(url: str, raw: Any, way: str) -> None:
    """At any moment of it, and whoever is told first."""
    async with team(url, 3) as [leader, other, third]:
        for ticks in range(12):
            upstream = Held()
            flight = asyncio.ensure_future(created(leader, upstream))
            await upstream.called()
            upstream.gate.open()
            for _ in range(ticks):
                await asyncio.sleep(0)
            await CHANGES[way](other, KEY)
            assert await flight == 1
            newest = "newer" if way == "set" else None
            await wait_until("the news", lambda n=newest: peeked(leader, KEY) in (n, None), HEARD)
            found = [await cache.get(KEY) for cache in (leader, other, third)]
            assert found == [newest] * 3
            await other.delete(KEY)
            await wait_until("the news", lambda: not (peeked(leader, KEY) or peeked(third, KEY)))


async def test_another_tag_disturbs_nobody(url: str, raw: Any) -> None:
    async with team(url) as [leader, other]:
        upstream = Held()
        flight = asyncio.ensure_future(created(leader, upstream))
        await upstream.called()
        await other.invalidate("another", "ta", "tags", "t")
        await other.set("another key", 1, tags=["tag"])
        await quiet()
        upstream.gate.open()
        assert await flight == 1
        assert await other.get(KEY) == 1
        assert await other.get_or_create("third", gives(3)) == 3


async def test_what_is_set_during_a_clear_keeps_its_tags_and_its_place(url: str, raw: Any) -> None:
    async with team(url, 2, max_entries=5) as [one, other]:
        await one.set("before", 1, tags=["tag"])
        tier: Any = one._engine.storage.remote[0].tier
        plain, patterns = tier._sweeper._unlink_matching, []

        async def watched(pattern: bytes) -> int:
            count: int = await plain(pattern)
            patterns.append(pattern)
            await other.set(f"during {len(patterns)}", 2, tags=["tag"])
            return count

        tier._sweeper._unlink_matching = watched
        await one.clear()
        assert len(patterns) == 2
        assert len(await answers(raw)) > 0, "some of it is still there"
        for number in range(1, 4):
            await other.set(f"after {number}", 3)
        assert len(await raw.keys("*:e:*")) <= 5
        await other.invalidate("tag")
        assert [await other.get(f"during {number}") for number in (1, 2)] == [None] * 2


async def test_a_clear_that_breaks_off_leaves_the_tags_of_what_stays(url: str, raw: Any) -> None:
    async with team(url, 2) as [one, other]:
        for number in range(20):
            await one.set(str(number), number, tags=["tag"])
        tier: Any = one._engine.storage.remote[0].tier
        plain = tier._sweeper._unlink_matching

        async def broken(pattern: bytes) -> int:
            if b":e:" in pattern:
                raise ConnectionError("broken off")
            count: int = await plain(pattern)
            return count

        tier._sweeper._unlink_matching = broken
        await one.clear()
        assert await other.invalidate("tag") == 20
        tier._sweeper._unlink_matching = plain


@pytest.mark.parametrize("whose", ["its own", "another's"])
@pytest.mark.parametrize("arrived", [True, False])
async def test_a_change_while_the_answer_fails_to_be_stored(
    url: str, way: str, whose: str, arrived: bool
) -> None:
    """What could not be written waits for the tier, but not where something overtook it."""
    async with team(url, 3) as [leader, other, third]:
        tier = leader._engine.storage.shared.guard.tier  # type: ignore[union-attr]
        plain, writing, lost = tier.fill, asyncio.Event(), asyncio.Event()

        async def fill(entries: Any) -> Any:
            if arrived:
                await plain(entries)
            writing.set()
            await lost.wait()
            tier.fill = plain
            raise ConnectionError("the reply was lost")

        tier.fill = fill
        flight = asyncio.ensure_future(created(leader, gives_one))
        await writing.wait()
        await CHANGES[way](leader if whose == "its own" else other, KEY)
        newest = "newer" if way == "set" else None
        await asyncio.sleep(HEARD / 5)  # the news have come, and the deadline has not
        lost.set()
        assert await flight == 1
        assert await leader.get(KEY) in (newest, None)
        await wait_until("the return", lambda: not leader._engine.storage.shared.guard._backlog)  # type: ignore[union-attr]
        found = [await cache.get(KEY) for cache in (leader, other, third)]
        assert found == [newest] * 3


async def test_a_change_while_what_was_missed_is_made_good(url: str, way: str) -> None:
    """News that come between the removals and the answers that are made good count for these."""
    async with team(url, 3) as [leader, other, third]:
        guard = leader._engine.storage.shared.guard  # type: ignore[union-attr]
        fill, delete = guard.tier.fill, guard.tier.delete
        removing, on = asyncio.Event(), asyncio.Event()

        async def lost(*_: Any) -> Any:
            raise ConnectionError("it was lost")

        async def held(slots: Any) -> Any:
            removing.set()
            await on.wait()
            return await delete(slots)

        guard.tier.fill = guard.tier.delete = lost
        assert await created(leader, gives_one) == 1
        await leader.delete("another")
        assert guard.waiting >= 2
        guard.tier.fill, guard.tier.delete = fill, held
        await removing.wait()
        await CHANGES[way](other, KEY)
        await wait_until("the news", lambda: peeked(leader, KEY) is None)
        on.set()
        await wait_until("the return", lambda: not guard._backlog)
        newest = "newer" if way == "set" else None
        assert [await cache.get(KEY) for cache in (leader, other, third)] == [newest] * 3


@pytest.mark.parametrize("whose", ["its own", "another's"])
@pytest.mark.parametrize("change", ["set", "delete"])
async def test_what_took_the_place_of_a_missed_change_owes_it_too(
    url: str, whose: str, change: str
) -> None:
    """A load after a change that the tier has missed waits in its place. Where that load is
    overtaken, the tier must still not give what was there before the change.
    """
    async with team(url, 3) as [leader, other, third]:
        await other.set(KEY, "before")
        assert await leader.get(KEY) == "before"
        guard = leader._engine.storage.shared.guard  # type: ignore[union-attr]
        tier = guard.tier
        plain = {name: getattr(tier, name) for name in ("set", "fill", "delete")}

        async def lost(*_: Any) -> Any:
            raise ConnectionError("it was lost")

        for name in plain:
            setattr(tier, name, lost)
        await (leader.set(KEY, "after") if change == "set" else leader.delete(KEY))
        assert await created_anew(leader, gives_one) == 1
        assert leader._engine.prefix + KEY in guard._backlog.values
        await (leader if whose == "its own" else other).invalidate("tag")
        await wait_until("the news", lambda: peeked(leader, KEY) is None)
        for name, method in plain.items():
            setattr(tier, name, method)
        await wait_until("the return", lambda: not guard._backlog)
        await wait_until("the news", lambda: peeked(other, KEY) is None)
        assert [await cache.get(KEY) for cache in (leader, other, third)] == [None] * 3


async def gives_one() -> int:
    return 1
