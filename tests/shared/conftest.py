"""One server for the tests of processes that act as one; those who break a server get their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis.asyncio
from servers import Server

PLAIN = pytest.param(("asyncio", {}), id="asyncio")
UVLOOP = pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop")


@pytest.fixture(params=[PLAIN, UVLOOP])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """These tests go by real time, so not in debug mode."""
    return request.param


@pytest.fixture(scope="session")
def valkey() -> Iterator[Server]:
    """A server that no test breaks."""
    with Server("valkey") as server:
        yield server


@pytest.fixture
def url(valkey: Server) -> str:
    """An empty database."""
    valkey.command("FLUSHALL")
    return valkey.url


@pytest.fixture
async def raw(url: str, anyio_backend: Any) -> AsyncIterator[redis.asyncio.Redis]:
    """A client of the test's own, to look at what is really there."""
    async with redis.asyncio.Redis.from_url(url) as client:
        yield client


@pytest.fixture(scope="module")
def breakable() -> Iterator[Server]:
    """A server for tests that break it; see `server`."""
    with Server("valkey") as server:
        yield server


@pytest.fixture
def server(breakable: Server) -> Server:
    """Whole and empty at the beginning of each test."""
    breakable.heal()
    return breakable
