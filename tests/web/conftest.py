"""Web apps under test: they ask the local upstream."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from openai import AsyncOpenAI

from aiopromptcache.testing import OpenAIServer


@pytest.fixture
async def upstream() -> AsyncIterator[OpenAIServer]:
    """The local server that answers for the model."""
    async with OpenAIServer() as server:
        yield server


@pytest.fixture
async def client(upstream: OpenAIServer) -> AsyncIterator[AsyncOpenAI]:
    """A client of it, bare."""
    async with AsyncOpenAI(base_url=upstream.base_url, api_key="-", max_retries=0) as client:
        yield client
