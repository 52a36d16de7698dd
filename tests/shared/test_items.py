"""Embeddings past their time: of all processes one refreshes each item."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI
from together import team, wait_until

from aiopromptcache import PromptCache, RedisTier, cache_status
from aiopromptcache.testing import VirtualClock

pytestmark = pytest.mark.anyio

WINDOWS = {"ttl": 100, "stale_while_revalidate": 500}


class Upstream:
    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.status = 200

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        inputs = json.loads(request.content)["input"]
        self.asked.append(inputs)
        number = float(len(self.asked))
        await self.open.wait()
        if self.status != 200:
            return httpx2.Response(self.status, json={"error": {"message": "no", "type": "t"}})
        data = [
            {"object": "embedding", "index": index, "embedding": [number]}
            for index, _ in enumerate(inputs)
        ]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        body = {"object": "list", "model": "m", "data": data, "usage": usage}
        return httpx2.Response(200, json=body)


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
async def plain(upstream: Upstream) -> AsyncIterator[AsyncOpenAI]:
    http = httpx2.AsyncClient(transport=httpx2.MockTransport(upstream))
    async with AsyncOpenAI(
        api_key="-", base_url="http://s/v1", max_retries=0, http_client=http
    ) as client:
        yield client


async def embed(cache: PromptCache, plain: AsyncOpenAI, *texts: str) -> Any:
    with cache.control(**WINDOWS):
        return await cache.wrap(plain).embeddings.create(
            model="m", input=list(texts), encoding_format="float"
        )


def vectors(answer: Any) -> list[float]:
    return [one.embedding[0] for one in answer.data]


def hit(answer: Any) -> tuple[bool, bool]:
    status = cache_status(answer)
    assert status is not None
    return status.hit, status.stale


async def test_each_item_is_refreshed_once_and_that_counts_for_all(
    url: str, plain: AsyncOpenAI, upstream: Upstream, clock: VirtualClock
) -> None:
    async with team(url, 3, clock=clock) as caches:
        await embed(caches[0], plain, "a", "b", "c")
        for cache in caches:
            assert hit(await embed(cache, plain, "a", "b", "c")) == (True, False)
        clock.advance(110)
        upstream.open.clear()
        await embed(caches[0], plain, "a", "b")
        await wait_until("a refresh", lambda: len(upstream.asked) == 2)
        for _ in range(20):
            for cache in caches[1:]:
                answer = await embed(cache, plain, "a", "b", "c")
                assert (hit(answer), vectors(answer)) == ((True, True), [1, 1, 1])
        await wait_until("another refresh", lambda: len(upstream.asked) == 3)
        upstream.open.set()
        await wait_until("ends", lambda: not any(len(cache._engine.flights) for cache in caches))
        assert upstream.asked == [["a", "b", "c"], ["a", "b"], ["c"]]
        for cache in caches:
            answer = await embed(cache, plain, "a", "b", "c")
            assert (hit(answer), vectors(answer)) == ((True, False), [2, 2, 3])
        assert sum(cache.stats.refreshes for cache in caches) == 2
        assert sum(cache.stats.upstream_calls for cache in caches) == 3 + 1  # and the team's own


async def test_without_a_memory_tier_items_are_stored_again_and_again(
    url: str, plain: AsyncOpenAI, upstream: Upstream, clock: VirtualClock
) -> None:
    async with PromptCache(RedisTier(url), clock=clock) as cache:
        for number in range(1, 4):
            assert vectors(await embed(cache, plain, "a")) == [number]
            answer = await embed(cache, plain, "a")
            assert (hit(answer), vectors(answer)) == ((True, False), [number])
            await cache.clear()


async def test_a_refresh_that_fails_is_left_to_others(
    url: str, plain: AsyncOpenAI, upstream: Upstream, clock: VirtualClock
) -> None:
    async with team(url, clock=clock) as caches:
        one, two = caches
        for cache in caches:
            await embed(cache, plain, "a")
        clock.advance(110)
        upstream.status = 500
        await embed(one, plain, "a")
        await wait_until("its end", lambda: not len(one._engine.flights))
        upstream.status = 200
        shared = one._engine.storage.shared
        assert shared is not None
        await wait_until("the lease's return", lambda: not shared._tasks)
        await embed(two, plain, "a")
        await wait_until("the refresh", lambda: two.stats.refreshes == 1)
        assert len(upstream.asked) == 3
        assert vectors(await embed(one, plain, "a")) == [3]


async def test_a_refresh_that_its_cache_leaves_is_left_to_others(
    url: str, plain: AsyncOpenAI, upstream: Upstream, clock: VirtualClock
) -> None:
    async with team(url, clock=clock) as caches:
        one, two = caches
        for cache in caches:
            await embed(cache, plain, "a")
        clock.advance(110)
        upstream.open.clear()
        await embed(one, plain, "a")
        await wait_until("the refresh", lambda: len(upstream.asked) == 2)
        await one.aclose()
        upstream.open.set()
        await embed(two, plain, "a")
        await wait_until("the refresh", lambda: two.stats.refreshes == 1)
        assert len(upstream.asked) == 3
