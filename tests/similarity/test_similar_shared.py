"""Similar hits over tiers that are shared with other processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from servers import Server
from similar_calls import SECOND, chat, words

from aiopromptcache import MemoryTier, PromptCache, RedisTier, cache_status
from aiopromptcache.testing import FaultyTier, OpenAIServer

pytestmark = pytest.mark.anyio

PLAIN = pytest.param(("asyncio", {}), id="asyncio")
UVLOOP = pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop")


@pytest.fixture(params=[PLAIN, UVLOOP])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """These tests go by real time, so not in debug mode."""
    return request.param


@pytest.fixture(scope="module")
def valkey() -> Iterator[Server]:
    """A server that no test breaks."""
    with Server("valkey") as server:
        yield server


@pytest.fixture
def url(valkey: Server) -> str:
    """An empty database."""
    valkey.command("FLUSHALL")
    return valkey.url


@pytest.fixture
async def other(url: str, server: OpenAIServer, lexical: Any) -> AsyncIterator[Any]:
    """Another process's cache and client."""
    async with PromptCache(MemoryTier(), RedisTier(url), similarity=lexical()) as cache:
        async with server.client() as client:
            yield cache, cache.wrap(client)


@pytest.mark.parametrize("memory", [True, False])
async def test_the_answer_is_looked_up_where_it_is(
    server: OpenAIServer, url: str, lexical: Any, memory: bool
) -> None:
    tiers = [MemoryTier(max_entries=1), RedisTier(url)] if memory else [RedisTier(url)]
    async with PromptCache(*tiers, similarity=lexical()) as cache, server.client() as bare:
        client = cache.wrap(bare)
        first = await chat(client)
        await cache.set("another", 1)  # takes its place in memory
        answer = await chat(client, SECOND)
        status = cache_status(answer)
        assert status is not None
        assert (status.tier, words(answer)) == ("redis", words(first))
        assert status.similarity is not None
    assert server.calls == 1


async def test_a_copy_keeps_the_answers_own_life(
    server: OpenAIServer, url: str, lexical: Any
) -> None:
    matcher = lexical(store_similar=True)
    async with PromptCache(RedisTier(url), similarity=matcher, ttl=100) as cache:
        async with server.client() as bare:
            client = cache.wrap(bare)
            key = cache_status(await chat(client)).key  # type: ignore[union-attr]
            status = cache_status(await chat(client, SECOND))
            assert status is not None
            assert status.stored
            assert await cache.delete(key) == 1
            copy = cache_status(await chat(client, SECOND))
    assert copy is not None
    assert (copy.hit, copy.similarity) == (True, None)
    assert copy.ttl is not None
    assert copy.ttl <= 100
    assert server.calls == 1


async def test_what_another_process_removed_is_not_matched(
    server: OpenAIServer, url: str, make: Any, lexical: Any, other: Any
) -> None:
    async with PromptCache(MemoryTier(), RedisTier(url), similarity=lexical()) as cache:
        async with server.client() as bare:
            client = cache.wrap(bare)
            key = cache_status(await chat(client)).key  # type: ignore[union-attr]
            assert cache_status(await chat(client, SECOND)).similarity  # type: ignore[union-attr]
            assert await other[0].delete(key) == 1
            while cache._engine.storage.peek(cache._engine.prefix + key) is not None:
                await asyncio.sleep(0)
            assert not cache_status(await chat(client, SECOND)).hit  # type: ignore[union-attr]


async def test_a_similar_hit_gives_its_lease_back(
    server: OpenAIServer, url: str, lexical: Any, other: Any
) -> None:
    async with PromptCache(MemoryTier(), RedisTier(url, lease=30.0), similarity=lexical()) as cache:
        async with server.client() as bare:
            client = cache.wrap(bare)
            await chat(client)
            assert cache_status(await chat(client, SECOND)).similarity  # type: ignore[union-attr]
            async with asyncio.timeout(5):  # the other knows of nothing similar, and may go on
                assert not cache_status(await chat(other[1], SECOND)).hit  # type: ignore[union-attr]
    assert server.calls == 2


@pytest.mark.parametrize("stream", [True, False])
async def test_what_another_process_answered_is_learnt_where_it_is_met(
    server: OpenAIServer, url: str, lexical: Any, other: Any, stream: bool
) -> None:
    async with PromptCache(RedisTier(url), similarity=lexical()) as cache:
        async with server.client() as bare:
            client = cache.wrap(bare)
            first = await chat(other[1], stream=stream)
            assert cache_status(await chat(client, stream=stream)).hit  # type: ignore[union-attr]
            for _ in range(2):  # once is enough
                await chat(client, stream=stream)
            answer = await chat(client, SECOND, stream=stream)
            assert cache_status(answer).similarity is not None  # type: ignore[union-attr]
            assert words(answer) == words(first)
            assert len(cache._engine.similar._questions) == 1  # type: ignore[union-attr]
    assert server.calls == 1


async def test_but_nothing_is_embedded_for_that(
    server: OpenAIServer, url: str, semantic: Any, embed: Any, other: Any
) -> None:
    async with PromptCache(RedisTier(url), similarity=semantic()) as cache:
        async with server.client() as bare:
            await chat(other[1])
            assert cache_status(await chat(cache.wrap(bare))).hit  # type: ignore[union-attr]
    assert embed.texts == []


async def test_a_broken_tier_is_a_miss_and_forgets_nothing(
    server: OpenAIServer, make: Any, lexical: Any
) -> None:
    tier = FaultyTier()
    cache, client = make(lexical(), tier)
    await chat(client)
    tier.fail()
    with cache.control(no_store=True):
        for _ in range(7):  # until its breaker is open, and then
            assert not cache_status(await chat(client, SECOND)).hit  # type: ignore[union-attr]
    assert server.calls == 8
    assert cache._engine.storage.remote[0].open
    assert len(cache._engine.similar._questions._index) == 1
