"""A local upstream, an app's own registry and providers, and caches that are watched by them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from observed import App
from prometheus_client import CollectorRegistry
from servers import Server

from aiopromptcache.testing import OpenAIServer


@pytest.fixture
async def server() -> AsyncIterator[OpenAIServer]:
    """The local upstream."""
    async with OpenAIServer() as server:
        yield server


@pytest.fixture
def registry() -> CollectorRegistry:
    """A registry of the test's own."""
    return CollectorRegistry()


@pytest.fixture
def app() -> Iterator[App]:
    """OpenTelemetry's providers, and what they were given."""
    app = App()
    yield app
    app.shutdown()


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
