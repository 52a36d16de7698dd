"""The same interleavings in virtual time, over a network and a server that fail.

AIOPROMPTCACHE_SIMULATIONS says how many runs of each kind (20 unless given), AIOPROMPTCACHE_SEED
which ones. With one PYTHONHASHSEED a run is nearly always the same again.
"""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any

import pytest
from engine_tools import VirtualLoop
from model import HEARD, Episode, Model
from simulated import ClusteredTier, SimulatedServer, SimulatedTier

from aiopromptcache import MemoryTier, PromptCache

RUNS = int(os.environ.get("AIOPROMPTCACHE_SIMULATIONS", "20"))
SEED = int(os.environ.get("AIOPROMPTCACHE_SEED", "0"))
AT_ONCE = 5
PATIENCE = 60.0
"""Virtual seconds until all must have ended: by far more than any lease or outage lasts."""
PROCESSES = 3


async def play(
    seed: str,
    *,
    kind: type[SimulatedTier] = SimulatedTier,
    twins: bool = False,
    faults: bool = True,
) -> Model:
    """One network, and a few episodes over it at once."""
    loop, rng = asyncio.get_running_loop(), random.Random(seed)
    server = SimulatedServer()
    tiers = [kind(server, rng, f"writer {number}") for number in range(PROCESSES)]
    if twins:  # two caches share one tier
        tiers.append(tiers[0])
    caches = [PromptCache(MemoryTier(), tier, clock=loop.time) for tier in tiers]
    guards = [cache._engine.storage.remote[0] for cache in caches]
    model = Model(
        loop.time,
        owes=lambda cache: bool(guards[cache]._backlog),
        hears=lambda cache: max(server.frozen_until, tiers[cache].hears),
        # There a fill is there for a moment before it is judged.
        grace=HEARD if kind is ClusteredTier else 0.0,
    )

    def kill(chance: random.Random) -> None:
        if not faults:
            return
        tier, fault = chance.choice(tiers), chance.random()
        if fault < 0.1:
            server.freeze(chance.uniform(0, 1.0))
            return
        tier.kill()
        if fault < 0.4:
            tier.down_until = loop.time() + chance.uniform(0, 0.3)

    episodes = [Episode(f"{seed} {n}", f"e{n}", caches, model, kill) for n in range(AT_ONCE)]
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*[episode.run() for episode in episodes])
    await asyncio.sleep(PATIENCE)
    for cache in caches:
        shared = cache._engine.storage.shared
        assert shared is not None
        assert not shared._held | shared._spare.keys(), "a lease that nobody needs"
        await cache.aclose()
    return model


@pytest.mark.parametrize(
    "where",
    [
        pytest.param({}, id="one server"),
        pytest.param({"twins": True}, id="one tier of two caches"),
        pytest.param({"kind": ClusteredTier, "faults": False}, id="a cluster"),
    ],
)
@pytest.mark.parametrize("run", range(RUNS))
def test_nobody_reads_what_is_void(run: int, where: Any) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        model = runner.run(play(f"{SEED} {run}", **where))
    assert not model.wrong, "\n".join(model.wrong[:10])
    assert model.reads["checked"] > 10 * AT_ONCE, model.reads
    assert model.reads["a value"] > 10 * AT_ONCE, model.reads
