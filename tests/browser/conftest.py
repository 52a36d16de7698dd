"""Pages under test, in a real Chromium: one process for all tests, users of its own for each."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from chromium import NAMES, Browser, Chromium, find_chromium


@pytest.fixture
def anyio_backend() -> Any:
    """One kind of event loop: what is under test here is in the browser, and in other processes."""
    return ("asyncio", {"debug": True})


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """The browser's process."""
    path = find_chromium()
    if path is None:
        said = f"no Chromium on the PATH ({', '.join(NAMES)}): install one to run this"
        if os.environ.get("CI") == "true":
            pytest.fail(said)
        pytest.skip(said)
    started = Chromium(path, tmp_path_factory.mktemp("chromium"))
    try:
        yield started.start()
    finally:
        started.stop()


@pytest.fixture
async def browser(chromium: Chromium) -> AsyncIterator[Browser]:
    """A connection to it, with new users."""
    async with Browser(chromium) as browser:
        yield browser
