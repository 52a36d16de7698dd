"""What a request's Cache-Control comes to, under both middlewares."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from aiopromptcache import NotCached, Policy, PromptCache
from aiopromptcache import aiohttp as ours
from aiopromptcache.asgi import PromptCacheMiddleware
from aiopromptcache.testing import VirtualClock

pytestmark = pytest.mark.anyio

Handler = Callable[[], Awaitable[Any]]
Get = Callable[[PromptCache, Handler, str], Awaitable[int]]


async def by_asgi(cache: PromptCache, handler: Handler, said: str) -> int:
    """The status of one request to an ASGI app that calls the handler."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await handler()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    transport = httpx.ASGITransport(PromptCacheMiddleware(app, cache), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as http:
        return (await http.get("/", headers={"Cache-Control": said})).status_code


async def by_aiohttp(cache: PromptCache, handler: Handler, said: str) -> int:
    """The status of one request to an aiohttp app that calls the handler."""

    async def handle(request: web.Request) -> web.Response:
        await handler()
        return web.Response()

    app = web.Application(middlewares=[ours.middleware(cache)])
    app.router.add_get("/", handle)
    async with TestServer(app) as server, ClientSession() as http:
        async with http.get(server.make_url("/"), headers={"Cache-Control": said}) as response:
            return response.status


@pytest.mark.parametrize("get", [by_asgi, by_aiohttp])
@pytest.mark.parametrize("said", ["max-age=0", "max-age=3600", ""])
async def test_nobody_gets_older_answers_than_the_app_accepts(
    get: Get, said: str, clock: VirtualClock
) -> None:
    cache = PromptCache(policy=Policy(max_age=10), clock=clock)

    async def made() -> int:
        return 1

    async def handler() -> None:
        await cache.get_or_create("key", made)

    assert await get(cache, handler, said) == 200
    clock.advance(9)
    assert await get(cache, handler, said) == 200
    assert cache.stats.upstream_calls == 1
    clock.advance(2)
    assert await get(cache, handler, said) == 200
    assert cache.stats.upstream_calls == 2


@pytest.mark.parametrize("get", [by_asgi, by_aiohttp])
@pytest.mark.parametrize(("also", "code"), [(NotCached("x"), 504), (ValueError(), 500)])
async def test_nothing_stored_in_several_tasks_is_504_too(
    get: Get, also: Exception, code: int
) -> None:
    cache = PromptCache()

    async def made() -> int:
        raise AssertionError

    async def asks() -> None:
        await asyncio.sleep(0)  # until both are begun, by a loop that begins them at once too
        await cache.get_or_create("key", made)

    async def fails() -> None:
        await asyncio.sleep(0)
        raise also

    async def handler() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asks())
            tasks.create_task(fails())

    assert await get(cache, handler, "only-if-cached") == code


async def test_a_handler_that_forgets_to_answer_is_told_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def forgetful(request: web.Request) -> Any:
        return None

    app = web.Application(middlewares=[ours.middleware(PromptCache())])
    app.router.add_get("/", forgetful)
    async with TestServer(app) as server, ClientSession() as http:
        with caplog.at_level(logging.ERROR):
            async with http.get(server.make_url("/")) as response:
                assert response.status == 500
    assert caplog.messages == ["Missing return statement on request handler"]
