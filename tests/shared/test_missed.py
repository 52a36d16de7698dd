"""What a tier has missed is owed to it until it is made good, whatever comes in between."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import Any

import pytest
from engine_tools import Gate, gives, quiet
from together import Held, deaf, guard_of, lost, made_good, peeked, replaced, team, wait_until

from aiopromptcache import PromptCache
from aiopromptcache.testing import VirtualClock
from aiopromptcache.tiers import _backlog
from aiopromptcache.tiers._backlog import MAX_REMOVALS, MAX_VALUES
from aiopromptcache.tiers._base import News
from aiopromptcache.tiers._lua import CHECKED

pytestmark = pytest.mark.anyio

KEY = "key"


async def load_anew(cache: PromptCache) -> None:
    with cache.control(no_cache=True):
        await cache.get_or_create(KEY, gives("loaded"), tags=["tag"])


async def test_what_redis_refuses_leaves_nothing_older_in_its_place(url: str) -> None:
    """A load waits in the place of a missed removal, and is void by news not heard here yet."""
    async with team(url) as [leader, other]:
        await other.set(KEY, "before")
        assert await leader.get(KEY) == "before"
        with deaf(leader):
            with lost(leader):
                await leader.delete(KEY)
                await load_anew(leader)
                await other.invalidate("tag")
            await made_good(leader)
        await wait_until("the news", lambda: peeked(leader, KEY) is None)
        await wait_until("the news", lambda: peeked(other, KEY) is None)
        assert [await cache.get(KEY) for cache in (leader, other)] == [None, None]


NEXT = {
    "set": lambda cache: cache.set(KEY, "newest"),
    "delete": lambda cache: cache.delete(KEY),
    "clear": lambda cache: cache.clear(),
    "invalidate": lambda cache: cache.invalidate("tag"),
    "fill": load_anew,
}


@pytest.mark.parametrize("what", NEXT)
@pytest.mark.parametrize("ends", ["well", "never"])
async def test_a_missed_removal_holds_while_the_next_write_is_on_its_way(
    url: str, what: str, ends: str
) -> None:
    """Also where that write's caller leaves before it has arrived."""
    async with team(url) as [leader, other]:
        await other.set(KEY, "before", tags=["tag"])
        assert await leader.get(KEY) == "before"
        tier = guard_of(leader).tier
        with lost(leader):
            await leader.delete(KEY)
        plain, gate = getattr(tier, what), Gate()

        async def held(*arguments: Any) -> Any:
            await gate.wait()
            return await plain(*arguments)

        with replaced(tier, {what: held}):
            write = asyncio.ensure_future(NEXT[what](leader))
            await quiet()
            assert await leader.get(KEY) in (None, "newest", "loaded")
            if ends == "never":
                write.cancel()
            gate.open()
            await asyncio.wait([write])
        await made_good(leader)
        newest = {"set": "newest", "fill": "loaded"}.get(what)
        await wait_until("the news", lambda: peeked(other, KEY) != "before")
        allowed = [newest] if ends == "well" else [newest, None]
        assert await leader.get(KEY) in allowed
        assert await other.get(KEY) in allowed


@pytest.mark.parametrize("what", ["clear", "invalidate"])
async def test_what_is_set_after_a_missed_removal_of_many_outlives_it(url: str, what: str) -> None:
    async with team(url) as [leader, other]:
        with lost(leader):
            await (leader.clear() if what == "clear" else leader.invalidate("tag"))
        await leader.set(KEY, "state", tags=["tag"])
        await leader.get_or_create("another", gives(1), tags=["tag"])
        await made_good(leader)
        assert [await cache.get(KEY) for cache in (leader, other)] == ["state"] * 2
        assert await other.get("another") == 1


async def test_a_missed_write_that_is_given_up_leaves_no_older_value(url: str) -> None:
    """Of more than may wait the oldest goes, and what the tier had in its place goes too."""
    async with team(url) as [leader, other]:
        for number in range(3):
            await other.set(str(number), "before")
        with lost(leader):
            for number in range(MAX_VALUES + 3):
                await leader.set(str(number), "after")
        await made_good(leader)
        oldest = [await other.get(str(number)) for number in range(10)]
        assert oldest == [None] * 3 + ["after"] * 7
        assert await other.get(str(MAX_VALUES + 2)) == "after"


async def test_a_missed_write_that_is_over_leaves_no_older_value(
    url: str, clock: VirtualClock
) -> None:
    async with team(url, clock=clock) as [leader, other]:
        await other.set(KEY, "before")
        with lost(leader):
            await leader.set(KEY, "after", ttl=10)
            clock.advance(11)
        await made_good(leader)
        assert [await cache.get(KEY) for cache in (leader, other)] == [None, None]


async def test_more_removals_than_may_wait_are_a_clear(url: str) -> None:
    async with team(url) as [leader, other]:
        await other.set("first", 1)
        await other.set("not removed", 1)
        with lost(leader):
            await leader.delete("first", *[str(number) for number in range(MAX_REMOVALS)])
            await leader.set("later", 1)
        await made_good(leader)
        keys = ("first", "not removed", "later")
        await wait_until("the news", lambda: peeked(other, "first") is None)
        assert [await other.get(key) for key in keys] == [None, None, 1]


async def test_what_may_have_been_overtaken_unheard_is_kept_by_redis_alone(url: str) -> None:
    """News were lost during a flight, and then its answer does not reach who could judge it."""
    async with team(url) as [leader, _]:
        shared: Any = leader._engine.storage.shared
        for arrives in (False, True):
            upstream = Held()
            flight = asyncio.ensure_future(leader.get_or_create(KEY, upstream))
            await upstream.called()
            await shared._told(News("listening", shared.guard.position, lost=True))
            with nullcontext() if arrives else lost(leader):
                upstream.gate.open()
                assert await flight == 1
            assert peeked(leader, KEY) == (1 if arrives else None)
            assert await leader.get(KEY) == (1 if arrives else None)


async def test_all_that_waits_at_the_end_is_written(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than the news that a write is checked against: its own are among them."""
    monkeypatch.setattr(_backlog, "MAX_VALUES", 3 * CHECKED)
    keys = [str(number) for number in range(2 * CHECKED)]
    async with team(url) as [leader, other]:
        with lost(leader):
            for key in keys:
                await leader.set(key, key)
        await leader.aclose()
        assert await asyncio.gather(*[other.get(key) for key in keys]) == keys
