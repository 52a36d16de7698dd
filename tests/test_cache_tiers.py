"""Several tiers, and tiers that lie, break or belong to two caches."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest
from engine_tools import Plain, gives, unwanted

from aiopromptcache import CacheEvent, ConfigurationError, Entry, Kind, MemoryTier, PromptCache
from aiopromptcache.testing import FaultyTier, VirtualClock

pytestmark = pytest.mark.anyio


class Named(Plain):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


async def test_what_is_stored_is_in_every_tier(clock: VirtualClock) -> None:
    tiers = [MemoryTier(), Named("near"), Named("far")]
    cache = PromptCache(*tiers, clock=clock)
    await cache.get_or_create("key", gives(1))
    for tier in tiers:
        assert list(await tier.get(["default:key"])) == ["default:key"]


async def test_the_fastest_tier_that_knows_answers(clock: VirtualClock) -> None:
    memory, near, far = MemoryTier(), Named("near"), Named("far")
    cache = PromptCache(memory, near, far, clock=clock)
    await cache.set("key", 1)
    await memory.clear("default")
    await cache.get("key")
    await memory.clear("default")
    await near.clear("default")
    await cache.get("key")
    assert cache.stats.hits_by_tier == {"near": 1, "far": 1}


async def test_delete_counts_a_key_once_over_all_tiers(clock: VirtualClock) -> None:
    memory, far = MemoryTier(), Named("far")
    cache = PromptCache(memory, far, clock=clock)
    await cache.set("a", 1)
    await cache.set("b", 1)
    await memory.delete(["default:a"])
    assert await cache.delete("a", "b", "b", "c") == 2
    assert await far.get(["default:a", "default:b"]) == {}


async def test_two_caches_of_one_memory_share_it_and_nothing_else(clock: VirtualClock) -> None:
    tier, heard = MemoryTier(max_entries=2), dict[str, list[Any]](one=[], two=[])
    one = PromptCache(tier, namespace="one", clock=clock, hooks=[heard["one"].append])
    two = PromptCache(tier, namespace="two", clock=clock, hooks=[heard["two"].append])
    await one.set("key", 1)
    await two.set("key", 2)
    assert [await one.get("key"), await two.get("key")] == [1, 2]
    await two.set("another", 3)
    await two.aclose()
    await one._engine.ledger.events.drain()
    evicted = [event for event in heard["one"] if event.kind == "evict"]
    assert [(event.namespace, event.key) for event in evicted] == [("one", "key")]
    assert all(event.kind != "evict" for event in heard["two"])
    assert (one.stats.evictions, two.stats.evictions) == (1, 0)


async def test_closing_a_cache_leaves_what_another_keeps_in_the_same_memory(
    clock: VirtualClock,
) -> None:
    tier = MemoryTier()
    one = PromptCache(tier, namespace="one", clock=clock)
    async with PromptCache(tier, namespace="two", clock=clock) as two:
        await two.set("key", 2)
        await one.set("key", 1)
    assert await one.get("key") == 1


class Liar(Plain):
    """Gives whatever it was told to."""

    answer: Any = None

    async def get(self, slots: Sequence[str]) -> Mapping[str, Entry]:
        given = self.answer
        return dict.fromkeys(slots, given) if isinstance(given, Entry) else given  # type: ignore[no-any-return]


def _entry(clock: VirtualClock, payload: bytes = b'"old"', **changes: Any) -> Entry:
    fields: dict[str, Any] = {"stored_at": clock(), "ttl": 60.0, **changes}
    return Entry(Kind.JSON, payload, **fields)


LIES: dict[str, Any] = {
    "no JSON": lambda clock: _entry(clock, b"not json"),
    "half of a JSON": lambda clock: _entry(clock, b'{"a": '),
    "no UTF-8": lambda clock: _entry(clock, b'"\xff"'),
    "over long ago": lambda clock: _entry(clock, stored_at=clock() - 1_000),
    "no mapping": lambda clock: [1, 2],
    "no entries": lambda clock: {"default:key": "text"},
    "nothing": lambda clock: None,
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("memory", [False, True])
async def test_what_a_tier_should_not_give_is_a_miss(
    clock: VirtualClock, lie: str, memory: bool
) -> None:
    tier = Liar()
    tier.answer = LIES[lie](clock)
    cache = PromptCache(*([MemoryTier()] if memory else []), tier, clock=clock)
    assert await cache.get("key", "default") == "default"
    assert await cache.get("key", "default", type=str) == "default"
    assert await cache.get_or_create("key", gives("new")) == "new"


class Broken(MemoryTier):
    """A local tier of somebody else, which fails."""

    def peek(self, slot: str) -> Entry | None:
        raise OSError("this disk is gone")

    def put(self, slot: str, entry: Entry) -> bool:
        raise OSError("this disk is full")

    async def delete(self, slots: Sequence[str]) -> Any:
        raise OSError("this disk is gone")

    async def clear(self, namespace: str) -> int:
        raise OSError("this disk is gone")

    async def invalidate(self, namespace: str, tags: Iterable[str]) -> int:
        raise OSError("this disk is gone")

    async def aclose(self) -> None:
        raise OSError("this disk is gone")


class Wordless(Plain):
    """It removes, and does not say what."""

    async def delete(self, slots: Sequence[str]) -> Any:
        await super().delete(slots)

    async def clear(self, namespace: str) -> Any:
        await super().clear(namespace)

    async def invalidate(self, namespace: str, tags: Iterable[str]) -> Any:
        await super().invalidate(namespace, tags)


async def test_a_tier_that_does_not_say_what_it_removed_is_at_fault(clock: VirtualClock) -> None:
    events: list[CacheEvent] = []
    async with PromptCache(MemoryTier(), Wordless(), clock=clock, hooks=[events.append]) as cache:
        await cache.set("key", 1, tags=["tag"])
        assert await cache.delete("key") == 1
        await cache.set("key", 1, tags=["tag"])
        assert await cache.invalidate("tag") == 1
        await cache.set("key", 1)
        assert await cache.clear() == 1
        assert await cache.get("key") is None
    assert [str(event.error) for event in events if event.kind == "error"] == [
        "the tier gave a NoneType; expected: Set",
        "the tier gave a NoneType; expected: int",
        "the tier gave a NoneType; expected: int",
    ]


async def test_a_local_tier_of_another_name_is_counted_under_it(clock: VirtualClock) -> None:
    class Disk(MemoryTier):
        name = "disk"

    cache = PromptCache(Disk(), clock=clock)
    await cache.set("key", 1)
    assert await cache.get("key") == 1
    assert await cache.get_or_create("key", unwanted) == 1
    assert cache.stats.hits_by_tier == {"disk": 2}


async def test_a_tier_that_cancels_itself_cancels_nobody(clock: VirtualClock) -> None:
    tier = FaultyTier()
    async with PromptCache(tier, clock=clock) as cache:
        tier.fail(asyncio.CancelledError())
        assert await cache.get("key", "default") == "default"
        assert await cache.get_or_create("key", gives("fine")) == "fine"
        assert await cache.delete("key") == 0


async def test_no_store_leaves_memory_as_it_was(clock: VirtualClock) -> None:
    memory = MemoryTier()
    cache = PromptCache(memory, Named("far"), clock=clock)
    await cache.set("key", 1)
    await memory.clear("default")
    with cache.control(no_store=True):
        assert await cache.get("key") == 1
        assert await cache.get_or_create("key", unwanted) == 1
    assert len(memory) == 0


@pytest.mark.parametrize("tier", [object(), "redis://localhost", MemoryTier, None])
def test_what_is_no_tier_is_refused(tier: Any) -> None:
    with pytest.raises(ConfigurationError):
        PromptCache(tier)


@pytest.mark.parametrize("timeout", [None, "fast", float("nan"), -1])
def test_a_tier_with_an_unusable_timeout_is_refused(timeout: Any) -> None:
    tier = Plain()
    tier.timeout = timeout
    with pytest.raises(ConfigurationError, match="timeout"):
        PromptCache(tier)


@pytest.mark.parametrize("hooks", [print, 1], ids=["a bare callable", "a number"])
def test_hooks_that_are_no_list_are_refused_by_name(hooks: Any) -> None:
    with pytest.raises(ConfigurationError, match="hooks"):
        PromptCache(hooks=hooks)
