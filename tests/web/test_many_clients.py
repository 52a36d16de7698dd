"""A crowd of clients that disconnect amid their streams: nothing of them is left."""

from __future__ import annotations

import asyncio
import gc
import json
import resource
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from chatbot.app import COOKIE, build_app
from web_server import serving

from aiopromptcache import PromptCache
from aiopromptcache._streams import Reader
from aiopromptcache.testing import OpenAIServer

pytestmark = pytest.mark.anyio

CLIENTS = 1_000
"""So many where the machine allows the files: both ends of each connection are ours."""
PROMPTS = 20
OTHER_FILES = 500


@pytest.fixture
def anyio_backend() -> Any:
    """Not in debug mode, which would take a minute for so many."""
    return ("asyncio", {})


@pytest.fixture
def count() -> Iterator[int]:
    """How many clients there are."""
    soft, hard = before = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard if hard != resource.RLIM_INFINITY else 2 * CLIENTS + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    yield min(CLIENTS, (most - OTHER_FILES) // 2)
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Client:
    """A client over a connection of its own."""

    def __init__(self, number: int) -> None:
        self._number = number

    async def begin(self, host: str, port: int) -> None:
        """Ask, and read until the answer has begun."""
        self._reader, self._writer = await asyncio.open_connection(host, port)
        body = json.dumps({"text": f"Tell me about number {self._number % PROMPTS}"}).encode()
        head = (
            f"POST /api/ask HTTP/1.1\r\nHost: {host}\r\nCookie: {COOKIE}={self._number:032x}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        await self._reader.readuntil(b'{"text": "')

    def go(self) -> None:
        """Disconnect without a word."""
        self._writer.transport.abort()


async def settled(what: str, condition: Callable[[], bool]) -> None:
    """Wait until something holds."""
    try:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within 20 s: {what}") from None


def readers() -> int:
    return sum(isinstance(each, Reader) and not each.closed for each in gc.get_objects())


async def test_clients_that_disconnect_leave_nothing(upstream: OpenAIServer, count: int) -> None:
    cache = PromptCache()
    flights = cache._engine.flights
    async with serving(build_app(upstream.client(), cache, "m")) as http:
        where = urlsplit(str(http.base_url))
        await http.get("/")
        before = len(asyncio.all_tasks())
        upstream.hold_after(3)
        clients = [Client(number) for number in range(count)]
        async with asyncio.TaskGroup() as asking:
            for client in clients:
                asking.create_task(client.begin(str(where.hostname), int(where.port or 0)))
        assert upstream.calls == len(flights) == PROMPTS
        assert readers() == count

        for client in clients[PROMPTS:]:
            client.go()
        await settled("the first have left", lambda: readers() == PROMPTS)
        assert upstream.disconnects == 0
        assert len(flights) == PROMPTS

        for client in clients[:PROMPTS]:
            client.go()
        await upstream.wait_disconnects(PROMPTS, timeout=20)
        await settled("no flight is left", lambda: len(flights) == 0)
        await settled("no task is left", lambda: len(asyncio.all_tasks()) <= before)
        assert readers() == 0
        upstream.release()
        assert cache.stats.stores == 0
        assert upstream.calls == PROMPTS
