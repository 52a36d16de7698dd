"""The examples under test: they ask the local upstream."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from aiopromptcache.testing import OpenAIServer


@pytest.fixture
async def upstream() -> AsyncIterator[OpenAIServer]:
    """The local server that answers for the model."""
    async with OpenAIServer() as server:
        yield server
