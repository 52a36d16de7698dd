"""The public surface: values, types, policies, partitions, tags, the decorator."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from engine_tools import Plain, gives
from pydantic import BaseModel

from aiopromptcache import (
    CacheEvent,
    ConfigurationError,
    MemoryTier,
    NotCached,
    Policy,
    PromptCache,
)
from aiopromptcache.testing import FaultyTier, VirtualClock

pytestmark = pytest.mark.anyio


class Model(BaseModel):
    x: int


@dataclass
class Point:
    x: int


class Counter:
    """A factory that counts."""

    def __init__(self, value: Any = None) -> None:
        self.calls = 0
        self.value = value

    async def __call__(self) -> Any:
        self.calls += 1
        return self.calls if self.value is None else self.value


@pytest.mark.parametrize("value", [None, False, 0, 0.0, "", [], {}, b""], ids=repr)
async def test_falsy_values_are_values(cache: PromptCache, value: Any) -> None:
    factory = Counter()
    await cache.set("key", value)
    found = await cache.get("key", "default")
    assert found == value
    assert type(found) is type(value)
    assert await cache.get_or_create("key", factory) == value
    assert factory.calls == 0


async def test_values_are_the_callers_own(cache: PromptCache) -> None:
    value = {"a": [1]}
    await cache.set("key", value)
    value["a"].append(2)
    found = await cache.get("key")
    found["a"].append(3)
    assert await cache.get("key") == {"a": [1]}


async def test_entries_live_as_long_as_their_ttl(cache: PromptCache, clock: VirtualClock) -> None:
    await cache.set("seconds", 1, ttl=10)
    await cache.set("delta", 1, ttl=timedelta(minutes=1))
    await cache.set("forever", 1, ttl=None)
    clock.advance(9.999)
    assert await cache.get("seconds") == 1
    clock.advance(0.001)
    assert await cache.get("seconds") is None
    clock.advance(49.999)
    assert await cache.get("delta") == 1
    clock.advance(timedelta(days=10_000))
    assert await cache.get("delta") is None
    assert await cache.get("forever") == 1


async def test_a_ttl_of_zero_stores_nothing(cache: PromptCache) -> None:
    factory = Counter()
    assert await cache.get_or_create("key", factory, ttl=0) == 1
    assert await cache.get_or_create("key", factory, ttl=0) == 2
    await cache.set("key", "old")
    await cache.set("key", "new", ttl=0)
    assert await cache.get("key") is None


async def test_jitter_takes_from_the_ttl_only(clock: VirtualClock) -> None:
    async with PromptCache(policy=Policy(ttl=100, jitter=0.5), clock=clock) as cache:
        for number in range(200):
            await cache.set(str(number), number)
        clock.advance(49.9)
        alive = [await cache.get(str(number)) is not None for number in range(200)]
        assert all(alive)
        clock.advance(25)
        alive = [await cache.get(str(number)) is not None for number in range(200)]
        assert any(alive)
        assert not all(alive)
        clock.advance(25.2)
        assert [await cache.get(str(number)) for number in range(200)] == [None] * 200


async def test_delete_counts_what_was_there(cache: PromptCache) -> None:
    await cache.set("a", 1)
    await cache.set("b", 1)
    assert await cache.delete("a", "b", "c") == 2
    assert await cache.delete("a") == 0


async def test_clear_empties_one_namespace_only(clock: VirtualClock) -> None:
    tier = MemoryTier()
    one = PromptCache(tier, namespace="one", clock=clock)
    other = PromptCache(tier, namespace="one:two", clock=clock)
    await one.set("key", 1)
    await other.set("key", 2)
    assert await one.clear() == 1
    assert await one.get("key") is None
    assert await other.get("key") == 2


async def test_tags_are_dropped_together(cache: PromptCache) -> None:
    await cache.set("a", 1, tags=["x"])
    await cache.set("b", 1, tags=["x", "y"])
    with cache.control(tags=["y"]):
        await cache.get_or_create("c", Counter(), tags=["z"])
    assert await cache.invalidate("none") == 0
    assert await cache.invalidate("y") == 2
    assert [await cache.get(key) for key in "abc"] == [1, None, None]


@pytest.mark.parametrize("kind", [Model, Point, dict, list[int], int])
async def test_a_value_that_does_not_fit_its_type_is_a_miss(cache: PromptCache, kind: Any) -> None:
    await cache.set("key", "something else")
    assert await cache.get("key", "default", type=kind) == "default"
    fitting = {"x": 1} if kind in (Model, Point, dict) else [1] if kind == list[int] else 1
    found = await cache.get_or_create("key", Counter(fitting), type=kind)
    assert await cache.get("key", type=kind) == found


async def test_a_factorys_value_that_does_not_fit_is_given_and_not_stored(
    cache: PromptCache,
) -> None:
    assert await cache.get_or_create("key", Counter("text"), type=int) == "text"
    assert await cache.get("key") is None


@pytest.mark.parametrize("make", [lambda: Model(x=1), lambda: Point(1)])
async def test_first_and_later_callers_get_the_same_type(cache: PromptCache, make: Any) -> None:
    factory = Counter(make())
    for _ in range(2):
        assert await cache.get_or_create("key", factory, type=type(make())) == make()
    assert factory.calls == 1


async def test_what_cannot_be_stored_is_refused_by_name(cache: PromptCache) -> None:
    with pytest.raises(TypeError, match=r"value\['a'\] is of type set"):
        await cache.set("key", {"a": {1}})
    with pytest.raises(TypeError, match="tuple"):
        await cache.get_or_create("key", Counter((1,)))
    with pytest.raises(TypeError, match="key=1"):
        await cache.get(1)  # type: ignore[call-overload]


async def test_a_plain_type_does_not_bend_a_value(cache: PromptCache) -> None:
    for value in ({1: "a"}, {"a": object()}):
        with pytest.raises(TypeError, match="value"):
            await cache.get_or_create("key", Counter(value), type=dict)


async def test_partitions_never_share(cache: PromptCache) -> None:
    await cache.set("key", "shared")
    with cache.control(partition="a"):
        assert await cache.get("key") is None
        assert await cache.get_or_create("key", Counter("mine")) == "mine"
        assert await cache.delete("key") == 1
        await cache.set("key", "mine")
    with cache.control(partition="b"):
        assert await cache.get("key") is None
    assert await cache.get("key") == "shared"


async def test_no_cache_asks_anew_and_stores(cache: PromptCache) -> None:
    factory = Counter()
    assert await cache.get_or_create("key", factory) == 1
    with cache.control(no_cache=True):
        assert await cache.get_or_create("key", factory) == 2
        assert await cache.get("key") is None
    assert await cache.get_or_create("key", factory) == 2


async def test_no_store_stores_nothing(cache: PromptCache) -> None:
    factory = Counter()
    with cache.control(no_store=True):
        assert await cache.get_or_create("key", factory) == 1
        await cache.set("other", 1)
    assert await cache.get("key") is None
    assert await cache.get("other") is None


async def test_only_if_cached_never_calls(cache: PromptCache) -> None:
    factory = Counter()
    with cache.control(only_if_cached=True):
        with pytest.raises(NotCached):
            await cache.get_or_create("key", factory)
    await cache.set("key", "there")
    with cache.control(only_if_cached=True):
        assert await cache.get_or_create("key", factory) == "there"
    assert factory.calls == 0


async def test_max_age_refuses_what_is_older(cache: PromptCache, clock: VirtualClock) -> None:
    factory = Counter()
    await cache.get_or_create("key", factory)
    clock.advance(10)
    with cache.control(max_age=10):
        assert await cache.get_or_create("key", factory) == 1
    with cache.control(max_age=9):
        assert await cache.get_or_create("key", factory) == 2


async def test_control_nests_and_reaches_tasks(cache: PromptCache) -> None:
    with cache.control(ttl=5, partition="a"):
        with cache.control(ttl=7):
            inner = asyncio.ensure_future(asyncio.sleep(0, cache.current_policy))
            assert (cache.current_policy.ttl, cache.current_policy.partition) == (7, "a")
        assert cache.current_policy.ttl == 5
        assert (await inner).ttl == 7
    assert cache.current_policy is cache.policy


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ttl": -1}, "ttl=-1"),
        ({"ttl": float("nan")}, "ttl=nan"),
        ({"ttl": "1"}, "ttl='1'"),
        ({"ttl": True}, "ttl=True"),
        ({"jitter": 1.5}, "jitter=1.5"),
        ({"tags": "x"}, "tags='x'"),
        ({"tags": [1]}, "tags"),
        ({"tags": 5}, "tags=5"),
        ({"tags": None}, "tags=None"),
        ({"no_cache": 1}, "no_cache=1"),
        ({"cacheable": 1}, "cacheable=1"),
        ({"partition": None}, "partition=None"),
        ({"similarity": 2}, "similarity=2"),
        ({"unknown": 1}, "'unknown'; allowed: ttl"),
    ],
)
def test_a_policy_out_of_range_is_refused_by_name(fields: dict[str, Any], message: str) -> None:
    cache = PromptCache()
    with pytest.raises(ConfigurationError, match=message), cache.control(**fields):
        pass


def test_control_is_no_decorator() -> None:
    """On an async function it would have no effect, which nobody would see."""
    with pytest.raises(TypeError, match="not callable"):
        PromptCache().control(partition="tenant")(lambda: None)  # type: ignore[operator]


async def test_cached_functions_have_a_key_of_their_arguments(cache: PromptCache) -> None:
    calls: list[Any] = []

    @cache.cached(ttl=60)
    async def double(a: int, b: int = 2, *rest: int, **named: int) -> int:
        """Twice."""
        calls.append((a, b, rest, named))
        return 2 * a

    assert double.__doc__ == "Twice."
    for _ in range(2):
        assert await double(1) == await double(a=1) == await double(1, 2) == 2
    assert await double(1, 2, 3) == 2
    assert await double(1, c=3) == 2
    assert len(calls) == 3


async def test_a_cached_partial_has_the_key_of_its_function(cache: PromptCache) -> None:
    calls: list[str] = []

    async def join(a: str, b: str, *, sign: str = "-") -> tuple[str, ...]:
        calls.append(f"{a}{sign}{b}")
        return a, sign, b

    first = cache.cached()(partial(join, "1"))
    other = cache.cached()(partial(join, "2", sign="+"))
    for _ in range(2):
        assert await first("b") == await first(b="b") == ("1", "-", "b")
        assert await cache.cached()(join)("1", "b") == ("1", "-", "b")
        assert await other("b") == ("2", "+", "b")
        assert await other("b", sign="-") == ("2", "-", "b")
    assert calls == ["1-b", "2+b", "2-b"]


async def test_cached_results_have_the_annotated_type(cache: PromptCache) -> None:
    @cache.cached()
    async def model() -> Model:
        return Model(x=1)

    @cache.cached()
    async def point() -> Point:
        return Point(1)

    for _ in range(2):
        assert await model() == Model(x=1)
        assert await point() == Point(1)
    assert cache.stats.upstream_calls == 2


async def test_cached_takes_callables_for_key_and_tags(cache: PromptCache) -> None:
    class Desk:
        @cache.cached(key=lambda self, name: f"doc:{name}", tags=lambda self, name: [name])
        async def load(self, name: str) -> str:
            return name

    assert await Desk().load("a") == "a"
    assert await cache.get("doc:a") == "a"
    assert await cache.invalidate("a") == 1


async def test_cached_refuses_what_cannot_be_in_a_key(cache: PromptCache) -> None:
    @cache.cached()
    async def load(client: Any) -> str:
        return ""

    with pytest.raises(TypeError, match="argument 'client' of type object"):
        await load(object())
    with pytest.raises(ConfigurationError, match="not an async function"):
        cache.cached()(lambda: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(ConfigurationError, match="key='a': expected a callable"):
        cache.cached(key="a")  # type: ignore[arg-type]


async def test_what_is_no_type_and_no_factory_is_refused_by_name(cache: PromptCache) -> None:
    with pytest.raises(ConfigurationError, match="type=5: expected a type"):
        await cache.get("unknown", type=5)  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match="Plain'>: expected a type"):
        await cache.get_or_create("key", gives(1), type=Plain)
    for computed in (5, "text"):
        with pytest.raises(ConfigurationError, match=f"factory={computed!r}: expected a callable"):
            await cache.get_or_create("key", computed)  # type: ignore[call-overload]
        with pytest.raises(ConfigurationError, match=f"factory={computed!r}: expected a callable"):
            cache.stream("key", computed)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="on_progress=5: expected a callable"):
        await cache.warm([], on_progress=5)  # type: ignore[arg-type]


async def test_it_works_without_async_with_and_after_aclose() -> None:
    cache = PromptCache()
    await cache.set("key", 1)
    await cache.aclose()
    assert await cache.get("key") is None
    await cache.set("key", 2)
    assert await cache.get("key") == 2


async def test_tiers_are_asked_in_order_and_promoted(clock: VirtualClock) -> None:
    memory, remote = MemoryTier(), FaultyTier()
    async with PromptCache(memory, remote, clock=clock, ttl=100) as cache:
        await cache.set("key", 1)
        await memory.clear("default")
        clock.advance(60)
        assert await cache.get("key") == 1
        assert cache.stats.hits_by_tier == {"faulty": 1}
        assert await cache.get("key") == 1
        assert cache.stats.hits_by_tier == {"faulty": 1, "memory": 1}
        clock.advance(40)
        assert await cache.get("key") is None


async def test_a_broken_tier_is_a_miss_an_event_and_one_line(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pause in ("RETRY_SECONDS", "PROBE_SECONDS"):  # only the calls themselves are counted
        monkeypatch.setattr(f"aiopromptcache.tiers._recovery.{pause}", 60.0)
    tier, events = FaultyTier(), list[CacheEvent]()
    async with PromptCache(tier, clock=clock, hooks=[events.append]) as cache:
        tier.fail()
        for number in range(20):
            assert await cache.get_or_create(f"key {number}", Counter("fine")) == "fine"
        assert tier.started == 5  # then the breaker is open
        await cache.delete("key 1")
        await cache.clear()
        tier.resume()
    kinds = [event.kind for event in events]
    assert kinds.count("error") == 5
    assert kinds.count("breaker") >= 1
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len([record for record in warnings if "failed" in record.message]) == 1
    assert "key 1" not in caplog.text


async def test_a_hanging_tier_is_bounded(clock: VirtualClock) -> None:
    tier = FaultyTier(timeout=0.001)
    async with PromptCache(tier, clock=clock) as cache:
        tier.hang()
        for number in range(10):
            assert await cache.get_or_create(str(number), Counter(1)) == 1
        tier.resume()


async def test_nothing_deleted_during_an_outage_comes_back(clock: VirtualClock) -> None:
    tier = FaultyTier()
    async with PromptCache(tier, clock=clock) as cache:
        await cache.set("deleted", 1)
        await cache.set("tagged", 1, tags=["t"])
        await cache.set("kept", 1)
        tier.fail()
        await cache.delete("deleted")
        await cache.invalidate("t")
        await cache.set("paid", 2)
        tier.resume()
        assert await cache.get("deleted") is None
        assert await cache.get("tagged") is None
        assert await cache.get("kept") == 1
        assert await cache.get("paid") == 2


@pytest.mark.parametrize("kind", ["plain", "asynchronous"])
async def test_a_failing_hook_breaks_nothing(kind: str) -> None:
    def plain(event: CacheEvent) -> None:
        raise ValueError("a hook's own")

    async def asynchronous(event: CacheEvent) -> None:
        raise ValueError("a hook's own")

    seen: list[str] = []
    hooks = [plain if kind == "plain" else asynchronous, lambda event: seen.append(event.kind)]
    async with PromptCache(hooks=hooks) as cache:
        await cache.set("key", 1)
        assert await cache.get("key") == 1
    assert seen == ["store", "hit"]
    assert cache.stats.errors == 2


async def test_a_slow_hook_delays_nobody() -> None:
    go, seen = asyncio.Event(), list[str]()

    async def slow(event: CacheEvent) -> None:
        await go.wait()
        seen.append(event.kind)

    async with PromptCache(hooks=[slow]) as cache:
        await cache.set("key", 1)
        assert await cache.get("key") == 1
        assert seen == []
        go.set()
    assert seen == ["store", "hit"]


def test_stats_are_plain_and_readable() -> None:
    cache = PromptCache()
    assert cache.stats.as_dict()["hit_rate"] == 0
    assert "hits" in str(cache.stats)


@pytest.mark.parametrize(
    "arguments",
    [
        {"namespace": ""},
        {"policy": 1},
        {"clock": 1},
        {"hooks": [1]},
        {"ttl": -1},
    ],
    ids=str,
)
def test_arguments_that_are_not_usable_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        PromptCache(**arguments)
    with pytest.raises(ConfigurationError):
        PromptCache(object())  # type: ignore[arg-type]
