"""Streams while they run: read, left, closed, dropped, broken; and what is kept of them."""

from __future__ import annotations

import asyncio
import gc
import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, AsyncStream
from openai_calls import CHAT, CHAT_BODY, COMPLETION, FORMS, RESPONSE, Upstream, gather, same

from aiopromptcache import PromptCache, cache_status
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


@pytest.mark.parametrize("ask", STREAMS)
async def test_items_come_as_the_upstream_sends_them(
    server: OpenAIServer, client: AsyncOpenAI, ask: Any
) -> None:
    server.hold_after(3)
    stream = await ask(client)
    assert isinstance(stream, AsyncStream)
    first = [await anext(stream) for _ in range(3)]
    assert server.active == 1
    server.release()
    rest = await read(stream)
    again = await read(await ask(client))
    assert same(again, first + rest)
    assert server.calls == 1


async def leave_by_close(stream: Any) -> None:
    await stream.close()


async def leave_by_aclose(stream: Any) -> None:
    await stream.aclose()


async def leave_by_break(stream: Any) -> None:
    async with stream:
        async for _ in stream:
            break


async def leave_by_error(stream: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        async with stream:
            raise ZeroDivisionError


async def leave_by_response(stream: Any) -> None:
    await stream.response.aclose()


LEAVING = [leave_by_close, leave_by_aclose, leave_by_break, leave_by_error, leave_by_response]


@pytest.mark.parametrize("leave", LEAVING)
@pytest.mark.parametrize("ask", STREAMS)
async def test_a_stream_that_is_left_disconnects_and_keeps_nothing(
    server: OpenAIServer, client: AsyncOpenAI, ask: Any, leave: Any
) -> None:
    server.hold_after(2)
    stream = await ask(client)
    await anext(stream)
    await leave(stream)
    await server.wait_disconnects(1)
    assert stream.response.is_closed
    assert not cache_status(stream).stored  # type: ignore[union-attr]
    server.release()
    whole = await read(await ask(client))
    assert server.calls == 2
    assert same(await read(await ask(client)), whole)
    assert server.calls == 2


@pytest.mark.parametrize("leave", LEAVING)
async def test_a_replay_that_is_left_is_closed_and_spoils_nothing(
    server: OpenAIServer, client: AsyncOpenAI, leave: Any
) -> None:
    whole = await read(await chat(client))
    stream = await chat(client)
    await anext(stream)
    await leave(stream)
    assert stream.response.is_closed
    assert same(await read(await chat(client)), whole)
    assert server.calls == 1


async def test_a_cancelled_reader_disconnects_and_keeps_nothing(
    server: OpenAIServer, client: AsyncOpenAI
) -> None:
    server.hold_after(2)
    seen: list[Any] = []
    both = asyncio.Event()

    async def follow() -> None:
        async with await chat(client) as stream:
            async for chunk in stream:
                seen.append(chunk)
                if len(seen) == 2:
                    both.set()

    task = asyncio.ensure_future(follow())
    await both.wait()
    task.cancel()
    assert [type(error) for error in await asyncio.gather(task, return_exceptions=True)] == [
        asyncio.CancelledError
    ]
    await server.wait_disconnects(1)
    server.release()
    assert len(await read(await chat(client))) > 2
    assert server.calls == 2


async def test_a_caller_cancelled_before_the_first_byte_disconnects(
    server: OpenAIServer, client: AsyncOpenAI
) -> None:
    server.hold()
    task = asyncio.ensure_future(chat(client))
    await server.wait_active(1)
    task.cancel()
    await server.wait_disconnects(1)
    await gather(task)  # type: ignore[arg-type]
    server.release()
    assert task.cancelled()


@pytest.mark.parametrize("started", [False, True])
async def test_a_dropped_stream_leaves_nothing(cache: PromptCache, started: bool) -> None:
    upstream = Upstream()
    upstream.events = b"data: {}\n\n" * 3 + b"data: [DONE]\n\n"
    async with upstream.client() as plain:
        stream = await chat(cache.wrap(plain))
        if started:
            await anext(stream)
        del stream
        gc.collect()
        await asyncio.sleep(0)
        gc.collect()
        assert len(cache._engine.flights) == 0


@pytest.mark.parametrize("ask", STREAMS)
async def test_an_error_amid_a_stream_is_the_sdks_own_and_nothing_is_kept(
    server: OpenAIServer, bare: AsyncOpenAI, client: AsyncOpenAI, ask: Any
) -> None:
    async def outcome(client: Any) -> Any:
        server.error_in_stream(2, code="oops")
        got: list[Any] = []
        try:
            async for item in await ask(client):
                got.append(type(item))
        except openai.APIError as error:
            return got, type(error), str(error), error.body
        return got

    assert await outcome(client) == await outcome(bare)
    await read(await ask(client))
    assert server.calls == 3


@pytest.mark.parametrize("ask", STREAMS)
async def test_a_lost_connection_amid_a_stream_is_the_sdks_own_error(
    server: OpenAIServer, bare: AsyncOpenAI, client: AsyncOpenAI, ask: Any
) -> None:
    for one in (bare, client):
        server.truncate_stream(2)
        stream = await ask(one)
        with pytest.raises(openai.APIConnectionError) as raised:
            await read(stream)
        assert raised.value.request.url.path.startswith("/v1/")
        assert stream.response.is_closed
    await read(await ask(client))
    assert server.calls == 3


@pytest.mark.parametrize("status", [400, 429, 500])
async def test_an_error_before_a_stream_is_the_sdks_own(
    server: OpenAIServer, client: AsyncOpenAI, cache: PromptCache, status: int
) -> None:
    server.fail(status)
    with pytest.raises(openai.APIStatusError) as raised:
        await chat(client)
    assert raised.value.status_code == status
    assert cache.stats.errors == 1
    await read(await chat(client))
    assert server.calls == 2


@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/2"])
@pytest.mark.parametrize("piece", [None, 1, 7], ids=str)
@pytest.mark.parametrize("form", ["stream=True", "raw stream=True", ".stream()"])
async def test_streams_are_kept_over_every_version_of_http(
    cache: PromptCache, version: bytes, form: str, piece: int | None
) -> None:
    choice = {"index": 0, "delta": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    chunk = {**CHAT_BODY, "object": "chat.completion.chunk", "choices": [choice]}
    upstream = Upstream()
    upstream.events = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()
    upstream.extensions = {"http_version": version}
    upstream.piece = piece
    async with upstream.client() as plain:
        client = cache.wrap(plain)
        reference = await FORMS[f"chat {form}"](client)
        assert same(await FORMS[f"chat {form}"](client), reference)
    assert upstream.calls == 1


async def test_a_stream_too_long_to_keep_is_still_delivered(
    monkeypatch: pytest.MonkeyPatch, server: OpenAIServer, client: AsyncOpenAI
) -> None:
    monkeypatch.setattr("aiopromptcache._streams.LIMIT", 300)
    lengths = [len(await read(await chat(client))) for _ in range(2)]
    assert lengths[0] == lengths[1] > 2
    assert server.calls == 2


async def test_readers_of_one_replay_do_not_disturb_each_other(
    server: OpenAIServer, client: AsyncOpenAI
) -> None:
    whole = await read(await chat(client))
    streams = [await chat(client) for _ in range(3)]
    turns: list[list[Any]] = [[] for _ in streams]
    for _ in whole:
        for got, stream in zip(turns, streams, strict=True):
            got.append(await anext(stream))
    for got, stream in zip(turns, streams, strict=True):
        assert same(got, whole)
        assert await read(stream) == []
    assert server.calls == 1


async def test_streams_at_once_all_arrive(server: OpenAIServer, client: AsyncOpenAI) -> None:
    async def ask() -> list[Any]:
        return await read(await chat(client))

    results = await gather(*(ask() for _ in range(5)))
    assert len({len(result) for result in results}) == 1
    calls = server.calls
    await ask()
    assert server.calls == calls <= 5


@pytest.mark.parametrize("form", ["stream=True", "create"])
async def test_a_choice_without_an_end_is_not_stored(cache: PromptCache, form: str) -> None:
    upstream = Upstream()
    chunk = {**CHAT_BODY, "choices": [{"index": 0, "delta": {"content": "Ro"}}]}
    upstream.events = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()
    upstream.body = json.dumps({**CHAT_BODY, "choices": []}).encode()
    async with upstream.client() as plain:
        client = cache.wrap(plain)
        await FORMS[f"chat {form}"](client)
        await FORMS[f"chat {form}"](client)
    assert upstream.calls == 2
