"""What a user compares with the provider's bill: every paid call is in the sums, or is said not to
be; and the events tell the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from engine_tools import until
from openai import AsyncOpenAI, InternalServerError

from aiopromptcache import CacheEvent, Price, PromptCache
from aiopromptcache.testing import OpenAIServer

pytestmark = pytest.mark.anyio

Connect = Callable[..., AsyncOpenAI]

MODEL = "house-model"
PRICES = {MODEL: Price(input=1.0, output=2.0)}
USAGE = {"stream_options": {"include_usage": True}}


def asked(text: str = "Hi", **params: Any) -> dict[str, Any]:
    """The arguments of a call."""
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **params}


def paid(events: list[CacheEvent]) -> float:
    """What the events say was paid."""
    kinds = {"miss", "refresh"}
    return sum(event.cost or 0.0 for event in events if event.kind in kinds)


async def read(client: AsyncOpenAI, text: str, most: int = 1_000_000, **params: Any) -> None:
    """Read a stream, to its end or so many chunks of it."""
    stream = await client.chat.completions.create(**asked(text, stream=True, **params))
    async for _ in stream:
        most -= 1
        if not most:
            break
    await stream.close()


@pytest.mark.parametrize("raw", [False, True])
async def test_a_call_that_may_not_be_cached_is_billed_like_any_other(
    server: OpenAIServer, connect: Connect, raw: bool
) -> None:
    events: list[CacheEvent] = []
    async with PromptCache(hooks=[events.append], prices=PRICES) as cache:
        completions = cache.wrap(connect()).chat.completions
        create: Any = completions.with_raw_response.create if raw else completions.create
        answers = [await create(**asked(store=True)) for _ in range(2)]
        usages = [(answer.parse() if raw else answer).usage for answer in answers]
        stats = cache.stats
    assert stats.bypassed == server.calls == 2
    assert stats.tokens_spent.prompt == sum(usage.prompt_tokens for usage in usages) > 0
    dollars = sum(usage.prompt_tokens + 2 * usage.completion_tokens for usage in usages) / 1e6
    assert stats.cost_spent == pytest.approx(dollars)
    assert stats.spent.unpriced == 0
    assert events == []


@pytest.mark.parametrize("streamed", [True, False])
async def test_one_whose_answer_only_the_caller_reads_is_said_to_be_in_no_sum(
    connect: Connect, streamed: bool
) -> None:
    async with PromptCache(prices=PRICES) as cache:
        completions = cache.wrap(connect()).chat.completions
        if streamed:
            await read(cache.wrap(connect()), "Hi", store=True, **USAGE)
        else:
            async with completions.with_streaming_response.create(**asked(store=True)) as answer:
                assert await answer.json()
        stats = cache.stats
    assert (stats.bypassed, stats.cost_spent, stats.spent.unpriced) == (1, None, 1)


async def test_one_that_fails_costs_nothing(server: OpenAIServer, connect: Connect) -> None:
    events: list[CacheEvent] = []
    async with PromptCache(hooks=[events.append], prices=PRICES) as cache:
        server.fail(500)
        with pytest.raises(InternalServerError):
            await cache.wrap(connect(max_retries=0)).chat.completions.create(**asked(store=True))
        stats = cache.stats
    assert (stats.spent.unpriced, stats.cost_spent) == (0, None)
    assert events == []


async def test_a_stream_tells_its_miss_at_its_end_with_what_it_cost(connect: Connect) -> None:
    events: list[CacheEvent] = []
    async with PromptCache(hooks=[events.append], prices=PRICES) as cache:
        client = cache.wrap(connect())
        await read(client, "a stream", **USAGE)
        await read(client, "a stream", **USAGE)
        stats = cache.stats
    [miss] = [event for event in events if event.kind == "miss"]
    assert miss.usage is not None
    assert miss.usage.total == stats.tokens_spent.total > 0
    assert miss.cost == stats.cost_spent == paid(events)
    assert miss.duration is not None
    assert [event.kind for event in events if event.kind != "store"] == ["miss", "hit"]


async def test_it_tells_it_also_where_who_asked_first_has_left_and_others_read_on(
    server: OpenAIServer, connect: Connect
) -> None:
    events: list[CacheEvent] = []
    async with PromptCache(hooks=[events.append], prices=PRICES) as cache:
        client = cache.wrap(connect())
        server.hold()
        first = asyncio.create_task(read(client, "shared", most=1, **USAGE))
        await server.wait_active(1)
        others = [asyncio.create_task(read(client, "shared", **USAGE)) for _ in range(2)]
        await until(lambda: len(cache._engine.flights) == 1)
        server.release()
        await asyncio.gather(first, *others)
        stats = cache.stats
    kinds = sorted(event.kind for event in events if event.kind != "store")
    assert kinds == ["collapsed", "collapsed", "miss"]
    assert stats.cost_spent is not None
    assert paid(events) == stats.cost_spent


async def test_a_stream_that_its_only_reader_leaves_is_said_to_be_in_no_sum(
    server: OpenAIServer, connect: Connect
) -> None:
    events: list[CacheEvent] = []
    async with PromptCache(hooks=[events.append], prices=PRICES) as cache:
        server.hold_after(1)
        await read(cache.wrap(connect()), "left", most=1, **USAGE)
        server.release()
        stats = cache.stats
    assert (stats.upstream_calls, stats.cost_spent, stats.spent.unpriced) == (1, None, 1)
    [miss] = events
    assert (miss.kind, miss.cost, miss.model) == ("miss", None, MODEL)


async def test_so_is_one_that_breaks_off(server: OpenAIServer, connect: Connect) -> None:
    async with PromptCache(prices=PRICES) as cache:
        server.truncate_stream(2)
        with pytest.raises(Exception, match=r"."):
            await read(cache.wrap(connect(max_retries=0)), "cut", **USAGE)
        stats = cache.stats
    assert (stats.errors, stats.cost_spent, stats.spent.unpriced) == (1, None, 1)


async def test_so_is_a_call_whose_only_caller_is_cancelled(
    server: OpenAIServer, connect: Connect
) -> None:
    async with PromptCache(prices=PRICES) as cache:
        server.hold()
        call = asyncio.create_task(cache.wrap(connect()).chat.completions.create(**asked()))
        await server.wait_active(1)
        call.cancel()
        await asyncio.wait([call])
        await until(lambda: len(cache._engine.flights) == 0)
        server.release()
        stats = cache.stats
    assert (stats.upstream_calls, stats.cost_spent, stats.spent.unpriced) == (1, None, 1)


async def test_a_call_whose_first_caller_is_cancelled_is_told_as_paid_for_once(
    server: OpenAIServer, connect: Connect
) -> None:
    events: list[CacheEvent] = []
    async with PromptCache(hooks=[events.append], prices=PRICES) as cache:
        create = cache.wrap(connect()).chat.completions.create
        server.hold()
        first = asyncio.create_task(create(**asked()))
        await server.wait_active(1)
        others = [asyncio.create_task(create(**asked())) for _ in range(2)]
        [flight] = [flight for found in cache._engine.flights._flights.values() for flight in found]
        await until(lambda: flight.waiting == 3)
        first.cancel()
        await asyncio.wait([first])
        server.release()
        await asyncio.gather(*others)
        stats = cache.stats
    kinds = sorted(event.kind for event in events)
    assert kinds == ["collapsed", "collapsed", "miss", "store"]
    assert stats.cost_spent is not None
    assert paid(events) == stats.cost_spent
    assert (server.calls, stats.misses, stats.spent.unpriced) == (1, 1, 0)


async def test_a_call_that_may_not_be_cached_and_is_cancelled_is_in_no_sum(
    server: OpenAIServer, connect: Connect
) -> None:
    async with PromptCache(prices=PRICES) as cache:
        server.hold()
        create = cache.wrap(connect()).chat.completions.create
        call = asyncio.create_task(create(**asked(store=True)))
        await server.wait_active(1)
        call.cancel()
        await asyncio.wait([call])
        server.release()
        assert (cache.stats.bypassed, cache.stats.spent.unpriced) == (1, 1)
