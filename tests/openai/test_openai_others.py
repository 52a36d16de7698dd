"""A wrapped client among others: tracing libraries, mocks, and whoever looks at its methods."""

from __future__ import annotations

import inspect
import json
from typing import Any
from unittest.mock import AsyncMock

import pytest
from openai import AsyncOpenAI
from openai.resources.chat.completions import AsyncCompletions
from openai_calls import CHAT, EMBEDDING, user

from aiopromptcache.testing import OpenAIServer

pytestmark = pytest.mark.anyio


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
