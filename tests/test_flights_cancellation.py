"""Cancellation: whoever leaves, wherever the flight is, the others notice nothing."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from engine_tools import Gate, Gated, Upstream, cancel, finish, gives, quiet, until, unwanted

from aiopromptcache import MemoryTier, PromptCache
from aiopromptcache.testing import VirtualClock

pytestmark = pytest.mark.anyio

STAGES = ["read", "call", "write"]
"""Where a flight can wait: for a remote tier, for the factory, for the remote tier again."""


class Stage:
    """A cache whose flights are held at one of their await points."""

    def __init__(self, name: str, clock: VirtualClock) -> None:
        self.name = name
        self.gate = Gate()
        self.calls = 0
        self.remote = Gated()
        self.remote.reading = self.gate if name == "read" else None
        self.remote.writing = self.gate if name == "write" else None
        self.cache = PromptCache(MemoryTier(), self.remote, clock=clock)

    async def factory(self) -> dict[str, int]:
        self.calls += 1
        mine = self.calls
        if self.name == "call":
            await self.gate.wait()
        return {"call": mine}

    async def callers(self, count: int) -> list[asyncio.Task[Any]]:
        tasks = [self.caller() for _ in range(count)]
        await self.gate.reached()
        await quiet()
        return tasks

    def caller(self) -> asyncio.Task[Any]:
        return asyncio.create_task(self.cache.get_or_create("key", self.factory))


@pytest.fixture(params=STAGES)
def stage(request: pytest.FixtureRequest, clock: VirtualClock) -> Stage:
    return Stage(request.param, clock)


SOME = [
    pytest.param(count, set(leaving), id=f"{count}-{leaving}")
    for count in (2, 3)
    for size in range(1, count)
    for leaving in itertools.combinations(range(count), size)
]


@pytest.mark.parametrize(("count", "leaving"), SOME)
async def test_those_who_stay_get_the_answer_of_the_one_flight(
    stage: Stage, count: int, leaving: set[int]
) -> None:
    tasks = await stage.callers(count)
    await cancel(*[tasks[number] for number in leaving])
    stage.gate.open()
    staying = [task for number, task in enumerate(tasks) if number not in leaving]
    assert await asyncio.gather(*staying) == [{"call": 1}] * len(staying)
    assert stage.calls == 1
    assert await stage.cache.get("key") == {"call": 1}


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_callers_may_leave_in_any_order(clock: VirtualClock, order: tuple[int, ...]) -> None:
    stage = Stage("call", clock)
    tasks = await stage.callers(3)
    for number in order[:2]:
        await cancel(tasks[number])
        assert not tasks[order[2]].done()
    stage.gate.open()
    assert await tasks[order[2]] == {"call": 1}


@pytest.mark.parametrize("stage", ["read", "call"], indirect=True)
@pytest.mark.parametrize("count", [1, 2, 3])
async def test_when_all_have_left_the_flight_ends_and_a_newcomer_starts_anew(
    stage: Stage, count: int
) -> None:
    await cancel(*await stage.callers(count))
    await quiet()
    assert len(stage.cache._engine.flights) == 0
    before = stage.calls
    stage.gate.open()
    assert await stage.caller() == {"call": before + 1}


@pytest.mark.parametrize("count", [1, 3])
async def test_an_answer_that_is_there_is_stored_though_all_have_left(
    clock: VirtualClock, count: int
) -> None:
    stage = Stage("write", clock)
    await cancel(*await stage.callers(count))
    stage.gate.open()
    await until(lambda: len(stage.cache._engine.flights) == 0)
    assert await stage.remote.get(["default:key"])
    assert await stage.cache.get_or_create("key", unwanted) == {"call": 1}


async def test_a_newcomer_between_the_last_cancel_and_its_arrival_is_served(
    stage: Stage,
) -> None:
    [leaving] = await stage.callers(1)
    leaving.cancel()
    newcomer = stage.caller()
    stage.gate.open()
    assert "call" in await newcomer
    with pytest.raises(asyncio.CancelledError):
        await leaving


async def test_a_caller_cancelled_before_it_ever_ran_starts_nothing(cache: PromptCache) -> None:
    started: list[int] = []

    async def caller() -> Any:
        started.append(1)
        return await cache.get_or_create("key", gives(1))

    task = asyncio.Task(caller())  # not eager on any loop
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert started == []
    assert cache.stats.requests == 0


async def test_a_factory_that_ignores_its_cancellation_stores_nothing_over_a_newer_answer(
    cache: PromptCache,
) -> None:
    gate, late = Gate(), Gate()

    async def stubborn() -> str:
        try:
            await gate.wait()
        except asyncio.CancelledError:
            await late.wait()
        return "old"

    task = asyncio.create_task(cache.get_or_create("key", stubborn))
    await gate.reached()
    await cancel(task)
    await late.reached()
    assert await cache.get_or_create("key", gives("new")) == "new"
    late.open()
    await quiet()
    assert await cache.get("key") == "new"


async def test_a_factory_that_ignores_its_cancellation_brings_nothing_deleted_back(
    cache: PromptCache,
) -> None:
    gate, late = Gate(), Gate()

    async def stubborn() -> str:
        try:
            await gate.wait()
        except asyncio.CancelledError:
            await late.wait()
        return "deleted"

    task = asyncio.create_task(cache.get_or_create("key", stubborn))
    await gate.reached()
    await cancel(task)
    await late.reached()
    await cache.delete("key")
    late.open()
    await quiet()
    assert await cache.get("key", "nothing") == "nothing"


async def test_a_flight_cancelled_from_outside_is_started_anew_once_by_its_followers(
    cache: PromptCache,
) -> None:
    first, second = Upstream(), Upstream()
    leader = asyncio.create_task(cache.get_or_create("key", first))
    await first.gate.reached()
    followers = [asyncio.create_task(cache.get_or_create("key", second)) for _ in range(3)]
    await quiet()
    [flight] = [task for task in asyncio.all_tasks() if task.get_name() == "aiopromptcache flight"]
    flight.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    await second.gate.reached()
    second.gate.open()
    assert await asyncio.gather(*followers) == [{"call": 1}] * 3
    assert second.calls == 1


async def test_followers_of_a_lost_flight_look_again_before_they_load(cache: PromptCache) -> None:
    first, calls = Upstream(), list[int]()

    async def quick() -> str:
        calls.append(1)
        return "fine"

    leader = asyncio.create_task(cache.get_or_create("key", first))
    await first.gate.reached()
    followers = [asyncio.create_task(cache.get_or_create("key", quick)) for _ in range(3)]
    await quiet()
    [flight] = [task for task in asyncio.all_tasks() if task.get_name() == "aiopromptcache flight"]
    flight.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    assert await asyncio.gather(*followers) == ["fine"] * 3
    assert calls == [1]


async def test_a_task_group_that_fails_takes_only_its_own_callers(cache: PromptCache) -> None:
    upstream = Upstream()
    other = asyncio.create_task(cache.get_or_create("key", upstream))
    await upstream.gate.reached()

    async def breaks() -> None:
        await anyio.lowlevel.checkpoint()
        raise ValueError("a sibling's")

    async def both() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(cache.get_or_create, "key", upstream)
            group.start_soon(breaks)

    with pytest.raises(ExceptionGroup):
        await both()
    upstream.gate.open()
    assert await other == {"call": 1}
    assert upstream.calls == 1


async def test_a_leader_whose_time_is_up_leaves_the_flight_to_its_followers(
    cache: PromptCache,
) -> None:
    upstream = Upstream()

    async def impatient() -> str:
        with anyio.move_on_after(0) as scope:
            await cache.get_or_create("key", upstream)
        return "left" if scope.cancelled_caught else "answered"

    leader = asyncio.create_task(impatient())
    follower = asyncio.create_task(cache.get_or_create("key", upstream))
    assert await finish(leader) == "left"
    upstream.gate.open()
    assert "call" in await finish(follower)


async def test_a_factory_may_use_scopes_and_groups_of_its_own(cache: PromptCache) -> None:
    async def factory() -> list[int]:
        found: list[int] = []

        async def add(number: int) -> None:
            await anyio.lowlevel.checkpoint()
            found.append(number)

        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                for number in range(3):
                    group.start_soon(add, number)
            scope.cancel()
            await anyio.lowlevel.checkpoint()
        return sorted(found)

    assert await cache.get_or_create("key", factory) == [0, 1, 2]


@pytest.mark.parametrize("leaving", [0, 1, 2, 3])
async def test_counters_add_up_whoever_leaves(cache: PromptCache, leaving: int) -> None:
    upstream = Upstream()
    tasks = [asyncio.create_task(cache.get_or_create("key", upstream)) for _ in range(3)]
    await upstream.gate.reached()
    await quiet()
    await cancel(*tasks[:leaving])
    upstream.gate.open()
    await asyncio.gather(*tasks[leaving:])
    await quiet()
    stats = cache.stats
    assert stats.requests == 3
    assert (stats.hits, stats.misses, stats.collapsed) == (0, 1, 2)
    assert stats.upstream_calls == 1
