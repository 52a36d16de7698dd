"""Who may wait for whom: circles, nested calls, contexts, one loop after another."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pytest
from engine_tools import Gate, Gated, Upstream, cancel, finish, gives, quiet, unwanted

from aiopromptcache import MemoryTier, PromptCache, ReentrantCall
from aiopromptcache.testing import VirtualClock

pytestmark = pytest.mark.anyio


async def ask(cache: PromptCache, key: str, factory: Any) -> Any:
    """One caller's answer; a deadlock fails the test."""
    return await finish(asyncio.ensure_future(cache.get_or_create(key, factory)))


async def test_a_factory_may_catch_that_it_asked_for_its_own_key(cache: PromptCache) -> None:
    async def factory() -> str:
        with pytest.raises(ReentrantCall):
            await cache.get_or_create("key", unwanted)
        return "fine"

    assert await ask(cache, "key", factory) == "fine"
    assert await cache.get("key") == "fine"


async def test_a_task_of_the_factory_may_not_wait_for_its_key_either(cache: PromptCache) -> None:
    async def factory() -> Any:
        return await asyncio.create_task(cache.get_or_create("key", unwanted))

    with pytest.raises(ReentrantCall):
        await ask(cache, "key", factory)


async def test_a_circle_of_three_over_two_caches_is_refused(
    cache: PromptCache, clock: VirtualClock
) -> None:
    other = PromptCache(clock=clock)

    async def a() -> Any:
        return await other.get_or_create("b", b)

    async def b() -> Any:
        return await cache.get_or_create("c", c)

    async def c() -> Any:
        return await cache.get_or_create("a", a)

    with pytest.raises(ReentrantCall):
        await ask(cache, "a", a)


async def test_a_circle_is_found_though_one_of_two_waiters_has_left(cache: PromptCache) -> None:
    turn = Gate()

    async def a() -> Any:
        left = asyncio.create_task(cache.get_or_create("b", b))
        stays = asyncio.create_task(cache.get_or_create("b", b))
        await turn.reached()
        await quiet()
        await cancel(left)
        turn.open()
        return await stays

    async def b() -> Any:
        await turn.wait()
        return await cache.get_or_create("a", a)

    with pytest.raises(ReentrantCall):
        await ask(cache, "a", a)


async def test_waiting_for_what_another_waits_for_is_no_circle(cache: PromptCache) -> None:
    upstream = Upstream()

    async def side() -> Any:
        return await cache.get_or_create("shared", upstream)

    async def top() -> Any:
        return await asyncio.gather(
            cache.get_or_create("left", side), cache.get_or_create("right", side)
        )

    task = asyncio.create_task(cache.get_or_create("top", top))
    await upstream.gate.reached()
    await quiet()
    upstream.gate.open()
    assert await task == [{"call": 1}] * 2


async def test_a_factory_that_asks_for_a_new_answer_of_its_own_key_does_not_go_round_for_ever(
    cache: PromptCache,
) -> None:
    rounds = 0

    async def factory() -> Any:
        nonlocal rounds
        rounds += 1
        if rounds == 50:
            return "went round"
        with cache.control(no_cache=True):
            return await cache.get_or_create("key", factory)

    with pytest.raises(ReentrantCall):
        await ask(cache, "key", factory)


async def test_a_task_that_outlives_its_flight_may_ask_for_the_flights_key(
    cache: PromptCache,
) -> None:
    later, tasks = Gate(), list[asyncio.Task[Any]]()

    async def background() -> Any:
        await later.wait()
        return await cache.get_or_create("key", gives("again"))

    async def factory() -> str:
        tasks.append(asyncio.create_task(background()))
        return "first"

    assert await ask(cache, "key", factory) == "first"
    await cache.delete("key")
    later.open()
    assert await finish(tasks[0]) == "again"


async def test_the_first_callers_context_is_copied_not_shared(cache: PromptCache) -> None:
    variable: ContextVar[str] = ContextVar("variable")

    async def factory() -> str:
        seen = variable.get()
        variable.set("changed in the flight")
        return seen

    variable.set("first caller")
    assert await cache.get_or_create("key", factory) == "first caller"
    assert variable.get() == "first caller"


async def test_control_reaches_calls_inside_a_factory(cache: PromptCache) -> None:
    async def factory() -> Any:
        return cache.current_policy.partition

    with cache.control(partition="tenant"):
        assert await cache.get_or_create("key", factory) == "tenant"


@pytest.mark.parametrize("field", ["no_cache", "no_store"])
async def test_who_wants_a_new_answer_does_not_join_an_older_flight(
    cache: PromptCache, field: str
) -> None:
    older, newer = Upstream(), Upstream()
    first = asyncio.create_task(cache.get_or_create("key", older))
    await older.gate.reached()
    with cache.control(**{field: True}):
        second = asyncio.create_task(cache.get_or_create("key", newer))
    await newer.gate.reached()
    newer.gate.open()
    assert await finish(second) == {"call": 1}
    assert not first.done()
    older.gate.open()
    assert await first == {"call": 1}
    assert cache.stats.collapsed == 0


async def test_callers_without_storing_share_one_call(cache: PromptCache) -> None:
    upstream = Upstream()
    with cache.control(no_store=True):
        tasks = [asyncio.create_task(cache.get_or_create("key", upstream)) for _ in range(3)]
    await upstream.gate.reached()
    await quiet()
    upstream.gate.open()
    assert await asyncio.gather(*tasks) == [{"call": 1}] * 3
    assert await cache.get("key", "nothing") == "nothing"


async def test_partitions_do_not_share_a_flight(cache: PromptCache) -> None:
    upstream = Upstream()
    tasks = []
    for partition in ("a", "b"):
        with cache.control(partition=partition):
            tasks.append(asyncio.create_task(cache.get_or_create("key", upstream)))
    await upstream.gate.reached(2)
    upstream.gate.open()
    assert await asyncio.gather(*tasks) == [{"call": 1}, {"call": 2}]


async def test_what_is_not_stored_serialises_nobody(cache: PromptCache) -> None:
    upstream = Upstream()
    tasks = [asyncio.create_task(cache.get_or_create("key", upstream, ttl=0)) for _ in range(3)]
    await upstream.gate.reached()
    await quiet()
    upstream.gate.open()
    await asyncio.gather(*tasks)
    assert upstream.calls == 1


@contextmanager
def stopped_loop(cache: PromptCache) -> Iterator[None]:
    """Meanwhile there is a loop that does not run, and in it a flight for the key."""
    upstream = Upstream()

    async def begin() -> list[asyncio.Task[Any]]:
        tasks = [asyncio.create_task(cache.get_or_create("key", upstream)) for _ in range(2)]
        await upstream.gate.reached()
        return tasks

    with asyncio.Runner() as runner:
        tasks = runner.run(begin())
        yield
        runner.run(cancel(*tasks))


@pytest.mark.parametrize("remote", [False, True])
def test_a_flight_of_a_loop_that_has_stopped_holds_nobody_up(remote: bool) -> None:
    cache = PromptCache(*[MemoryTier(), Gated()][: 1 + remote])

    async def use() -> Any:
        return await ask(cache, "key", gives("new")), await cache.delete("key")

    with stopped_loop(cache):
        assert asyncio.run(use()) == ("new", 1)
        assert asyncio.run(use()) == ("new", 1)
    assert len(cache._engine.flights) == 0


def test_hooks_hear_events_on_one_loop_after_another() -> None:
    kinds: list[str] = []
    cache = PromptCache(hooks=[lambda event: kinds.append(event.kind)])

    async def use() -> None:
        await cache.get_or_create("key", gives(1))
        await cache.aclose()

    for _ in range(2):
        asyncio.run(use())
    assert kinds == ["store", "miss"] * 2
