"""A tier that lets nobody listen for long: a server without XREAD for this user, or a proxy."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from engine_tools import VirtualLoop
from simulated import SimulatedServer, SimulatedTier

from aiopromptcache import MemoryTier, PromptCache
from aiopromptcache.tiers._base import News


class Deaf(SimulatedTier):
    """It says where the news go on, and gives none."""

    attempts = 0

    async def listen(
        self, namespace: str, since: str, told: Callable[[News], Awaitable[None]]
    ) -> None:
        self.attempts += 1
        await told(News("listening", since or "0", lost=not since))
        await asyncio.sleep(0.001)
        raise PermissionError("this user may not run XREAD")


def test_who_may_not_listen_asks_now_and_then() -> None:
    async def play() -> int:
        loop = asyncio.get_running_loop()
        tier = Deaf(SimulatedServer(), random.Random(0), "writer")
        cache = PromptCache(MemoryTier(), tier, clock=loop.time)
        await cache.set("key", "value")
        deadline = loop.time() + 10
        while loop.time() < deadline and tier.attempts < 1_000:
            await asyncio.sleep(0.01)
        assert await cache.get("key") == "value"
        await cache.aclose()
        return tier.attempts

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert 40 < runner.run(play()) < 60
