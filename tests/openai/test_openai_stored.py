"""What is stored, what is not even looked up, and how a policy can say otherwise."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from openai_calls import (
    CHAT,
    CHAT_BODY,
    COMPLETION,
    EMBEDDING,
    MODERATION,
    RESPONSE,
    RESPONSE_BODY,
    Upstream,
    fixed,
)

from aiopromptcache import CacheEvent, NotCached, Policy, PromptCache, Request, cache_status
from aiopromptcache.testing import OpenAIServer

pytestmark = pytest.mark.anyio


async def chat(client: Any, **params: Any) -> Any:
    return await client.chat.completions.create(**{**CHAT, **params})


async def chat_stream(client: Any, **params: Any) -> Any:
    stream = await chat(client, stream=True, **params)
    return [chunk async for chunk in stream], stream


async def respond(client: Any, **params: Any) -> Any:
    return await client.responses.create(**{**RESPONSE, **params})


async def respond_stream(client: Any, **params: Any) -> Any:
    stream = await respond(client, stream=True, **params)
    return [event async for event in stream], stream


async def complete(client: Any, **params: Any) -> Any:
    return await client.completions.create(**{**COMPLETION, **params})


async def complete_stream(client: Any, **params: Any) -> Any:
    stream = await complete(client, stream=True, **params)
    return [chunk async for chunk in stream], stream


CALLS: dict[str, Callable[..., Awaitable[Any]]] = {
    "chat": chat,
    "chat stream": chat_stream,
    "responses": respond,
    "responses stream": respond_stream,
    "completions": complete,
    "completions stream": complete_stream,
}
FLAWS = [
    ("finish_reason", "length"),
    ("finish_reason", "content_filter"),
    ("refusal", "I would rather not."),
]
FLAWED = [
    (name, *flaw)
    for name in CALLS
    for flaw in FLAWS
    if not (name.startswith("completions") and flaw[0] == "refusal")
]


@pytest.mark.parametrize(("name", "setting", "value"), FLAWED)
async def test_a_flawed_answer_is_given_and_not_stored(
    server: OpenAIServer, client: AsyncOpenAI, name: str, setting: str, value: str
) -> None:
    setattr(server, setting, value)
    await CALLS[name](client)
    await CALLS[name](client)
    assert server.calls == 2
    setattr(server, setting, None)
    await CALLS[name](client)
    await CALLS[name](client)
    assert server.calls == 3


@pytest.mark.parametrize(("name", "setting", "value"), FLAWED)
async def test_a_policy_may_store_flawed_answers(
    server: OpenAIServer,
    connect: Callable[..., AsyncOpenAI],
    name: str,
    setting: str,
    value: str,
) -> None:
    seen: list[tuple[str, Any]] = []

    def storable(request: Request, body: dict[str, Any]) -> bool:
        seen.append((request.endpoint, body.get("choices", body.get("output"))))
        return True

    setattr(server, setting, value)
    client = PromptCache(policy=Policy(storable=storable)).wrap(connect())
    await CALLS[name](client)
    await CALLS[name](client)
    assert server.calls == 1
    [(endpoint, choices)] = seen
    assert endpoint in ("chat.completions", "responses", "completions")
    assert isinstance(choices, list)
    assert value in json.dumps([endpoint, choices]) or endpoint == "responses"


@pytest.mark.parametrize(
    ("cls", "path", "body"),
    [
        (ChatCompletion, "/chat/completions", {"error": {"message": "busy"}}),
        (ChatCompletion, "/chat/completions", {**CHAT_BODY, "error": {"message": "busy"}}),
        (ChatCompletion, "/chat/completions", {**CHAT_BODY, "choices": []}),
        (Response, "/responses", {**RESPONSE_BODY, "status": "failed"}),
        (Response, "/responses", {**RESPONSE_BODY, "status": "in_progress"}),
        (Response, "/responses", {**RESPONSE_BODY, "status": "queued", "output": []}),
        (Response, "/responses", {**RESPONSE_BODY, "error": {"code": "x", "message": "y"}}),
        (Response, "/responses", {**RESPONSE_BODY, "incomplete_details": {"reason": "x"}}),
    ],
)
async def test_an_error_in_a_200_is_not_stored(
    cache: PromptCache, cls: Any, path: str, body: dict[str, Any]
) -> None:
    upstream = Upstream(json.dumps(body).encode())
    async with upstream.client() as plain:
        client = cache.wrap(plain)
        for _ in range(2):
            result = await client.post(path, body=CHAT, cast_to=cls)
            status = cache_status(result)
            assert status is not None
            assert (status.hit, status.stored) == (False, False)
    assert upstream.calls == 2


@pytest.mark.parametrize("status", [201, 202, 203, 206])
async def test_only_a_200_is_stored(cache: PromptCache, status: int) -> None:
    upstream = Upstream(json.dumps(CHAT_BODY).encode())
    upstream.status = status
    async with upstream.client() as plain:
        client = cache.wrap(plain)
        await chat(client)
        await chat(client)
    assert upstream.calls == 2


@pytest.mark.parametrize("clean", [True, False], ids=["clean end", "connection lost"])
@pytest.mark.parametrize("after", [0, 1, 3, 999], ids=str)
@pytest.mark.parametrize("name", ["chat stream", "responses stream", "completions stream"])
async def test_a_truncated_stream_is_never_stored(
    server: OpenAIServer,
    connect: Callable[..., AsyncOpenAI],
    name: str,
    after: int,
    clean: bool,
) -> None:
    client = PromptCache(policy=Policy(storable=lambda request, body: True)).wrap(connect())
    server.truncate_stream(after, clean=clean)
    if clean:
        await CALLS[name](client)
    else:
        with pytest.raises(Exception, match=r"Connection error|peer closed|incomplete"):
            await CALLS[name](client)
    whole, _ = await CALLS[name](client)
    assert server.calls == 2
    again, stream = await CALLS[name](client)
    assert server.calls == 2
    assert len(again) == len(whole) > 3
    assert cache_status(stream).hit  # type: ignore[union-attr]


HOSTED = [
    {"type": "web_search"},
    {"type": "web_search_preview"},
    {"type": "file_search", "vector_store_ids": ["vs"]},
    {"type": "code_interpreter", "container": {"type": "auto"}},
    {"type": "computer_use_preview", "environment": "mac"},
    {"type": "mcp", "server_label": "x"},
    {"type": "image_generation"},
    {"type": "local_shell"},
    {"type": "shell"},
    {"type": "something_new"},
    {},
]
FUNCTION = {"type": "function", "name": "f", "parameters": {}}
CHAT_FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {}}}
BYPASSED: list[tuple[str, dict[str, Any]]] = [
    *((name, {"store": True}) for name in ("chat", "chat stream", "responses", "responses stream")),
    ("chat", {"extra_body": {"store": True}}),
    ("chat", {"web_search_options": {}}),
    ("chat", {"web_search_options": {"search_context_size": "low"}}),
    ("chat", {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}),
    ("chat", {"extra_body": {"modalities": ["audio"]}}),
    ("responses", {"background": True}),
    ("responses", {"conversation": "conv_1"}),
    ("responses", {"conversation": {"id": "conv_1"}}),
    ("responses", {"previous_response_id": "resp_0"}),
    *(("responses", {"tools": [FUNCTION, tool]}) for tool in HOSTED),
    ("chat", {"tools": [{"type": "web_search"}, CHAT_FUNCTION]}),
]
CACHED: list[tuple[str, dict[str, Any]]] = [
    ("chat", {"store": False}),
    ("chat", {"store": None}),
    ("chat", {"web_search_options": None}),
    ("chat", {"modalities": ["text"]}),
    ("chat", {"tools": [CHAT_FUNCTION]}),
    ("chat", {"tools": []}),
    ("chat", {"tools": [{"type": "custom", "custom": {"name": "f"}}]}),
    ("responses", {"background": False, "conversation": None, "previous_response_id": None}),
    ("responses", {"tools": [FUNCTION, {"type": "custom", "name": "g"}]}),
]


@pytest.mark.parametrize(("name", "params"), BYPASSED)
async def test_what_has_effects_or_a_memory_is_not_cached(
    server: OpenAIServer, client: AsyncOpenAI, cache: PromptCache, name: str, params: Any
) -> None:
    server.answer = fixed
    for _ in range(2):
        result = await CALLS[name](client, **params)
        status = cache_status(result[1] if isinstance(result, tuple) else result)
        assert status is not None
        assert (status.fwd, status.key, status.hit, status.stored) == ("bypass", "", False, False)
    assert server.calls == 2
    assert cache.stats.bypassed == 2
    assert cache.stats.requests == 0


@pytest.mark.parametrize(("name", "params"), BYPASSED[:5])
async def test_only_if_cached_never_goes_upstream_also_for_what_is_not_cached(
    server: OpenAIServer, client: AsyncOpenAI, cache: PromptCache, name: str, params: Any
) -> None:
    server.answer = fixed
    with cache.control(only_if_cached=True), pytest.raises(NotCached):
        await CALLS[name](client, **params)
    assert server.calls == 0


@pytest.mark.parametrize(("name", "params"), CACHED)
async def test_what_only_looks_like_it_is_cached(
    server: OpenAIServer, client: AsyncOpenAI, name: str, params: Any
) -> None:
    server.answer = fixed
    await CALLS[name](client, **params)
    await CALLS[name](client, **params)
    assert server.calls == 1


async def test_calls_that_are_not_cached_do_not_wait_for_each_other(
    server: OpenAIServer, client: AsyncOpenAI
) -> None:
    server.hold()
    calls = [asyncio.ensure_future(chat(client, store=True)) for _ in range(3)]
    await server.wait_active(3)
    server.release()
    answers = await asyncio.gather(*calls)
    assert len({answer.id for answer in answers}) == 3


@pytest.mark.parametrize(("name", "params"), BYPASSED[:12])
async def test_a_policy_may_cache_what_is_not_cached_by_default(
    server: OpenAIServer,
    connect: Callable[..., AsyncOpenAI],
    name: str,
    params: Any,
) -> None:
    server.answer = fixed
    seen: list[Request] = []

    def cacheable(request: Request) -> bool:
        seen.append(request)
        return True

    client = PromptCache(policy=Policy(cacheable=cacheable)).wrap(connect())
    await CALLS[name](client, **params)
    await CALLS[name](client, **params)
    assert server.calls == 1
    for request in seen:
        assert request.endpoint == ("chat.completions" if "chat" in name else "responses")
        assert request.stream is ("stream" in name)
        expected = {**params, **params.get("extra_body", {})}
        expected.pop("extra_body", None)
        assert expected.items() <= request.params.items()


@pytest.mark.parametrize("name", ["chat", "chat stream", "embeddings", "moderations"])
async def test_a_policy_may_refuse_any_call(
    server: OpenAIServer, client: AsyncOpenAI, cache: PromptCache, name: str
) -> None:
    async def call() -> Any:
        if name == "embeddings":
            return await client.embeddings.create(**EMBEDDING)
        if name == "moderations":
            return await client.moderations.create(**MODERATION)
        return await CALLS[name](client)

    with cache.control(cacheable=lambda request: False):
        await call()
        await call()
    assert server.calls == 2
    with cache.control(storable=lambda request, body: False):
        await call()
        await call()
    assert server.calls == 4
    await call()
    await call()
    assert server.calls == 5


@pytest.mark.parametrize("field", ["cacheable", "storable", "normalize"])
@pytest.mark.parametrize("name", ["chat", "chat stream"])
async def test_a_callable_that_fails_is_one_event_and_hurts_nobody(
    server: OpenAIServer,
    connect: Callable[..., AsyncOpenAI],
    heard: PromptCache,
    events: list[CacheEvent],
    caplog: pytest.LogCaptureFixture,
    name: str,
    field: str,
) -> None:
    def broken(*args: Any) -> Any:
        raise ZeroDivisionError("a user's mistake")

    client = heard.wrap(connect())
    with heard.control(**{field: broken}):
        await CALLS[name](client)
        await CALLS[name](client)
    assert server.calls == 2
    await heard.aclose()
    errors = [event.error for event in events if event.kind == "error"]
    assert [type(error) for error in errors] == [ZeroDivisionError, ZeroDivisionError]
    # asyncio has records of its own, of a machine that is busy.
    assert len([record for record in caplog.records if record.name == "aiopromptcache"]) == 2
    assert "a user's mistake" not in caplog.text


async def test_normalize_changes_the_key_and_never_the_request(
    server: OpenAIServer, client: AsyncOpenAI, cache: PromptCache
) -> None:
    def without_user(request: Request) -> dict[str, Any]:
        return {name: value for name, value in request.params.items() if name != "user"}

    with cache.control(normalize=without_user):
        first = await chat(client, user="a")
        second = await chat(client, user="b")
        streamed, _ = await chat_stream(client, user="a")
        replayed, _ = await chat_stream(client, user="b")
    assert first.id == second.id
    assert [chunk.id for chunk in streamed] == [chunk.id for chunk in replayed]
    assert first.id == streamed[0].id
    assert [request.body["user"] for request in server.requests] == ["a"]
