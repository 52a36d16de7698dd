"""Arguments that can be read only once, that are no JSON, or that change during the call."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI
from openai_calls import (
    CHAT,
    CHAT_BODY,
    MODEL,
    RESPONSE_BODY,
    City,
    Upstream,
    embedding_body,
    outcome,
    same,
    user,
)

from aiopromptcache import CacheEvent, PromptCache, Request, cache_status, normalize
from aiopromptcache.testing import OpenAIServer

pytestmark = pytest.mark.anyio


@pytest.fixture
def upstream() -> Upstream:
    """Answers anything with a chat."""
    return Upstream(json.dumps(CHAT_BODY).encode())


@pytest.fixture
async def plain(upstream: Upstream) -> AsyncIterator[AsyncOpenAI]:
    """A bare client of it."""
    async with upstream.client() as plain:
        yield plain


def once(items: list[Any]) -> Iterator[Any]:
    """Can be read once."""
    yield from items


TEXT = {"type": "text", "text": "hello"}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {}, "strict": True}}
    for name in ("f", "g")
]
RESPONSE_TOOLS = [{"type": "function", "name": name, "parameters": {}} for name in ("f", "g")]


def chat_messages(client: Any, pack: Any) -> Any:
    return client.chat.completions.create(model=MODEL, messages=pack(user("a") + user("b")))


def chat_messages_raw(client: Any, pack: Any) -> Any:
    return client.chat.completions.with_raw_response.create(model=MODEL, messages=pack(user("a")))


def chat_messages_parsed(client: Any, pack: Any) -> Any:
    return client.chat.completions.parse(model=MODEL, messages=pack(user("a")))


def chat_content(client: Any, pack: Any) -> Any:
    messages: Any = [{"role": "user", "content": pack([TEXT, TEXT])}]
    return client.chat.completions.create(model=MODEL, messages=messages)


def chat_tools(client: Any, pack: Any) -> Any:
    return client.chat.completions.create(**CHAT, tools=pack(TOOLS))


def chat_tools_parsed(client: Any, pack: Any) -> Any:
    return client.chat.completions.parse(**CHAT, tools=pack(TOOLS))


def response_input(client: Any, pack: Any) -> Any:
    return client.responses.create(model=MODEL, input=pack(user("a") + user("b")))


def response_content(client: Any, pack: Any) -> Any:
    parts = [{"type": "input_text", "text": "hello"}]
    return client.responses.create(model=MODEL, input=[{"role": "user", "content": pack(parts)}])


def response_tools(client: Any, pack: Any) -> Any:
    return client.responses.create(model=MODEL, input="a", tools=pack(RESPONSE_TOOLS))


def embedding_input(client: Any, pack: Any) -> Any:
    return client.embeddings.create(model=MODEL, input=pack(["a", "b"]), encoding_format="float")


def embedding_tokens(client: Any, pack: Any) -> Any:
    return client.embeddings.create(model=MODEL, input=pack([1, 2, 3]))


def completion_prompt(client: Any, pack: Any) -> Any:
    return client.completions.create(model=MODEL, prompt=pack([1, 2, 3]))


ONCE: list[Callable[[Any, Any], Any]] = [
    chat_messages,
    chat_messages_raw,
    chat_messages_parsed,
    chat_content,
    chat_tools,
    chat_tools_parsed,
    response_input,
    response_content,
    response_tools,
    embedding_input,
    embedding_tokens,
    completion_prompt,
]


def body_for(ask: Callable[..., Any]) -> bytes:
    name = ask.__name__.split("_")[0]
    bodies = {"response": RESPONSE_BODY, "embedding": embedding_body(None)}
    return json.dumps(bodies.get(name, CHAT_BODY)).encode()


def count_parts(request: Request) -> bool:
    """Looks at all there is, as a user's policy may."""
    return bool([part for value in request.params.values() for part in value])


POLICIES: dict[str, dict[str, Any]] = {
    "usual policy": {},
    "cacheable that looks": {"cacheable": count_parts},
    "normalize that looks": {"normalize": normalize.strip_text},
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("ask", ONCE)
async def test_what_can_be_read_once_reaches_the_upstream_whole_and_is_one_key(
    upstream: Upstream, plain: AsyncOpenAI, cache: PromptCache, ask: Any, policy: str
) -> None:
    upstream.body = body_for(ask)
    await ask(plain, list)
    client = cache.wrap(plain)
    reference = await outcome(ask(plain, once))
    sent = [json.loads(request.content) for request in upstream.requests]
    upstream.requests.clear()
    with cache.control(**POLICIES[policy]):
        results = [await outcome(ask(client, pack)) for pack in (once, once, list)]
    if isinstance(reference, tuple):  # the SDK cannot send it either
        assert results[:2] == [reference, reference]
        return
    assert [json.loads(request.content) for request in upstream.requests] == sent[:1]
    assert [cache_status(result).hit for result in results] == [False, True, True]  # type: ignore[union-attr]


# What is no JSON


def with_nan(client: Any) -> Any:
    return client.chat.completions.create(**CHAT, temperature=float("nan"))


def with_infinity(client: Any) -> Any:
    return client.chat.completions.parse(**CHAT, temperature=float("inf"))


def with_deep_nan(client: Any) -> Any:
    return client.chat.completions.create(**CHAT, extra_body={"a": [{"b": (float("nan"), None)}]})


def with_object(client: Any) -> Any:
    return client.chat.completions.create(**CHAT, extra_body={"a": object()})


def with_set(client: Any) -> Any:
    return client.chat.completions.create(**CHAT, extra_body={"a": {1}})


def with_bytes(client: Any) -> Any:
    return client.chat.completions.create(**CHAT, extra_body={"a": b"b"})


def with_decimal(client: Any) -> Any:
    return client.chat.completions.create(**CHAT, temperature=decimal.Decimal(1))


def with_date(client: Any) -> Any:
    moment = datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC)
    return client.chat.completions.create(**CHAT, extra_body={"a": moment})


def with_lone_surrogate(client: Any) -> Any:
    return client.chat.completions.create(model=MODEL, messages=user("a\ud800b"))


def with_lone_surrogate_in_responses(client: Any) -> Any:
    return client.responses.create(model=MODEL, input="\udfff")


def with_itself(client: Any) -> Any:
    circle: list[Any] = []
    circle.append(circle)
    return client.chat.completions.create(**CHAT, extra_body={"a": circle})


def with_tuple_as_key(client: Any) -> Any:
    return client.chat.completions.create(**CHAT, extra_body={"a": {(1, 2): 3}})


async def with_nan_streamed(client: Any) -> Any:
    stream = await client.chat.completions.create(**CHAT, temperature=float("nan"), stream=True)
    return [chunk async for chunk in stream]


def with_unreadable_query(client: Any) -> Any:
    return client.chat.completions.create(**CHAT, extra_query={"a": object()})


def with_generator_in_extra_body(client: Any) -> Any:
    return client.chat.completions.create(**CHAT, extra_body={"a": (i for i in range(3))})


NO_JSON = [
    with_nan,
    with_infinity,
    with_deep_nan,
    with_object,
    with_set,
    with_bytes,
    with_decimal,
    with_date,
    with_lone_surrogate,
    with_lone_surrogate_in_responses,
    with_itself,
    with_tuple_as_key,
    with_nan_streamed,
    with_unreadable_query,
    with_generator_in_extra_body,
]


def told(result: Any) -> Any:
    """Without addresses, which differ."""
    return (result[0], str(result[1]).split(" at 0x")[0]) if isinstance(result, tuple) else result


@pytest.mark.parametrize("ask", NO_JSON)
async def test_what_is_no_json_is_the_sdks_affair_and_one_event(
    upstream: Upstream,
    plain: AsyncOpenAI,
    heard: PromptCache,
    events: list[CacheEvent],
    ask: Callable[[Any], Any],
) -> None:
    upstream.headers["content-type"] = "application/json"
    reference = told(await outcome(ask(plain)))
    calls = upstream.calls
    client = heard.wrap(plain)
    for _ in range(2):
        result = await outcome(ask(client))
        assert same(told(result), reference)
    assert upstream.calls == 3 * calls
    await heard.aclose()
    assert [event.kind for event in events] == ["error", "error"]
    assert heard.stats.errors == 2
    assert all(isinstance(event.error, TypeError) for event in events)


@pytest.mark.parametrize(
    "params",
    [
        {"model": MODEL},
        {"messages": user("a")},
        {**CHAT, "no_such_parameter": 1},
        {**CHAT, "response_format": City},
        {**CHAT, "extra_body": 5},
        {**CHAT, "extra_headers": {"X-A": 5}},
        {**CHAT, "extra_headers": {5: "a"}},
    ],
    ids=lambda params: ", ".join(set(params) - set(CHAT)) or "missing",
)
async def test_misuse_is_the_sdks_own_error(
    upstream: Upstream, plain: AsyncOpenAI, cache: PromptCache, params: Any
) -> None:
    async def ask(client: Any) -> Any:
        return await client.chat.completions.create(**params)

    reference = await outcome(ask(plain))
    client = cache.wrap(plain)
    for _ in range(2):
        assert same(await outcome(ask(client)), reference)


# What changes during the call


@pytest.mark.parametrize("form", ["create", "extra_body", "post", "tools"])
async def test_what_is_sent_is_what_was_asked_for_when_the_call_began(
    server: OpenAIServer, bare: AsyncOpenAI, client: AsyncOpenAI, form: str
) -> None:
    def ask(client: Any, nested: dict[str, Any]) -> Any:
        if form == "create":
            content = [{"type": "text", "text": "a", "cache": nested}]
            messages: Any = [{"role": "user", "content": content}]
            return client.chat.completions.create(model=MODEL, messages=messages)
        if form == "extra_body":
            return client.chat.completions.create(**CHAT, extra_body={"options": nested})
        if form == "tools":
            tool: Any = {"type": "function", "function": {"name": "f", "parameters": nested}}
            return client.chat.completions.create(**CHAT, tools=[tool])
        body = {**CHAT, "options": nested}
        return client.post("/chat/completions", body=body, cast_to=object)

    for one in (bare, client):
        await one.chat.completions.create(**CHAT)  # from now on the SDK need not look around
        server.hold()
        nested = {"type": "object"}
        call = asyncio.ensure_future(ask(one, nested))
        await asyncio.sleep(0)
        nested["type"] = "changed meanwhile"
        await server.wait_active(1)
        server.release()
        await call
        sent = json.dumps(server.requests[-1].body)
        assert "changed meanwhile" not in sent
    calls = server.calls
    await ask(client, {"type": "object"})
    assert server.calls == calls
    await ask(client, {"type": "changed meanwhile"})
    assert server.calls == calls + 1
