"""Refreshes in the background, old answers for a dead upstream, early refreshes."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest
from engine_tools import Gate, Gated, Upstream, cancel, finish, gives, quiet, until, unwanted

from aiopromptcache import CacheEvent, MemoryTier, Policy, PromptCache
from aiopromptcache._refresh import FAILURE_SECONDS, FAILURES, Failures, is_outage
from aiopromptcache.testing import FaultyTier, VirtualClock

pytestmark = pytest.mark.anyio

WINDOW = Policy(ttl=100, stale_while_revalidate=50)
RESCUE = Policy(ttl=100, stale_if_error=50)


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


async def stale(clock: VirtualClock, policy: Policy = WINDOW, *tiers: Any) -> PromptCache:
    """A cache with an entry that has just left its fresh life."""
    cache = PromptCache(*tiers, policy=policy, clock=clock)
    await cache.set("key", "old", tags=["tag"])
    clock.advance(100)
    return cache


class Down:
    """A factory that fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls = 0
        self.error = error if error is not None else ConnectionError("down")

    async def __call__(self) -> Any:
        self.calls += 1
        raise self.error


# While revalidating


async def test_500_callers_at_the_moment_of_expiry_wait_for_nothing_and_make_one_call(
    clock: VirtualClock, upstream: Upstream
) -> None:
    cache = await stale(clock)
    calls = [cache.get_or_create("key", upstream) for _ in range(500)]
    answers = await asyncio.wait_for(asyncio.gather(*calls), 5)  # though the upstream answers none
    assert answers == ["old"] * 500
    await upstream.gate.reached()
    assert (upstream.calls, cache.stats.stale, cache.stats.hits) == (1, 500, 500)
    upstream.gate.open()
    await until(lambda: cache.stats.refreshes == 1)
    assert await cache.get_or_create("key", unwanted) == {"call": 1}
    assert (upstream.calls, cache.stats.stale) == (1, 500)


async def test_a_stale_answer_comes_without_a_single_turn_of_the_loop(
    clock: VirtualClock, upstream: Upstream
) -> None:
    cache = await stale(clock)
    call = cache.get_or_create("key", upstream)
    with pytest.raises(StopIteration) as returned:
        call.send(None)
    assert returned.value.value == "old"
    await cache.aclose()


async def test_events_and_counters_tell_of_a_refresh(clock: VirtualClock) -> None:
    events: list[CacheEvent] = []
    async with PromptCache(policy=WINDOW, clock=clock, hooks=[events.append]) as cache:
        await cache.set("key", "old")
        clock.advance(100)
        await cache.get_or_create("key", gives("new"))
        await until(lambda: cache.stats.refreshes == 1)
        stats = cache.stats
        assert (stats.requests, stats.hits, stats.stale, stats.misses) == (1, 1, 1, 0)
        assert (stats.upstream_calls, stats.stores) == (1, 2)
    assert [event.kind for event in events] == ["store", "stale", "store", "refresh"]
    assert {event.key for event in events} == {"key"}
    assert events[1].age == 100


async def test_a_refresh_goes_on_when_whoever_began_it_is_cancelled(
    clock: VirtualClock, upstream: Upstream
) -> None:
    cache = await stale(clock)

    async def caller() -> None:
        await cache.get_or_create("key", upstream)
        await Gate().wait()

    task = asyncio.create_task(caller())
    await upstream.gate.reached()
    await cancel(task)
    upstream.gate.open()
    await until(lambda: cache.stats.refreshes == 1)
    assert (upstream.calls, upstream.cancelled) == (1, 0)
    assert await cache.get("key") == {"call": 1}


async def test_whoever_joins_a_refresh_and_leaves_does_not_end_it(
    clock: VirtualClock, upstream: Upstream
) -> None:
    cache = await stale(clock)
    await cache.get_or_create("key", upstream)
    await upstream.gate.reached()
    with cache.control(stale_while_revalidate=0):
        joined = asyncio.create_task(cache.get_or_create("key", unwanted))
        await quiet()
        await cancel(joined)
    upstream.gate.open()
    await until(lambda: cache.stats.refreshes == 1)
    assert upstream.cancelled == 0


async def test_inside_the_window_the_old_one_outside_the_refreshs_flight(
    clock: VirtualClock, upstream: Upstream
) -> None:
    cache = await stale(clock)
    await cache.get_or_create("key", upstream)
    await upstream.gate.reached()
    assert await cache.get_or_create("key", unwanted) == "old"
    clock.advance(50)
    outside = [asyncio.create_task(cache.get_or_create("key", unwanted)) for _ in range(3)]
    await quiet()
    assert not any(task.done() for task in outside)
    upstream.gate.open()
    assert await asyncio.gather(*outside) == [{"call": 1}] * 3
    assert (upstream.calls, cache.stats.collapsed) == (1, 3)


@pytest.mark.parametrize("how", ["delete", "clear", "invalidate", "set"])
async def test_what_overtakes_a_refresh_wins(
    clock: VirtualClock, upstream: Upstream, how: str
) -> None:
    cache = await stale(clock)
    await cache.get_or_create("key", upstream, tags=["tag"])
    await upstream.gate.reached()
    if how == "set":
        await cache.set("key", "newest")
    else:
        await {
            "delete": lambda: cache.delete("key"),
            "clear": cache.clear,
            "invalidate": lambda: cache.invalidate("tag"),
        }[how]()
    upstream.gate.open()
    await until(lambda: cache.stats.refreshes == 1)
    assert await cache.get("key") == ("newest" if how == "set" else None)


async def test_a_refresh_runs_in_a_copy_of_its_callers_context(clock: VirtualClock) -> None:
    variable = contextvars.ContextVar("variable", default="nobody's")
    seen: list[str] = []

    async def factory() -> str:
        seen.append(variable.get())
        variable.set("the refresh's")
        return "new"

    cache = await stale(clock)
    variable.set("the caller's")
    assert await cache.get_or_create("key", factory) == "old"
    variable.set("changed")
    await until(lambda: cache.stats.refreshes == 1)
    assert seen == ["the caller's"]
    assert variable.get() == "changed"


async def test_closing_ends_a_refresh_and_leaves_nothing(
    clock: VirtualClock, upstream: Upstream
) -> None:
    cache = await stale(clock)
    await cache.get_or_create("key", upstream)
    await upstream.gate.reached()
    before = len(asyncio.all_tasks())
    await finish(asyncio.ensure_future(cache.aclose()))
    assert upstream.cancelled == 1
    assert len(asyncio.all_tasks()) == before - 2


async def test_closing_lets_a_refresh_that_has_its_answer_be_stored(clock: VirtualClock) -> None:
    remote = Gated()
    cache = await stale(clock, WINDOW, MemoryTier(), remote)
    remote.writing = Gate()
    await cache.get_or_create("key", gives("new"))
    await remote.writing.reached()
    closing = asyncio.create_task(cache.aclose())
    await quiet()
    assert not closing.done()
    remote.writing.open()
    await finish(closing)
    assert await PromptCache(remote, clock=clock).get("key") is None  # it has been closed, too


async def test_closing_leaves_a_refresh_to_those_who_joined_it(
    clock: VirtualClock, upstream: Upstream
) -> None:
    cache = await stale(clock)
    await cache.get_or_create("key", upstream)
    await upstream.gate.reached()
    clock.advance(50)
    joined = asyncio.create_task(cache.get_or_create("key", unwanted))
    await quiet()
    await finish(asyncio.ensure_future(cache.aclose()))
    upstream.gate.open()
    assert await joined == {"call": 1}


async def test_a_refresh_that_fails_is_not_tried_again_at_once(clock: VirtualClock) -> None:
    cache, down = await stale(clock), Down()
    for _ in range(20):
        assert await cache.get_or_create("key", down) == "old"
        await quiet()
    assert (down.calls, cache.stats.errors, cache.stats.refreshes) == (1, 1, 0)
    clock.advance(FAILURE_SECONDS)
    assert await cache.get_or_create("key", down) == "old"
    await quiet()
    assert down.calls == 2


async def test_a_refresh_whose_answer_may_not_be_stored_is_not_paid_again_at_once(
    clock: VirtualClock,
) -> None:
    cache = PromptCache(policy=WINDOW, clock=clock)
    await cache.set("key", 1)
    clock.advance(100)
    calls = 0

    async def misfit() -> Any:
        nonlocal calls
        calls += 1
        return "no int"

    for _ in range(5):
        assert await cache.get_or_create("key", misfit, type=int) == 1
        await quiet()
    assert calls == 1


async def test_nobody_refreshes_for_a_get(clock: VirtualClock) -> None:
    cache = await stale(clock)
    assert await cache.get("key", "nothing") == "nothing"
    with cache.control(max_stale=1):
        assert await cache.get("key") == "old"
    assert cache.stats.stale == 1
    with cache.control(max_stale=0):
        assert await cache.get("key", "nothing") == "nothing"
    clock.advance(1)
    with cache.control(max_stale=0.5):
        assert await cache.get("key", "nothing") == "nothing"


async def test_work_may_ask_for_its_own_stale_key(clock: VirtualClock) -> None:
    cache = await stale(clock)

    async def improve() -> str:
        return f"better than {await cache.get_or_create('key', improve)}"

    assert await cache.get_or_create("key", improve) == "old"
    await until(lambda: cache.stats.refreshes == 1)
    assert await cache.get("key") == "better than old"


async def test_a_refresh_may_wait_for_the_work_in_which_it_began(clock: VirtualClock) -> None:
    cache = await stale(clock)
    begun = Gate()

    async def inner() -> str:
        begun.open()
        return f"after {await cache.get_or_create('outer', unwanted)}"

    async def outer() -> str:
        old = await cache.get_or_create("key", inner)
        await begun.wait()
        await quiet()
        return f"made of {old}"

    assert await cache.get_or_create("outer", outer) == "made of old"
    await until(lambda: cache.stats.refreshes == 1)
    assert await cache.get("key") == "after made of old"


async def test_the_windows_are_the_writers_and_readers_may_only_tighten(
    clock: VirtualClock,
) -> None:
    cache = PromptCache(policy=Policy(ttl=100), clock=clock)
    await cache.set("none", "old")
    with cache.control(stale_while_revalidate=50):
        await cache.set("some", "old")
    clock.advance(100)
    with cache.control(stale_while_revalidate=1_000):
        assert await cache.get_or_create("none", gives("new")) == "new"
        clock.advance(49)
        assert await cache.get_or_create("some", gives("new")) == "old"
    await cache.aclose()


async def test_one_process_takes_what_another_has_refreshed(clock: VirtualClock) -> None:
    remote = FaultyTier()
    one, two = (PromptCache(MemoryTier(), remote, policy=WINDOW, clock=clock) for _ in range(2))
    await one.set("key", "old")
    assert await two.get("key") == "old"
    clock.advance(100)
    assert await one.get_or_create("key", gives("new")) == "old"
    await until(lambda: one.stats.refreshes == 1)
    assert await two.get_or_create("key", unwanted) == "old"  # its own memory's
    await quiet()
    assert await two.get_or_create("key", unwanted) == "new"
    assert (two.stats.upstream_calls, two.stats.refreshes, two.stats.stale) == (0, 0, 1)


async def test_an_old_answer_of_a_remote_tier_is_given_and_refreshed_once(
    clock: VirtualClock, upstream: Upstream
) -> None:
    memory, remote = MemoryTier(), FaultyTier()
    cache = await stale(clock, WINDOW, memory, remote)
    await memory.clear("default")
    answers = [cache.get_or_create("key", upstream) for _ in range(10)]
    assert await asyncio.gather(*answers) == ["old"] * 10
    await upstream.gate.reached()
    assert upstream.calls == 1
    upstream.gate.open()
    await until(lambda: cache.stats.refreshes == 1)


async def test_the_fresh_one_of_a_slower_tier_is_preferred(clock: VirtualClock) -> None:
    near, far = FaultyTier(), FaultyTier()
    cache = await stale(clock, WINDOW, MemoryTier(), near, far)
    other = PromptCache(far, policy=WINDOW, clock=clock)
    await other.set("key", "new")
    with cache.control(stale_while_revalidate=0):
        assert await cache.get_or_create("key", unwanted) == "new"
    assert await cache.get("key") == "new"


async def test_an_older_record_of_a_remote_tier_replaces_nothing(clock: VirtualClock) -> None:
    remote = FaultyTier()
    cache = await stale(clock, Policy(ttl=100, stale_if_error=500), MemoryTier(), remote)
    remote.fail(only=["set"])
    await cache.set("key", "new")
    clock.advance(10)
    with cache.control(max_age=5), pytest.raises(ConnectionError):
        await cache.get_or_create("key", Down())
    assert await cache.get("key") == "new"


# On errors


@pytest.mark.parametrize(
    "error",
    [ConnectionError(), TimeoutError(), OSError(), ValueError("odd answer"), KeyError("choices")],
    ids=repr,
)
async def test_an_outage_gives_the_old_answer(clock: VirtualClock, error: Exception) -> None:
    cache = await stale(clock, RESCUE)
    assert await cache.get_or_create("key", Down(error)) == "old"
    stats = cache.stats
    assert (stats.hits, stats.stale, stats.misses, stats.errors) == (1, 1, 0, 1)
    clock.advance(50)
    with pytest.raises(type(error)):
        await cache.get_or_create("key", Down(error))


@pytest.mark.parametrize("error", [TypeError(), NameError(), NotImplementedError()], ids=repr)
async def test_the_callers_own_fault_is_the_callers_to_see(
    clock: VirtualClock, error: Exception
) -> None:
    cache = await stale(clock, RESCUE)
    with pytest.raises(type(error)):
        await cache.get_or_create("key", Down(error))
    with pytest.raises(TypeError, match="of type set"):
        await cache.get_or_create("key", gives({1}))
    assert await cache.get_or_create("key", gives("new")) == "new"  # nothing was remembered


class Status(Exception):
    """As the SDK's, httpx's and aiohttp's errors carry it."""

    def __init__(self, status: int, where: str) -> None:
        super().__init__(status)
        if where == "response":
            self.response = type("Response", (), {"status_code": status})
        else:
            setattr(self, where, status)


@pytest.mark.parametrize("where", ["status_code", "status", "response"])
@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 413, 422, 425, 429, 500, 503])
def test_a_status_says_whose_fault_it_is(status: int, where: str) -> None:
    assert is_outage(Status(status, where)) is (status >= 500 or status in {408, 409, 425, 429})


async def test_a_dead_upstream_is_not_asked_by_every_call(clock: VirtualClock) -> None:
    cache, down = await stale(clock, RESCUE), Down()
    for _ in range(20):
        assert await cache.get_or_create("key", down) == "old"
    assert (down.calls, cache.stats.stale) == (1, 20)
    clock.advance(FAILURE_SECONDS)
    assert await cache.get_or_create("key", gives("new")) == "new"


async def test_a_known_outage_excuses_nobody_without_a_window(clock: VirtualClock) -> None:
    cache, down = await stale(clock, RESCUE), Down()
    await cache.get_or_create("key", down)
    with cache.control(stale_if_error=0):
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await cache.get_or_create("key", down)
    assert down.calls == 3


async def test_a_refused_refresh_does_not_pass_for_an_outage(clock: VirtualClock) -> None:
    policy = Policy(ttl=100, stale_while_revalidate=50, stale_if_error=100)
    cache, refused = await stale(clock, policy), Down(Status(400, "status_code"))
    clock.advance(49.5)
    assert await cache.get_or_create("key", refused) == "old"
    await quiet()
    clock.advance(0.5)  # past the first window, inside the second
    with pytest.raises(Status):
        await cache.get_or_create("key", refused)


async def test_everyone_who_waits_is_rescued(clock: VirtualClock) -> None:
    cache, gate = await stale(clock, RESCUE), Gate()

    async def failing() -> Any:
        await gate.wait()
        raise ConnectionError

    calls = [asyncio.create_task(cache.get_or_create("key", failing)) for _ in range(10)]
    with cache.control(stale_if_error=0):
        unlucky = asyncio.create_task(cache.get_or_create("key", failing))
    await gate.reached()
    await quiet()
    gate.open()
    assert await asyncio.gather(*calls) == ["old"] * 10
    with pytest.raises(ConnectionError):
        await unlucky
    assert (gate.arrived, cache.stats.stale) == (1, 10)


async def test_the_old_answer_may_be_in_a_remote_tier(clock: VirtualClock) -> None:
    memory, remote = MemoryTier(), FaultyTier()
    cache = await stale(clock, RESCUE, memory, remote)
    await memory.clear("default")
    assert await cache.get_or_create("key", Down()) == "old"
    assert cache.stats.stale == 1
    remote.fail()
    await memory.clear("default")
    clock.advance(FAILURE_SECONDS)
    with pytest.raises(ConnectionError):
        await cache.get_or_create("key", Down())


async def test_an_old_answer_of_another_type_rescues_nobody(clock: VirtualClock) -> None:
    cache = await stale(clock, RESCUE)
    with pytest.raises(ConnectionError):
        await cache.get_or_create("key", Down(), type=int)


async def test_a_failed_refresh_is_remembered_as_an_outage(clock: VirtualClock) -> None:
    policy = Policy(ttl=100, stale_while_revalidate=10, stale_if_error=100)
    cache, down = await stale(clock, policy), Down()
    clock.advance(9.5)
    await cache.get_or_create("key", down)
    await quiet()
    clock.advance(1)
    assert await cache.get_or_create("key", down) == "old"
    assert down.calls == 1


def test_the_memory_of_failures_is_bounded_and_short(clock: VirtualClock) -> None:
    failures = Failures(clock)
    for number in range(FAILURES + 5):
        failures.note(str(number), outage=number % 2 == 0)
    assert [failures.lately(str(number)) for number in (0, 4, 5)] == [False, False, True]
    assert not failures.lately("5", outage=True)
    assert failures.lately("6", outage=True)
    failures.note("5", outage=True)
    assert failures.lately("5", outage=True)
    clock.advance(FAILURE_SECONDS)
    assert not failures.lately("5")
    failures.note("5", outage=True)
    clock.advance(-1)  # an operator's clock: rather ask once too often
    assert not failures.lately("5")


# Ahead of time


async def early(clock: VirtualClock, cost: float, left: float, **fields: Any) -> int:
    """How many of 1,000 hits begin a refresh."""
    cache = PromptCache(policy=Policy(ttl=100), clock=clock)

    async def slow() -> str:
        clock.advance(cost)
        return "old"

    await cache.get_or_create("key", slow)
    clock.advance(100 - left)
    begun = 0
    with cache.control(**fields):
        for _ in range(1_000):
            calls = cache.stats.upstream_calls
            assert await cache.get_or_create("key", Down()) == "old"
            await quiet()
            begun += cache.stats.upstream_calls - calls
            cache._engine.refreshes.failures._known.clear()
    await cache.aclose()
    return begun


async def test_early_refreshes_grow_likelier_towards_expiry(clock: VirtualClock) -> None:
    # The chance is exp(-left / (cost * beta)).
    assert await early(clock, 10, 100, refresh_ahead=0.1) == 0
    likely = [await early(clock, 10, left, refresh_ahead=1) for left in (40, 20, 5)]
    assert 2 <= likely[0] <= 45  # 18 expected
    assert 90 <= likely[1] <= 185  # 135
    assert 540 <= likely[2] <= 670  # 607
    assert 280 <= await early(clock, 10, 5, refresh_ahead=0.4) <= 420 or likely[2] > 500


@pytest.mark.parametrize(
    "fields",
    [
        {"refresh_ahead": 0},
        {"refresh_ahead": 100, "no_store": True},
        {"refresh_ahead": 100, "ttl": 0},
        {"refresh_ahead": 100, "only_if_cached": True},
    ],
    ids=str,
)
async def test_nothing_is_refreshed_early_where_nobody_wants_it(
    clock: VirtualClock, fields: dict[str, Any]
) -> None:
    assert await early(clock, 10, 1, **fields) == 0


async def test_an_early_refresh_replaces_a_fresh_answer(clock: VirtualClock) -> None:
    cache = PromptCache(policy=Policy(ttl=100, refresh_ahead=1_000_000), clock=clock)

    async def slow() -> str:
        clock.advance(1)
        return "old"

    await cache.get_or_create("key", slow)
    clock.advance(50)
    assert await cache.get_or_create("key", gives("new")) == "old"
    await until(lambda: cache.stats.refreshes == 1)
    assert cache.stats.stale == 0
    assert await cache.get("key") == "new"


async def test_an_early_refresh_is_not_content_with_the_record_that_it_is_to_replace(
    clock: VirtualClock,
) -> None:
    remote = FaultyTier()
    cache = PromptCache(
        MemoryTier(), remote, policy=Policy(ttl=100, refresh_ahead=1_000_000), clock=clock
    )

    async def slow() -> str:
        clock.advance(1)
        return "old"

    await cache.get_or_create("key", slow)
    clock.advance(50)
    await cache.get_or_create("key", gives("new"))
    await until(lambda: cache.stats.refreshes == 1)
    assert await PromptCache(remote, clock=clock).get("key") == "new"
