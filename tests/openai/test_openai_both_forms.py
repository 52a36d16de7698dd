"""One answer, streamed or not: served across forms only where nothing would be missing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from engine_tools import quiet
from openai import APITimeoutError, AsyncOpenAI, BadRequestError
from openai_calls import (
    CHAT,
    CHAT_BODY,
    COMPLETION,
    FORMS,
    RESPONSE,
    Upstream,
    fixed,
    gather,
    same,
)

from aiopromptcache import Policy, PromptCache, cache_status
from aiopromptcache.testing import FaultyTier, OpenAIServer, RecordedRequest, VirtualClock

pytestmark = pytest.mark.anyio

USAGE: dict[str, Any] = {"stream_options": {"include_usage": True}}


def chat(client: Any, **params: Any) -> Any:
    return client.chat.completions.create(**CHAT, **params)


def stream(client: Any, **params: Any) -> Any:
    return chat(client, stream=True, **params)


async def read(stream: Any) -> list[Any]:
    return [item async for item in await stream]


PLAIN_FORMS = ["create", "raw", "streaming_response", "streaming_response.json", "post", "parse"]
STREAM_FORMS = ["stream=True", "raw stream=True", "streaming_response stream=True", ".stream()"]


def text_of(chunks: list[Any]) -> str:
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


# A stored stream, asked for plainly


@pytest.mark.parametrize("form", PLAIN_FORMS[:-1])
async def test_a_stored_stream_answers_every_plain_form(
    server: OpenAIServer, bare: AsyncOpenAI, client: AsyncOpenAI, form: str
) -> None:
    server.answer = fixed
    reference = await FORMS[f"chat {form}"](bare)
    server.reset()
    await read(stream(client, **USAGE))
    for _ in range(2):
        result = await FORMS[f"chat {form}"](client)
        if form == "raw":  # the object, the text, the bytes, …
            assert [type(part) for part in result] == [type(part) for part in reference]
            assert json.loads(result[1]) == json.loads(reference[1])
            assert result[0] == reference[0]
        else:
            assert result == reference
    assert server.calls == 1


async def test_a_stored_stream_is_a_hit_for_a_plain_call(
    server: OpenAIServer, client: AsyncOpenAI, cache: PromptCache
) -> None:
    chunks = await read(stream(client, **USAGE))
    answer = await chat(client)
    status = cache_status(answer)
    assert status is not None
    assert status.hit
    assert answer.id == chunks[0].id
    assert answer._request_id == "req_1"
    assert answer.choices[0].message.content == text_of(chunks)
    assert answer.usage == chunks[-1].usage
    assert cache.stats.tokens_saved.total == answer.usage.total_tokens
    assert await cache.delete(status.key) == 1
    assert await cache.delete(status.key) == 0
    assert not cache_status(await chat(client)).hit  # type: ignore[union-attr]


async def test_a_stream_without_usage_does_not_answer_a_plain_call_but_the_reverse(
    server: OpenAIServer, client: AsyncOpenAI
) -> None:
    await read(stream(client))
    answer = await chat(client)
    assert answer.usage is not None
    assert server.calls == 2
    for _ in range(2):  # the plain answer serves all now
        for params in ({}, USAGE):
            chunks = await read(stream(client, **params))
            assert chunks[0].id == answer.id
        assert (await chat(client)).id == answer.id
    assert server.calls == 2


@pytest.mark.parametrize("form", ["create", "raw", "parse"])
async def test_a_stored_response_stream_answers_plainly(
    server: OpenAIServer, bare: AsyncOpenAI, client: AsyncOpenAI, form: str
) -> None:
    server.answer = fixed
    reference = await FORMS["responses create"](bare)
    await FORMS["responses stream=True"](client)
    assert same(await FORMS["responses create"](client), reference)
    assert server.calls == 2


# A stored plain answer, asked for as a stream


@pytest.mark.parametrize("form", STREAM_FORMS)
@pytest.mark.parametrize("endpoint", ["chat", "responses", "completions"])
async def test_a_stored_plain_answer_serves_every_form_of_a_stream(
    server: OpenAIServer, client: AsyncOpenAI, endpoint: str, form: str
) -> None:
    server.answer = fixed
    if f"{endpoint} {form}" not in FORMS:
        assert endpoint == "completions"
        return
    answer = await FORMS[f"{endpoint} create"](client)
    for _ in range(2):
        items = await FORMS[f"{endpoint} {form}"](client)
        if form == ".stream()":
            whole = items[-1]
            expected = answer.model_dump()
            assert expected["id"] == whole.id
        if endpoint == "chat" and form != ".stream()":
            assert text_of(items) == answer.choices[0].message.content
            assert items[-1].choices[0].finish_reason == "stop"
            assert all("usage" not in chunk.model_fields_set for chunk in items)
        elif endpoint == "responses" and form != ".stream()":
            assert [item.sequence_number for item in items] == list(range(len(items)))
            assert same(items[-1].response, _without_id(answer))
        elif endpoint == "completions":
            assert "".join(item.choices[0].text for item in items) == answer.choices[0].text
    assert server.calls == 1


def _without_id(answer: Any) -> Any:
    answer.__dict__.pop("_request_id", None)
    return answer


async def test_include_usage_decides_what_a_stream_says_of_usage(
    server: OpenAIServer, bare: AsyncOpenAI, client: AsyncOpenAI
) -> None:
    server.answer = fixed
    answer = await chat(client)
    for params in (USAGE, {}, {"stream_options": {"include_usage": False}}, {"stream_options": {}}):
        chunks = await read(stream(client, **params))
        if params is USAGE:
            assert [c.usage for c in chunks[:-1]] == [None] * (len(chunks) - 1)
            assert all("usage" in chunk.model_fields_set for chunk in chunks)
            assert (chunks[-1].choices, chunks[-1].usage) == ([], answer.usage)
        else:
            assert all("usage" not in chunk.model_fields_set for chunk in chunks)
            assert all(chunk.choices for chunk in chunks)
    assert server.calls == 1


async def test_a_recorded_stream_with_usage_serves_those_who_did_not_ask_for_it(
    server: OpenAIServer, bare: AsyncOpenAI, client: AsyncOpenAI
) -> None:
    server.answer = fixed
    with_usage, without = await read(stream(bare, **USAGE)), await read(stream(bare))
    server.reset()
    for _ in range(2):
        assert same(await read(stream(client, **USAGE)), with_usage)
        assert same(await read(stream(client)), without)
    assert server.calls == 1


async def test_a_recorded_stream_without_usage_does_not_serve_those_who_ask_for_it(
    server: OpenAIServer, bare: AsyncOpenAI, client: AsyncOpenAI
) -> None:
    server.answer = fixed
    with_usage, without = await read(stream(bare, **USAGE)), await read(stream(bare))
    server.reset()
    for _ in range(2):
        assert same(await read(stream(client)), without)
        assert same(await read(stream(client, **USAGE)), with_usage)
    assert server.calls == 2


async def test_other_stream_options_are_part_of_the_key(
    server: OpenAIServer, client: AsyncOpenAI
) -> None:
    options: list[Any] = [{}, {"include_obfuscation": False}, {"continuous_usage_stats": True}]
    for _ in range(2):
        for option in options:
            await read(stream(client, stream_options={**option, "include_usage": True}))
            await read(stream(client, stream_options=option))
    assert server.calls == 3


# Calls in flight


async def test_a_plain_call_waits_for_a_stream_that_will_carry_all_it_needs(
    server: OpenAIServer, client: AsyncOpenAI
) -> None:
    server.hold_after(2)
    streamed = asyncio.ensure_future(read(stream(client, **USAGE)))
    await server.wait_active(1)
    plain = [asyncio.ensure_future(FORMS[f"chat {form}"](client)) for form in PLAIN_FORMS[:2]]
    await quiet()
    server.release()
    chunks = await streamed
    answer, (raw, *_) = await asyncio.gather(*plain)
    assert answer.id == raw.id == chunks[0].id
    status = cache_status(answer)
    assert status is not None
    assert (status.collapsed, status.hit, status.stored) == (True, False, True)
    assert server.calls == 1


async def test_a_plain_call_waits_for_a_stream_of_a_response(
    server: OpenAIServer, client: AsyncOpenAI
) -> None:
    server.hold_after(2)
    streamed = asyncio.ensure_future(FORMS["responses stream=True"](client))
    await server.wait_active(1)
    plain = asyncio.ensure_future(client.responses.create(**RESPONSE))
    await quiet()
    server.release()
    events = await streamed
    assert (await plain).model_dump() == events[-1].response.model_dump()
    assert server.calls == 1


async def test_a_plain_call_does_not_wait_for_a_stream_without_usage(
    server: OpenAIServer, client: AsyncOpenAI
) -> None:
    server.hold_after(2)
    streamed = asyncio.ensure_future(read(stream(client)))
    await server.wait_active(1)
    assert (await chat(client)).usage is not None
    server.release()
    await streamed
    # What serves everyone is not overwritten by what does not.
    assert cache_status(await chat(client)).hit  # type: ignore[union-attr]
    assert server.calls == 2


@pytest.mark.parametrize("how", ["truncated", "error", "flawed"])
async def test_a_plain_call_that_waited_in_vain_goes_upstream(
    server: OpenAIServer, client: AsyncOpenAI, how: str
) -> None:
    server.hold_after(2)
    if how == "truncated":
        server.truncate_stream(2)
    elif how == "error":
        server.error_in_stream(2)
    else:
        server.finish_reason = "length"
    streamed = asyncio.ensure_future(read(stream(client, **USAGE)))
    await server.wait_active(1)
    plain = [asyncio.ensure_future(chat(client)) for _ in range(2)]
    await quiet()
    server.release()
    answers = await asyncio.gather(*plain)
    await asyncio.wait([streamed])
    assert answers[0].id == answers[1].id
    assert (streamed.exception() is None) == (how == "flawed")
    assert server.calls == (1 if how == "flawed" else 2)
    assert answers[0].usage is not None


@pytest.mark.parametrize("form", ["create", "raw", "streaming_response"])
async def test_a_plain_call_that_waits_for_a_stream_has_its_own_patience(
    server: OpenAIServer, client: AsyncOpenAI, form: str
) -> None:
    server.hold_after(2)
    streamed = await stream(client, **USAGE)
    await anext(streamed)
    with pytest.raises(APITimeoutError):
        await FORMS[f"chat {form}"](client.with_options(timeout=0.05))
    server.release()
    assert [chunk async for chunk in streamed]
    assert server.calls == 1


@pytest.mark.parametrize("params", [{}, USAGE], ids=["without usage", "with usage"])
async def test_a_stream_takes_the_answer_of_a_plain_call_that_is_in_flight(
    server: OpenAIServer, client: AsyncOpenAI, params: dict[str, Any]
) -> None:
    server.hold()
    plain = [asyncio.ensure_future(chat(client)) for _ in range(2)]
    await server.wait_active(1)
    streams = [asyncio.ensure_future(read(stream(client, **params))) for _ in range(2)]
    await quiet()
    server.release()
    answers = await asyncio.gather(*plain)
    for chunks in await asyncio.gather(*streams):
        assert text_of(chunks) == answers[0].choices[0].message.content
    assert server.calls == 1


async def test_the_last_plain_follower_keeps_a_stream_running(
    server: OpenAIServer, client: AsyncOpenAI
) -> None:
    server.hold_after(2)
    streamed = await stream(client, **USAGE)
    plain = asyncio.ensure_future(chat(client))
    await quiet()
    await streamed.close()
    await quiet()
    server.release()
    assert (await plain).usage is not None
    assert (server.calls, server.disconnects) == (1, 0)


async def test_a_follower_that_leaves_last_ends_the_stream(
    server: OpenAIServer, client: AsyncOpenAI
) -> None:
    server.hold_after(2)
    streamed = await stream(client, **USAGE)
    plain = asyncio.ensure_future(chat(client))
    await quiet()
    await streamed.close()
    plain.cancel()
    await server.wait_disconnects(1)
    await asyncio.wait([plain])
    assert plain.cancelled()


# stream_usage

ALWAYS = Policy(stream_usage=True)


@pytest.mark.parametrize("where", ["parameter", "extra_body", "nothing"])
async def test_stream_usage_asks_for_usage_and_hides_it(
    server: OpenAIServer, bare: AsyncOpenAI, connect: Callable[..., AsyncOpenAI], where: str
) -> None:
    server.answer = fixed
    options = {"stream_options": {"include_usage": False}}
    params: dict[str, Any] = {"parameter": options, "extra_body": {"extra_body": options}}.get(
        where, {}
    )
    without, with_usage = await read(stream(bare)), await read(stream(bare, **USAGE))
    server.reset()
    cache = PromptCache(policy=ALWAYS)
    client = cache.wrap(connect())
    server.hold_after(2)
    tasks = [asyncio.ensure_future(read(stream(client, **params))) for _ in range(2)]
    tasks.append(asyncio.ensure_future(read(stream(client, **USAGE))))
    raw = asyncio.ensure_future(FORMS["chat streaming_response lines"](client))
    await server.wait_active(1)
    await quiet()
    server.release()
    one, other, asked = await asyncio.gather(*tasks)
    assert same(one, without)
    assert same(other, without)
    assert same(asked, with_usage)
    assert not any("usage" in line for line in await raw)
    assert server.requests[0].body["stream_options"] == {"include_usage": True}
    assert (await chat(client)).usage == with_usage[-1].usage
    assert same(await read(stream(client)), without)
    assert server.calls == 1
    assert cache.stats.tokens_saved.total > 0


async def test_stream_usage_leaves_other_endpoints_alone(
    server: OpenAIServer, connect: Callable[..., AsyncOpenAI]
) -> None:
    client = PromptCache(policy=ALWAYS).wrap(connect())
    await FORMS["responses stream=True"](client)
    await client.responses.create(**RESPONSE)
    assert "stream_options" not in server.requests[0].body
    await read(client.completions.create(**COMPLETION, stream=True))
    await client.completions.create(**COMPLETION)
    assert server.requests[1].body["stream_options"] == {"include_usage": True}
    assert server.calls == 2


@pytest.mark.parametrize("status", [400, 422])
async def test_a_server_that_refuses_stream_options_is_noticed_once(
    server: OpenAIServer, connect: Callable[..., AsyncOpenAI], status: int
) -> None:
    cache = PromptCache(policy=ALWAYS)
    client = cache.wrap(connect())
    server.fail(status, body={"error": {"message": "Unknown parameter: stream_options"}})
    for seed in (1, 2):
        assert text_of(await read(stream(client.with_options(timeout=9), seed=seed)))
    sent = ["stream_options" in request.body for request in server.requests]
    assert sent == [True, False, False]
    assert cache.stats.upstream_calls == 3
    assert (await chat(client, seed=1)).usage is not None
    assert server.calls == 4


async def test_another_error_under_stream_usage_is_the_callers(
    server: OpenAIServer, connect: Callable[..., AsyncOpenAI]
) -> None:
    client = PromptCache(policy=ALWAYS).wrap(connect())
    server.fail(400)
    with pytest.raises(BadRequestError):
        await stream(client)
    await read(stream(client))
    assert ["stream_options" in request.body for request in server.requests] == [True, True]


# What has no other form


def odd(request: RecordedRequest) -> dict[str, Any]:
    """A completion that no chunks add up to."""
    if request.stream:
        return {**CHAT_BODY, "id": "streamed"}
    choice = {**CHAT_BODY["choices"][0], "index": 3}
    return {**CHAT_BODY, "choices": [choice]}


async def test_answers_without_another_form_are_kept_side_by_side(
    server: OpenAIServer, client: AsyncOpenAI, cache: PromptCache
) -> None:
    server.answer = odd
    for _ in range(3):
        answer = await chat(client)
        chunks = await read(stream(client))
        assert (answer.id, chunks[0].id) == ("chatcmpl-1", "streamed")
    assert server.calls == 2
    status = cache_status(await stream(client))
    assert status is not None
    assert await cache.delete(status.key) == 1
    for calls in (3, 4):
        await chat(client) if calls == 3 else await read(stream(client))
        assert server.calls == calls


async def test_a_strict_client_gets_only_the_form_that_was_validated(
    server: OpenAIServer, connect: Callable[..., AsyncOpenAI], cache: PromptCache
) -> None:
    client = cache.wrap(connect(_strict_response_validation=True))
    await read(stream(client, **USAGE))
    await chat(client)
    await read(stream(client, **USAGE))  # kept at the plain answer's side from now on
    assert server.calls == 3
    await chat(client)
    await read(stream(client, **USAGE))
    assert server.calls == 3


async def test_a_new_stream_replaces_what_was_stored_for_who_wants_it(
    server: OpenAIServer, client: AsyncOpenAI, cache: PromptCache
) -> None:
    await chat(client)
    with cache.control(no_cache=True):
        fresh = await read(stream(client, **USAGE))
    assert (await chat(client)).id == fresh[0].id == "chatcmpl-2"


async def test_streams_say_what_they_are_where_nothing_is_cached(cache: PromptCache) -> None:
    upstream = Upstream(json.dumps({**CHAT_BODY, "usage": None}).encode())
    async with upstream.client() as plain:
        client = cache.wrap(plain)
        await chat(client)
        assert all(chunk.choices for chunk in await read(stream(client)))
        assert upstream.calls == 1
        await read(stream(client, **USAGE))  # has no usage to tell
        assert upstream.calls == 2


async def test_a_stored_form_is_counted_in_bytes(
    server: OpenAIServer, client: AsyncOpenAI, cache: PromptCache
) -> None:
    await chat(client)
    await chat(client)
    tier = cache._engine.storage.local
    before = tier.size  # type: ignore[union-attr]
    first = await gather(read(stream(client)), read(stream(client, **USAGE)))
    assert len(first) == 2
    assert tier.size > before + 300  # type: ignore[union-attr]


@pytest.mark.parametrize("first", ["stream", "plain"])
async def test_both_forms_come_from_a_remote_tier(
    server: OpenAIServer, connect: Callable[..., AsyncOpenAI], clock: VirtualClock, first: str
) -> None:
    tier = FaultyTier(name="shelf")

    def client() -> AsyncOpenAI:
        return PromptCache(tier, clock=clock).wrap(connect())

    if first == "stream":
        await read(stream(client(), **USAGE))
    else:
        await chat(client())
    answer = await chat(client())
    streams = [await stream(one, **params) for one in (client(),) for params in (USAGE, {}, {})]
    for result in (answer, *streams):
        status = cache_status(result)
        assert status is not None
        assert (status.hit, status.tier) == (True, "shelf")
    chunks = [[chunk async for chunk in one] for one in streams]
    assert {text_of(each) for each in chunks} == {answer.choices[0].message.content}
    assert chunks[0][-1].usage == answer.usage
    assert server.calls == 1


async def test_a_stream_of_a_broken_tier_is_shared_all_the_same(
    server: OpenAIServer, connect: Callable[..., AsyncOpenAI], clock: VirtualClock
) -> None:
    tier = FaultyTier(name="shelf")
    tier.fail()
    client = PromptCache(tier, clock=clock).wrap(connect())
    results = await gather(*(read(stream(client)) for _ in range(3)))
    assert {text_of(result) for result in results} == {text_of(results[0])}
    assert server.calls == 1
