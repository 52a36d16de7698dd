"""A cache that was made before its process was forked, as servers do that load the app first."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import pytest
from together import HEARD, wait_until

from aiopromptcache import MemoryTier, PromptCache, RedisTier

FORK = multiprocessing.get_context("fork")


async def serve(cache: PromptCache, pipe: Connection) -> None:
    """Do what the parent says, and say when it is done."""
    while (asked := await asyncio.to_thread(pipe.recv)) is not None:
        match asked:
            case "set", value:
                pipe.send(await cache.set("key", value))
            case "hold", value:

                async def held(value: Any = value) -> bool:
                    before = cache.stats.hits_by_tier.get("memory", 0)
                    found = await cache.get("key") == value
                    return found and cache.stats.hits_by_tier.get("memory", 0) > before

                pipe.send(await wait_until("the value, from memory", held, within=20 * HEARD))
    await cache.aclose()


@contextmanager
def forked(cache: PromptCache) -> Iterator[Connection]:
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=lambda: asyncio.run(serve(cache, theirs)))
    process.start()
    theirs.close()  # where the child ends, nobody waits for its word
    try:
        yield ours
        ours.send(None)
    finally:
        process.join(10)
        process.kill()
        process.join()
        ours.close()


def done(pipe: Connection, *asked: Any) -> Any:
    pipe.send(asked)
    return pipe.recv()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used before"])
def test_what_one_of_them_sets_the_other_hears(url: str, used: bool) -> None:
    cache = PromptCache(MemoryTier(), RedisTier(url))

    async def use() -> None:
        await cache.set("key", "oldest")
        await cache.aclose()

    if used:
        asyncio.run(use())
    with forked(cache) as one, forked(cache) as other:
        for value in ("old", "new"):
            done(one, "set", value)
            done(other, "hold", value)
