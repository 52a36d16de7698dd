"""A wrapped client among others: tracing libraries, mocks, and whoever looks at its methods."""

from __future__ import annotations

import inspect
import json
from typing import Any
from unittest.mock import AsyncMock

import pytest
from conftest import Connect
from openai import AsyncOpenAI, AsyncStream
from openai.resources.chat.completions import AsyncCompletions
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion
from openai_calls import CHAT, CHAT_BODY, EMBEDDING, RESPONSE, City, user

from aiopromptcache import ConfigurationError, PromptCache, cache_status
from aiopromptcache.testing import OpenAIServer

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["on the client, then wrapped", "on the wrapped client", "on the class"])
def traced(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    connect: Connect,
    cache: PromptCache,
) -> tuple[AsyncOpenAI, list[Any]]:
    """A wrapped client whose `request` a tracing library has replaced, and what that has seen."""
    seen: list[Any] = []
    client = connect()
    if request.param == "on the wrapped client":
        client = cache.wrap(client)
    place: Any = AsyncOpenAI if request.param == "on the class" else client
    original = place.request

    async def traced(*args: Any, **options: Any) -> Any:
        seen.append(None)
        seen[-1] = await original(*args, **options)
        return seen[-1]

    monkeypatch.setattr(place, "request", traced)
    return cache.wrap(client), seen


Traced = tuple[AsyncOpenAI, list[Any]]


async def test_calls_that_are_traced_are_cached(traced: Traced, server: OpenAIServer) -> None:
    client, seen = traced
    first = await client.chat.completions.create(**CHAT)
    second = await client.chat.completions.create(**CHAT)
    status = cache_status(second)
    assert first == second
    assert status is not None
    assert status.hit
    assert server.calls == len(seen) == 1


async def test_who_traces_sees_what_the_sdk_gives(traced: Traced, server: OpenAIServer) -> None:
    client, seen = traced
    server.answer = lambda request: CHAT_BODY if "messages" in request.body else None
    created = await client.chat.completions.create(**CHAT)
    vectors = await client.embeddings.create(**EMBEDDING)
    assert seen[0] == created
    assert type(seen[0]) is ChatCompletion
    assert type(seen[1]) is CreateEmbeddingResponse
    assert [len(item.embedding) for item in vectors.data] == [256, 256]


@pytest.mark.parametrize("turn", range(2))
async def test_every_form_is_as_untraced(traced: Traced, turn: int) -> None:
    client, _ = traced
    for _ in range(turn):
        await _forms(client)
    assert [kind for kind, _ in await _forms(client)] == [
        "ParsedChatCompletion",
        "LegacyAPIResponse",
        "AsyncAPIResponse",
        "AsyncStream",
        "Response",
    ]


async def _forms(client: AsyncOpenAI) -> list[tuple[str, Any]]:
    chat = client.chat.completions
    found: list[tuple[str, Any]] = []
    parsed = await chat.parse(**CHAT, response_format=City)
    assert parsed.choices[0].message.parsed is not None
    found.append((_base(parsed).partition("[")[0], parsed))
    raw = await chat.with_raw_response.create(**CHAT)
    found.append((_base(raw), raw.parse()))
    async with chat.with_streaming_response.create(**CHAT) as unread:
        found.append((_base(unread), await unread.parse()))
    assert found[-1][1] == found[-2][1]
    stream = await chat.create(**CHAT, stream=True)
    assert isinstance(stream, AsyncStream)
    text = "".join([part.choices[0].delta.content or "" async for part in stream])
    assert text == raw.parse().choices[0].message.content
    found.append(("AsyncStream", text))
    response = await client.responses.create(**RESPONSE)
    found.append((type(response).__name__, response))
    return found


def _base(result: Any) -> str:
    return next(k.__name__ for k in type(result).__mro__ if k.__module__.startswith("openai."))


async def test_a_traced_client_may_be_wrapped_twice(
    connect: Connect, cache: PromptCache, server: OpenAIServer
) -> None:
    client, seen = connect(), []
    original = client.request

    async def request(*args: Any, **options: Any) -> Any:
        seen.append(await original(*args, **options))
        return seen[-1]

    client.request = request  # type: ignore[assignment]
    async with PromptCache() as other:
        for wrapped in (cache.wrap(client), other.wrap(client)):
            for _ in range(2):
                await wrapped.chat.completions.create(**CHAT)
    assert server.calls == len(seen) == 2
    assert (await client.chat.completions.create(**CHAT)).choices


async def test_failures_of_the_parsing_are_each_callers_own(
    traced: Traced, server: OpenAIServer
) -> None:
    client, seen = traced
    server.answer = lambda _: "no JSON"
    for _ in range(2):
        with pytest.raises(ValueError, match="JSON"):
            await client.chat.completions.parse(**CHAT, response_format=City)
    assert type(seen[0]) in (ChatCompletion, type(None))  # None: it was told of the failure


@pytest.mark.parametrize("form", ["plain", "stream"])
async def test_what_a_mocked_request_answers_is_handed_on(
    monkeypatch: pytest.MonkeyPatch, client: AsyncOpenAI, server: OpenAIServer, form: str
) -> None:
    monkeypatch.setattr(AsyncOpenAI, "request", AsyncMock(return_value="mocked"))
    options: dict[str, Any] = {"stream": True} if form == "stream" else {}
    for _ in range(2):
        assert await client.chat.completions.create(**CHAT, **options) == "mocked"
    assert server.calls == 0


async def test_a_class_that_is_patched_after_its_first_use(
    client: AsyncOpenAI, server: OpenAIServer
) -> None:
    await client.chat.completions.create(**CHAT)
    other = {**CHAT, "messages": user("another")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AsyncCompletions, "create", AsyncMock(return_value="mocked"))
        assert await client.chat.completions.create(**other) == "mocked"
        plain = AsyncCompletions.create
    assert await client.chat.completions.create(**other) != "mocked"
    assert plain is not AsyncCompletions.create
    assert server.calls == 2


async def test_create_is_a_method_of_its_resource(client: AsyncOpenAI, bare: AsyncOpenAI) -> None:
    for resource, plain in (
        (client.chat.completions, bare.chat.completions),
        (client.responses, bare.responses),
        (client.embeddings, bare.embeddings),
    ):
        create: Any = resource.create
        assert inspect.ismethod(create)
        assert create.__self__ is resource
        assert inspect.signature(create) == inspect.signature(plain.create)
        assert create.__qualname__ == plain.create.__qualname__


@pytest.mark.parametrize("mock", [AsyncMock(spec=AsyncOpenAI), AsyncMock(AsyncOpenAI)])
async def test_a_mock_is_not_wrapped(cache: PromptCache, mock: Any) -> None:
    with pytest.raises(ConfigurationError, match="AsyncMock is no AsyncOpenAI"):
        cache.wrap(mock)


async def test_an_error_shows_nothing_of_ours_as_its_context(
    client: AsyncOpenAI, bare: AsyncOpenAI, server: OpenAIServer
) -> None:
    server.answer = lambda _: b"{"
    contexts = []
    for one in (bare, client):
        with pytest.raises(json.JSONDecodeError) as caught:
            await one.embeddings.create(**EMBEDDING)
        contexts.append(caught.value.__context__)
    assert contexts == [None, None]


async def test_a_large_body_comes_in_pieces(client: AsyncOpenAI, server: OpenAIServer) -> None:
    text = "x" * 300_000
    server.answer = lambda _: text
    for _ in range(2):
        async with client.chat.completions.with_streaming_response.create(**CHAT) as response:
            pieces = [piece async for piece in response.iter_bytes()]
        assert json.loads(b"".join(pieces))["choices"][0]["message"]["content"] == text
        assert max(map(len, pieces)) <= 2**16
