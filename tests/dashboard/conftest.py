"""A local OpenAI server, a Valkey, and apps with a dashboard."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from servers import Cluster, Server

from aiopromptcache.testing import OpenAIServer

PLAIN = pytest.param(("asyncio", {"debug": True}), id="asyncio-debug")
UVLOOP = pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop")


@pytest.fixture(params=[PLAIN, UVLOOP])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Two kinds of event loop: what is under test is the same on all."""
    return request.param


@pytest.fixture
async def upstream(anyio_backend: Any) -> AsyncIterator[OpenAIServer]:
    """What counts the calls that were really made."""
    async with OpenAIServer() as server:
        yield server


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


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three masters with a replica each."""
    with Cluster() as cluster:
        yield cluster
