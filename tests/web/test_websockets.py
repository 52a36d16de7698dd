"""Websockets under both middlewares."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from fastapi import HTTPException

from aiopromptcache import PromptCache
from aiopromptcache import aiohttp as ours
from aiopromptcache.asgi import PromptCacheMiddleware

pytestmark = pytest.mark.anyio


def tenant(connection: Any) -> Any:
    return connection.headers.get("x-tenant")


async def _never(*_: Any) -> Any:
    raise AssertionError("not to be called")


async def test_a_websocket_without_a_partition_is_not_accepted() -> None:
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("it must not be asked")

    async def send(message: Any) -> None:
        sent.append(message)

    def refuse(connection: Any) -> str:
        raise HTTPException(403, "é" * 100)

    for partition in (tenant, refuse):
        middleware = PromptCacheMiddleware(app, PromptCache(), partition=partition)
        await middleware({"type": "websocket", "headers": []}, _never, send)
    assert [message["type"] for message in sent] == ["websocket.close"] * 2
    assert [message["reason"] for message in sent] == ["no partition for this request", "é" * 61]


async def test_a_websocket_calls_under_its_partition() -> None:
    cache, seen = PromptCache(), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(cache.current_policy.partition)

    middleware = PromptCacheMiddleware(app, cache, partition=tenant)
    await middleware({"type": "websocket", "headers": [(b"x-tenant", b"a")]}, _never, _never)
    assert seen == ["a"]
    assert cache.current_policy.partition == ""


async def test_what_a_handshake_says_of_caches_is_about_the_handshake() -> None:
    """Browsers send `Cache-Control: no-cache` with each."""
    cache, seen = PromptCache(), []

    async def by_asgi(scope: Any, receive: Any, send: Any) -> None:
        seen.append(cache.current_policy.no_cache)

    async def by_aiohttp(request: web.Request) -> web.StreamResponse:
        seen.append(cache.current_policy.no_cache)
        response = web.WebSocketResponse()
        await response.prepare(request)
        return response

    for kind in ("websocket", "http"):
        scope = {"type": kind, "headers": [(b"cache-control", b"no-cache")]}
        await PromptCacheMiddleware(by_asgi, cache, allow=["no-cache"])(scope, _never, _never)
    assert seen == [False, True]

    app = web.Application(middlewares=[ours.middleware(cache, allow=["no-cache"])])
    app.router.add_get("/", by_aiohttp)
    said = {"Cache-Control": "no-cache"}
    async with TestServer(app) as server, ClientSession() as http:
        async with http.ws_connect(server.make_url("/"), headers=said):
            pass
    assert seen == [False, True, False]
