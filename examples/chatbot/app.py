"""The web app: a page, a stream of answers, and each user's last turns.

Who may share an answer? What the model is asked is the system prompt and the whole conversation,
and nothing else: no tool, no document, nothing about the user. So whoever asks the same gets the
same answer, also while it is still being written. A user who wants an answer of their own asks for
it (`X-Private: 1`), and gets a partition of their own. Where answers depend on more than the
prompt, make that the rule and not the exception.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from _offline import tiers
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from openai import APIConnectionError, AsyncOpenAI, OpenAIError, RateLimitError
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import BaseModel, StringConstraints
from starlette.requests import HTTPConnection

from aiopromptcache import Policy, PromptCache, cache_status
from aiopromptcache.asgi import PromptCacheMiddleware, get_cache, wrapped
from aiopromptcache.dashboard import Dashboard
from aiopromptcache.metrics.prometheus import PrometheusMetrics

from .history import Badge, History, Turn, remember_time, saving

PAGE = Path(__file__).parent / "page"
SYSTEM = "You are a friendly assistant. Answer in a few short sentences."
COOKIE = "chatbot"
COOKIE_LIFE = 30 * 86_400
USER = re.compile(r"[0-9a-f]{32}")
LONGEST = 2_000
"""Characters of a question."""
SAFE = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""The page fetches nothing from elsewhere, and the browser sees to it."""


class Question(BaseModel):
    """What a user sends."""

    text: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=LONGEST)]


def create_app() -> FastAPI:
    """The app of one worker, from the environment: REDIS_URL, OPENAI_MODEL, and the SDK's own."""
    cache = PromptCache(*tiers(), policy=Policy(ttl=3600), namespace="chatbot")
    return build_app(AsyncOpenAI(), cache, os.environ.get("OPENAI_MODEL", "gpt-4o-mini"))


def partition_of(connection: HTTPConnection) -> str:
    """What a request's answers are shared with; "" refuses it: private, and nobody's."""
    if connection.headers.get("x-private") != "1":
        return "everyone"
    user = _user_in(connection)
    return f"user {user}" if user else ""


def _user_in(connection: HTTPConnection) -> str | None:
    found = connection.cookies.get(COOKIE, "")
    return found if USER.fullmatch(found) else None


async def history_of(request: Request) -> History:
    """The history of the user who asks."""
    user = _user_in(request)
    if user is None:
        raise HTTPException(403, "open the page first: it says who you are")
    return History(get_cache(request), user)


Past = Annotated[History, Depends(history_of)]


def build_app(client: AsyncOpenAI, cache: PromptCache, model: str) -> FastAPI:
    """The app over a client of the model, which it closes, and a cache, which it closes too."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with client:
            yield

    app = FastAPI(title="Chatbot", lifespan=lifespan, openapi_url=None)
    app.add_middleware(PromptCacheMiddleware, cache=cache, partition=partition_of)
    cached: Any = Depends(wrapped(client))

    @app.get("/")
    async def page(request: Request) -> FileResponse:
        response = FileResponse(PAGE / "index.html", headers={**SAFE, "Cache-Control": "no-cache"})
        user = _user_in(request) or secrets.token_hex(16)
        response.set_cookie(COOKIE, user, COOKIE_LIFE, httponly=True, samesite="lax")
        return response

    @app.get("/api/history")
    async def history(past: Past) -> list[Turn]:
        return await past.read()

    @app.delete("/api/history", status_code=204)
    async def forget(past: Past) -> None:
        await past.clear()

    @app.post("/api/ask")
    async def ask(question: Question, past: Past, client: AsyncOpenAI = cached) -> Response:
        began = time.perf_counter()
        messages = prompt(await past.read(), question.text)
        try:
            stream = await client.chat.completions.create(
                model=model,
                messages=messages,
                stream=True,
                stream_options={"include_usage": True},
            )
        except OpenAIError as error:
            return JSONResponse({"error": kindly(error)}, 502)
        lines = answer(stream, question.text, past, cache, began)
        return StreamingResponse(lines, media_type="application/x-ndjson")

    @app.exception_handler(RequestValidationError)
    async def refused(*_: object) -> Response:
        """Without what was sent, which may be large, or no text that could be sent back."""
        return JSONResponse({"error": f"A question has 1 to {LONGEST:,} characters."}, 422)

    registry = CollectorRegistry()
    PrometheusMetrics(cache, registry=registry)

    @app.get("/metrics")
    def metrics() -> Response:
        """For Prometheus: what the worker that answers has counted."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    app.mount("/cache", Dashboard(cache))
    app.mount("/", StaticFiles(directory=PAGE), name="page")
    return app


def prompt(turns: list[Turn], text: str) -> list[Any]:
    """What the model is asked, and so what the answer's key is made of."""
    messages = [{"role": "system", "content": SYSTEM}]
    for turn in turns:
        messages.append({"role": "user", "content": turn.question})
        messages.append({"role": "assistant", "content": turn.answer})
    return [*messages, {"role": "user", "content": text}]


async def answer(
    stream: Any, question: str, past: History, cache: PromptCache, began: float
) -> AsyncIterator[bytes]:
    """Lines of JSON: {"text": …} for each piece, at the end {"done": …} or {"error": …}."""
    text, tokens = "", 0
    try:
        async with stream:  # whoever goes leaves the flight, and only the last one ends it
            async for chunk in stream:
                tokens = chunk.usage.total_tokens if chunk.usage else tokens
                if chunk.choices and (piece := chunk.choices[0].delta.content):
                    text += piece
                    yield line(text=piece)
    except OpenAIError as error:
        yield line(error=kindly(error))
        return
    badge = await badge_of(stream, cache, tokens, time.perf_counter() - began)
    await past.add(Turn(question=question, answer=text, badge=badge))
    saved = cache.stats
    total = {"tokens": saved.tokens_saved.total, "cost": saved.cost_saved, "worker": os.getpid()}
    yield line(done=badge.model_dump(), total=total)


async def badge_of(stream: Any, cache: PromptCache, tokens: int, seconds: float) -> Badge:
    """How an answer came about. A stream's status is final once it has ended."""
    status = cache_status(stream)
    assert status is not None
    badge = Badge(kind="fresh", tokens=tokens, seconds=seconds)
    if status.collapsed:
        return badge.model_copy(update={"kind": "shared", "saved_tokens": tokens})
    if not status.hit:
        await remember_time(cache, status.key, seconds)
        return badge
    saved = {"saved_tokens": tokens, "saved_seconds": await saving(cache, status.key, seconds)}
    return badge.model_copy(update={"kind": "hit", "tier": status.tier, **saved})


def line(**fields: Any) -> bytes:
    """One line of the stream."""
    return json.dumps(fields).encode() + b"\n"


def kindly(error: OpenAIError) -> str:
    """What a user is told of a failure; the rest is for the log."""
    if isinstance(error, RateLimitError):
        return "The model has too much to do right now."
    if isinstance(error, APIConnectionError):
        return "The model cannot be reached right now."
    return "The model could not answer this."
