"""The clock by which tiers are charged: it stands still while the event loop is busy."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

import pytest
from engine_tools import VirtualLoop

from aiopromptcache import Entry, MemoryTier, PromptCache
from aiopromptcache._idle import AWAKE, LATE, TICK, idle_time
from aiopromptcache.tiers._deadlines import LOOKS, Deadlines


def run(work: Coroutine[Any, Any, None], loop: VirtualLoop) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(work)


def test_waiting_takes_time() -> None:
    async def work() -> None:
        started = idle_time()
        await asyncio.sleep(0.2)
        assert idle_time() - started == pytest.approx(0.2)

    run(work(), VirtualLoop())


@pytest.mark.parametrize("waits", [0.0, 0.1])
def test_being_busy_takes_next_to_none(waits: float) -> None:
    loop = VirtualLoop()

    async def work() -> None:
        started = idle_time()
        for _ in range(10):
            loop.busy(1.0)
            assert idle_time() - started < 10 * (TICK + LATE) + 10 * waits
            await asyncio.sleep(waits)
        assert idle_time() - started >= 10 * waits

    run(work(), loop)


def test_it_never_goes_back() -> None:
    loop = VirtualLoop()

    async def work() -> None:
        latest = idle_time()
        for step in range(200):
            loop.busy(step % 7 * 0.003)
            await asyncio.sleep(step % 5 * 0.001)
            now = idle_time()
            assert now >= latest
            latest = now

    run(work(), loop)


def test_it_stops_when_nobody_looks() -> None:
    loop = VirtualLoop()

    async def work() -> None:
        idle_time()
        await asyncio.sleep(AWAKE + 2 * TICK)
        assert not loop._scheduled  # type: ignore[attr-defined]

    run(work(), loop)


def test_it_keeps_no_loop_alive() -> None:
    loop = VirtualLoop()

    async def work() -> None:
        idle_time()

    run(work(), loop)
    gone = weakref.ref(loop)
    del loop
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("seconds", [0.25, 5.0])
def test_a_deadline_passes_when_it_should(seconds: float) -> None:
    loop = VirtualLoop()

    async def work() -> None:
        with pytest.raises(TimeoutError), Deadlines(seconds).within(seconds):
            await asyncio.sleep(3_600)
        assert seconds <= loop.time() <= seconds * (1 + 1 / LOOKS) + LATE

    run(work(), loop)


def test_a_deadline_does_not_pass_while_the_loop_is_busy() -> None:
    loop = VirtualLoop()

    async def work() -> None:
        with Deadlines(0.25).within(0.25):
            for _ in range(10):
                loop.busy(1.0)
                await asyncio.sleep(0)

    run(work(), loop)


def test_a_tier_that_a_busy_loop_was_late_to_read_is_still_written_to() -> None:
    loop = VirtualLoop()

    class Remote(MemoryTier):
        name = "remote"

        async def get(self, slots: Sequence[str]) -> Mapping[str, Entry]:
            loop.busy(1.0)  # far more than the tier may add to a call
            await asyncio.sleep(0)
            return await super().get(slots)

    async def make() -> str:
        return "made"

    async def work() -> None:
        tier = Remote()
        async with PromptCache(MemoryTier(), tier) as cache:
            assert await cache.get_or_create("key", make) == "made"
            assert len(tier) == 1
            assert cache.stats.errors == 0

    run(work(), loop)
