"""Faults of what a matcher calls, and what was wrong once: nobody is hurt by it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from openai import AsyncOpenAI
from servers import Server
from similar_calls import FIRST, OTHER, SECOND, THIRD, Embed, chat, words

from aiopromptcache import MemoryTier, NotCached, PromptCache, RedisTier, cache_status
from aiopromptcache.similarity import SemanticSimilarity
from aiopromptcache.testing import OpenAIServer

pytestmark = pytest.mark.anyio

STORED_ONLY = {"Cache-Control": "only-if-cached"}


@pytest.fixture(scope="module")
def valkey() -> Iterator[Server]:
    """A server that no test breaks."""
    with Server("valkey") as server:
        yield server


def similarity(answer: Any) -> float | None:
    """How similar the question was that gave this answer; None where it was the same."""
    status = cache_status(answer)
    assert status is not None
    return status.similarity


async def settle(cache: PromptCache) -> None:
    """Until nothing goes on in the background."""
    similar = cache._engine.similar
    assert similar is not None
    while similar._tasks:
        await asyncio.sleep(0)


# What cancels itself


async def cancelled(*_: Any) -> Any:
    """Raises what a callable raises that waits for something which was cancelled."""
    raise asyncio.CancelledError


@pytest.mark.parametrize("stream", [True, False])
async def test_an_embed_that_cancels_itself_is_a_miss(
    server: OpenAIServer, make: Any, stream: bool
) -> None:
    cache, client = make(SemanticSimilarity(cancelled, 0.8))
    assert words(await chat(client, stream=stream))
    await settle(cache)
    assert cache.stats.errors >= 1
    with pytest.raises(NotCached):
        await chat(client, SECOND, stream=stream, extra_headers=STORED_ONLY)
    assert server.calls == 1


async def test_a_verify_that_cancels_itself_is_a_miss(
    server: OpenAIServer, make: Any, matcher: Any
) -> None:
    cache, client = make(matcher(verify=cancelled))
    await chat(client)
    assert not cache_status(await chat(client, SECOND)).hit  # type: ignore[union-attr]
    assert cache.stats.errors == 1


async def test_closing_while_it_is_looked_hurts_nobody(
    server: OpenAIServer, make: Any, matcher: Any
) -> None:
    cache, client = make(matcher())
    await chat(client)
    index = cache._engine.similar._questions._index
    held = threading.Event()
    index._submit(held.wait, 30)
    asking = asyncio.ensure_future(chat(client, SECOND))
    while not index._thread._work_queue.qsize():
        await asyncio.sleep(0)
    await cache.aclose()
    held.set()
    assert words(await asking)


# What hangs


async def test_a_plain_embed_that_hangs_is_left_behind(
    server: OpenAIServer, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiopromptcache._similar.LOOK_SECONDS", 0.05)
    monkeypatch.setattr("aiopromptcache._similar.FAILURES", 100)
    ends, begun = threading.Event(), []

    def embed(texts: list[str]) -> Any:
        begun.append(texts)
        ends.wait(30)
        return [Embed.vector(text) for text in texts]

    cache, client = make(SemanticSimilarity(embed, 0.8))
    try:
        for number in range(8):
            with cache.control(partition=str(number)):
                assert words(await chat(client))
        await cache.aclose()
        assert not ends.is_set()
        assert len(begun) < 8  # of 16: no more are begun when some hang
    finally:
        ends.set()
    threads = cache._engine.similar._matcher._embedded._threads
    while threads._abandoned:
        await asyncio.sleep(0)
    await chat(client)
    assert similarity(await chat(client, SECOND))


async def test_after_some_failures_callers_wait_for_none_any_more(
    server: OpenAIServer, make: Any, semantic: Any, embed: Embed, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, client = make(semantic())
    await chat(client)
    embed.error = OSError("down")
    embed.texts.clear()
    for number in range(5):
        await chat(client, f"{OTHER} {number}")
    await settle(cache)
    asked = len(embed.texts)
    await asyncio.gather(*[chat(client, f"{OTHER} {number}") for number in range(5, 20)])
    await settle(cache)
    assert len(embed.texts) == asked
    embed.error = None
    monkeypatch.setattr(cache._engine.similar, "_rests_until", 0.0)
    assert similarity(await chat(client, SECOND))


async def test_who_has_no_time_takes_it_from_nobody(
    server: OpenAIServer, make: Any, semantic: Any, embed: Embed
) -> None:
    cache, client = make(semantic())
    await chat(client)
    embed.gate = asyncio.Event()
    for number in range(6):
        await chat(client.with_options(max_retries=0), f"{OTHER} {number}", timeout=0.01)
    embed.gate.set()
    await settle(cache)
    assert similarity(await chat(client, SECOND))


async def test_where_no_thread_can_be_started_answers_are_given(
    server: OpenAIServer, make: Any, matcher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoThreads(ThreadPoolExecutor):
        def _adjust_thread_count(self) -> None:
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr("aiopromptcache.similarity._index.ThreadPoolExecutor", NoThreads)
    cache, client = make(matcher())
    assert words(await chat(client))
    assert words(await chat(client, SECOND))
    assert cache.stats.errors == 2


async def test_a_vector_of_another_length_spoils_nothing(server: OpenAIServer, make: Any) -> None:
    lengths = [3]

    async def embed(texts: list[str]) -> Any:
        return [Embed.vector(text)[: lengths.pop() if lengths else None] for text in texts]

    cache, client = make(SemanticSimilarity(embed, 0.8))
    await chat(client, "x" + FIRST)
    await chat(client, OTHER)
    await chat(client)
    assert similarity(await chat(client, SECOND))
    assert cache.stats.errors == 0


# What must not be asked, or learnt


async def test_a_header_of_only_if_cached_embeds_nothing_either(server: OpenAIServer) -> None:
    client: AsyncOpenAI

    async def embed(texts: list[str]) -> list[list[float]]:
        made = await client.embeddings.create(model="e", input=texts)
        return [item.embedding for item in made.data]

    async with PromptCache(similarity=SemanticSimilarity(embed, 0.8)) as cache:
        async with server.client() as bare:
            client = cache.wrap(bare)
            await chat(client)
            asked = server.calls
            with pytest.raises(NotCached):
                await chat(client, SECOND, extra_headers=STORED_ONLY)
            assert server.calls == asked
            assert cache.stats.errors == 0
            assert words(await chat(client, extra_headers=STORED_ONLY))


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})])
async def test_what_is_met_is_not_learnt_where_that_is_turned_off(
    server: OpenAIServer, lexical: Any, valkey: Server
) -> None:
    valkey.command("FLUSHALL")
    async with server.client() as bare, server.client() as other:
        async with PromptCache(RedisTier(valkey.url)) as cache:
            await chat(cache.wrap(other))
        async with PromptCache(RedisTier(valkey.url), similarity=lexical()) as cache:
            client = cache.wrap(bare)
            with cache.control(similarity=None):
                assert cache_status(await chat(client)).hit  # type: ignore[union-attr]
            assert not cache_status(await chat(client, SECOND)).hit  # type: ignore[union-attr]


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})])
async def test_a_copy_that_is_met_answers_nothing_similar_to_itself(
    server: OpenAIServer, lexical: Any, valkey: Server
) -> None:
    valkey.command("FLUSHALL")
    async with server.client() as bare, server.client() as other:
        async with PromptCache(
            RedisTier(valkey.url), similarity=lexical(store_similar=True)
        ) as one:
            client = one.wrap(bare)
            await chat(client)
            assert similarity(await chat(client, SECOND))
        async with PromptCache(
            MemoryTier(), RedisTier(valkey.url), similarity=lexical(store_similar=True)
        ) as two:
            client = two.wrap(other)
            assert cache_status(await chat(client, SECOND)).hit  # type: ignore[union-attr]
            assert not cache_status(await chat(client, THIRD)).hit  # type: ignore[union-attr]


# What was wrong once


async def test_the_copy_of_a_false_hit_is_not_given_again(
    server: OpenAIServer, make: Any, matcher: Any
) -> None:
    cache, client = make(matcher(store_similar=True))
    await chat(client)
    cache.report_false_hit(cache_status(await chat(client, SECOND)))
    await settle(cache)
    assert not cache_status(await chat(client, SECOND)).hit  # type: ignore[union-attr]
    assert cache_status(await chat(client)).hit  # type: ignore[union-attr]


async def test_a_copy_goes_with_the_tags_of_both_calls(
    server: OpenAIServer, make: Any, matcher: Any
) -> None:
    cache, client = make(matcher(store_similar=True))
    for tag in ("asked", "answer"):
        with cache.control(tags=["answer"]):
            await chat(client)
        with cache.control(tags=["asked"]):
            assert similarity(await chat(client, SECOND))
        assert await cache.invalidate(tag) == (1 if tag == "asked" else 2)
        with cache.control(only_if_cached=True, similarity=None), pytest.raises(NotCached):
            await chat(client, SECOND)


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})])
async def test_closing_removes_such_a_copy_first(
    server: OpenAIServer, lexical: Any, valkey: Server
) -> None:
    valkey.command("FLUSHALL")
    matcher = lexical(store_similar=True)
    async with server.client() as bare, server.client() as other:
        async with PromptCache(MemoryTier(), RedisTier(valkey.url), similarity=matcher) as cache:
            client = cache.wrap(bare)
            await chat(client)
            cache.report_false_hit(cache_status(await chat(client, SECOND)))  # type: ignore[arg-type]
        async with PromptCache(RedisTier(valkey.url)) as cache:
            client = cache.wrap(other)
            assert cache_status(await chat(client)).hit  # type: ignore[union-attr]
            assert not cache_status(await chat(client, SECOND)).hit  # type: ignore[union-attr]


def test_without_a_loop_a_report_counts_all_the_same(lexical: Any) -> None:
    async def asked() -> Any:
        async with OpenAIServer() as server, server.client() as bare:
            client = cache.wrap(bare)
            await chat(client)
            status = cache_status(await chat(client, SECOND))
            await cache.aclose()
            return status

    cache = PromptCache(similarity=lexical(store_similar=True))
    cache.report_false_hit(asyncio.run(asked()))
    assert cache.stats.false_hits == 1


async def test_two_that_are_not_the_same_are_not_so_the_other_way_round(
    server: OpenAIServer, make: Any, matcher: Any
) -> None:
    cache, client = make(matcher())
    first = cache_status(await chat(client))
    cache.report_false_hit(cache_status(await chat(client, SECOND)))
    await chat(client, SECOND)
    await cache.delete(first.key)  # type: ignore[union-attr]
    assert not cache_status(await chat(client)).hit  # type: ignore[union-attr]
    assert server.calls == 3


async def test_what_is_plain_may_block_and_holds_up_no_loop(make: Any, embed: Any) -> None:
    threads: dict[str, int] = {}

    def plain(name: str, result: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            threads[name] = threading.get_ident()
            return result(*given)

        return call

    matcher = SemanticSimilarity(
        plain("embed", lambda texts: [embed.vector(text) for text in texts]),
        0.8,
        verify=plain("verify", lambda *given: True),
        judge=plain("judge", lambda *given: True),
        shadow=1.0,
    )
    _, client = make(matcher)
    await chat(client)
    assert cache_status(await chat(client, SECOND)).similarity  # type: ignore[union-attr]
    while "judge" not in threads:
        await asyncio.sleep(0)
    assert set(threads) == {"embed", "verify", "judge"}
    assert threading.get_ident() not in threads.values()
