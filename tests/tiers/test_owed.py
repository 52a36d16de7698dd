"""What a tier of one process has missed: given out meanwhile, bounded, made good in any loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from engine_tools import Plain, VirtualLoop

from aiopromptcache import CacheEvent, Entry, PromptCache
from aiopromptcache.testing import VirtualClock
from aiopromptcache.tiers import _backlog, _recovery
from aiopromptcache.tiers._backlog import MAX_REMOVALS, Backlog, Missed
from aiopromptcache.tiers._base import Lease


class Downable(Plain):
    """A remote tier that can be out."""

    def __init__(self) -> None:
        super().__init__()
        self.down = False

    def _check(self) -> None:
        if self.down:
            raise ConnectionError("down")

    async def get(self, slots: Sequence[str]) -> Any:
        self._check()
        return await super().get(slots)

    async def set(self, entries: Any) -> None:
        self._check()
        await super().set(entries)

    async def delete(self, slots: Sequence[str]) -> Any:
        self._check()
        return await super().delete(slots)

    async def clear(self, namespace: str) -> int:
        self._check()
        return await super().clear(namespace)

    async def invalidate(self, namespace: str, tags: Iterable[str]) -> int:
        self._check()
        return await super().invalidate(namespace, tags)


@pytest.mark.anyio
async def test_what_is_set_after_its_tag_was_invalidated_is_given_out_while_it_waits(
    clock: VirtualClock,
) -> None:
    tier = Downable()
    cache = PromptCache(tier, clock=clock)
    tier.down = True
    await cache.set("key", "old", tags=["tag"])
    await cache.invalidate("tag")
    assert await cache.get("key") is None
    await cache.set("key", "new", tags=["tag"])
    assert await cache.get("key") == "new"
    tier.down = False
    await cache.aclose()


@pytest.mark.parametrize("what", ["get", "get_or_create"])
@pytest.mark.parametrize("failures", [1, 5])
def test_what_was_missed_in_one_loop_is_made_good_in_the_next(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, what: str, failures: int
) -> None:
    """Also where nothing is ever written there."""
    tier = Downable()
    cache = PromptCache(tier, clock=clock)
    monkeypatch.setattr(_recovery, "PROBE_SECONDS", 0.0)
    monkeypatch.setattr(_recovery, "RETRY_SECONDS", 0.0)

    async def misses() -> None:
        await cache.set("key", "void")
        await cache.set("other", "kept")
        tier.down = True
        for _ in range(failures):
            await cache.delete("key")

    async def reads() -> None:
        async with asyncio.timeout(10):
            while await cache.get("other") != "kept" or await tier.get(["default:key"]):
                await {"get": cache.get, "get_or_create": made}[what]("key")
        await cache.aclose()

    async def made(key: str) -> None:
        with cache.control(no_store=True):
            assert await cache.get_or_create(key, factory) == 1

    async def factory() -> int:
        return 1

    asyncio.run(misses())
    tier.down = False
    asyncio.run(reads())


@pytest.mark.anyio
async def test_too_many_missed_tags_become_a_clear(clock: VirtualClock) -> None:
    tier = Downable()
    cache = PromptCache(tier, clock=clock)
    await cache.set("key", "void", tags=["tag"])
    tier.down = True
    await cache.invalidate("tag")
    backlog = cache._engine.storage.remote[0]._backlog
    for number in range(MAX_REMOVALS):
        await cache.invalidate(str(number))
    assert len(backlog.tags) <= MAX_REMOVALS
    assert await cache.get("key") is None
    tier.down = False
    await cache.aclose()
    assert not await tier.get(["default:key"])


def test_one_slots_news_look_at_no_other(clock: VirtualClock) -> None:
    backlog, looked = Backlog(), list[str]()
    for slot in ("a", "b", "c"):
        entry = Entry("json", b"1", stored_at=clock(), ttl=None)  # type: ignore[arg-type]
        backlog.put(Missed(entry, Lease(slot, "", "0-0")))

    def test(_: Entry, slot: str) -> bool:
        looked.append(slot)
        return True

    backlog.overtake(test, ["b", "unknown"])
    assert (looked, list(backlog.values)) == (["b"], ["a", "c"])


class Slow(Downable):
    """It removes one thing after another, and gets three done in time."""

    most = 3

    async def delete(self, slots: Sequence[str]) -> Any:
        if len(slots) > self.most:
            raise TimeoutError("not in time")
        return await super().delete(slots)

    async def invalidate(self, namespace: str, tags: Iterable[str]) -> int:
        wanted = list(tags)
        if len(wanted) > self.most:
            raise TimeoutError("not in time")
        return await super().invalidate(namespace, wanted)


@pytest.mark.anyio
@pytest.mark.parametrize("what", ["delete", "invalidate"])
async def test_a_tier_that_is_slow_to_remove_is_given_less_at_once(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(_recovery, "PROBE_SECONDS", 0.0)
    monkeypatch.setattr(_recovery, "RETRY_SECONDS", 0.0)
    tier = Slow()
    cache = PromptCache(tier, clock=clock)
    names = [str(number) for number in range(20)]
    for name in names:
        await cache.set(name, "void", tags=[name])
    tier.down = True
    for name in names:
        await getattr(cache, what)(name)
    tier.down = False
    backlog = cache._engine.storage.remote[0]._backlog
    async with asyncio.timeout(10):
        while backlog:
            await asyncio.sleep(0)
    assert not await tier.get([f"default:{name}" for name in names])
    await cache.aclose()


class OneByOne(Downable):
    """It works, at one write after another: twenty take as long as a call may."""

    timeout = 0.25
    bulk_timeout = 60.0

    def __init__(self) -> None:
        super().__init__()
        self.stored: set[str] = set()
        self._turn = asyncio.Lock()

    async def set(self, entries: Any) -> None:
        async with self._turn:
            await asyncio.sleep(self.timeout / 20)
            await super().set(entries)
            self.stored |= entries.keys()


def test_a_tier_that_works_and_does_not_keep_up_is_not_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_backlog, "MAX_VALUES", 10)
    events: list[CacheEvent] = []

    async def play() -> None:
        tier = OneByOne()
        cache = PromptCache(tier, hooks=[events.append], clock=asyncio.get_running_loop().time)
        await asyncio.gather(*[cache.set(str(number), number) for number in range(200)])
        guard = cache._engine.storage.remote[0]
        assert guard.waiting > 100, "who waited for long enough went on"
        while guard.waiting:
            await asyncio.sleep(0.1)
        assert len(await tier.get([f"default:{number}" for number in range(200)])) == 200
        await cache.aclose()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(play())
    assert [event.kind for event in events if event.kind in ("error", "breaker")] == ["error"]
    assert len(caplog.records) == 1


def test_what_waits_for_a_tier_that_works_is_written_at_the_end() -> None:
    """However long that takes, as long as each write is done in time."""

    async def play() -> None:
        tier = OneByOne()
        cache = PromptCache(tier, clock=asyncio.get_running_loop().time)
        await asyncio.gather(*[cache.set(str(number), number) for number in range(4_000)])
        assert cache._engine.storage.remote[0].waiting > 3_000
        await cache.aclose()
        assert len(tier.stored) == 4_000

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(play())


@pytest.mark.parametrize("when", ["before", "after"])
def test_of_what_waits_for_a_tier_to_return_the_newest_thousand_stay(
    monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Also where it did not keep up before it went out."""
    monkeypatch.setattr(_backlog, "MAX_VALUES", 10)

    async def play() -> None:
        tier = OneByOne()
        cache = PromptCache(tier, clock=asyncio.get_running_loop().time)
        guard = cache._engine.storage.remote[0]
        if when == "before":
            await asyncio.gather(*[cache.set(f"early {number}", 1) for number in range(200)])
            assert guard.waiting > 100
        tier.down = True
        for number in range(20):
            await cache.set(str(number), number)
        assert guard.open
        assert list(guard._backlog.values) == [f"default:{number}" for number in range(10, 20)]
        tier.down = False
        while guard.waiting:
            await asyncio.sleep(0.1)
        kept = await tier.get([f"default:{number}" for number in range(20)])
        await cache.aclose()
        assert list(kept) == [f"default:{number}" for number in range(10, 20)]

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(play())
