"""One upstream stream for everyone who asks: who comes late, leaves, lags; errors; invalidation."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import openai
import pytest
from engine_tools import quiet, until
from openai import APIConnectionError, APITimeoutError, AsyncOpenAI, AsyncStream
from openai_calls import (
    CHAT,
    COMPLETION,
    FORMS,
    RESPONSE,
    RESPONSE_BODY,
    Upstream,
    fixed,
    gather,
    parts,
    same,
)

from aiopromptcache import CacheEvent, PromptCache, cache_status
from aiopromptcache.testing import OpenAIServer

pytestmark = pytest.mark.anyio


def chat(client: Any, **params: Any) -> Any:
    return client.chat.completions.create(**CHAT, stream=True, **params)


def respond(client: Any, **params: Any) -> Any:
    return client.responses.create(**RESPONSE, stream=True, **params)


def complete(client: Any, **params: Any) -> Any:
    return client.completions.create(**COMPLETION, stream=True, **params)


STREAMS = [chat, respond, complete]


async def read(stream: Any) -> list[Any]:
    return [item async for item in stream]


class Consumer:
    """Reads a stream in a task of its own."""

    def __init__(self, call: Any) -> None:
        self.got: list[Any] = []
        self.stream: Any = None
        self.task = asyncio.ensure_future(self._read(call))

    async def _read(self, call: Any) -> list[Any]:
        self.stream = await call
        async for item in self.stream:
            self.got.append(item)
        return self.got


async def reached(consumers: list[Consumer], count: int) -> None:
    """Wait until each has so many items. The network decides when."""
    async with asyncio.timeout(5):
        while any(len(consumer.got) < count for consumer in consumers):
            await asyncio.sleep(0)


@pytest.mark.parametrize("ask", STREAMS)
async def test_one_upstream_stream_serves_all_and_late_comers_get_the_beginning(
    server: OpenAIServer, bare: AsyncOpenAI, client: AsyncOpenAI, ask: Any
) -> None:
    server.answer = fixed
    reference = await read(await ask(bare))
    server.reset()
    server.hold_after(3)
    early = [Consumer(ask(client)) for _ in range(3)]
    await reached(early, 3)
    late = [Consumer(ask(client)), Consumer(ask(client.with_options(timeout=30)))]
    await reached(late, 3)
    assert server.active == 1
    server.release()
    results = await asyncio.gather(*(consumer.task for consumer in [*early, *late]))
    assert all(same(result, reference) for result in results)
    assert all(isinstance(consumer.stream, AsyncStream) for consumer in [*early, *late])
    owned = [set(parts(result)) for result in results]
    assert len(set.union(*owned)) == sum(map(len, owned)), "a part belongs to two callers"
    assert same(await read(await ask(client)), reference)
    assert server.calls == 1


LIVE_FORMS = [
    *(f"chat {form}" for form in ("stream=True", "raw stream=True", ".stream()")),
    *(f"chat {form}" for form in ("streaming_response stream=True", "streaming_response lines")),
    *(f"responses {form}" for form in ("stream=True", "raw stream=True", ".stream()")),
    "responses streaming_response stream=True",
    *(f"completions {form}" for form in ("stream=True", "raw stream=True")),
]


@pytest.mark.parametrize("endpoint", ["chat", "responses", "completions"])
async def test_every_form_shares_one_live_stream(
    server: OpenAIServer, bare: AsyncOpenAI, client: AsyncOpenAI, endpoint: str
) -> None:
    server.answer = fixed
    forms = [FORMS[name] for name in LIVE_FORMS if name.startswith(endpoint + " ")]
    references = [await form(bare) for form in forms]
    server.reset()
    server.hold_after(2)
    tasks = [asyncio.ensure_future(form(client)) for form in [*forms, *reversed(forms)]]
    await server.wait_active(1)
    await quiet()
    server.release()
    results = await asyncio.gather(*tasks)
    for result, reference in zip(results, [*references, *reversed(references)], strict=True):
        assert same(result, reference)
    assert server.calls == 1


async def test_who_leads_keeps_the_genuine_response_and_followers_have_its_like(
    server: OpenAIServer, client: AsyncOpenAI
) -> None:
    server.hold_after(1)
    one, two = await gather(chat(client), chat(client, extra_headers={"X-Request-Id": "mine"}))
    assert one.response.headers["x-request-id"] == two.response.headers["x-request-id"] == "req_1"
    assert one.response.request.headers["x-stainless-retry-count"] == "0"
    assert two.response.request.headers["x-request-id"] == "mine"
    assert one.response.http_version == "HTTP/1.1"
    assert not one.response.is_closed
    server.release()
    assert same(await read(one), await read(two))
    assert one.response.is_closed
    assert two.response.is_closed


async def test_status_counters_and_events_of_shared_streams(
    server: OpenAIServer,
    connect: Callable[..., AsyncOpenAI],
    heard: PromptCache,
    events: list[CacheEvent],
) -> None:
    client = heard.wrap(connect())
    server.hold_after(1)
    asked = {"stream_options": {"include_usage": True}}
    raw = client.chat.completions.with_raw_response.create
    streams = [*await gather(*(chat(client, **asked) for _ in range(3)))]
    response = await raw(**CHAT, stream=True, **asked)
    assert response.headers["cache-status"] == "aiopromptcache; fwd=miss; collapsed"
    streams.append(response.parse())
    for number, stream in enumerate(streams):
        status = cache_status(stream)
        assert status is not None
        assert (status.hit, status.fwd, status.collapsed) == (False, "miss", number > 0)
        assert (status.stored, status.ttl) == (False, None)
    server.release()
    chunks, *_ = [await read(stream) for stream in streams]
    for number, stream in enumerate(streams):
        status = cache_status(stream)
        assert status is not None
        assert (status.stored, status.ttl, status.collapsed) == (True, 3600.0, number > 0)
    stats = heard.stats
    assert (stats.requests, stats.misses, stats.collapsed, stats.upstream_calls) == (4, 1, 3, 1)
    assert stats.tokens_saved.total == 3 * chunks[-1].usage.total_tokens
    again = await chat(client, **asked)
    assert cache_status(again).hit  # type: ignore[union-attr]
    assert stats.tokens_saved.total == 4 * chunks[-1].usage.total_tokens
    await heard.aclose()
    told = [event.kind for event in events]
    assert sorted(told) == ["collapsed"] * 3 + ["hit", "miss", "store"]


# Leaving


async def leave_by_close(stream: Any) -> None:
    await stream.close()


async def leave_by_cancellation(stream: Any) -> None:
    task = asyncio.ensure_future(anext(stream))
    await quiet()
    task.cancel()
    await asyncio.wait([task])


async def leave_by_response(stream: Any) -> None:
    await stream.response.aclose()


LEAVING = [leave_by_close, leave_by_cancellation, leave_by_response]
N = 3
HELD = 3


@pytest.mark.parametrize("leave", LEAVING)
@pytest.mark.parametrize("at", range(HELD + 1))
@pytest.mark.parametrize(
    "leavers", [who for k in range(N + 1) for who in itertools.combinations(range(N), k)], ids=str
)
async def test_any_may_leave_at_any_chunk_and_the_rest_get_all(
    server: OpenAIServer, client: AsyncOpenAI, leavers: tuple[int, ...], at: int, leave: Any
) -> None:
    server.hold_after(HELD)
    streams = await gather(*(chat(client) for _ in range(N)))
    got = [[await anext(stream) for _ in range(at)] for stream in streams]
    if leave is leave_by_cancellation and at < HELD:  # it is the next chunk that is waited for
        for stream, seen in zip(streams, got, strict=True):
            seen += [await anext(stream) for _ in range(HELD - at)]
    for number in leavers:
        await leave(streams[number])
    everyone = len(leavers) == N
    if everyone:
        await server.wait_disconnects(1)
    server.release()
    for number in set(range(N)) - set(leavers):
        whole = got[number] + await read(streams[number])
        assert whole[-1].choices[0].finish_reason == "stop"
        assert [chunk.id for chunk in whole] == ["chatcmpl-1"] * len(whole)
    assert server.disconnects == everyone
    await read(await chat(client))
    assert server.calls == 1 + everyone


@pytest.mark.parametrize("form", ["stream", "raw", "response"])
async def test_a_stream_that_is_dropped_has_left(
    server: OpenAIServer, client: AsyncOpenAI, form: str
) -> None:
    server.hold_after(2)

    async def begin() -> Any:
        if form == "raw":
            raw = client.chat.completions.with_raw_response.create(**CHAT, stream=True)
            return (await raw).http_response
        stream = await chat(client)
        await anext(stream)
        return stream.response if form == "response" else stream

    stays, goes = await begin(), await begin()
    del goes
    await quiet()
    assert server.disconnects == 0
    del stays
    if form == "raw":  # not the SDK's own response, whose parts hold each other
        gc.collect()
    await server.wait_disconnects(1)


async def test_a_break_leaves_a_stream_open(server: OpenAIServer, client: AsyncOpenAI) -> None:
    stream = await chat(client)
    got = []
    for _ in range(2):
        async for chunk in stream:
            got.append(chunk)
            break
    got += await read(stream)
    assert same(got, await read(await chat(client)))
    assert server.calls == 1


async def test_a_slow_consumer_slows_nobody(server: OpenAIServer, client: AsyncOpenAI) -> None:
    slow, quick = await gather(chat(client), chat(client))
    whole = await read(quick)
    await server.wait_idle()
    assert cache_status(quick).stored  # type: ignore[union-attr]
    assert not cache_status(slow).stored  # type: ignore[union-attr]
    assert same(await read(slow), whole)
    assert cache_status(slow).stored  # type: ignore[union-attr]


async def until_nothing_flies(cache: PromptCache) -> None:
    async with asyncio.timeout(5):
        while len(cache._engine.flights):
            await asyncio.sleep(0)


@pytest.mark.parametrize("endpoint", ["chat", "responses"])
async def test_who_leaves_after_the_answers_end_undoes_nothing(
    cache: PromptCache, endpoint: str
) -> None:
    done = {"type": "response.completed", "response": RESPONSE_BODY, "sequence_number": 0}
    last = "data: [DONE]" if endpoint == "chat" else f"data: {json.dumps(done)}"
    calls = itertools.count(1)

    async def lingering(request: httpx2.Request) -> httpx2.Response:
        """The answer is all there, and the body does not end."""

        async def body() -> AsyncIterator[bytes]:
            next(calls)
            yield f"data: {json.dumps(EVEN)}\n\n".encode() if endpoint == "chat" else b""
            yield f"{last}\n\n".encode()
            await asyncio.Event().wait()

        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body())

    http = httpx2.AsyncClient(transport=httpx2.MockTransport(lingering))
    async with Upstream().client(http_client=http) as plain:
        client = cache.wrap(plain)
        where = client.chat.completions if endpoint == "chat" else client.responses
        params = CHAT if endpoint == "chat" else RESPONSE
        create = where.with_streaming_response.create
        async with create(**params, stream=True) as response:
            async for line in response.iter_lines():
                if line == last:
                    break
        await until_nothing_flies(cache)
        again = await where.create(**params, stream=True)
        assert cache_status(again).hit  # type: ignore[union-attr]
        assert len(await read(again)) == 1
    assert next(calls) == 2


async def test_reading_on_after_closing_is_the_sdks_own_error(
    server: OpenAIServer, bare: AsyncOpenAI, client: AsyncOpenAI
) -> None:
    server.hold_after(2)
    for begun in (True, False):
        outcomes = []
        for one in (bare, client):
            stream = await chat(one)
            for _ in range(2 if begun else 0):
                await anext(stream)
            await stream.close()
            with pytest.raises(Exception) as raised:  # noqa: PT011
                await anext(stream)
            outcomes.append(type(raised.value))
        assert outcomes[0] is outcomes[1] is (APIConnectionError if begun else httpx2.StreamClosed)


# Errors


@pytest.mark.parametrize("how", ["error", "lost"])
@pytest.mark.parametrize("after", [0, 1, 3])
@pytest.mark.parametrize("ask", STREAMS)
async def test_an_error_amid_a_stream_reaches_each_after_the_chunks_before_it(
    server: OpenAIServer,
    bare: AsyncOpenAI,
    client: AsyncOpenAI,
    ask: Any,
    after: int,
    how: str,
) -> None:
    server.answer = fixed

    def break_next() -> None:
        if how == "error":
            server.error_in_stream(after, code="oops")
        else:
            server.truncate_stream(after)

    async def outcome(stream: Any) -> Any:
        got: list[Any] = []
        try:
            async for item in stream:
                got.append(item)
        except openai.APIError as error:
            return got, error
        return got, None

    break_next()
    expected, reference = await outcome(await ask(bare))
    server.hold_after(after)
    break_next()
    tasks = [asyncio.ensure_future(ask(client)) for _ in range(3)]
    await server.wait_calls(2)
    server.release()
    streams = await asyncio.gather(*tasks)
    outcomes = [await outcome(stream) for stream in streams]
    for got, error in outcomes:
        assert same(got, expected)
        assert (type(error), str(error)) == (type(reference), str(reference))
    if reference is not None:
        assert len({id(error) for _, error in outcomes}) == 3
    assert server.calls == 2
    await read(await ask(client))
    assert server.calls == 3


@pytest.mark.parametrize("status", [400, 401, 429, 500])
async def test_an_error_before_the_first_byte_reaches_all_who_wait(
    server: OpenAIServer, client: AsyncOpenAI, cache: PromptCache, status: int
) -> None:
    server.hold()
    server.fail(status)
    raw = client.chat.completions.with_raw_response.create
    tasks = [asyncio.ensure_future(chat(client)) for _ in range(3)]
    tasks.append(asyncio.ensure_future(raw(**CHAT, stream=True)))
    await server.wait_active(1)
    await quiet()
    server.release()
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert {error.status_code for error in errors} == {status}
    assert len({id(error) for error in errors}) == 4
    assert server.calls == cache.stats.errors == 1
    await read(await chat(client))
    assert server.calls == 2


async def test_an_impatient_follower_leaves_and_the_rest_stay(
    server: OpenAIServer, client: AsyncOpenAI
) -> None:
    server.hold()
    staying = Consumer(chat(client))
    await server.wait_active(1)
    with pytest.raises(APITimeoutError):
        await chat(client, timeout=0.05)
    server.release()
    await staying.task
    assert (server.calls, server.disconnects) == (1, 0)


@pytest.mark.parametrize("form", ["stream", "raw"])
async def test_an_impatient_follower_gives_up_amid_a_stream(
    server: OpenAIServer, client: AsyncOpenAI, form: str
) -> None:
    server.hold_after(2)
    staying = Consumer(chat(client))
    await reached([staying], 2)
    if form == "stream":
        stream = await chat(client, timeout=0.05)
    else:
        raw = client.chat.completions.with_raw_response.create
        stream = (await raw(**CHAT, stream=True, timeout=0.05)).parse()
    assert same([await anext(stream) for _ in range(2)], staying.got)
    with pytest.raises(APITimeoutError):
        await anext(stream)
    assert server.disconnects == 0
    server.release()
    await staying.task
    assert server.calls == 1


async def test_a_patient_follower_outlives_an_impatient_leader(
    server: OpenAIServer, client: AsyncOpenAI
) -> None:
    server.hold()
    leader = asyncio.ensure_future(chat(client, timeout=0.05))
    await server.wait_active(1)
    follower = Consumer(chat(client, timeout=60))
    with pytest.raises(APITimeoutError):
        await leader
    await server.wait_calls(2)
    server.release()
    await follower.task
    assert server.calls == 2


async def test_a_reading_that_is_cancelled_from_outside_is_a_lost_connection(
    server: OpenAIServer, client: AsyncOpenAI
) -> None:
    server.hold_after(2)
    consumers = [Consumer(chat(client)) for _ in range(2)]
    await reached(consumers, 2)
    for task in asyncio.all_tasks():
        if task.get_name() == "aiopromptcache flight":
            task.cancel()
    for consumer in consumers:
        with pytest.raises(APIConnectionError):
            await consumer.task
    server.release()
    await read(await chat(client))
    assert server.calls == 2


def breaking(*parts: bytes) -> httpx2.AsyncClient:
    """An upstream that loses the connection after these bytes."""

    async def answer(request: httpx2.Request) -> httpx2.Response:
        async def body() -> AsyncIterator[bytes]:
            for part in parts:
                yield part
            raise httpx2.ReadError("lost", request=request)

        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body())

    return httpx2.AsyncClient(transport=httpx2.MockTransport(answer))


async def test_who_reads_bytes_gets_all_that_came_before_an_error(cache: PromptCache) -> None:
    parts_sent = (f"data: {json.dumps(EVEN)}\n\n".encode(), b'data: {"id": "c", "cho')
    outcomes = []
    async with Upstream().client(http_client=breaking(*parts_sent)) as plain:
        for client in (plain, cache.wrap(plain)):
            got = b""
            create = client.chat.completions.with_streaming_response.create
            async with create(**CHAT, stream=True) as response:
                with pytest.raises(httpx2.ReadError, match="lost"):
                    async for part in response.iter_bytes():
                        got += part
            outcomes.append(got)
    assert outcomes == [b"".join(parts_sent)] * 2


async def test_a_connection_lost_after_the_end_of_a_chat_is_no_error(cache: PromptCache) -> None:
    sent = f"data: {json.dumps(EVEN)}\n\ndata: [DONE]\n\n".encode()
    async with Upstream().client(http_client=breaking(sent)) as plain:
        reference = await read(await chat(plain))
        client = cache.wrap(plain)
        for hit in (False, True):
            stream = await chat(client)
            assert same(await read(stream), reference)
            assert cache_status(stream).hit is hit  # type: ignore[union-attr]


async def test_a_connection_lost_after_a_response_is_the_sdks_own_error(cache: PromptCache) -> None:
    done = {"type": "response.completed", "response": RESPONSE_BODY, "sequence_number": 0}
    sent = f"data: {json.dumps(done)}\n\n".encode()
    async with Upstream().client(http_client=breaking(sent)) as plain:
        for client in (plain, cache.wrap(plain), cache.wrap(plain)):
            stream = await respond(client)
            assert (await anext(stream)).type == "response.completed"
            with pytest.raises(APIConnectionError):
                await anext(stream)
            status = cache_status(stream)
            assert status is None or not (status.hit or status.stored)


# Invalidation

HOWS: dict[str, Any] = {
    "delete": lambda cache, key: cache.delete(key),
    "clear": lambda cache, key: cache.clear(),
    "tag": lambda cache, key: cache.invalidate("tag"),
}


@pytest.mark.parametrize("how", HOWS)
async def test_a_stream_that_is_invalidated_is_given_to_all_and_newcomers_start_anew(
    server: OpenAIServer, client: AsyncOpenAI, cache: PromptCache, how: str
) -> None:
    server.hold_after(2)
    with cache.control(tags=("tag",)):
        old = [Consumer(chat(client)) for _ in range(2)]
        await reached(old, 2)
        await HOWS[how](cache, cache_status(old[0].stream).key)  # type: ignore[union-attr]
        new = Consumer(chat(client))
        await reached([new], 2)
    assert server.active == 2
    server.release()
    results = [await consumer.task for consumer in [*old, new]]
    assert [result[0].id for result in results] == ["chatcmpl-1", "chatcmpl-1", "chatcmpl-2"]
    stored = [cache_status(consumer.stream).stored for consumer in [*old, new]]  # type: ignore[union-attr]
    assert stored == [False, False, True]
    assert (await read(await chat(client)))[0].id == "chatcmpl-2"


async def test_who_wants_a_new_answer_neither_joins_nor_lends(
    server: OpenAIServer, client: AsyncOpenAI, cache: PromptCache
) -> None:
    server.hold_after(1)
    shared = Consumer(chat(client))
    await reached([shared], 1)
    with cache.control(no_cache=True):
        own = [Consumer(chat(client)) for _ in range(2)]
        await reached(own, 1)
    with cache.control(no_store=True):
        unstored = [Consumer(chat(client)) for _ in range(2)]
        await reached(unstored, 1)
    assert server.active == 4
    server.release()
    for consumer in [shared, *own, *unstored]:
        await consumer.task
    assert [cache_status(consumer.stream).collapsed for consumer in unstored] == [False, True]  # type: ignore[union-attr]


# Rebuilding

ODD = {"id": 7, "object": "chat.completion.chunk", "created": "1", "choices": [{"index": 0}]}
EVEN = {
    "id": "c",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}],
}


@pytest.mark.parametrize("ends", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("piece", [None, 1, 5], ids=str)
async def test_all_consumers_get_odd_and_even_chunks_as_the_sdk_makes_them(
    cache: PromptCache, ends: str, piece: int | None
) -> None:
    lines = [
        ": a comment",
        f"data: {json.dumps(EVEN)}",
        f"data: {json.dumps(ODD)}",
        f"data: {json.dumps({**EVEN, 'created': '1'})}",
        f"event: chunk\ndata:{json.dumps(EVEN)}",
        f"data: {json.dumps(EVEN, indent=1)}".replace("\n", "\ndata: "),
        f"data: {json.dumps({**EVEN, 'odd': [1.0, '1', None]})}",
        f"id: 3\ndata: {json.dumps(EVEN)}",
        f"data: {json.dumps(EVEN)}",
        "data: [DONE]",
    ]
    upstream = Upstream()
    upstream.events = "".join(line + "\n\n" for line in lines).replace("\n", ends).encode()
    upstream.piece = piece
    async with upstream.client() as plain:
        client = cache.wrap(plain)
        reference = await read(await chat(plain))
        assert len(reference) == 8
        for _ in range(2):
            results = await gather(*(FORMS["chat stream=True"](client) for _ in range(3)))
            assert all(same(result, reference) for result in results)
        lines_read = await FORMS["chat streaming_response lines"](client)
        assert lines_read == await FORMS["chat streaming_response lines"](plain)
    assert upstream.calls == 3


async def test_a_subclass_that_reads_events_its_own_way_is_asked(
    server: OpenAIServer, connect: Callable[..., AsyncOpenAI], cache: PromptCache
) -> None:
    class Own(AsyncOpenAI):
        def _process_response_data(self, **parts: Any) -> Any:
            built: Any = super()._process_response_data(**parts)
            built.mine = True
            return built

    client = cache.wrap(connect(Own))
    for _ in range(2):
        chunks = await read(await chat(client))
        assert all(chunk.mine for chunk in chunks)
    assert server.calls == 1


async def endless(request: httpx2.Request) -> httpx2.Response:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(10_000):
            await asyncio.sleep(0)
            yield f"data: {json.dumps(EVEN)}\n\n".encode()

    return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body())


async def test_who_lags_too_far_behind_loses_the_connection_and_the_others_do_not(
    monkeypatch: pytest.MonkeyPatch, cache: PromptCache
) -> None:
    monkeypatch.setattr("aiopromptcache._streams.LIMIT", 2_000)
    http = httpx2.AsyncClient(transport=httpx2.MockTransport(endless))
    upstream = Upstream()
    async with upstream.client(http_client=http) as plain:
        client = cache.wrap(plain)
        slow, quick = await gather(chat(client), chat(client))
        await anext(slow)
        for _ in range(200):
            await anext(quick)
        with pytest.raises(APIConnectionError):
            await read(slow)
        await quick.close()
        await until(lambda: len(cache._engine.flights) == 0)
