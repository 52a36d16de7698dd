"""The desk as a web service, and its page."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import openai
from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from aiopromptcache import PromptCache
from aiopromptcache.aiohttp import mount_dashboard, setup, wrap
from aiopromptcache.dashboard import Dashboard
from aiopromptcache.metrics.prometheus import PrometheusMetrics

from .desk import Desk
from .documents import MAX_BYTES, Document, Library, Refused

PAGE = Path(__file__).parent / "page"
_FILES = {"/": "index.html", "/desk.css": "desk.css", "/desk.js": "desk.js"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
_desk = web.AppKey("desk", Desk)
_registry = web.AppKey("registry", CollectorRegistry)
_log = logging.getLogger("document_desk")


def make_app(
    cache: PromptCache, client: openai.AsyncOpenAI, library: Library, *, model: str = "gpt-4o-mini"
) -> web.Application:
    """The service. It closes the cache with itself, and leaves the client open.

    Everybody may read every document here, so answers are shared by all and there is no
    `partition`. Where readers differ, give `setup` one.
    """
    app = web.Application(client_max_size=MAX_BYTES, middlewares=[_errors])
    setup(app, cache)
    app[_desk] = desk = Desk(cache, wrap(app, client), library, model)
    app.cleanup_ctx.append(desk.closed_at_the_end)
    app.on_response_prepare.append(_headers)
    app.add_routes(
        [
            web.get("/documents", _list),
            web.get("/documents/{name}", _read),
            web.put("/documents/{name}", _save),
            web.delete("/documents/{name}", _remove),
            web.post("/documents/{name}/questions", _ask),
            *[web.get(path, _file) for path in _FILES],
            web.get("/metrics", _metrics),
        ]
    )
    mount_dashboard(app, "/cache", Dashboard(cache))
    app[_registry] = CollectorRegistry()
    PrometheusMetrics(cache, registry=app[_registry])
    return app


async def _metrics(request: web.Request) -> web.Response:
    """For Prometheus: what the worker that answers has counted."""
    body, kind = generate_latest(request.app[_registry]), CONTENT_TYPE_LATEST
    return web.Response(body=body, headers={"Content-Type": kind})


async def _list(request: web.Request) -> web.Response:
    return web.json_response({"documents": await request.app[_desk].names()})


async def _read(request: web.Request) -> web.Response:
    return _told(await request.app[_desk].read(request.match_info["name"]))


async def _save(request: web.Request) -> web.Response:
    """PUT of the text itself, so that `curl -T notes.txt` is an upload.

    With `If-None-Match: *` only a new document, with `If-Match` only what the writer has seen.
    """
    seen = request.headers.get("If-Match")
    expected = "" if request.headers.get("If-None-Match") == "*" else seen and seen.strip('"')
    name, data = request.match_info["name"], await request.read()
    document, dropped = await request.app[_desk].save(name, data, expected)
    return _told(document, dropped=dropped)


async def _remove(request: web.Request) -> web.Response:
    dropped = await request.app[_desk].remove(request.match_info["name"])
    return web.json_response({"dropped": dropped})


async def _ask(request: web.Request) -> web.Response:
    question = await _question(request)
    reply = await request.app[_desk].ask(request.match_info["name"], question)
    return web.json_response(dataclasses.asdict(reply))


async def _question(request: web.Request) -> str:
    if request.content_type != "application/json":  # a foreign page cannot send it unasked
        raise Refused(415, 'Send JSON: {"question": "..."}.')
    try:
        body = await request.json()
    except (ValueError, LookupError, RecursionError):  # an unknown charset; a thousand brackets
        raise Refused(400, "This is no JSON.") from None
    question = body.get("question") if isinstance(body, dict) else None
    if not isinstance(question, str):
        raise Refused(400, 'There is no question: send {"question": "..."}.')
    return question


async def _file(request: web.Request) -> web.StreamResponse:
    return web.FileResponse(PAGE / _FILES[request.path], headers={"Cache-Control": "no-cache"})


def _told(document: Document, **more: Any) -> web.Response:
    version = document.version
    body = {"name": document.name, "text": document.text, "version": version, **more}
    return web.json_response(body, headers={"ETag": f'"{version}"', "Cache-Control": "no-cache"})


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error as `{"error": "what is wrong"}`."""
    try:
        return await handler(request)
    except Refused as error:
        return _error(error.status, error.message)
    except web.HTTPRequestEntityTooLarge:
        return _error(413, f"A document has at most {MAX_BYTES:,} bytes.")
    except web.HTTPException as error:
        if error.status < 400:
            raise
        response = _error(error.status, error.text or error.reason)
        for name in set(error.headers) & {"Allow", "Cache-Status"}:
            response.headers[name] = error.headers[name]
        return response
    except openai.OpenAIError as error:
        _log.warning("the model gave no answer: %s", type(error).__name__)
        return _error(502, "The model gave no answer. Ask again in a moment.")


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)


async def _headers(request: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():  # the dashboard has its own
        response.headers.setdefault(name, value)
