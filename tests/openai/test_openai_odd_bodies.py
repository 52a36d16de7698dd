"""Answers of servers that only resemble OpenAI: what the bare SDK makes of the same bytes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from openai import APIResponseValidationError, AsyncOpenAI
from openai_calls import (
    CHAT_BODY,
    COMPLETION_BODY,
    FORMS,
    MODERATION_BODY,
    RESPONSE_BODY,
    Upstream,
    embedding_body,
    gather,
    outcome,
    same,
)

from aiopromptcache import Policy, PromptCache

pytestmark = pytest.mark.anyio

STORE_ALL = Policy(storable=lambda request, body: True)


async def check(upstream: Upstream, form: Callable[[Any], Any], policy: Policy) -> None:
    """First, second and collapsed calls are like the bare SDK's."""
    async with upstream.client() as plain:
        reference = await outcome(form(plain))
        upstream.requests.clear()
        client = PromptCache(policy=policy).wrap(plain)
        for _ in range(3):
            result = await outcome(form(client))
            assert same(result, reference)
        asked = upstream.calls
        others = PromptCache(policy=policy).wrap(plain)
        for result in await gather(*(outcome(form(others)) for _ in range(3))):
            assert same(result, reference)
        assert upstream.calls == asked + 1


def chat(**changes: Any) -> bytes:
    return json.dumps({**CHAT_BODY, **changes}).encode()


def choice(**changes: Any) -> bytes:
    return chat(choices=[{**CHAT_BODY["choices"][0], **changes}])


def message(**changes: Any) -> bytes:
    return choice(message={**CHAT_BODY["choices"][0]["message"], **changes})


def without(name: str) -> bytes:
    return json.dumps({k: v for k, v in CHAT_BODY.items() if k != name}).encode()


FUNCTION = {"name": "f", "arguments": "{}"}
ODD_CHATS = {
    "as it should be": chat(),
    "null finish_reason": choice(finish_reason=None),
    "unknown finish_reason": choice(finish_reason="eos_token"),
    "no id": without("id"),
    "no created": without("created"),
    "no choices": without("choices"),
    "no usage": without("usage"),
    "null choices": chat(choices=None),
    "empty choices": chat(choices=[]),
    "choices that are no objects": chat(choices=["a", None, 3]),
    "null message": choice(message=None),
    "null content": message(content=None),
    "content in parts": message(content=[{"type": "text", "text": "hi"}]),
    "tool call without type": message(tool_calls=[{"id": "1", "function": FUNCTION}]),
    "tool call without id": message(tool_calls=[{"type": "function", "function": FUNCTION}]),
    "arguments that are an object": message(
        tool_calls=[{"id": "1", "type": "function", "function": {"name": "f", "arguments": {}}}]
    ),
    "custom tool call": message(
        tool_calls=[{"id": "1", "type": "custom", "custom": {"name": "f", "input": "x"}}]
    ),
    "unknown tool call": message(tool_calls=[{"id": "1", "type": "magic", "magic": {"a": 1}}]),
    "null tool calls": message(tool_calls=None),
    "reasoning beside content": message(reasoning_content="hm", extra={"a": [1, 2.0]}),
    "unknown role": message(role="model"),
    "created as a whole float": chat(created=1.0),
    "created as a fraction": chat(created=1.75),
    "created as text": chat(created="123"),
    "created as a bool": chat(created=True),
    "created past 64 bits": chat(created=2**70),
    "id as a number": chat(id=17),
    "index as text": choice(index="0"),
    "unknown service tier": chat(service_tier="turbo"),
    "usage without totals": chat(usage={"prompt_tokens": 1}),
    "usage of floats": chat(usage={"prompt_tokens": 1.0, "completion_tokens": 2.5}),
    "null usage": chat(usage=None),
    "usage details of null": chat(
        usage={**CHAT_BODY["usage"], "prompt_tokens_details": {"cached_tokens": None}}
    ),
    "extra fields": chat(provider="x", timings={"a": 1.5}, _private=1, model_config={}),
    "fields named like the SDK's": chat(_request_id="mine", to_json=1, model_fields_set=[]),
    "other object": chat(object="chat.completions"),
    "duplicated fields": b'{"id": "a",' + chat()[1:-1] + b', "model": "again"}',
    "negative zero": chat(created=-0.0),
    "not a number": chat(created=float("nan")),
    "lone surrogate": chat(model="\ud800"),
    "error in a 200": json.dumps({"error": {"message": "no", "code": 3}}).encode(),
    "empty object": b"{}",
    "array": b"[1, 2]",
    "null": b"null",
    "text": b'"hello"',
    "number": b"17",
    "empty body": b"",
    "white space": b"  \n",
    "not JSON": b"<html>busy</html>",
    "cut": chat()[:-9],
    "byte order mark": b"\xef\xbb\xbf" + chat(),
    "utf-16": chat().decode().encode("utf-16"),
    "invalid utf-8": chat(model="x").replace(b'"x"', b'"\xff"'),
}
FORM_NAMES = ["chat create", "chat raw", "chat post as dict", "chat streaming_response"]


@pytest.mark.parametrize("name", ODD_CHATS)
async def test_an_odd_chat_body_gives_what_the_bare_sdk_gives(name: str) -> None:
    for form in FORM_NAMES:
        for policy in (Policy(), STORE_ALL):
            await check(Upstream(ODD_CHATS[name]), FORMS[form], policy)


@pytest.mark.parametrize(
    "content_type",
    [None, "text/plain", "application/problem+json; charset=utf-8", "application/octet-stream"],
)
@pytest.mark.parametrize("body", ["as it should be", "array", "not JSON", "empty body"])
async def test_an_odd_content_type_gives_what_the_bare_sdk_gives(
    body: str, content_type: str | None
) -> None:
    for form in ["chat create", "chat raw", "chat post as str", "chat streaming_response"]:
        await check(Upstream(ODD_CHATS[body], content_type), FORMS[form], STORE_ALL)


ODD_EMBEDDINGS: dict[str, Any] = {
    "floats though base64 was asked for": embedding_body(None),
    "integers": {"object": "list", "data": [{"embedding": [1, 2]}]},
    "no data": {"object": "list", "model": "m"},
    "empty data": {"object": "list", "data": []},
    "null data": {"object": "list", "data": None},
    "no vector": {"object": "list", "data": [{"object": "embedding", "index": 0}]},
    "null vector": {"object": "list", "data": [{"embedding": None}]},
    "one of each": {"data": [{"embedding": "AAAAPw=="}, {"embedding": [0.5]}]},
    "not base64": {"object": "list", "data": [{"embedding": "?"}]},
    "cut base64": {"object": "list", "data": [{"embedding": "AAAAPwA="}]},
    "items that are no objects": {"object": "list", "data": ["a", None]},
    "usage of text": {**embedding_body("base64"), "usage": {"prompt_tokens": "2"}},
}


@pytest.mark.parametrize("name", ODD_EMBEDDINGS)
async def test_an_odd_embedding_gives_what_the_bare_sdk_gives(name: str) -> None:
    for form in ("embeddings create", "embeddings floats", "embeddings base64", "embeddings raw"):
        # An answer that is put together again is written without white space.
        body = json.dumps(ODD_EMBEDDINGS[name], separators=(",", ":")).encode()
        await check(Upstream(body), FORMS[form], STORE_ALL)


@pytest.mark.parametrize("name", ["no id", "created as text", "null choices"])
async def test_a_strict_client_refuses_what_a_lax_one_stored(name: str) -> None:
    upstream = Upstream(ODD_CHATS[name])
    cache = PromptCache(policy=STORE_ALL)
    form = FORMS["chat create"]
    async with (
        upstream.client() as lax,
        upstream.client(_strict_response_validation=True) as strict,
    ):
        reference = await outcome(form(strict))
        for _ in range(2):
            await form(cache.wrap(lax))
        assert same(await outcome(form(cache.wrap(strict))), reference)


@pytest.mark.parametrize("name", ["no id", "null choices"])
async def test_what_a_strict_client_refuses_is_an_error_and_not_stored(name: str) -> None:
    upstream = Upstream(ODD_CHATS[name])
    async with upstream.client(_strict_response_validation=True) as plain:
        client = PromptCache().wrap(plain)
        for calls in (1, 2):
            with pytest.raises(APIResponseValidationError):
                await FORMS["chat create"](client)
            assert upstream.calls == calls


# Bodies that nobody thought of

ODD_VALUES = st.sampled_from(
    [None, "123", "", "x", 0, 1, -1, 1.0, 1.5, -0.0, 2**70, True, [], {}, [None], {"a": [1]}]
)
MUTATION = st.tuples(
    st.integers(0, 200), st.sampled_from(["replace", "delete", "add", "repeat"]), ODD_VALUES
)
BODIES: dict[str, tuple[Any, list[str]]] = {
    "chat": (CHAT_BODY, ["chat create", "chat raw", "chat parse"]),
    "responses": (RESPONSE_BODY, ["responses create", "responses raw", "responses parse"]),
    "embeddings": (embedding_body("base64"), ["embeddings create", "embeddings base64"]),
    "completions": (COMPLETION_BODY, ["completions create"]),
    "moderations": (MODERATION_BODY, ["moderations create"]),
}


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container with every key or index in it."""
    found: list[tuple[Any, Any]] = []
    rest = [value]
    while rest:
        item = rest.pop(0)
        keys = list(item) if isinstance(item, dict) else range(len(item))
        found += [(item, key) for key in keys]
        rest += [item[key] for key in keys if isinstance(item[key], (dict, list))]
    return found


def mutate(body: Any, mutations: list[tuple[int, str, Any]]) -> Any:
    body = copy.deepcopy(body)
    for position, operation, value in mutations:
        where = places(body)
        if not where:
            break
        container, key = where[position % len(where)]
        if operation == "delete":
            del container[key]
        elif operation == "replace" or isinstance(container, list):
            container[key] = copy.deepcopy(value)
        elif operation == "add":
            container["odd"] = copy.deepcopy(value)
        else:
            container[f"{key}_again"] = copy.deepcopy(container[key])
    return body


@pytest.mark.parametrize("endpoint", BODIES)
@settings(
    max_examples=40,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(mutations=st.lists(MUTATION, max_size=3))
@example(mutations=[])
async def test_any_body_gives_what_the_bare_sdk_gives(
    endpoint: str, mutations: list[tuple[int, str, Any]]
) -> None:
    body, forms = BODIES[endpoint]
    upstream = Upstream(json.dumps(mutate(body, mutations)).encode())
    for form in forms:
        await check(upstream, FORMS[form], STORE_ALL)


# Odd streams


def events(*chunks: Any, done: bool = True) -> bytes:
    lines = [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks]
    return b"".join(lines) + (b"data: [DONE]\n\n" if done else b"")


def chunk(delta: Any, finish: Any = None, **changes: Any) -> dict[str, Any]:
    picked = {"index": 0, "delta": delta, "finish_reason": finish, **changes}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "choices": [picked]}


CHUNKS = [
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "Ro"}),
    chunk({"tool_calls": [{"index": 0, "id": "1", "function": {"name": "f", "arguments": ""}}]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}),
    chunk({}, "stop"),
    {"id": "c", "choices": [], "usage": {"prompt_tokens": 1}},
]
ODD_STREAMS = {
    "as it should be": events(*CHUNKS),
    "no [DONE]": events(*CHUNKS, done=False),
    "nothing": b"",
    "only [DONE]": events(),
    "comments and empty lines": b": ping\n\n\n\n" + events(*CHUNKS) + b": bye\n\n",
    "carriage returns": events(*CHUNKS).replace(b"\n", b"\r\n"),
    "data over two lines": b'data: {"choices":\ndata: []}\n\n' + events(*CHUNKS),
    "not JSON": b"data: busy\n\n" + events(*CHUNKS),
    "no objects": events(1, "a", [2], None, *CHUNKS),
    "choices that are no objects": events({"choices": ["a", None]}, *CHUNKS),
    "choices that are no list": events({"choices": 5}, *CHUNKS),
    "choices that are an object": events({"choices": {"a": 1}}, *CHUNKS),
    "null choices": events({"choices": None}, *CHUNKS),
    "delta that is no object": events(chunk("text"), *CHUNKS),
    "null delta": events(chunk(None), *CHUNKS),
    "no delta": events({"choices": [{"index": 0}]}, *CHUNKS),
    "null index": events(*CHUNKS, chunk({"content": "x"}, "stop", index=None)),
    "index that is a list": events(chunk({"content": "x"}, index=[1]), *CHUNKS),
    "index that is text": events(*CHUNKS, chunk({"content": "x"}, "stop", index="1")),
    "tool calls that are no list": events(
        chunk({"tool_calls": 1}), chunk({"tool_calls": [1]}), *CHUNKS
    ),
    "tool calls without index": events(chunk({"tool_calls": [{"id": "1"}]}), *CHUNKS),
    "content that changes its type": events(chunk({"content": "a"}), chunk({"content": 3})),
    "error": events(CHUNKS[0], {"error": {"message": "no"}}),
    "usage that is text": events(*CHUNKS, {"choices": [], "usage": "many"}),
    "invalid utf-8": events(*CHUNKS).replace(b"Ro", b"\xff"),
}


@pytest.mark.parametrize("name", ODD_STREAMS)
async def test_an_odd_stream_gives_what_the_bare_sdk_gives(name: str) -> None:
    upstream = Upstream(ODD_STREAMS[name], "text/event-stream")
    for form in ("chat stream=True", "chat raw stream=True", "chat streaming_response lines"):
        for policy in (Policy(), STORE_ALL):
            await check_stream(upstream, FORMS[form], policy)


async def check_stream(upstream: Upstream, form: Callable[[Any], Any], policy: Policy) -> None:
    plain: AsyncOpenAI
    async with upstream.client() as plain:
        reference = await outcome(form(plain))
        client = PromptCache(policy=policy).wrap(plain)
        for _ in range(3):
            assert same(await outcome(form(client)), reference)


@settings(
    max_examples=40,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(mutations=st.lists(MUTATION, min_size=1, max_size=4))
async def test_any_stream_gives_what_the_bare_sdk_gives(
    mutations: list[tuple[int, str, Any]],
) -> None:
    upstream = Upstream(events(*mutate(CHUNKS, mutations)), "text/event-stream")
    await check_stream(upstream, FORMS["chat stream=True"], STORE_ALL)
