"""How often callers wait because an answer has expired: a simulation on virtual time.

One popular key, callers at random moments, an upstream that takes seconds. A caller waits when
nothing usable is stored: it asks upstream itself, or joins the call that is under way. The first
load is not counted.

Run: pip install -e . && python benchmarks/expiry.py
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from typing import Any

from aiopromptcache import Policy, PromptCache
from aiopromptcache.testing import VirtualClock

TTL = 60.0
COST = 3.0
SECONDS = 10_000.0
RATES = (0.1, 1.0, 10.0)


class World:
    """Virtual time, and what ends in it."""

    def __init__(self) -> None:
        self.clock = VirtualClock(0.0)
        self._ends: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    async def upstream(self) -> str:
        """Takes `COST` seconds."""
        end = asyncio.get_running_loop().create_future()
        heapq.heappush(self._ends, (self.clock() + COST, next(self._numbers), end))
        await end
        return "answer"

    async def advance_to(self, moment: float) -> None:
        """Let time pass; what ends on the way ends at its own moment."""
        while self._ends and self._ends[0][0] <= moment:
            at, _, end = heapq.heappop(self._ends)
            self.clock.advance(at - self.clock())
            end.set_result(None)
            await self.settle()
        self.clock.advance(moment - self.clock())

    async def settle(self) -> None:
        """Let everyone run until they wait for something."""
        for _ in range(8):
            await asyncio.sleep(0)


async def simulate(policy: Policy, rate: float) -> tuple[int, int, int]:
    """Callers, those who waited, and upstream calls."""
    world, arrivals = World(), random.Random(1)
    random.seed(2)
    waiting: list[asyncio.Task[Any]] = []
    callers = waited = 0
    async with PromptCache(policy=policy, clock=world.clock) as cache:
        first = asyncio.create_task(cache.get_or_create("key", world.upstream))
        await world.settle()
        await world.advance_to(COST)
        await first
        while (moment := world.clock() + arrivals.expovariate(rate)) < SECONDS:
            await world.advance_to(moment)
            call = asyncio.create_task(cache.get_or_create("key", world.upstream))
            await world.settle()
            callers += 1
            if not call.done():
                waited += 1
                waiting.append(call)
        await world.advance_to(moment + COST)
        await asyncio.gather(*waiting)
        return callers, waited, cache.stats.upstream_calls - 1


async def main() -> None:
    """One table."""
    policies = {
        "nothing": Policy(ttl=TTL),
        "refresh_ahead=1": Policy(ttl=TTL, refresh_ahead=1),
        "refresh_ahead=2": Policy(ttl=TTL, refresh_ahead=2),
        "refresh_ahead=4": Policy(ttl=TTL, refresh_ahead=4),
        "stale_while_revalidate=30": Policy(ttl=TTL, stale_while_revalidate=30),
    }
    print(f"ttl {TTL:.0f} s, upstream {COST:.0f} s, {SECONDS:,.0f} s of virtual time")
    print(f"{'':<28}{'callers/s':>10}{'callers':>10}{'waited':>9}{'':>9}{'upstream':>10}")
    for rate in RATES:
        for name, policy in policies.items():
            callers, waited, calls = await simulate(policy, rate)
            share = f"{waited / callers:.2%}"
            print(f"{name:<28}{rate:>10}{callers:>10,}{waited:>9,}{share:>9}{calls:>10,}")


if __name__ == "__main__":
    asyncio.run(main())
