"""The aiohttp middleware on aiohttp's own server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from openai import AsyncOpenAI
from web_calls import answer, arguments

from aiopromptcache import ConfigurationError, PromptCache
from aiopromptcache import aiohttp as ours
from aiopromptcache.testing import OpenAIServer

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def serving(
    client: AsyncOpenAI, cache: PromptCache, **options: Any
) -> AsyncIterator[aiohttp.ClientSession]:
    """An app that makes calls; gives an HTTP client of it."""
    app = web.Application()
    ours.setup(app, cache, **options)
    cached = ours.wrap(app, client)

    async def ask(request: web.Request) -> web.Response:
        return web.json_response(await answer(cached, request.query["q"]))

    async def none(request: web.Request) -> web.Response:
        assert ours.get_cache(request) is cache
        raise web.HTTPNotFound(text="nothing asked")

    async def refused(request: web.Request) -> web.Response:
        await answer(cached, request.query["q"])
        raise web.HTTPConflict

    async def stream(request: web.Request) -> web.StreamResponse:
        chunks = await cached.chat.completions.create(**arguments(request.query["q"]), stream=True)
        response = web.StreamResponse()
        await response.prepare(request)
        async for chunk in chunks:
            text = chunk.choices[0].delta.content if chunk.choices else None
            await response.write((text or "").encode())
        return response

    async def late(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write((await answer(cached, request.query["q"])).encode())
        return response

    app.add_routes([web.get(f"/{f.__name__}", f) for f in (ask, none, refused, stream, late)])
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        port = runner.addresses[0][1]
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            yield http
    finally:
        await runner.cleanup()


async def get(http: aiohttp.ClientSession, path: str, **headers: str) -> tuple[int, str | None]:
    """A response's code and Cache-Status."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    async with http.get(path, headers=headers) as response:
        await response.read()
        return response.status, response.headers.get("Cache-Status")


async def test_the_response_sums_up_its_calls(client: AsyncOpenAI, upstream: OpenAIServer) -> None:
    async with serving(client, PromptCache()) as http:
        assert await get(http, "/none") == (404, None)
        assert await get(http, "/ask?q=1") == (200, "aiopromptcache; fwd=miss; stored")
        assert await get(http, "/ask?q=1") == (200, "aiopromptcache; hit")
        assert await get(http, "/refused?q=1") == (409, "aiopromptcache; hit")
        assert await get(http, "/stream?q=1") == (200, "aiopromptcache; hit")
        assert upstream.calls == 1


async def test_strangers_and_tenants(client: AsyncOpenAI, upstream: OpenAIServer) -> None:
    def tenant(request: web.Request) -> str:
        return request.headers["X-Tenant"]

    async with serving(client, PromptCache(), partition=tenant) as http:
        assert await get(http, "/ask?q=1") == (500, None)
        assert await get(http, "/ask?q=1", X_Tenant="") == (403, None)
        for name in ("a", "b"):
            for said in ("no-cache", "no-store, max-age=0"):
                assert (await get(http, "/ask?q=1", X_Tenant=name, Cache_Control=said))[0] == 200
        assert upstream.calls == 2
        alone = {"X_Tenant": "c", "Cache_Control": "only-if-cached"}
        code, said = await get(http, "/ask?q=1", **alone)
        assert (code, said) == (504, "aiopromptcache; fwd=miss")
        assert (await get(http, "/ask?q=1", **{**alone, "X_Tenant": "a"}))[0] == 200
        assert upstream.calls == 2


async def test_a_begun_answer_breaks_off_where_there_is_nothing(client: AsyncOpenAI) -> None:
    async with serving(client, PromptCache()) as http:
        headers = {"Cache-Control": "only-if-cached"}
        async with http.get("/late?q=1", headers=headers) as response:
            assert response.status == 200
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()


async def test_a_tenant_may_have_any_bytes_for_a_name(
    client: AsyncOpenAI, upstream: OpenAIServer
) -> None:
    def tenant(request: web.Request) -> str:
        return request.headers["X-Tenant"]

    async with serving(client, PromptCache(), partition=tenant) as http:
        for name in ("\xff", "\xfe", "\xff"):
            reader, writer = await asyncio.open_connection(*_address(http))
            head = f"GET /ask?q=1 HTTP/1.0\r\nHost: x\r\nX-Tenant: {name}\r\n\r\n"
            writer.write(head.encode("latin-1"))
            assert b" 200 OK" in await reader.readline()
            await reader.read()
            writer.close()
        assert upstream.calls == 2


def _address(http: aiohttp.ClientSession) -> tuple[str, int]:
    url = http._base_url
    assert url is not None
    return str(url.host), int(url.port or 0)


async def test_a_partition_may_refuse_with_an_http_error(client: AsyncOpenAI) -> None:
    async def refuse(request: web.Request) -> str:
        raise web.HTTPUnauthorized

    async with serving(client, PromptCache(), partition=refuse) as http:
        assert (await get(http, "/ask?q=1"))[0] == 401


async def test_a_client_that_goes_leaves_its_flight(
    client: AsyncOpenAI, upstream: OpenAIServer
) -> None:
    async with serving(client, cache := PromptCache()) as http:
        upstream.hold()
        asking = asyncio.create_task(get(http, "/ask?q=1"))
        await upstream.wait_active(1)
        asking.cancel()
        await upstream.wait_disconnects(1)
        while len(cache._engine.flights):
            await asyncio.sleep(0)
        upstream.release()
        assert (await get(http, "/ask?q=1"))[0] == 200


async def test_an_app_inside_another_tells_once(client: AsyncOpenAI) -> None:
    cache, inner, outer = PromptCache(), web.Application(), web.Application()

    async def ask(request: web.Request) -> web.StreamResponse:
        await ours.wrap(inner, client).chat.completions.create(**arguments("1"))
        response = web.StreamResponse()
        await response.prepare(request)
        return response

    inner.router.add_get("/ask", ask)
    for app in (inner, outer):
        ours.setup(app, cache)
    outer.add_subapp("/in", inner)
    runner = web.AppRunner(outer, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/in/ask"
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        told = response.headers.getall("Cache-Status")
    assert told == ["aiopromptcache; fwd=miss; stored"]
    await runner.cleanup()


async def test_the_cache_is_closed_with_the_app(client: AsyncOpenAI) -> None:
    closed: list[bool] = []

    class Told(PromptCache):
        async def aclose(self) -> None:
            closed.append(True)
            await super().aclose()

    async with serving(client, Told()):
        assert not closed
    assert closed == [True]


async def test_an_app_without_setup_is_told(client: AsyncOpenAI) -> None:
    with pytest.raises(ConfigurationError, match="setup"):
        ours.wrap(web.Application(), client)
