"""The examples under test: they ask the local upstream."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from aiopromptcache.testing import OpenAIServer


@pytest.fixture
def anyio_backend() -> Any:
    """One kind of event loop: that the cache works on all is tested elsewhere."""
    return ("asyncio", {"debug": True})


@pytest.fixture
async def upstream() -> AsyncIterator[OpenAIServer]:
    """The local server that answers for the model."""
    async with OpenAIServer() as server:
        yield server
