"""Which calls share an answer: only those that could not have got different ones."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from openai import AsyncAzureOpenAI, AsyncOpenAI, omit
from openai.types.chat import ChatCompletionMessage
from openai.types.responses import ResponseOutputMessage
from openai_calls import CHAT, CHAT_BODY, MODEL, RESPONSE_BODY, Upstream, user

from aiopromptcache import PromptCache, cache_status

pytestmark = pytest.mark.anyio


def function(kind: str) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {"name": "f", "strict": True, "parameters": {"type": kind}},
    }


def image(name: str) -> list[Any]:
    url = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{name}"}}
    return [{"role": "user", "content": [{"type": "text", "text": "What?"}, url]}]


def wanted(name: str) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": name, "schema": {"type": "object"}}}


DIFFERENT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "model": ({"model": "a"}, {"model": "b"}),
    "text": ({"messages": user("a")}, {"messages": user("b")}),
    "white space": ({"messages": user("a")}, {"messages": user("a ")}),
    "unicode forms": ({"messages": user("\u00e9")}, {"messages": user("e\u0301")}),
    "role": (
        {"messages": [{"role": "user", "content": "a"}]},
        {"messages": [{"role": "system", "content": "a"}]},
    ),
    "order of messages": (
        {"messages": user("a") + user("b")},
        {"messages": user("b") + user("a")},
    ),
    "one message more": ({"messages": user("a")}, {"messages": user("a") + user("")}),
    "name of the author": (
        {"messages": [{"role": "user", "content": "a", "name": "x"}]},
        {"messages": [{"role": "user", "content": "a", "name": "y"}]},
    ),
    "image": ({"messages": image("AAAA")}, {"messages": image("BBBB")}),
    "temperature": ({"temperature": 0.2}, {"temperature": 0.3}),
    "temperature omitted": ({}, {"temperature": 1}),
    "null": ({}, {"temperature": None}),
    "seed": ({"seed": 1}, {"seed": 2}),
    "number or bool": ({"seed": 1}, {"seed": True}),
    "number or text": ({"extra_body": {"k": 1}}, {"extra_body": {"k": "1"}}),
    "number past 64 bits": ({"seed": 2**70}, {"seed": 2**70 + 1}),
    "n": ({"n": 1}, {"n": 2}),
    "max_tokens": ({"max_tokens": 1}, {"max_tokens": 2}),
    "stop": ({"stop": "a"}, {"stop": ["a"]}),
    "logit_bias": ({"logit_bias": {"1": 2}}, {"logit_bias": {"1": 3}}),
    "tools": ({"tools": [function("object")]}, {"tools": [function("null")]}),
    "tool_choice": (
        {"tools": [function("object")], "tool_choice": "auto"},
        {"tools": [function("object")], "tool_choice": "required"},
    ),
    "response_format": (
        {"response_format": wanted("a")},
        {"response_format": wanted("b")},
    ),
    "user": ({"user": "a"}, {"user": "b"}),
    "safety_identifier": ({"safety_identifier": "a"}, {"safety_identifier": "b"}),
    "prompt_cache_key": ({"prompt_cache_key": "a"}, {"prompt_cache_key": "b"}),
    "metadata": ({"metadata": {"a": "1"}}, {"metadata": {"a": "2"}}),
    "service_tier": ({"service_tier": "flex"}, {"service_tier": "default"}),
    "store": ({}, {"store": False}),
    "extra_body": ({"extra_body": {"num_ctx": 1}}, {"extra_body": {"num_ctx": 2}}),
    "nested extra_body": ({"extra_body": {"o": {"a": [1]}}}, {"extra_body": {"o": {"a": [2]}}}),
    "extra_body over a parameter": (
        {"seed": 1, "extra_body": {"seed": 2}},
        {"seed": 1, "extra_body": {"seed": 3}},
    ),
    "extra_query": ({"extra_query": {"route": "a"}}, {"extra_query": {"route": "b"}}),
    "extra_query or none": ({}, {"extra_query": {"route": "a"}}),
    "query or body": ({"extra_query": {"a": "b"}}, {"extra_body": {"a": "b"}}),
    "header that may route": (
        {"extra_headers": {"X-Route": "a"}},
        {"extra_headers": {"X-Route": "b"}},
    ),
    "header of a beta": ({}, {"extra_headers": {"OpenAI-Beta": "assistants=v2"}}),
    "header or query": ({"extra_headers": {"a": "b"}}, {"extra_query": {"a": "b"}}),
    "header taken away": ({}, {"extra_headers": {"X-Always": omit}}),
    "organization of one call": (
        {"extra_headers": {"OpenAI-Organization": "a"}},
        {"extra_headers": {"OpenAI-Organization": "b"}},
    ),
}
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
EQUAL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "order of arguments": ({"n": 1, "seed": 2}, {"seed": 2, "n": 1}),
    "order in dicts": (
        {"messages": [{"role": "user", "content": "a"}]},
        {"messages": [{"content": "a", "role": "user"}]},
    ),
    "list or tuple": ({"messages": user("a")}, {"messages": tuple(user("a"))}),
    "omitted": ({}, {"temperature": omit}),
    "parameter or extra_body": ({"seed": 2}, {"extra_body": {"seed": 2}}),
    "overridden parameter": ({"seed": 2}, {"seed": 1, "extra_body": {"seed": 2}}),
    "empty extras": ({}, {"extra_body": {}, "extra_query": {}, "extra_headers": {}}),
    "no extras": ({}, {"extra_body": None, "extra_query": None, "extra_headers": None}),
    "timeout": ({}, {"timeout": 9.5}),
    "no timeout": ({}, {"timeout": None}),
    "order of headers": (
        {"extra_headers": {"X-A": "1", "X-B": "2"}},
        {"extra_headers": {"x-b": "2", "x-a": "1"}},
    ),
    **{
        f"header {name}": ({}, {"extra_headers": {name: value}})
        for name, value in {
            "Authorization": "Bearer other",
            "api-key": "other",
            "Idempotency-Key": "again",
            "X-Stainless-Retry-Count": "3",
            "x-stainless-helper-method": "stream",
            "traceparent": TRACE,
            "tracestate": "a=b",
            "baggage": "a=b",
            "X-Request-ID": "mine",
            "X-Client-Request-Id": "mine",
            "X-Correlation-ID": "mine",
            "sentry-trace": "a-b",
            "User-Agent": "mine/1",
        }.items()
    },
}


def ask_create(client: Any, params: dict[str, Any]) -> Any:
    return client.chat.completions.create(**{**CHAT, **params})


def ask_raw(client: Any, params: dict[str, Any]) -> Any:
    return client.chat.completions.with_raw_response.create(**{**CHAT, **params})


def ask_parse(client: Any, params: dict[str, Any]) -> Any:
    return client.chat.completions.parse(**{**CHAT, **params})


async def ask_stream(client: Any, params: dict[str, Any]) -> Any:
    stream = await client.chat.completions.create(**{**CHAT, **params, "stream": True})
    async for _ in stream:
        pass
    return stream


ASKING = [ask_create, ask_raw, ask_parse, ask_stream]


@pytest.fixture
def upstream() -> Upstream:
    """Answers chats; as events where they were asked for."""
    made = Upstream(json.dumps(CHAT_BODY).encode())
    chunk = {**CHAT_BODY, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    made.events = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()
    return made


@pytest.fixture
async def client(upstream: Upstream, cache: PromptCache) -> AsyncIterator[AsyncOpenAI]:
    """A cached client of `upstream`."""
    async with upstream.client(default_headers={"X-Always": "1"}) as plain:
        yield cache.wrap(plain)


@pytest.mark.parametrize("ask", ASKING)
@pytest.mark.parametrize("name", DIFFERENT)
async def test_different_requests_do_not_share(
    upstream: Upstream, client: AsyncOpenAI, ask: Any, name: str
) -> None:
    for params in (*DIFFERENT[name], *DIFFERENT[name]):
        await ask(client, params)
    assert upstream.calls == 2


@pytest.mark.parametrize("ask", ASKING)
@pytest.mark.parametrize("name", EQUAL)
async def test_equal_requests_share(
    upstream: Upstream, client: AsyncOpenAI, ask: Any, name: str
) -> None:
    for params in EQUAL[name]:
        await ask(client, params)
    assert upstream.calls == 1


CLIENTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "host": ({"base_url": "http://a/v1"}, {"base_url": "http://b/v1"}),
    "path of the host": ({"base_url": "http://a/v1"}, {"base_url": "http://a/v2"}),
    "port": ({"base_url": "http://a:1/v1"}, {"base_url": "http://a:2/v1"}),
    "organization": ({"organization": "a"}, {"organization": "b"}),
    "project": ({"project": "a"}, {"project": "b"}),
    "organization or project": ({"organization": "a"}, {"project": "a"}),
    "default_query": ({"default_query": {"v": "1"}}, {"default_query": {"v": "2"}}),
    "default_headers": ({"default_headers": {"X-R": "1"}}, {"default_headers": {"X-R": "2"}}),
}
AZURE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "api_version": ({"api_version": "1"}, {"api_version": "2"}),
    "endpoint": ({"azure_endpoint": "http://a"}, {"azure_endpoint": "http://b"}),
    "deployment": ({"azure_deployment": "a"}, {"azure_deployment": "b"}),
}


@pytest.mark.parametrize("ask", ASKING)
@pytest.mark.parametrize("name", CLIENTS)
async def test_what_a_client_is_set_to_counts(
    upstream: Upstream, cache: PromptCache, ask: Any, name: str
) -> None:
    for options in (*CLIENTS[name], *CLIENTS[name]):
        async with upstream.client(**options) as plain:
            await ask(cache.wrap(plain), {})
    assert upstream.calls == 2
    async with upstream.client() as plain:  # the same settings, given by with_options
        for options in (*CLIENTS[name], *CLIENTS[name]):
            await ask(cache.wrap(plain).with_options(**{"base_url": "http://c/v1", **options}), {})
    assert upstream.calls == (2 if "base_url" in CLIENTS[name][0] else 4)


@pytest.mark.parametrize("ask", ASKING)
@pytest.mark.parametrize("name", AZURE)
async def test_what_an_azure_client_is_set_to_counts(
    upstream: Upstream, cache: PromptCache, ask: Any, name: str
) -> None:
    usual = {"azure_endpoint": "http://x", "api_version": "1", "base_url": None}
    for options in (*AZURE[name], *AZURE[name]):
        async with upstream.client(AsyncAzureOpenAI, **{**usual, **options}) as plain:
            await ask(cache.wrap(plain), {})
    assert upstream.calls == 2


@pytest.mark.parametrize(
    ("attribute", "value"),
    [("organization", "b"), ("project", "b"), ("base_url", "http://b/v1/")],
)
async def test_what_a_client_is_set_to_later_counts(
    upstream: Upstream, client: AsyncOpenAI, attribute: str, value: str
) -> None:
    before = getattr(client, attribute)
    for state in (before, value, before, value):
        setattr(client, attribute, state)
        await ask_create(client, {})
    assert upstream.calls == 2


async def test_keys_and_retries_of_a_client_do_not_count(
    upstream: Upstream, cache: PromptCache
) -> None:
    for options in ({}, {"api_key": "b"}, {"max_retries": 3}, {"timeout": 3}):
        async with upstream.client(**options) as plain:
            await ask_create(cache.wrap(plain), {})
    assert upstream.calls == 1


@pytest.mark.parametrize("ask", ASKING)
async def test_partitions_never_share(
    upstream: Upstream, client: AsyncOpenAI, cache: PromptCache, ask: Any
) -> None:
    for partition in ("a", "b", "", "a", "b", ""):
        with cache.control(partition=partition):
            await ask(client, {})
    assert upstream.calls == 3


async def test_namespaces_never_share(upstream: Upstream) -> None:
    async with upstream.client() as plain:
        for namespace in ("a", "b"):
            await ask_create(PromptCache(namespace=namespace).wrap(plain), {})
    assert upstream.calls == 2


async def test_paths_never_share(upstream: Upstream, client: AsyncOpenAI) -> None:
    paths = [
        "/chat/completions",
        "/completions",
        "/responses",
        "/embeddings",
        "/moderations",
        "/chat/completions?route=b",
        "http://elsewhere/v1/chat/completions",
    ]
    for path in paths:
        await client.post(path, body=CHAT, cast_to=object)
    assert [str(request.url) for request in upstream.requests] == [
        path if path.startswith("http:") else f"http://upstream/v1{path}" for path in paths
    ]


async def test_stream_false_is_no_stream(upstream: Upstream, client: AsyncOpenAI) -> None:
    for params in ({}, {"stream": False}, {"stream": omit}):
        await ask_create(client, params)
        await ask_raw(client, params)
    assert upstream.calls == 1
    assert cache_status(await ask_stream(client, {})).hit  # type: ignore[union-attr]
    assert [json.loads(request.content).get("stream") for request in upstream.requests] == [None]


async def test_an_answer_given_back_as_a_message_is_its_dict(
    upstream: Upstream, client: AsyncOpenAI
) -> None:
    message = ChatCompletionMessage(role="assistant", content="Rome", refusal=None)
    plain = {"role": "assistant", "content": "Rome", "refusal": None}
    for ask in (ask_create, ask_parse):
        for one in (message, plain):
            await ask(client, {"messages": [*user("a"), one, *user("b")]})
    assert upstream.calls == 1
    assert json.loads(upstream.requests[0].content)["messages"][1] == plain


async def test_an_output_given_back_as_input_is_its_dict(
    upstream: Upstream, client: AsyncOpenAI
) -> None:
    upstream.body = json.dumps(RESPONSE_BODY).encode()
    [plain] = RESPONSE_BODY["output"]
    for one in (ResponseOutputMessage.construct(**plain), plain):
        for method in (client.responses.create, client.responses.parse):
            await method(model=MODEL, input=[one])
    assert upstream.calls == 1


# Embeddings


FORMATS: list[dict[str, Any]] = [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}]


@pytest.mark.parametrize("first", range(3))
async def test_the_encodings_of_embeddings_are_never_mixed(
    server: Any, connect: Callable[..., AsyncOpenAI], bare: AsyncOpenAI, first: int
) -> None:
    cache = PromptCache()
    client = cache.wrap(connect())

    async def ask(client: AsyncOpenAI, encoding: dict[str, Any]) -> Any:
        answer = await client.embeddings.create(model=MODEL, input="hi", **encoding)
        return answer.data[0].embedding

    order = FORMATS[first:] + FORMATS[:first]
    reference = [await ask(bare, encoding) for encoding in order]
    assert {type(vector) for vector in reference} == {list, str}
    server.reset()
    for _ in range(3):
        assert [await ask(client, encoding) for encoding in order] == reference
    assert server.calls == 2, "the SDK asks for base64 where nothing was asked for"


async def test_status_tells_the_key_that_removes_the_answer(
    upstream: Upstream, client: AsyncOpenAI, cache: PromptCache
) -> None:
    for partition in ("", "a"):
        with cache.control(partition=partition):
            for ask in ASKING:
                status = cache_status(await ask(client, {}))
                assert status is not None
                assert await cache.delete(status.key) == 1
                assert cache_status(await ask(client, {})).hit is False  # type: ignore[union-attr]
