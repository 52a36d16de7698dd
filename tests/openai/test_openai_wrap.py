"""Wrapping itself; and what of a genuine response a caller sees, on a miss and on a hit."""

from __future__ import annotations

import datetime
import gzip
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest
from openai import AsyncAzureOpenAI, AsyncOpenAI, OpenAI
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion
from openai_calls import CHAT, CHAT_BODY, EMBEDDING, FORMS, Upstream, fixed, gather, same

from aiopromptcache import ConfigurationError, PromptCache, cache_status
from aiopromptcache.testing import OpenAIServer

pytestmark = pytest.mark.anyio

Connect = Callable[..., AsyncOpenAI]


def hit(result: Any) -> bool:
    status = cache_status(result)
    assert status is not None
    return status.hit


# Wrapping


async def test_wrapping_again_changes_nothing(server: OpenAIServer, client: AsyncOpenAI) -> None:
    cache = PromptCache()
    once = cache.wrap(client)
    twice = cache.wrap(once)
    await twice.chat.completions.create(**CHAT)
    assert hit(await once.chat.completions.create(**CHAT))
    assert hit(await cache.wrap(twice.copy()).chat.completions.create(**CHAT))
    assert server.calls == 1


async def test_a_wrapped_client_may_be_wrapped_by_another_cache(
    server: OpenAIServer, client: AsyncOpenAI, cache: PromptCache
) -> None:
    other = PromptCache()
    second = other.wrap(client)
    await client.chat.completions.create(**CHAT)
    calls = server.calls
    await second.chat.completions.create(**CHAT)
    assert hit(await second.chat.completions.create(**CHAT))
    assert other.stats.hits == 1
    assert hit(await client.chat.completions.create(**CHAT))
    assert server.calls <= calls + 1
    assert type(second).__mro__.count(AsyncOpenAI) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: OpenAI(api_key="x"),
        lambda: None,
        lambda: "client",
        lambda: AsyncOpenAI,
        lambda: object(),
    ],
)
async def test_only_async_clients_can_be_wrapped(cache: PromptCache, make: Any) -> None:
    with pytest.raises(ConfigurationError, match="AsyncOpenAI"):
        cache.wrap(make())


async def test_what_was_used_before_wrapping_is_cached_too(
    server: OpenAIServer, bare: AsyncOpenAI, cache: PromptCache
) -> None:
    await bare.chat.completions.create(**CHAT)
    await bare.chat.completions.with_raw_response.create(**CHAT)
    server.reset()
    client = cache.wrap(bare)
    await client.chat.completions.create(**CHAT)
    assert hit(await client.chat.completions.create(**CHAT))
    assert hit(await client.chat.completions.with_raw_response.create(**CHAT))
    assert hit(await client.with_raw_response.chat.completions.create(**CHAT))
    assert server.calls == 1


async def test_settings_are_the_given_clients_own(connect: Connect, cache: PromptCache) -> None:
    given = connect(timeout=7.0, max_retries=4, organization="o", project="p")
    for client in (cache.wrap(given), cache.wrap(given).copy()):
        for name in ("timeout", "max_retries", "organization", "project", "api_key", "base_url"):
            assert getattr(client, name) == getattr(given, name)
    assert cache.wrap(given)._client is given._client
    assert cache.wrap(given).with_options(timeout=1.0).timeout == 1.0


async def test_closing_a_wrapped_client_closes_the_connections(
    connect: Connect, cache: PromptCache
) -> None:
    given = connect()
    async with cache.wrap(given) as client:
        assert not client.is_closed()
    assert client.is_closed()
    assert given.is_closed()


# Clients that fetch their credentials for each request


async def token() -> str:
    return "fresh"


FETCHING: dict[str, tuple[type[AsyncOpenAI], dict[str, Any]]] = {
    "azure_ad_token_provider": (AsyncAzureOpenAI, {"azure_ad_token_provider": token}),
    "api_key": (AsyncOpenAI, {"api_key": token}),
}


@pytest.mark.parametrize(
    "form", ["create", "raw", "parse", "streaming_response", "stream=True", "post"]
)
@pytest.mark.parametrize(("kind", "options"), FETCHING.values(), ids=FETCHING)
async def test_hits_need_no_credentials(
    server: OpenAIServer,
    connect: Connect,
    cache: PromptCache,
    kind: type[AsyncOpenAI],
    options: Any,
    form: str,
) -> None:
    server.answer = fixed
    reference = await FORMS[f"chat {form}"](cache.wrap(connect(kind, **options)))
    newcomer = cache.wrap(connect(kind, **options))
    for _ in range(2):
        assert same(await FORMS[f"chat {form}"](newcomer), reference)
    assert server.calls == 1
    assert server.requests[0].headers["authorization"] == "Bearer fresh"


@pytest.mark.parametrize("form", ["create", "raw", "parse", "streaming_response", "post"])
@pytest.mark.parametrize(("kind", "options"), FETCHING.values(), ids=FETCHING)
async def test_collapsed_callers_need_no_credentials(
    server: OpenAIServer,
    connect: Connect,
    cache: PromptCache,
    kind: type[AsyncOpenAI],
    options: Any,
    form: str,
) -> None:
    server.answer = fixed
    client = cache.wrap(connect(kind, **options))
    one, *others = await gather(*(FORMS[f"chat {form}"](client) for _ in range(3)))
    assert [same(one, other) for other in others] == [True, True]
    assert server.calls == 1


@pytest.mark.parametrize(("kind", "options"), FETCHING.values(), ids=FETCHING)
async def test_a_hit_without_credentials_shows_the_url_of_its_miss(
    server: OpenAIServer,
    connect: Connect,
    cache: PromptCache,
    kind: type[AsyncOpenAI],
    options: Any,
) -> None:
    shown: list[Any] = []
    for _ in range(2):
        client = cache.wrap(connect(kind, default_query={"a": "b"}, **options))
        async for response in raw(client, extra_query={"c": ["d", "e"]}):
            shown.append((response.url, response.http_request.content))
    assert server.calls == 1
    assert shown[1] == shown[0]


# Genuine on a miss


async def raw(client: Any, **params: Any) -> AsyncIterator[Any]:
    yield await client.chat.completions.with_raw_response.create(**CHAT, **params)


async def streaming(client: Any, **params: Any) -> AsyncIterator[Any]:
    call = client.chat.completions.with_streaming_response.create(**CHAT, **params)
    async with call as response:
        yield response


@pytest.mark.parametrize("ask", [raw, streaming])
async def test_a_miss_shows_the_genuine_request_and_its_retries(
    server: OpenAIServer, connect: Connect, cache: PromptCache, ask: Any
) -> None:
    client = cache.wrap(connect(max_retries=2))
    server.fail(500, times=2, headers={"retry-after-ms": "1"})
    async for response in ask(client, extra_headers={"X-Mine": "1"}):
        assert response.retries_taken == 2
        sent, seen = response.http_request.headers, server.requests[-1].headers
        assert {name: sent[name] for name in sent if name.lower() in seen} == {
            name: seen[name] for name in sent if name.lower() in seen
        }
        assert {"authorization", "x-mine", "x-stainless-retry-count"} <= set(sent)
        assert response.http_request.url.path == "/v1/chat/completions"
        assert response.method == "POST"
    async for response in ask(client, extra_headers={"X-Mine": "1"}):
        assert response.retries_taken == 0
        sent = response.http_request.headers
        assert sent["x-mine"] == "1"
        assert sent["x-stainless-lang"] == "python"
        assert str(response.url) == f"{server.base_url}/chat/completions"
    assert server.calls == 3


@pytest.mark.parametrize("ask", [raw, streaming])
async def test_a_miss_shows_the_genuine_headers(
    server: OpenAIServer, bare: AsyncOpenAI, client: AsyncOpenAI, ask: Any
) -> None:
    server.answer = fixed
    shown: list[dict[str, str]] = []
    for one in (bare, client):
        async for response in ask(one):
            shown.append(dict(response.headers))
    reference, headers = shown
    for changing in ("date", "x-request-id", "x-ratelimit-remaining-requests"):
        assert headers.pop(changing)
        reference.pop(changing)
    assert headers.pop("cache-status").startswith("aiopromptcache; fwd=miss")
    assert headers == reference


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("ask", [raw, streaming])
async def test_a_miss_shows_the_time_it_took(
    server: OpenAIServer, client: AsyncOpenAI, ask: Any, stream: bool
) -> None:
    async for response in ask(client, stream=stream):
        parsed = response.parse() if ask is raw else await response.parse()
        if stream:
            async for _ in parsed:
                pass
        await response.http_response.aclose()
        assert response.elapsed > datetime.timedelta(0)


async def test_a_streaming_response_is_open_until_it_was_read(
    server: OpenAIServer, client: AsyncOpenAI
) -> None:
    for expected in (False, True):
        async for response in streaming(client):
            assert hit(response) is expected
            assert not response.is_closed
            lines = [line async for line in response.iter_lines()]
            assert "chat.completion" in "".join(lines)
            assert response.is_closed
            with pytest.raises(httpx2.StreamError):
                await response.http_response.aread()
        async for response in streaming(client):
            unread = response
        assert unread.is_closed
    assert server.calls == 1


async def test_what_is_left_unread_of_a_miss_is_stored_all_the_same(
    server: OpenAIServer, client: AsyncOpenAI
) -> None:
    async for response in streaming(client):
        assert not response.is_closed
    assert hit(await client.chat.completions.create(**CHAT))
    assert server.calls == 1


class Mine(CreateEmbeddingResponse):
    """A user's own model."""


class Chat(ChatCompletion):
    """A user's own model."""


async def test_a_raw_hit_parses_into_what_it_is_asked_for(
    server: OpenAIServer, bare: AsyncOpenAI, client: AsyncOpenAI
) -> None:
    server.answer = fixed
    parsed: dict[str, list[Any]] = {}
    for name, one in (("bare", bare), ("miss", client), ("hit", client)):
        vectors = await one.embeddings.with_raw_response.create(**EMBEDDING)
        chat = await one.chat.completions.with_raw_response.create(**CHAT)
        parsed[name] = [
            vectors.parse(to=Mine),
            vectors.parse(),
            chat.parse(to=Chat),
            chat.parse(to=dict),
            chat.parse(to=str),
            chat.parse(),
            chat.http_version,
            repr(chat),
            chat.is_closed,
        ]
    assert same(parsed["miss"], parsed["bare"])
    assert same(parsed["hit"], parsed["bare"])
    assert server.calls == 4


async def test_a_hit_takes_no_time(client: AsyncOpenAI, server: OpenAIServer) -> None:
    for ask in (raw, streaming):
        async for _ in raw(client):
            pass
        async for response in ask(client):
            assert response.elapsed == datetime.timedelta(0)
            assert response.request_id == "req_1"
    assert server.calls == 1


async def test_a_compressed_answer_is_stored_readable(cache: PromptCache) -> None:
    upstream = Upstream(gzip.compress(json.dumps(CHAT_BODY).encode()))
    upstream.headers["content-encoding"] = "gzip"
    async with upstream.client() as plain:
        client = cache.wrap(plain)
        for form in ("streaming_response", "streaming_response.json", "raw", "create", "post"):
            with cache.control(no_cache=True):
                reference = await FORMS[f"chat {form}"](plain)
                assert same(await FORMS[f"chat {form}"](client), reference)
            assert same(await FORMS[f"chat {form}"](client), reference)
    assert upstream.calls == 10
