"""Vectors that come from a wrapped client of the same cache: they are cached like all else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from servers import Server
from similar_calls import FIRST, OTHER, SECOND, Embed, chat, words

from aiopromptcache import MemoryTier, NotCached, PromptCache, RedisTier, cache_status
from aiopromptcache.similarity import SemanticSimilarity
from aiopromptcache.testing import OpenAIServer

pytestmark = pytest.mark.anyio

PLAIN = pytest.param(("asyncio", {}), id="asyncio")
UVLOOP = pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop")


@pytest.fixture(params=[PLAIN, UVLOOP])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Some of these tests go by real time, so not in debug mode."""
    return request.param


@pytest.fixture(scope="module")
def valkey() -> Iterator[Server]:
    """A server that no test breaks."""
    with Server("valkey") as server:
        yield server


@pytest.fixture
async def server() -> AsyncIterator[OpenAIServer]:
    """Embeds texts so that similar ones are near each other."""

    def answer(request: Any) -> Any:
        if request.endpoint != "embeddings":
            return None
        rows = enumerate(map(Embed.vector, request.body["input"]))
        return {
            "object": "list",
            "data": [{"object": "embedding", "index": n, "embedding": row} for n, row in rows],
            "model": "e",
            "usage": {"prompt_tokens": 1, "total_tokens": 1},
        }

    async with OpenAIServer(answer=answer) as server:
        yield server


@asynccontextmanager
async def process(server: OpenAIServer, *tiers: Any) -> AsyncIterator[tuple[PromptCache, Any]]:
    """A cache and a client, as a process has them that embeds with this very client."""

    async def embed(texts: list[str]) -> list[list[float]]:
        made = await client.embeddings.create(model="e", input=texts, encoding_format="float")
        return [item.embedding for item in made.data]

    matcher = SemanticSimilarity(embed, 0.8)
    async with PromptCache(*tiers, similarity=matcher) as cache, server.client() as bare:
        client = cache.wrap(bare)
        yield cache, client


async def test_a_hundred_new_ones_are_embedded_once(server: OpenAIServer) -> None:
    async with process(server) as (cache, client):
        server.hold()
        waiting = [asyncio.ensure_future(chat(client)) for _ in range(100)]
        await server.wait_active(1)
        server.release()
        answers = await asyncio.gather(*waiting)
        assert len({words(answer) for answer in answers}) == 1
        assert server.calls_for("embeddings") == 1
        assert server.calls_for("chat/completions") == 1
        assert cache.stats.upstream_calls == 2


async def test_what_is_asked_again_is_not_embedded_again(server: OpenAIServer) -> None:
    async with process(server) as (cache, client):
        await chat(client)
        for _ in range(3):  # not stored under its own key, so each is looked for anew
            assert cache_status(await chat(client, SECOND)).similarity  # type: ignore[union-attr]
        with cache.control(no_cache=True):
            await chat(client)
        assert server.calls_for("embeddings") == 2
        assert server.calls_for("chat/completions") == 2


async def test_after_a_restart_nothing_is_embedded_again(
    server: OpenAIServer, valkey: Server
) -> None:
    valkey.command("FLUSHALL")
    async with process(server, MemoryTier(), RedisTier(valkey.url)) as (_, client):
        first = await chat(client)
        assert cache_status(await chat(client, SECOND)).similarity  # type: ignore[union-attr]
    asked = server.calls_for("embeddings")
    assert asked == 2
    async with process(server, MemoryTier(), RedisTier(valkey.url)) as (cache, client):
        assert words(await chat(client)) == words(first)
        with cache.control(no_cache=True):  # is learnt again, with the vector that is stored
            await chat(client)
        settled = cache._engine.similar._tasks  # type: ignore[union-attr]
        while settled:
            await asyncio.wait(settled)
        assert cache_status(await chat(client, SECOND)).similarity  # type: ignore[union-attr]
        assert server.calls_for("embeddings") == asked
        assert server.calls_for("chat/completions") == 2


async def test_embeddings_that_fail_are_a_miss_of_the_similar_search(
    server: OpenAIServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with process(server) as (_, client):
        await chat(client)
        server.fail(400)  # the next request: that for the vector
        with caplog.at_level(logging.WARNING):
            status = cache_status(await chat(client, SECOND))
        assert status is not None
        assert (status.hit, status.similarity) == (False, None)
        assert server.calls_for("chat/completions") == 2
        [record] = caplog.records
        assert "similar prompts failed with BadRequestError" in record.getMessage()
        assert cache_status(await chat(client, SECOND)).hit  # type: ignore[union-attr]


async def test_who_must_not_go_upstream_embeds_nothing(
    server: OpenAIServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with process(server) as (cache, client):
        await chat(client)
        await chat(client, OTHER)
        asked = server.calls
        with cache.control(only_if_cached=True):
            with pytest.raises(NotCached, match="only_if_cached"):
                await chat(client, SECOND)
            assert words(await chat(client)) is not None
        assert server.calls == asked
        assert not caplog.records
        assert cache.stats.errors == 0
        assert FIRST not in caplog.text
