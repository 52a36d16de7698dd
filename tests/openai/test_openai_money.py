"""What answers are billed, and what hits and collapsed calls save: worked out by hand."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI
from servers import Server

from aiopromptcache import (
    CacheEvent,
    ConfigurationError,
    Entry,
    Kind,
    MemoryTier,
    Policy,
    Price,
    PromptCache,
    RedisTier,
    Usage,
)
from aiopromptcache._entry import total
from aiopromptcache._prices import Prices
from aiopromptcache.testing import OpenAIServer, RecordedRequest, VirtualClock

pytestmark = pytest.mark.anyio

Connect = Callable[..., AsyncOpenAI]

OWN = {
    "house-large": Price(input=2.0, output=8.0, cached_input=0.5),
    "house-writer": Price(input=2.0, output=8.0, cached_input=0.5, cache_write=2.5),
    "house-small": Price(input=0.1, output=0.4),
    "gpt-4o": Price(input=1.0, output=1.0),
}

# Dollars per million tokens: of genai-prices for the first three, the user's own for the others.
CASES = [
    # model, prompt, cached, completion, dollars
    ("gpt-4o-mini", 1_000, 0, 500, (1_000 * 0.15 + 500 * 0.60) / 1e6),
    ("gpt-4o-mini-2024-07-18", 1_000, 400, 500, (600 * 0.15 + 400 * 0.075 + 500 * 0.60) / 1e6),
    ("o3-mini", 2_000, 1_024, 4_000, (976 * 1.10 + 1_024 * 0.55 + 4_000 * 4.40) / 1e6),
    ("house-large", 3_000, 2_000, 100, (1_000 * 2.0 + 2_000 * 0.5 + 100 * 8.0) / 1e6),
    ("house-small", 3_000, 2_000, 100, (3_000 * 0.1 + 100 * 0.4) / 1e6),
    ("gpt-4o", 10, 0, 10, (10 * 1.0 + 10 * 1.0) / 1e6),  # one's own price counts first
]


@pytest.fixture(scope="module")
def valkey() -> Iterator[Server]:
    with Server("valkey") as server:
        yield server


@pytest.fixture
def redis_url(valkey: Server) -> str:
    with valkey.client() as client:
        client.flushall()
    return valkey.url


def billed(
    prompt: int, cached: int, completion: int, *, model: str | None = None
) -> Callable[[RecordedRequest], dict[str, Any]]:
    """A server's answers with this usage, under both of the API's namings."""

    def answer(request: RecordedRequest) -> dict[str, Any]:
        name = model or request.body["model"]
        if request.endpoint == "responses":
            text = {"type": "output_text", "text": "Hello", "annotations": []}
            message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [text]}
            return {
                "id": "resp_1",
                "object": "response",
                "created_at": 1_700_000_000,
                "status": "completed",
                "model": name,
                "output": [message | {"status": "completed"}],
                "parallel_tool_calls": True,
                "tool_choice": "auto",
                "tools": [],
                "usage": {
                    "input_tokens": prompt,
                    "input_tokens_details": {"cached_tokens": cached},
                    "output_tokens": completion,
                    "output_tokens_details": {"reasoning_tokens": 0},
                    "total_tokens": prompt + completion,
                },
            }
        message = {"role": "assistant", "content": "Hello"}
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": name,
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
                "prompt_tokens_details": {"cached_tokens": cached},
            },
        }

    return answer


async def chat(client: Any, model: str, **options: Any) -> Any:
    messages = [{"role": "user", "content": "Hi"}]
    return await client.chat.completions.create(model=model, messages=messages, **options)


async def streamed(client: Any, model: str) -> None:
    stream = await chat(client, model, stream=True, stream_options={"include_usage": True})
    async for _ in stream:
        pass


async def respond(client: Any, model: str) -> Any:
    return await client.responses.create(model=model, input="Hi")


@pytest.mark.parametrize("call", [chat, streamed, respond])
@pytest.mark.parametrize(("model", "prompt", "cached", "completion", "dollars"), CASES)
async def test_hits_and_collapsed_calls_save_what_the_call_was_billed(
    call: Callable[..., Awaitable[Any]],
    model: str,
    prompt: int,
    cached: int,
    completion: int,
    dollars: float,
    server: OpenAIServer,
    connect: Connect,
) -> None:
    server.answer = billed(prompt, cached, completion)
    async with PromptCache(prices=OWN) as cache:
        client = cache.wrap(connect())
        await asyncio.gather(*(call(client, model) for _ in range(5)))  # four are collapsed
        await call(client, model)
        stats = cache.stats
        assert (server.calls, stats.collapsed, stats.hits) == (1, 4, 1)
        assert stats.cost_spent == pytest.approx(dollars, rel=1e-9)
        assert stats.cost_saved == pytest.approx(5 * dollars, rel=1e-9)
        saved, spent = stats.tokens_saved, stats.tokens_spent
        assert (spent.prompt, spent.cached, spent.completion) == (prompt, cached, completion)
        assert (saved.prompt, saved.cached, saved.completion) == (
            5 * prompt,
            5 * cached,
            5 * completion,
        )
        [row] = stats.by_model.values()
        assert (row.model, row.saved.unpriced) == (model, 0)


async def test_a_price_that_depends_on_the_size_of_a_call_is_that_of_each_call(
    server: OpenAIServer, connect: Connect
) -> None:
    """Two calls of 150,000 tokens are not one of 300,000, which is past gemini's step."""
    async with PromptCache() as cache:
        client = cache.wrap(connect())
        for size, step in ((150_000, (1.25, 10.0)), (300_000, (2.50, 15.0))):
            server.answer = billed(size, 0, 1_000)
            before = cache.stats.cost_saved or 0.0
            for _ in range(3):
                await chat(client, "gemini-2.5-pro", max_tokens=size)
            saved = (cache.stats.cost_saved or 0.0) - before
            assert saved == pytest.approx(2 * (size * step[0] + 1_000 * step[1]) / 1e6)


async def test_an_unknown_model_costs_none_and_never_nothing(
    server: OpenAIServer, connect: Connect, events: list[CacheEvent]
) -> None:
    async with PromptCache(hooks=[events.append]) as cache:
        client = cache.wrap(connect())
        for _ in range(3):
            await chat(client, "nobody-sells-this")
        assert cache.stats.cost_saved is None
        assert cache.stats.cost_spent is None
        assert (cache.stats.saved.unpriced, cache.stats.spent.unpriced) == (2, 1)
        assert "unknown" in str(cache.stats)
        for _ in range(2):  # what is known counts, and what is not is told
            await chat(client, "gpt-4o-mini")
        assert cache.stats.cost_saved is not None
        assert "2 answers without a price" in str(cache.stats)
        assert cache.stats.as_dict()["unpriced_saved"] == 2
    costs = [(event.kind, event.cost is None) for event in events if event.kind != "store"]
    unknown, known = (
        [("miss", True), ("hit", True), ("hit", True)],
        [
            ("miss", False),
            ("hit", False),
        ],
    )
    assert costs == unknown + known


async def test_the_model_that_answered_is_billed_and_not_the_name_that_was_asked_for(
    server: OpenAIServer, connect: Connect, redis_url: str
) -> None:
    """As on Azure, where a deployment's name says nothing of its model, or something wrong."""
    server.answer = billed(1_000, 0, 0, model="gpt-4o-mini-2024-07-18")
    for _ in range(2):  # the second process knows it from Redis alone
        async with PromptCache(MemoryTier(), RedisTier(redis_url)) as cache:
            client = cache.wrap(connect())
            await chat(client, "gpt-4")
            [row] = cache.stats.by_model.values()
            assert row.model == "gpt-4"
    assert server.calls == 1
    assert cache.stats.cost_saved == pytest.approx(1_000 * 0.15 / 1e6)


async def test_provider_side_cached_tokens_survive_redis(
    server: OpenAIServer, connect: Connect, redis_url: str
) -> None:
    server.answer = billed(1_000, 400, 500)
    for _ in range(2):
        async with PromptCache(RedisTier(redis_url)) as cache:
            await chat(cache.wrap(connect()), "gpt-4o-mini")
    assert server.calls == 1
    dollars = (600 * 0.15 + 400 * 0.075 + 500 * 0.60) / 1e6
    assert cache.stats.cost_saved == pytest.approx(dollars)


@pytest.mark.parametrize(
    ("model", "dollars"),
    [
        ("gpt-5.6-cyber", (300 * 12.5 + 400 * 1.25 + 300 * 15.625 + 500 * 75) / 1e6),
        ("house-writer", (300 * 2.0 + 400 * 0.5 + 300 * 2.5 + 500 * 8.0) / 1e6),
        ("house-large", (600 * 2.0 + 400 * 0.5 + 500 * 8.0) / 1e6),  # its writes cost no more
    ],
)
async def test_tokens_that_the_provider_puts_into_its_cache_have_their_price(
    model: str, dollars: float, server: OpenAIServer, connect: Connect, redis_url: str
) -> None:
    """Also in a process that knows the answer from Redis alone."""
    whole = billed(1_000, 400, 500)

    def answer(request: RecordedRequest) -> dict[str, Any]:
        body = whole(request)
        body["usage"]["prompt_tokens_details"]["cache_write_tokens"] = 300
        return body

    server.answer = answer
    for _ in range(2):
        async with PromptCache(RedisTier(redis_url), prices=OWN) as cache:
            await chat(cache.wrap(connect()), model)
        known = cache.stats.cost_spent if cache.stats.misses else cache.stats.cost_saved
        assert known == pytest.approx(dollars, rel=1e-9)
    assert (server.calls, cache.stats.hits) == (1, 1)


async def test_tokens_of_sound_have_their_price_and_keep_it_in_redis(
    server: OpenAIServer, connect: Connect, redis_url: str
) -> None:
    """gpt-audio: text 2.50 and 10, sound 32 and 64 dollars per million."""

    def answer(request: RecordedRequest) -> dict[str, Any]:
        body = billed(100, 0, 20)(request)
        body["usage"]["prompt_tokens_details"]["audio_tokens"] = 80
        body["usage"]["completion_tokens_details"] = {"audio_tokens": 15}
        return body

    dollars = (20 * 2.5 + 80 * 32 + 5 * 10 + 15 * 64) / 1e6
    server.answer = answer
    async with PromptCache(RedisTier(redis_url)) as cache:
        await chat(cache.wrap(connect()), "gpt-audio")
        assert cache.stats.cost_spent == pytest.approx(dollars, rel=1e-9)
    async with PromptCache(RedisTier(redis_url)) as cache:
        await chat(cache.wrap(connect()), "gpt-audio")
        assert cache.stats.cost_saved == pytest.approx(dollars, rel=1e-9)
        assert server.calls == 1


@pytest.mark.parametrize("call", [chat, streamed, respond])
@pytest.mark.parametrize(
    ("service", "dollars"),
    [("priority", (1_000 * 5.0 + 100 * 30.0) / 1e6), ("flex", (1_000 * 1.25 + 100 * 7.5) / 1e6)],
)
async def test_the_service_tier_of_the_answer_is_billed_and_survives_redis(
    call: Callable[..., Awaitable[Any]],
    service: str,
    dollars: float,
    server: OpenAIServer,
    connect: Connect,
    redis_url: str,
) -> None:
    """gpt-5.4: 2.50 and 15 dollars per million tokens, priority twice that, flex half."""
    whole = billed(1_000, 0, 100)
    server.answer = lambda request: whole(request) | {"service_tier": service}
    for cost in ("cost_spent", "cost_saved"):
        async with PromptCache(RedisTier(redis_url)) as cache:
            await call(cache.wrap(connect()), "gpt-5.4")
            assert getattr(cache.stats, cost) == pytest.approx(dollars, rel=1e-9)
    assert server.calls == 1


def test_counts_that_a_hostile_record_has_can_be_added_up() -> None:
    """An entry of several embeddings has their sum, which must not be too much to keep."""
    whole = total([Usage(2**63 - 1, 0, 2**63 - 1)] * 3)
    assert Entry(Kind.VECTOR, b"", stored_at=0.0, ttl=None, usage=whole).usage == whole


async def test_embeddings_are_billed_by_what_was_asked_and_saved_item_by_item(
    server: OpenAIServer, connect: Connect
) -> None:
    async with PromptCache() as cache:
        client = cache.wrap(connect())
        model = "text-embedding-3-small"
        await client.embeddings.create(model=model, input=["one two", "three"])
        await client.embeddings.create(model=model, input=["one two", "four five six"])
        await client.embeddings.create(model=model, input=["three", "four five six"])
        stats = cache.stats
        assert stats.cost_spent == pytest.approx(stats.tokens_spent.total * 0.02 / 1e6)
        assert stats.cost_saved == pytest.approx(stats.tokens_saved.total * 0.02 / 1e6)
        # The server bills words, but an answer's tokens are shared out by the items' lengths.
        assert stats.tokens_spent.total == 6
        assert stats.tokens_saved.total == 2 + 1 + 3


async def test_events_of_embeddings_tell_what_was_paid_and_what_was_saved(
    server: OpenAIServer, connect: Connect, events: list[CacheEvent]
) -> None:
    """An item that another caller's call brings is paid for once."""
    clock = VirtualClock()
    policy = Policy(ttl=10, stale_while_revalidate=100)
    async with PromptCache(hooks=[events.append], policy=policy, clock=clock) as cache:
        client = cache.wrap(connect())
        model = "text-embedding-3-small"

        async def embed(*items: str) -> None:
            await client.embeddings.create(model=model, input=[*items])

        await asyncio.gather(embed("one two", "x"), embed("x", "three four five"), embed("one two"))
        clock.advance(11)
        await embed("one two", "x")  # an old answer, and a refresh
        refresh = cache._engine.refreshes
        while refresh._tasks:
            await asyncio.wait(list(refresh._tasks))
        stats = cache.stats
    paid = [event.cost or 0.0 for event in events if event.kind in ("miss", "refresh")]
    assert len(paid) == 3
    assert sum(paid) == pytest.approx(stats.cost_spent)
    assert stats.tokens_spent.total == 2 + 1 + 3 + 2 + 1
    [collapsed] = [event for event in events if event.kind == "collapsed"]
    assert collapsed.cost == pytest.approx(2 * 0.02 / 1e6)
    [stale] = [event for event in events if event.kind == "stale"]
    one = collapsed.size  # of one item
    assert one
    assert stale.size == pytest.approx(2 * one, rel=0.1)


@pytest.mark.parametrize(
    "usage", [{}, {"prompt_tokens": None, "completion_tokens": None}, {"total_tokens": 9}]
)
async def test_a_usage_that_says_nothing_costs_none_and_never_nothing(
    usage: dict[str, Any], server: OpenAIServer, connect: Connect
) -> None:
    whole = billed(1, 0, 1)
    server.answer = lambda request: whole(request) | {"usage": usage}
    async with PromptCache() as cache:
        client = cache.wrap(connect())
        for _ in range(2):
            await chat(client, "gpt-4o-mini")
        stats = cache.stats
    assert (stats.cost_spent, stats.cost_saved) == (None, None)
    assert (stats.spent.unpriced, stats.saved.unpriced) == (1, 1)


def test_a_model_that_is_not_sold_by_the_token_costs_none_and_never_nothing() -> None:
    """The table has it, by the hour or by the page; its tokens have no price there."""

    def entry(model: str) -> Entry:
        usage = Usage(1_000, 500, 1_500)
        asked = {"endpoint": "chat.completions", "model": model, "usage": usage}
        return Entry(Kind.HTTP, b"{}", stored_at=0.0, ttl=None, **asked)  # type: ignore[arg-type]

    prices = Prices({})
    for model in ("whisper-1", "mistral-ocr-latest"):
        assert prices.of(entry(model)) is None
    assert prices.of(entry("gpt-4o-mini")) is not None


async def test_moderations_are_free(connect: Connect, server: OpenAIServer) -> None:
    async with PromptCache() as cache:
        client = cache.wrap(connect())
        for _ in range(2):
            await client.moderations.create(model="omni-moderation-latest", input="Hi")
        assert (cache.stats.hits, cache.stats.cost_saved) == (1, 0.0)


async def test_what_may_not_be_stored_was_paid_all_the_same(
    server: OpenAIServer, connect: Connect
) -> None:
    server.finish_reason = "length"
    async with PromptCache() as cache:
        client = cache.wrap(connect())
        for _ in range(2):
            await chat(client, "gpt-4o-mini")
        tokens = cache.stats.tokens_spent
        assert cache.stats.cost_spent == pytest.approx(
            (tokens.prompt * 0.15 + tokens.completion * 0.60) / 1e6
        )
        assert tokens.prompt > 0
        assert cache.stats.cost_saved is None


async def test_a_caller_who_left_has_paid_too(server: OpenAIServer, connect: Connect) -> None:
    """The upstream call is billed to whom it answers, or to nobody: but it is billed."""
    async with PromptCache() as cache:
        client = cache.wrap(connect())
        server.hold()
        leader = asyncio.create_task(chat(client, "gpt-4o-mini"))
        await server.wait_calls(1)
        follower = asyncio.create_task(chat(client, "gpt-4o-mini"))
        await asyncio.sleep(0)  # it joins
        leader.cancel()
        server.release()
        await follower
        assert server.calls == 1
        assert cache.stats.cost_spent is not None


async def test_warming_says_what_it_cost(server: OpenAIServer, connect: Connect) -> None:
    server.answer = billed(1_000, 0, 500)
    calls = [
        {"model": model, "messages": [{"role": "user", "content": str(number)}]}
        for number, model in enumerate(["gpt-4o-mini", "gpt-4o-mini", "nobody-sells-this"])
    ]
    async with PromptCache() as cache:
        report = await cache.warm(calls, client=connect())
        assert report.cost == pytest.approx(2 * (1_000 * 0.15 + 500 * 0.60) / 1e6)
        assert report.usage == Usage(3_000, 1_500, 4_500)
        assert (await cache.warm(calls, client=connect())).cost is None  # nothing was paid


@pytest.mark.parametrize(
    ("prices", "told"),
    [
        ([], "prices=[]"),
        ({"gpt-4o": 2.5}, "'gpt-4o': 2.5"),
        ({4: Price(1, 1)}, "prices: 4"),
    ],
)
def test_prices_that_are_none_are_refused(prices: Any, told: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        PromptCache(prices=prices)
    assert told in str(raised.value)


@pytest.mark.parametrize("bad", [-1, float("nan"), float("inf"), "2", None, True])
def test_a_price_is_a_number_of_dollars(bad: Any) -> None:
    with pytest.raises(ConfigurationError, match="input="):
        Price(input=bad)
    if bad is not None:
        with pytest.raises(ConfigurationError, match="cached_input="):
            Price(input=1.0, cached_input=bad)
        with pytest.raises(ConfigurationError, match="cache_write="):
            Price(input=1.0, cache_write=bad)


def test_the_package_works_without_the_table(tmp_path: Path) -> None:
    """Without the extra, one's own prices are all there are."""
    (tmp_path / "genai_prices.py").write_text("raise ImportError('not installed')\n")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from aiopromptcache import Entry, Kind, Price, Usage\n"
        "from aiopromptcache._prices import Prices\n"
        "def entry(model): return Entry(Kind.HTTP, b'{}', stored_at=0, ttl=None, model=model,"
        " endpoint='chat.completions', usage=Usage(1_000_000, 0, 1_000_000))\n"
        "prices = Prices({'mine': Price(2.0)})\n"
        "print(prices.of(entry('mine')), prices.of(entry('gpt-4o-mini')), Prices({}).known)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["2.0", "None", "False"]
