"""Real servers, started on free loopback ports by the tests that want them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis
import redis.asyncio
from servers import Cluster, Sentinels, Server


@pytest.fixture(scope="session")
def valkey() -> Iterator[Server]:
    """One server for the session; tests use namespaces and flush it."""
    with Server("valkey") as server:
        yield server


@pytest.fixture
def url(valkey: Server) -> str:
    """An empty database."""
    with valkey.client() as client:
        client.flushall()
    return valkey.url


@pytest.fixture
async def raw(url: str, anyio_backend: Any) -> AsyncIterator[redis.asyncio.Redis]:
    """A client of the test's own, to look at what is really there."""
    async with redis.asyncio.Redis.from_url(url) as client:
        yield client


@pytest.fixture(scope="module", params=["valkey", "redis"])
def standalone(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of each kind, for tests that break it; see `server`."""
    with Server(request.param) as server:
        yield server


@pytest.fixture
def server(standalone: Server) -> Server:
    """A server for one test to break: it is whole and empty at the beginning of the next."""
    standalone.heal()
    return standalone


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three masters with a replica each. Tests leave it whole, if with other masters."""
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def sentinels() -> Iterator[Sentinels]:
    """A master and a replica that takes over."""
    with Sentinels() as sentinels:
        yield sentinels
