"""`cache_status` of all that a wrapped client returns, its header form, and directives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion
from openai_calls import CHAT, EMBEDDING, FORMS, PLAIN, RESPONSE, City, fixed, gather

from aiopromptcache import (
    CacheStatus,
    ConfigurationError,
    NotCached,
    PromptCache,
    cache_status,
)
from aiopromptcache.testing import FaultyTier, OpenAIServer, VirtualClock

pytestmark = pytest.mark.anyio

Result = Callable[[Any], Any]


def create(client: Any, **params: Any) -> Any:
    return client.chat.completions.create(**CHAT, **params)


def parse(client: Any, **params: Any) -> Any:
    return client.chat.completions.parse(**CHAT, response_format=City, **params)


def respond(client: Any, **params: Any) -> Any:
    return client.responses.create(**RESPONSE, **params)


def parse_response(client: Any, **params: Any) -> Any:
    return client.responses.parse(**RESPONSE, text_format=City, **params)


def embed(client: Any, **params: Any) -> Any:
    return client.embeddings.create(**EMBEDDING, **params)


def raw(client: Any, **params: Any) -> Any:
    return client.chat.completions.with_raw_response.create(**CHAT, **params)


async def raw_parsed(client: Any, **params: Any) -> Any:
    return (await raw(client, **params)).parse()


async def raw_parsed_to(client: Any, **params: Any) -> Any:
    class Mine(ChatCompletion):
        """A user's."""

    return (await raw(client, **params)).parse(to=Mine)


async def streaming(client: Any, **params: Any) -> Any:
    call = client.chat.completions.with_streaming_response.create(**CHAT, **params)
    async with call as response:
        await response.read()
        return response


async def streaming_parsed(client: Any, **params: Any) -> Any:
    call = client.chat.completions.with_streaming_response.create(**CHAT, **params)
    async with call as response:
        return await response.parse()


async def stream(client: Any, **params: Any) -> Any:
    stream = await create(client, stream=True, **params)
    async for _ in stream:
        pass
    return stream


async def raw_stream(client: Any, **params: Any) -> Any:
    response = await raw(client, stream=True, **params)
    async for _ in response.parse():
        pass
    return response


async def response_stream(client: Any, **params: Any) -> Any:
    stream = await respond(client, stream=True, **params)
    async for _ in stream:
        pass
    return stream


async def helper(client: Any, **params: Any) -> Any:
    async with client.chat.completions.stream(**CHAT, **params) as stream:
        await stream.until_done()
        return stream


async def response_helper(client: Any, **params: Any) -> Any:
    async with client.responses.stream(**RESPONSE, **params) as stream:
        await stream.until_done()
        return stream


PLAINLY: list[Result] = [
    create,
    parse,
    respond,
    parse_response,
    embed,
    raw,
    raw_parsed,
    streaming,
    streaming_parsed,
]
STREAMS: list[Result] = [stream, raw_stream, response_stream]
WITH_HEADER = [raw, streaming, raw_stream]


def status_of(result: Any) -> CacheStatus:
    status = cache_status(result)
    assert status is not None
    return status


@pytest.mark.parametrize("ask", [*PLAINLY, *STREAMS, raw_parsed_to, helper, response_helper])
async def test_a_miss_and_a_hit_tell_all_about_themselves(
    server: OpenAIServer, client: AsyncOpenAI, clock: VirtualClock, ask: Result
) -> None:
    server.answer = fixed
    first = status_of(await ask(client))
    assert first == CacheStatus(key=first.key, fwd="miss", stored=True, ttl=3600.0)
    assert [len(key) for key in first.key.split(",")] == ([64, 64] if ask is embed else [64])
    clock.advance(10)
    second = status_of(await ask(client))
    assert second == CacheStatus(key=first.key, hit=True, tier="memory", age=10.0, ttl=3590.0)
    assert str(second) == "aiopromptcache; hit; ttl=3590; detail=memory"
    assert server.calls == 1


@pytest.mark.parametrize("ask", PLAINLY)
async def test_collapsed_callers_are_told(
    server: OpenAIServer, client: AsyncOpenAI, ask: Result
) -> None:
    server.answer = fixed
    one, *others = map(status_of, await gather(*(ask(client) for _ in range(3))))
    assert (one.collapsed, one.stored, one.fwd, one.hit) == (False, True, "miss", False)
    for other in others:
        assert (other.collapsed, other.stored, other.fwd, other.hit) == (True, True, "miss", False)
        assert other.key == one.key
    assert server.calls == 1


@pytest.mark.parametrize("ask", [*PLAINLY, *STREAMS])
async def test_no_cache_is_told_as_request(
    server: OpenAIServer, client: AsyncOpenAI, cache: PromptCache, ask: Result
) -> None:
    server.answer = fixed
    await ask(client)
    with cache.control(no_cache=True):
        status = status_of(await ask(client))
    assert (status.fwd, status.hit, status.stored) == ("request", False, True)
    assert status_of(await ask(client)).hit
    assert server.calls == 2


@pytest.mark.parametrize("ask", [*PLAINLY, *STREAMS])
async def test_a_bypass_is_told(
    server: OpenAIServer, client: AsyncOpenAI, cache: PromptCache, ask: Result
) -> None:
    server.answer = fixed
    with cache.control(cacheable=lambda request: False):
        assert status_of(await ask(client)) == CacheStatus(key="", fwd="bypass")


@pytest.mark.parametrize("ask", [*PLAINLY, *STREAMS])
async def test_no_store_is_told(
    server: OpenAIServer, client: AsyncOpenAI, cache: PromptCache, ask: Result
) -> None:
    server.answer = fixed
    with cache.control(no_store=True):
        for _ in range(2):
            status = status_of(await ask(client))
            assert (status.fwd, status.stored, status.ttl) == ("miss", False, None)
    assert server.calls == 2


@pytest.mark.parametrize("ask", WITH_HEADER)
async def test_raw_responses_say_it_in_a_header_too(
    server: OpenAIServer, client: AsyncOpenAI, cache: PromptCache, ask: Result
) -> None:
    server.answer = fixed
    expected = {raw_stream: "aiopromptcache; fwd=miss"}
    first = await ask(client)
    stored = "aiopromptcache; fwd=miss; ttl=3600; stored"
    assert first.headers["cache-status"] == expected.get(ask, stored)
    for _ in range(2):
        again = await ask(client)
        assert again.headers["cache-status"] == "aiopromptcache; hit; ttl=3600; detail=memory"
    with cache.control(cacheable=lambda request: False):
        assert (await ask(client)).headers["cache-status"] == "aiopromptcache; fwd=bypass"
    with cache.control(no_cache=True):
        assert (await ask(client)).headers["cache-status"].startswith("aiopromptcache; fwd=request")


async def test_a_streams_status_is_final_after_its_end(
    server: OpenAIServer, client: AsyncOpenAI
) -> None:
    for stored in (True, False):
        server.finish_reason = None if stored else "length"
        stream = await create(client, stream=True, seed=int(stored))
        assert not status_of(stream).stored
        await anext(stream)
        assert not status_of(stream).stored
        async for _ in stream:
            pass
        assert status_of(stream).stored is stored


async def test_what_comes_from_a_bare_client_has_no_status(bare: AsyncOpenAI) -> None:
    for ask in (create, raw, stream, embed):
        assert cache_status(await ask(bare)) is None
    for thing in (None, 1, "text", object(), [], {}, City):
        assert cache_status(thing) is None


async def test_a_status_is_no_part_of_the_object(
    server: OpenAIServer, client: AsyncOpenAI, bare: AsyncOpenAI
) -> None:
    server.answer = fixed
    plain, first, second = await create(bare), await create(client), await create(client)
    assert plain == first == second
    assert repr(plain) == repr(first) == repr(second)
    assert plain.model_dump_json() == first.model_dump_json() == second.model_dump_json()
    assert plain.to_json() == second.to_json()
    assert status_of(second.model_copy(deep=True)).hit


async def test_other_tiers_are_told_by_name(
    server: OpenAIServer, connect: Callable[..., AsyncOpenAI], clock: VirtualClock
) -> None:
    tier = FaultyTier(name="shelf")
    one, two = (PromptCache(tier, clock=clock).wrap(connect()) for _ in range(2))
    assert status_of(await create(one)).stored
    for ask in (create, raw, streaming, create):
        status = status_of(await ask(two))
        assert (status.hit, status.tier) == (True, "shelf")
    assert server.calls == 1


@pytest.mark.parametrize("ask", [create, embed])
async def test_without_memory_a_new_answer_brings_its_own_request_id(
    server: OpenAIServer,
    connect: Callable[..., AsyncOpenAI],
    clock: VirtualClock,
    ask: Result,
) -> None:
    server.answer = fixed
    cache = PromptCache(FaultyTier(), clock=clock)
    client = cache.wrap(connect())
    for expected in ("req_1", "req_2"):
        stored = await ask(client)
        for _ in range(2):
            assert (await ask(client))._request_id == stored._request_id == expected
        await cache.delete(status_of(stored).key)


# Directives


@pytest.mark.parametrize("ask", [*PLAINLY, *STREAMS])
@pytest.mark.parametrize("name", ["Cache-Control", "cache-control"])
async def test_a_cache_control_header_is_read_and_never_sent(
    server: OpenAIServer, client: AsyncOpenAI, ask: Result, name: str
) -> None:
    server.answer = fixed
    asked = {"extra_headers": {name: "no-cache", "X-Mine": "1"}}
    await ask(client, extra_headers={"X-Mine": "1"})
    assert status_of(await ask(client, **asked)).fwd == "request"
    assert status_of(await ask(client, extra_headers={"X-Mine": "1"})).hit
    assert server.calls == 2
    for request in server.requests:
        assert "cache-control" not in request.headers
        assert request.headers["x-mine"] == "1"
    assert asked == {"extra_headers": {name: "no-cache", "X-Mine": "1"}}


@pytest.mark.parametrize("ask", [create, raw, streaming, stream])
async def test_no_header_of_the_cache_is_sent_with_a_bypass(
    server: OpenAIServer, client: AsyncOpenAI, ask: Result
) -> None:
    await ask(client, store=True, extra_headers={"Cache-Control": "max-age=3"})
    assert "cache-control" not in server.requests[0].headers


@pytest.mark.parametrize("ask", [create, raw, streaming, stream, parse])
@pytest.mark.parametrize("how", ["control", "header"])
async def test_directives_do_the_same_by_header_and_by_control(
    server: OpenAIServer, client: AsyncOpenAI, cache: PromptCache, clock: Any, ask: Any, how: str
) -> None:
    server.answer = fixed

    async def told(header: str, **fields: Any) -> CacheStatus:
        if how == "header":
            return status_of(await ask(client, extra_headers={"Cache-Control": header}))
        with cache.control(**fields):
            return status_of(await ask(client))

    with pytest.raises(NotCached):
        await told("only-if-cached", only_if_cached=True)
    assert server.calls == 0
    assert not (await told("no-store", no_store=True)).stored
    assert server.calls == 1
    assert (await told("no-cache", no_cache=True)).stored
    assert server.calls == 2
    assert (await told("only-if-cached", only_if_cached=True)).hit
    clock.advance(100)
    assert (await told("max-age=100", max_age=100)).hit
    assert not (await told("max-age=99", max_age=99)).hit
    assert server.calls == 3
    with pytest.raises(NotCached):
        await told("only-if-cached, no-cache", only_if_cached=True, no_cache=True)
    assert (await told("No-Store, MAX-AGE=1", no_store=True, max_age=1)).hit
    assert server.calls == 3


async def test_control_reaches_only_the_calls_made_inside(
    server: OpenAIServer, client: AsyncOpenAI, cache: PromptCache, clock: VirtualClock
) -> None:
    with cache.control(ttl=10), cache.control(tags=("a",)):
        short = await create(client, seed=1)
    long = await create(client, seed=2)
    assert (status_of(short).ttl, status_of(long).ttl) == (10.0, 3600.0)
    assert await cache.invalidate("a") == 1
    with cache.control(ttl=0):
        assert not status_of(await create(client, seed=3)).stored
    with cache.control(ttl=None):
        assert status_of(await create(client, seed=4)).ttl is None
    clock.advance(10**9)
    assert status_of(await create(client, seed=4)).hit
    assert not status_of(await create(client, seed=2)).hit
    with pytest.raises(ConfigurationError, match="unknown policy field"), cache.control(tll=1):
        pass


@pytest.mark.parametrize("name", PLAIN)
async def test_stats_count_what_happened_and_what_it_saved(
    server: OpenAIServer, client: AsyncOpenAI, cache: PromptCache, name: str
) -> None:
    server.answer = fixed
    answer = await FORMS[name](client)
    await gather(*(FORMS[name](client) for _ in range(3)))
    stats = cache.stats
    assert (stats.requests, stats.hits, stats.misses, stats.upstream_calls) == (4, 3, 1, 1)
    assert stats.hits_by_tier == {"memory": 3}
    usage = getattr(answer, "usage", None)
    assert stats.tokens_saved.total == (3 * usage.total_tokens if usage else 0)
