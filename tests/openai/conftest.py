"""Clients of the wrapper's tests: bare and wrapped, against one local server."""

from __future__ import annotations

import gc
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from openai import AsyncAzureOpenAI, AsyncOpenAI, DefaultAsyncHttpxClient

from aiopromptcache import CacheEvent, PromptCache
from aiopromptcache.testing import OpenAIServer, VirtualClock

Connect = Callable[..., AsyncOpenAI]


@pytest.fixture(autouse=True)
def quick_collection() -> None:
    """Every test ends with a full collection: let it pass over what was there before."""
    gc.freeze()


@pytest.fixture(scope="session")
def tls() -> ssl.SSLContext:
    """One for all clients: making one takes longer than most tests."""
    return ssl.create_default_context()


@pytest.fixture
async def server() -> AsyncIterator[OpenAIServer]:
    """The local server."""
    async with OpenAIServer() as server:
        yield server


@pytest.fixture
async def connect(server: OpenAIServer, tls: ssl.SSLContext) -> AsyncIterator[Connect]:
    """Makes clients of the server, of any class; closes them in the end."""
    made: list[AsyncOpenAI] = []

    def connect(kind: type[AsyncOpenAI] = AsyncOpenAI, **options: Any) -> AsyncOpenAI:
        place: dict[str, Any] = (
            {"azure_endpoint": server.origin, "api_version": "2024-10-21"}
            if issubclass(kind, AsyncAzureOpenAI)
            else {"base_url": server.base_url}
        )
        if "azure_ad_token_provider" not in options:
            place["api_key"] = "test"
        http = DefaultAsyncHttpxClient(verify=tls)
        made.append(kind(**{**place, "max_retries": 0, "http_client": http, **options}))
        return made[-1]

    yield connect
    for client in made:
        await client.close()


@pytest.fixture
def bare(connect: Connect) -> AsyncOpenAI:
    """A client without cache."""
    return connect()


@pytest.fixture
def client(connect: Connect, cache: PromptCache) -> AsyncOpenAI:
    """A client with the test's cache."""
    return cache.wrap(connect())


@pytest.fixture
def events() -> list[CacheEvent]:
    """What the caches of `heard` told, once they are closed or drained."""
    return []


@pytest.fixture
async def heard(clock: VirtualClock, events: list[CacheEvent]) -> AsyncIterator[PromptCache]:
    """A cache that tells its `events`."""
    async with PromptCache(clock=clock, hooks=[events.append]) as cache:
        yield cache
