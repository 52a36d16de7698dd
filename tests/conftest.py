"""What all tests share: event loops, and the check that a test leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from aiopromptcache import PromptCache
from aiopromptcache._flights import Flights
from aiopromptcache.testing import VirtualClock

BACKENDS = [
    pytest.param(("asyncio", {"debug": True}), id="asyncio-debug"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
]
if sys.version_info >= (3, 12):

    def eager_loop() -> asyncio.AbstractEventLoop:
        """A loop that runs each task at once until it first waits."""
        loop = asyncio.new_event_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        return loop

    BACKENDS.append(pytest.param(("asyncio", {"loop_factory": eager_loop}), id="eager"))


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """The event loops that every asynchronous test runs on."""
    return request.param


@pytest.fixture
def clock() -> VirtualClock:
    """Time that stands still."""
    return VirtualClock()


@pytest.fixture
async def cache(clock: VirtualClock) -> AsyncIterator[PromptCache]:
    """A cache with one memory tier, on virtual time."""
    async with PromptCache(clock=clock) as cache:
        yield cache


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """After each test: no flight in any cache, no exception that nobody looked at."""
    made: list[Flights[Any]] = []
    plain = Flights.__init__

    def remember(self: Flights[Any]) -> None:
        plain(self)
        made.append(self)

    monkeypatch.setattr(Flights, "__init__", remember)
    yield
    gc.collect()
    for flights in made:
        assert len(flights) == 0, "a flight was left over"


@pytest.fixture
async def no_task_left(anyio_backend: Any) -> AsyncIterator[None]:
    """After each asynchronous test: no task besides the runner's own."""
    yield
    for _ in range(10):
        left = [task for task in asyncio.all_tasks() if not _is_runner(task)]
        if not left:
            return
        await asyncio.sleep(0)
    pytest.fail(f"tasks were left over: {left}")


def _is_runner(task: asyncio.Task[Any]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return task is asyncio.current_task() or (code is not None and "anyio" in code.co_filename)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every asynchronous test is looked after."""
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.fixturenames.insert(0, "no_task_left")
