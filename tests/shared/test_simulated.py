"""The same interleavings in virtual time, over a network that fails: hundreds a second.

AIOPROMPTCACHE_SIMULATIONS says how many runs (60 unless given), AIOPROMPTCACHE_SEED which ones.
"""

from __future__ import annotations

import asyncio
import os
import random

import pytest
from model import Episode, Model
from simulated import SimulatedServer, SimulatedTier, VirtualLoop

from aiopromptcache import MemoryTier, PromptCache

RUNS = int(os.environ.get("AIOPROMPTCACHE_SIMULATIONS", "60"))
SEED = int(os.environ.get("AIOPROMPTCACHE_SEED", "0"))
AT_ONCE = 5
CACHES = 3


async def play(seed: str) -> Model:
    """One network, and a few episodes over it at once."""
    loop, rng = asyncio.get_running_loop(), random.Random(seed)
    server = SimulatedServer()
    tiers = [SimulatedTier(server, rng, f"writer {number}") for number in range(CACHES)]
    caches = [PromptCache(MemoryTier(), tier, clock=loop.time) for tier in tiers]
    guards = [cache._engine.storage.remote[0] for cache in caches]
    model = Model(
        loop.time,
        owes=lambda cache: bool(guards[cache]._backlog),
        hears=lambda cache: tiers[cache].hears,
    )

    def kill(chance: random.Random) -> None:
        tier = chance.choice(tiers)
        tier.kill()
        if chance.random() < 0.3:
            tier.down_until = loop.time() + chance.uniform(0, 0.3)

    episodes = [Episode(f"{seed} {n}", f"e{n}", caches, model, kill) for n in range(AT_ONCE)]
    await asyncio.gather(*[episode.run() for episode in episodes])
    for cache in caches:
        await cache.aclose()
    return model


@pytest.mark.parametrize("run", range(RUNS))
def test_nobody_reads_what_is_void(run: int) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        model = runner.run(play(f"{SEED} {run}"))
    assert not model.wrong, "\n".join(model.wrong[:10])
    assert model.reads["checked"] > 10 * AT_ONCE, model.reads
    assert model.reads["a value"] > 10 * AT_ONCE, model.reads
