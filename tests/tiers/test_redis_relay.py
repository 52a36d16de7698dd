"""Streams passed on through a cluster, where the log and a slot's own keys are apart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio
from servers import Cluster

from aiopromptcache import PromptCache, RedisTier

pytestmark = pytest.mark.anyio


async def test_a_stream_is_shared_over_a_cluster(cluster: Cluster) -> None:
    port = cluster.alive()[0].port
    gate, begun = asyncio.Event(), 0

    async def items() -> AsyncIterator[int]:
        nonlocal begun
        begun += 1
        yield 1
        yield 2
        await gate.wait()
        yield 3

    async def read(cache: PromptCache, key: str, got: list[Any]) -> None:
        async for item in cache.stream(key, items):
            got.append(item)

    async def seen(gots: list[list[Any]], count: int) -> None:
        async with asyncio.timeout(10):
            while any(len(got) < count for got in gots):
                await asyncio.sleep(0.002)

    async with (
        redis.asyncio.RedisCluster(host="127.0.0.1", port=port) as one,
        redis.asyncio.RedisCluster(host="127.0.0.1", port=port) as other,
        PromptCache(RedisTier(one, timeout=5)) as leader,
        PromptCache(RedisTier(other, timeout=5)) as follower,
    ):
        await one.flushall()
        for number in range(5):  # keys of several nodes
            gate.clear()
            gots: list[list[Any]] = [[], []]
            tasks = [asyncio.ensure_future(read(leader, f"{number}", gots[0]))]
            await seen(gots[:1], 2)
            tasks.append(asyncio.ensure_future(read(follower, f"{number}", gots[1])))
            await seen(gots, 2)
            assert gots == [[1, 2]] * 2
            gate.set()
            await asyncio.gather(*tasks)
            assert gots == [[1, 2, 3]] * 2
            assert begun == number + 1
