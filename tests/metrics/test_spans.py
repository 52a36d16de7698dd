"""Traces: who waited, for which upstream call, and what that called in turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from engine_tools import quiet, until
from observed import MODEL, App, chat, ids, linked, many, parent_of, streamed
from openai import APIConnectionError, AsyncOpenAI, DefaultAsyncHttpxClient, RateLimitError
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode, get_current_span

from aiopromptcache import MemoryTier, PromptCache, RedisTier
from aiopromptcache.metrics.opentelemetry import OpenTelemetryMetrics
from aiopromptcache.testing import OpenAIServer, VirtualClock

pytestmark = pytest.mark.anyio

CALLER, UPSTREAM = "aiopromptcache chat.completions", f"chat {MODEL}"


@pytest.fixture
async def cache(clock: VirtualClock, app: App) -> AsyncIterator[PromptCache]:
    """A cache whose spans go to the app."""
    async with PromptCache(clock=clock, namespace="shop") as cache:
        with OpenTelemetryMetrics(cache, **app.providers):
            yield cache


@pytest.fixture
def client(cache: PromptCache, server: OpenAIServer) -> AsyncOpenAI:
    """A client with that cache."""
    return cache.wrap(server.client(max_retries=0))


async def test_a_miss_is_a_caller_with_an_upstream_call_inside(
    client: AsyncOpenAI, app: App
) -> None:
    with app.tracer.start_as_current_span("request"):
        await client.chat.completions.create(**chat())
    [request], [caller], [upstream] = map(app.named, ("request", CALLER, UPSTREAM))
    assert parent_of(caller) == request.context.span_id
    assert parent_of(upstream) == caller.context.span_id
    assert (caller.kind, upstream.kind) == (SpanKind.INTERNAL, SpanKind.CLIENT)
    assert caller.attributes == {
        "aiopromptcache.namespace": "shop",
        "aiopromptcache.endpoint": "chat.completions",
        "aiopromptcache.outcome": "miss",
        "aiopromptcache.ttl": 3600,
        "gen_ai.request.model": MODEL,
    }
    told = dict(upstream.attributes or {})
    assert told.pop("gen_ai.usage.input_tokens") > 0
    assert told.pop("gen_ai.usage.output_tokens") > 0
    assert told == {
        "aiopromptcache.namespace": "shop",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": MODEL,
        "gen_ai.response.model": MODEL,
    }
    assert "aiopromptcache.hits" not in (request.attributes or {})


async def test_a_hit_in_memory_is_counted_by_the_span_that_it_is_in(
    client: AsyncOpenAI, cache: PromptCache, app: App
) -> None:
    await client.chat.completions.create(**chat())
    await cache.set("key", 1)
    app.exporter.clear()
    with app.tracer.start_as_current_span("request"):
        await client.chat.completions.create(**chat())
        await cache.get("key")
        await cache.get_or_create("key", lambda: asyncio.sleep(0, 1))
    await client.chat.completions.create(**chat())
    [span] = app.spans
    assert dict(span.attributes or {}) == {"aiopromptcache.hits": 3}
    assert not span.events


async def test_who_was_collapsed_links_to_the_call_that_answered(
    client: AsyncOpenAI, server: OpenAIServer, app: App
) -> None:
    await many(server, *[client.chat.completions.create(**chat()) for _ in range(3)])
    [upstream] = app.named(UPSTREAM)
    callers = {span.attributes["aiopromptcache.outcome"]: [] for span in app.named(CALLER)}
    for span in app.named(CALLER):
        callers[span.attributes["aiopromptcache.outcome"]].append(linked(span))
    assert callers == {"miss": [[]], "collapsed": [ids([upstream])] * 2}


async def test_a_span_ends_with_its_stream_and_followers_link_to_it(
    client: AsyncOpenAI, server: OpenAIServer, app: App
) -> None:
    server.hold_after(1)
    reading = [asyncio.ensure_future(streamed(client, "s")) for _ in range(3)]
    await server.wait_active(1)
    await quiet()
    assert app.spans == []
    server.release()
    await asyncio.gather(*reading)
    [upstream] = app.named(UPSTREAM)
    assert upstream.attributes["gen_ai.usage.output_tokens"] > 0
    assert upstream.attributes["gen_ai.response.model"] == MODEL
    callers = app.named(CALLER)
    outcomes = [span.attributes["aiopromptcache.outcome"] for span in callers]
    assert sorted(outcomes) == ["collapsed", "collapsed", "miss"]
    for span, outcome in zip(callers, outcomes, strict=True):
        assert linked(span) == (ids([upstream]) if outcome == "collapsed" else [])
        assert span.end_time >= upstream.end_time


async def test_a_reader_that_leaves_early_ends_its_span(client: AsyncOpenAI, app: App) -> None:
    stream = await client.chat.completions.create(**chat("left", stream=True))
    await anext(stream)
    await stream.close()
    [caller] = app.named(CALLER)
    assert caller.status.status_code is StatusCode.UNSET


async def test_a_failure_is_named_and_its_message_is_not_told(
    client: AsyncOpenAI, server: OpenAIServer, app: App
) -> None:
    server.fail(429, times=1)
    outcomes = await asyncio.gather(
        many(server, *[_failing(client) for _ in range(2)]), return_exceptions=True
    )
    assert outcomes == [None]
    [upstream] = app.named(UPSTREAM)
    for span in (upstream, *app.named(CALLER)):
        assert span.attributes["error.type"] == "429"
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description is None
        assert not span.events
    links = sorted(linked(span) for span in app.named(CALLER))
    assert links == [[], ids([upstream])]


async def _failing(client: AsyncOpenAI) -> None:
    with pytest.raises(RateLimitError):
        await client.chat.completions.create(**chat("that fails"))


async def test_a_caller_that_is_cancelled_and_the_call_that_ends_with_it(
    client: AsyncOpenAI, server: OpenAIServer, app: App
) -> None:
    server.hold()
    task = asyncio.ensure_future(client.chat.completions.create(**chat()))
    await server.wait_active(1)
    task.cancel()
    await asyncio.wait([task])
    await server.wait_disconnects(1)
    await quiet()
    for name in (CALLER, UPSTREAM):
        [span] = app.named(name)
        assert span.attributes["error.type"] == "cancelled"


async def test_a_stream_that_breaks_off_is_an_error_of_all_who_read_it(
    client: AsyncOpenAI, server: OpenAIServer, app: App
) -> None:
    server.truncate_stream(2)
    server.hold()
    reads = [asyncio.ensure_future(streamed(client, "cut")) for _ in range(2)]
    await server.wait_active(1)
    await quiet()
    server.release()
    failed = await asyncio.gather(*reads, return_exceptions=True)
    assert all(isinstance(error, APIConnectionError) for error in failed)
    [upstream], callers = app.named(UPSTREAM), app.named(CALLER)
    assert len(callers) == 2
    for span in (upstream, *callers):
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes["error.type"] == "RemoteProtocolError"
    assert {span.attributes["aiopromptcache.outcome"] for span in callers} == {"miss", "collapsed"}


async def test_a_stream_that_its_reader_leaves_is_none(
    client: AsyncOpenAI, server: OpenAIServer, app: App
) -> None:
    server.hold_after(1)
    with pytest.raises(LookupError):
        async with await client.chat.completions.create(**chat("left", stream=True)) as stream:
            async for _ in stream:
                raise LookupError
    server.release()
    await quiet()
    [span] = app.named(CALLER)
    assert span.status.status_code is StatusCode.UNSET


async def test_what_the_upstream_call_calls_is_inside_of_it(
    cache: PromptCache, server: OpenAIServer, app: App
) -> None:
    seen: list[int] = []

    async def sent(request: Any) -> None:
        seen.append(get_current_span().get_span_context().span_id)

    async with DefaultAsyncHttpxClient(event_hooks={"request": [sent]}) as http:
        client = cache.wrap(server.client(http_client=http))
        await client.chat.completions.create(**chat())
        await streamed(client, "s")
        await client.embeddings.create(model="vectors", input="one")
        await client.chat.completions.create(**chat("kept", store=True))

        async def make() -> int:
            seen.append(get_current_span().get_span_context().span_id)
            return 1

        await cache.get_or_create("key", make)
    assert seen == ids(
        [*app.named(UPSTREAM)[:2], *app.named("embeddings vectors"), *app.named(UPSTREAM)[2:],
         *app.named("aiopromptcache load")]
    )  # fmt: skip
    assert get_current_span().get_span_context().span_id not in seen


async def test_calls_that_may_not_be_cached_are_spans_too(client: AsyncOpenAI, app: App) -> None:
    with app.tracer.start_as_current_span("request") as request:
        await client.chat.completions.create(**chat(store=True))
    [upstream] = app.named(UPSTREAM)
    assert parent_of(upstream) == request.get_span_context().span_id
    assert app.named(CALLER) == []


async def test_embeddings_link_to_the_calls_of_others(
    client: AsyncOpenAI, server: OpenAIServer, app: App
) -> None:
    def ask(*inputs: str) -> Any:
        return client.embeddings.create(model="vectors", input=list(inputs))

    await many(server, ask("one", "two"), ask("two", "three"), ask("one"))
    assert len(app.named("embeddings vectors")) == server.calls == 2
    first, second, third = sorted(app.named("aiopromptcache embeddings"), key=_begun)
    whole = next(call for call in app.named("embeddings vectors") if _is_in(call, first))
    outcomes = [span.attributes["aiopromptcache.outcome"] for span in (first, second, third)]
    assert outcomes == ["miss", "miss", "collapsed"]
    links = [linked(span) for span in (first, second, third)]
    assert links == [[], ids([whole]), ids([whole])]
    app.exporter.clear()
    await ask("one", "three")
    assert app.spans == []


def _begun(span: ReadableSpan) -> int:
    assert span.start_time is not None
    return span.start_time


def _is_in(span: ReadableSpan, outer: ReadableSpan) -> bool:
    return parent_of(span) == outer.context.span_id


@pytest.mark.parametrize("kind", ["chat", "embeddings", "own"])
async def test_a_refresh_is_a_trace_of_its_own_that_links_to_its_cause(
    kind: str, cache: PromptCache, client: AsyncOpenAI, clock: VirtualClock, app: App
) -> None:
    calls: dict[str, tuple[str, Callable[[], Any]]] = {
        "chat": (UPSTREAM, lambda: client.chat.completions.create(**chat())),
        "embeddings": (
            "embeddings vectors", lambda: client.embeddings.create(model="vectors", input="one")
        ),
        "own": (
            "aiopromptcache load", lambda: cache.get_or_create("k", lambda: asyncio.sleep(0, 1))
        ),
    }  # fmt: skip
    name, call = calls[kind]
    with cache.control(ttl=10, stale_while_revalidate=100):
        await call()
        clock.advance(50)
        app.exporter.clear()
        with app.tracer.start_as_current_span("request") as request:
            await call()
    await until(lambda: app.named(name))
    [upstream] = app.named(name)
    assert upstream.parent is None
    assert linked(upstream) == [request.get_span_context().span_id]
    assert upstream.context.trace_id != request.get_span_context().trace_id
    [ended] = app.named("request")
    assert dict(ended.attributes or {}) == {"aiopromptcache.hits": 1}


async def test_a_hit_in_redis_is_a_caller_that_waited(
    server: OpenAIServer, app: App, url: str
) -> None:
    async with PromptCache(MemoryTier(), RedisTier(url, timeout=5.0)) as first:
        await first.wrap(server.client()).chat.completions.create(**chat())
        await first.get_or_create("key", lambda: asyncio.sleep(0, 1))
        async with PromptCache(RedisTier(url, timeout=5.0)) as second:
            with OpenTelemetryMetrics(second, **app.providers):
                client = second.wrap(server.client())
                await client.chat.completions.create(**chat())
                assert await second.get("key") == 1
                assert await second.get("nothing") is None
    assert server.calls == 1
    hit, own, missed = app.spans
    assert [span.name for span in app.spans] == [CALLER, *["aiopromptcache own"] * 2]
    for span in (hit, own):
        assert span.attributes["aiopromptcache.outcome"] == "hit"
        assert span.attributes["aiopromptcache.tier"] == "redis"
        assert "aiopromptcache.hits" not in span.attributes
        assert 3590 < span.attributes["aiopromptcache.ttl"] <= 3600
    assert missed.attributes["aiopromptcache.outcome"] == "miss"


async def test_items_of_a_shared_iterator(cache: PromptCache, app: App) -> None:
    async def numbers() -> AsyncIterator[int]:
        for number in range(3):
            yield number

    for _ in range(2):
        assert [item async for item in cache.stream("numbers", numbers)] == [0, 1, 2]
    assert [span.name for span in app.spans] == ["aiopromptcache load", "aiopromptcache own"]
