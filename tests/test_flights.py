"""Single flight: one call for all who ask at once, whoever leaves, whatever fails."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from engine_tools import quiet

from aiopromptcache import PromptCache, ReentrantCall
from aiopromptcache._flights import twin

pytestmark = pytest.mark.anyio


class Upstream:
    """A factory that waits until it is told to go on."""

    def __init__(self) -> None:
        self.calls = 0
        self.cancelled = 0
        self.started = asyncio.Event()
        self.go = asyncio.Event()

    async def __call__(self) -> dict[str, int]:
        self.calls += 1
        self.started.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return {"call": self.calls}


async def start(cache: PromptCache, upstream: Upstream, count: int) -> list[asyncio.Task[Any]]:
    """Callers that all wait for one flight."""
    tasks = [asyncio.ensure_future(cache.get_or_create("key", upstream)) for _ in range(count)]
    await upstream.started.wait()
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def test_a_crowd_makes_one_call_and_each_gets_a_value_of_its_own(cache: PromptCache) -> None:
    upstream = Upstream()
    tasks = await start(cache, upstream, 100)
    upstream.go.set()
    values = await asyncio.gather(*tasks)
    assert upstream.calls == 1
    assert values == [{"call": 1}] * 100
    assert len({id(value) for value in values}) == 100
    values[0]["call"] = 99
    assert await cache.get("key") == {"call": 1}
    stats = cache.stats
    assert (stats.requests, stats.hits, stats.misses, stats.collapsed) == (101, 1, 1, 99)


LEAVERS = [set(c) for n in range(5) for c in itertools.combinations(range(4), n)]


@pytest.mark.parametrize("leaving", LEAVERS, ids=str)
async def test_whoever_leaves_the_others_get_their_answer(
    cache: PromptCache, leaving: set[int]
) -> None:
    upstream = Upstream()
    tasks = await start(cache, upstream, 4)
    for number in leaving:
        tasks[number].cancel()
    await asyncio.sleep(0)
    upstream.go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for number, result in enumerate(results):
        if number in leaving:
            assert isinstance(result, asyncio.CancelledError)
        else:
            assert result == {"call": 1}
    await quiet()
    assert upstream.calls == 1
    assert upstream.cancelled == (len(leaving) == 4)


async def test_a_newcomer_does_not_join_a_dying_flight(cache: PromptCache) -> None:
    upstream = Upstream()
    tasks = await start(cache, upstream, 2)
    for task in tasks:
        task.cancel()
    newcomer = asyncio.Task(cache.get_or_create("key", upstream))  # not eager on any loop
    await asyncio.gather(*tasks, return_exceptions=True)
    upstream.go.set()
    assert await newcomer == {"call": 2}
    assert upstream.calls == 2


class Odd(Exception):
    """An error that cannot be copied by calling its class."""

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code


def _odd() -> BaseException:
    error = Odd("message", code=7)
    error.add_note("a note")
    error.__cause__ = ValueError("the cause")
    return error


ERRORS: list[Callable[[], BaseException]] = [
    _odd,
    lambda: OSError(2, "no such file", "name"),
    lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "reason"),
    lambda: ExceptionGroup("group", [ValueError(1)]),
    lambda: ImportError("message", name="module"),
    lambda: KeyError("key"),
]


@pytest.mark.parametrize("make", ERRORS)
async def test_an_error_reaches_each_as_an_instance_of_its_own(
    cache: PromptCache, make: Callable[[], BaseException]
) -> None:
    calls = 0

    async def fail() -> None:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        raise make()

    results = await asyncio.gather(
        *[cache.get_or_create("key", fail) for _ in range(3)], return_exceptions=True
    )
    assert calls == 1
    assert len({id(error) for error in results}) == 3
    for error in results:
        reference = make()
        assert type(error) is type(reference)
        assert str(error) == str(reference)
        assert isinstance(error, BaseException)
        for name in ("code", "errno", "filename", "reason", "exceptions", "name"):
            assert repr(getattr(error, name, None)) == repr(getattr(reference, name, None))
        assert getattr(error, "__notes__", None) == getattr(reference, "__notes__", None)
        assert repr(error.__cause__) == repr(reference.__cause__)
        assert error.__traceback__ is not None
    assert await cache.get("key", "nothing") == "nothing"
    assert cache.stats.requests == cache.stats.misses + cache.stats.collapsed


def test_a_twin_shares_no_notes() -> None:
    original = _odd()
    copy = twin(original)
    copy.add_note("another")
    assert original.__notes__ == ["a note"]


async def test_a_factory_that_cancels_itself_cancels_only_its_own_caller(
    cache: PromptCache,
) -> None:
    async def broken() -> str:
        await asyncio.sleep(0)
        raise asyncio.CancelledError

    async def works() -> str:
        return "fine"

    first = asyncio.ensure_future(cache.get_or_create("key", broken))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(cache.get_or_create("key", works))
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await second == "fine"


async def test_a_factory_that_waits_for_its_own_key_fails_clearly(cache: PromptCache) -> None:
    async def again() -> Any:
        return await cache.get_or_create("key", again)

    with pytest.raises(ReentrantCall):
        await cache.get_or_create("key", again)


async def test_two_factories_that_wait_for_each_other_fail_clearly(cache: PromptCache) -> None:
    both = asyncio.Barrier(2)

    def wants(other: str) -> Callable[[], Awaitable[Any]]:
        async def factory() -> Any:
            await both.wait()
            return await cache.get_or_create(other, wants("none"))

        return factory

    results = await asyncio.gather(
        cache.get_or_create("a", wants("b")),
        cache.get_or_create("b", wants("a")),
        return_exceptions=True,
    )
    assert all(isinstance(result, ReentrantCall) for result in results)


async def test_a_factory_may_ask_for_other_keys(cache: PromptCache) -> None:
    async def inner() -> int:
        return 1

    async def outer() -> int:
        return 1 + await cache.get_or_create("inner", inner)

    assert await cache.get_or_create("outer", outer) == 2


CHANGES: list[Callable[[PromptCache], Awaitable[Any]]] = [
    lambda cache: cache.delete("key"),
    lambda cache: cache.clear(),
    lambda cache: cache.invalidate("tag"),
    lambda cache: cache.set("key", "newer"),
]


@pytest.mark.parametrize("change", CHANGES)
async def test_what_an_invalidation_overtook_is_given_and_not_stored(
    cache: PromptCache, change: Callable[[PromptCache], Awaitable[Any]]
) -> None:
    upstream = Upstream()
    with cache.control(tags=["tag"]):
        tasks = await start(cache, upstream, 3)
    await change(cache)
    after = await cache.get("key", "nothing")
    upstream.go.set()
    assert await asyncio.gather(*tasks) == [{"call": 1}] * 3
    assert await cache.get("key", "nothing") == after


async def test_a_flight_runs_in_a_copy_of_its_first_callers_context(cache: PromptCache) -> None:
    tenant: ContextVar[str] = ContextVar("tenant")

    async def factory() -> str:
        await asyncio.sleep(0)
        mine = tenant.get()
        tenant.set("changed inside")
        return mine

    async def caller(name: str) -> str:
        tenant.set(name)
        answer = await cache.get_or_create("key", factory)
        assert tenant.get() == name
        return answer

    assert await asyncio.gather(caller("a"), caller("b")) == ["a", "a"]


async def test_a_cancel_scope_of_one_caller_is_nobody_elses(cache: PromptCache) -> None:
    upstream = Upstream()
    [other] = await start(cache, upstream, 1)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(cache.get_or_create, "key", upstream)
            await anyio.lowlevel.checkpoint()
            scope.cancel()
    upstream.go.set()
    assert await other == {"call": 1}
    assert upstream.calls == 1


def test_one_cache_serves_one_loop_after_another() -> None:
    cache = PromptCache()

    async def abandoned() -> None:
        upstream = Upstream()
        await start(cache, upstream, 1)  # this loop ends with the flight under way

    async def used() -> Any:
        async def factory() -> str:
            return "new"

        return await cache.get_or_create("key", factory)

    asyncio.run(abandoned())
    assert asyncio.run(used()) == "new"
    assert asyncio.run(used()) == "new"


async def test_ten_thousand_at_once(cache: PromptCache) -> None:
    upstream = Upstream()
    tasks = await start(cache, upstream, 10_000)
    upstream.go.set()
    assert await asyncio.gather(*tasks) == [{"call": 1}] * 10_000
