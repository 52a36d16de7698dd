"""The ASGI middleware in an app that has others."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from fastapi import Depends, FastAPI, Request, Response
from openai import AsyncOpenAI
from web_calls import answer
from web_server import serving

from aiopromptcache import PromptCache
from aiopromptcache.asgi import PromptCacheMiddleware, wrapped
from aiopromptcache.testing import OpenAIServer

pytestmark = pytest.mark.anyio


async def test_a_client_that_goes_is_no_error_of_those_around(
    client: AsyncOpenAI, upstream: OpenAIServer, caplog: pytest.LogCaptureFixture
) -> None:
    """`@app.middleware("http")` is a BaseHTTPMiddleware, which raises where it gets no response."""
    app, seen = FastAPI(), asyncio.Event()
    codes: list[int] = []
    app.add_middleware(PromptCacheMiddleware, cache=PromptCache())
    given: Any = Depends(wrapped(client))

    @app.middleware("http")
    async def around(request: Request, call_next: Any) -> Response:
        try:
            response: Response = await call_next(request)
            codes.append(response.status_code)
        finally:
            seen.set()
        return response

    @app.get("/ask")
    async def ask(q: str, client: AsyncOpenAI = given) -> str:
        return await answer(client, q)

    async with serving(app) as http:
        upstream.hold()
        asking = asyncio.create_task(http.get("/ask?q=1"))
        await upstream.wait_active(1)
        asking.cancel()
        with caplog.at_level(logging.ERROR):
            await seen.wait()
        upstream.release()
    assert codes == [499]
    assert "Exception in ASGI application" not in caplog.text
