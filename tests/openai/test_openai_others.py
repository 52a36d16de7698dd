"""A wrapped client among others: tracing libraries, mocks, and whoever looks at its methods."""

from __future__ import annotations

import json

import pytest
from openai import AsyncOpenAI
from openai_calls import CHAT

from aiopromptcache.testing import OpenAIServer

pytestmark = pytest.mark.anyio


async def test_a_large_body_comes_in_pieces(client: AsyncOpenAI, server: OpenAIServer) -> None:
    text = "x" * 300_000
    server.answer = lambda _: text
    for _ in range(2):
        async with client.chat.completions.with_streaming_response.create(**CHAT) as response:
            pieces = [piece async for piece in response.iter_bytes()]
        assert json.loads(b"".join(pieces))["choices"][0]["message"]["content"] == text
        assert max(map(len, pieces)) <= 2**16
