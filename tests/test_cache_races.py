"""A remote tier answers late: what was deleted or replaced meanwhile must not come back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from engine_tools import Gate, Gated, Upstream, gives, quiet, unwanted

from aiopromptcache import MemoryTier, PromptCache
from aiopromptcache.testing import VirtualClock

pytestmark = pytest.mark.anyio

Removal = Callable[[PromptCache], Awaitable[Any]]

REMOVALS = {
    "delete": lambda cache: cache.delete("key"),
    "clear": lambda cache: cache.clear(),
    "invalidate": lambda cache: cache.invalidate("tag"),
    "set to nothing": lambda cache: cache.set("key", "new", ttl=0),
}


@pytest.fixture(params=REMOVALS)
def remove(request: pytest.FixtureRequest) -> Removal:
    return REMOVALS[request.param]


@pytest.fixture
def remote() -> Gated:
    return Gated()


@pytest.fixture
async def both(remote: Gated, clock: VirtualClock) -> PromptCache:
    """A cache whose memory has forgotten what its remote tier still has under the key."""
    memory = MemoryTier()
    cache = PromptCache(memory, remote, clock=clock)
    await cache.set("key", "old", tags=["tag"])
    await memory.clear("default")
    remote.reading = Gate()
    return cache


def read_get(cache: PromptCache) -> asyncio.Task[Any]:
    return asyncio.create_task(cache.get("key"))


def read_create(cache: PromptCache) -> asyncio.Task[Any]:
    return asyncio.create_task(cache.get_or_create("key", gives("made")))


def read_stored(cache: PromptCache) -> asyncio.Task[Any]:
    with cache.control(only_if_cached=True):
        return asyncio.create_task(cache.get_or_create("key", unwanted))


READS = [read_get, read_create, read_stored]


@pytest.mark.parametrize("read", READS)
async def test_what_is_removed_while_it_is_read_stays_removed(
    both: PromptCache, remote: Gated, read: Any, remove: Removal
) -> None:
    assert remote.reading is not None
    task = read(both)
    await remote.reading.reached()
    await remove(both)
    remote.reading.open()
    await task
    assert await both.get("key", "nothing") != "old"


@pytest.mark.parametrize("read", READS)
async def test_what_is_replaced_while_it_is_read_stays_replaced(
    both: PromptCache, remote: Gated, read: Any
) -> None:
    assert remote.reading is not None
    task = read(both)
    await remote.reading.reached()
    await both.set("key", "new")
    remote.reading.open()
    await task
    assert await both.get("key") == "new"


@pytest.mark.parametrize("ticks", range(8))
@pytest.mark.parametrize("read", READS)
async def test_what_is_replaced_just_as_its_reader_hears_of_it_stays_replaced(
    both: PromptCache, remote: Gated, read: Any, ticks: int
) -> None:
    assert remote.reading is not None
    task = read(both)
    await remote.reading.reached()
    remote.reading.open()
    for _ in range(ticks):
        await asyncio.sleep(0)
    await asyncio.create_task(both.set("key", "new"))
    await task
    remote.reading = None
    assert await both.get("key") == "new"


@pytest.mark.parametrize("late", [False, True])
async def test_what_is_read_while_another_value_is_set_does_not_outlive_it(
    both: PromptCache, remote: Gated, late: bool
) -> None:
    """Memory may lose what is being set before the remote tier has it, by another's removal."""
    remote.writing, reading = Gate(), remote.reading
    assert reading is not None
    setting = asyncio.create_task(both.set("key", "new"))
    await remote.writing.reached()
    local = both._engine.storage.local
    assert local is not None
    await local.delete(["default:key"])
    reader = asyncio.create_task(both.get("key"))
    await reading.reached()
    if not late:
        reading.open()
        assert await reader == "old"
    remote.writing.open()
    await setting
    reading.open()
    await reader
    assert await both.get("key") == "new"


async def test_who_asks_after_a_removal_does_not_get_what_was_read_before_it(
    both: PromptCache, remote: Gated, remove: Removal
) -> None:
    assert remote.reading is not None
    early = asyncio.create_task(both.get("key"))
    await remote.reading.reached()
    await remove(both)
    late = asyncio.create_task(both.get("key", "nothing"))
    await quiet()
    remote.reading.open()
    await early
    assert await late == "nothing"


async def test_who_asks_after_a_set_gets_what_was_set(remote: Gated, clock: VirtualClock) -> None:
    cache = PromptCache(remote, clock=clock)
    await cache.set("key", "old")
    remote.reading = Gate()
    early = asyncio.create_task(cache.get("key"))
    await remote.reading.reached()
    await cache.set("key", "new")
    late = asyncio.create_task(cache.get("key"))
    await quiet()
    remote.reading.open()
    assert await early == "old"
    assert await late == "new"


@pytest.mark.parametrize("tiers", [1, 2])
async def test_a_value_that_is_set_while_a_flight_is_stored_is_the_one_that_stays(
    remote: Gated, clock: VirtualClock, tiers: int
) -> None:
    memory = MemoryTier()
    cache = PromptCache(*[memory, remote][-tiers:], clock=clock)
    remote.writing = gate = Gate()
    flight = asyncio.create_task(cache.get_or_create("key", gives("old")))
    await gate.reached()
    remote.writing = None
    setting = asyncio.create_task(cache.set("key", "new"))
    await quiet()
    gate.open()
    assert await flight == "old"
    await setting
    assert await cache.get("key") == "new"
    if tiers == 2:
        await memory.clear("default")
    assert await cache.get("key") == "new"


async def test_what_is_removed_while_a_flight_is_stored_stays_removed(
    remote: Gated, clock: VirtualClock, remove: Removal
) -> None:
    cache = PromptCache(MemoryTier(), remote, clock=clock)
    remote.writing = gate = Gate()
    flight = asyncio.create_task(cache.get_or_create("key", gives("old"), tags=["tag"]))
    await gate.reached()
    remote.writing = None
    removal = asyncio.ensure_future(remove(cache))
    await quiet()
    gate.open()
    assert await flight == "old"
    await removal
    assert await cache.get("key", "nothing") == "nothing"
    assert await remote.get(["default:key"]) == {}


async def test_a_removal_during_a_flight_lets_later_callers_start_anew(
    clock: VirtualClock, remove: Removal
) -> None:
    cache = PromptCache(clock=clock)
    old, new = Upstream(), Upstream()
    with cache.control(tags=["tag"]):
        first = asyncio.create_task(cache.get_or_create("key", old))
    await old.gate.reached()
    await remove(cache)
    second = asyncio.create_task(cache.get_or_create("key", new))
    await new.gate.reached()
    new.gate.open()
    await second
    old.gate.open()
    await first
    assert (old.calls, new.calls) == (1, 1)
    assert await cache.get_or_create("key", unwanted) == {"call": 1}
    assert cache.stats.stores == 1


async def test_a_flight_without_the_tag_is_stored_though_the_tag_is_invalidated(
    cache: PromptCache,
) -> None:
    upstream = Upstream()
    task = asyncio.create_task(cache.get_or_create("key", upstream, tags=["one"]))
    await upstream.gate.reached()
    await cache.invalidate("other")
    upstream.gate.open()
    await task
    assert await cache.get("key") == {"call": 1}


async def test_a_flight_of_another_namespace_is_stored_though_this_one_is_cleared(
    clock: VirtualClock,
) -> None:
    tier = MemoryTier()
    one = PromptCache(tier, namespace="one", clock=clock)
    two = PromptCache(tier, namespace="two", clock=clock)
    upstream = Upstream()
    task = asyncio.create_task(one.get_or_create("key", upstream))
    await upstream.gate.reached()
    await two.clear()
    upstream.gate.open()
    await task
    assert await one.get("key") == {"call": 1}


async def test_who_accepts_only_young_answers_gets_no_old_one_from_anothers_flight(
    both: PromptCache, remote: Gated, clock: VirtualClock
) -> None:
    assert remote.reading is not None
    clock.advance(100)
    anyone = asyncio.create_task(both.get_or_create("key", unwanted))
    await remote.reading.reached()
    with both.control(max_age=10):
        picky = asyncio.create_task(both.get_or_create("key", gives("young")))
    await quiet()
    remote.reading.open()
    assert await anyone == "old"
    assert await picky == "young"


async def test_who_wants_a_type_gets_no_misfit_that_another_ones_flight_has_found(
    both: PromptCache, remote: Gated
) -> None:
    assert remote.reading is not None
    anyone = asyncio.create_task(both.get_or_create("key", unwanted))
    await remote.reading.reached()
    typed = asyncio.create_task(both.get_or_create("key", gives(7), type=int))
    await quiet()
    remote.reading.open()
    assert await anyone == "old"
    assert await typed == 7


async def test_who_wants_a_type_gets_no_misfit_that_another_ones_factory_made(
    cache: PromptCache,
) -> None:
    upstream = Upstream()
    anyone = asyncio.create_task(cache.get_or_create("key", upstream))
    await upstream.gate.reached()
    typed = asyncio.create_task(cache.get_or_create("key", gives(7), type=int))
    await quiet()
    upstream.gate.open()
    assert await anyone == {"call": 1}
    assert await typed == 7


async def test_closing_waits_for_what_is_being_written(remote: Gated, clock: VirtualClock) -> None:
    cache = PromptCache(MemoryTier(), remote, clock=clock)
    remote.writing = gate = Gate()
    caller = asyncio.create_task(cache.get_or_create("key", gives("paid")))
    await gate.reached()
    caller.cancel()
    closing = asyncio.create_task(cache.aclose())
    await quiet()
    assert not closing.done()
    closed_with: list[Any] = []
    plain = remote.inner.aclose

    async def closed() -> None:
        closed_with.append(await remote.get(["default:key"]))
        await plain()

    remote.inner.aclose = closed  # type: ignore[method-assign]
    gate.open()
    await closing
    assert [list(found) for found in closed_with] == [["default:key"]]


class Late(Gated):
    """Lets a test act when a write has happened, before its caller knows."""

    async def landed(self) -> None:
        """What the test does then."""

    async def set(self, entries: Any) -> None:
        await super().set(entries)
        await self.landed()


LATER = {**REMOVALS, "set": lambda cache: cache.set("key", "new")}


@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize("later", LATER)
async def test_a_write_on_its_way_never_lands_after_what_overtook_it(
    clock: VirtualClock, later: str, memory: bool
) -> None:
    remote, seen = Late(), list[Any]()
    cache = PromptCache(*[MemoryTier()] * memory, remote, clock=clock)
    held = remote.writing = Gate()
    load = asyncio.create_task(cache.get_or_create("key", gives("old"), tags=["tag"]))
    await held.reached()
    remote.writing = None
    overtakes = asyncio.ensure_future(LATER[later](cache))
    await quiet()

    async def landed() -> None:
        if overtakes.done():
            seen.append(await cache.get("key"))

    remote.landed = landed  # type: ignore[method-assign]
    held.open()
    assert await load == "old"
    await overtakes
    seen.append(await cache.get("key"))
    assert set(seen) == {"new" if later == "set" else None}
    await cache.aclose()
