"""A server, the command line pointed at it, and an API."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from cli_tools import Tool, Upstream
from servers import Server


@pytest.fixture(autouse=True)
def quick_collection() -> None:
    """Every test ends with a full collection: let it pass over what was there before."""
    gc.freeze()


@pytest.fixture(scope="session")
def valkey() -> Iterator[Server]:
    """A server that no test breaks."""
    with Server("valkey") as server:
        yield server


@pytest.fixture
def url(valkey: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty database, which the environment names."""
    valkey.command("FLUSHALL")
    for name in ("URL", "NAMESPACE", "PREFIX", "ENCRYPTION_KEY"):
        monkeypatch.delenv(f"AIOPROMPTCACHE_{name}", raising=False)
    monkeypatch.setenv("REDIS_URL", valkey.url)
    return valkey.url


@pytest.fixture
def tool(url: str) -> Tool:
    """The tool, pointed at the empty database."""
    return Tool()


@pytest.fixture(scope="session")
def _upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    upstream.start()
    yield upstream
    upstream.stop()


@pytest.fixture
def upstream(_upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> Upstream:
    """An API without past, which the environment names."""
    _upstream.do(_upstream.server.reset)
    monkeypatch.setenv("OPENAI_BASE_URL", _upstream.server.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "-")
    return _upstream
