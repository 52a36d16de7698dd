"""Random interleavings in several caches, held against a sequential model of what may be read.

On a real server and in real time. AIOPROMPTCACHE_INTERLEAVINGS says how many (200 unless given),
AIOPROMPTCACHE_SEED which ones.
"""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any

import pytest
from model import Episode, Model
from servers import Server
from together import team

from aiopromptcache import PromptCache

pytestmark = pytest.mark.anyio

INTERLEAVINGS = int(os.environ.get("AIOPROMPTCACHE_INTERLEAVINGS", "200"))
SEED = int(os.environ.get("AIOPROMPTCACHE_SEED", "4"))
AT_ONCE = 25
CACHES = 4


@pytest.fixture
def anyio_backend() -> Any:
    return ("asyncio", {"use_uvloop": True})


async def test_nobody_reads_what_is_void(url: str, valkey: Server) -> None:
    with valkey.client() as client:

        def kill(rng: random.Random) -> None:
            """Any connection but the test's own."""
            mine = client.client_id()
            ids = [line["id"] for line in client.client_list() if int(line["id"]) != mine]
            if ids:
                client.client_kill_filter(_id=rng.choice(ids))

        async with team(url, CACHES, timeout=2.0) as caches:
            await play(caches, kill)


async def play(caches: list[PromptCache], kill: Any) -> None:
    """All interleavings, some at a time."""
    guards: list[Any] = [cache._engine.storage.shared.guard for cache in caches]  # type: ignore[union-attr]
    for first in range(0, INTERLEAVINGS, AT_ONCE):
        model = Model(owes=lambda cache: bool(guards[cache]._backlog))
        numbers = range(first, min(first + AT_ONCE, INTERLEAVINGS))
        episodes = [Episode(f"{SEED} {n}", f"e{n}", caches, model, kill) for n in numbers]
        await asyncio.gather(*[episode.run() for episode in episodes])
        assert not model.wrong, f"{first}: " + "\n".join(model.wrong[:10])
        # Otherwise it would prove nothing.
        assert model.reads["checked"] > 10 * len(numbers), model.reads
        assert model.reads["a value"] > 10 * len(numbers), model.reads
