"""`Dashboard`: the page and its data as a small ASGI app. It only ever reads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from importlib.resources import files
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote

from .._cache import PromptCache
from .._errors import ConfigurationError
from ._readings import plain
from ._view import view
from ._watch import Watch

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_FILES = (
    "index.html", "icon.svg", "dashboard.css",
    "dashboard.js", "format.js", "plot.js", "series.js", "table.js",
)  # fmt: skip
_SAFE = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Response(NamedTuple):
    """What a request is answered with."""

    status: int
    headers: dict[str, str]
    body: bytes


class Dashboard:
    """A page that shows what caches do, and its data, as an ASGI app.

    `app.mount("/cache", Dashboard(cache))` in FastAPI or Starlette;
    `uvicorn.run(Dashboard(cache), port=8001)` alone, in the loop of the app that uses the cache;
    `aiopromptcache.aiohttp.mount_dashboard` in an aiohttp app. It answers whoever can reach it:
    put it behind what guards your other internal pages.

    It only reads (GET and HEAD; all else is 405), and shows no prompt, answer, key, tag or tenant;
    models, tiers, namespaces and machines are shown by name. Nothing is sampled before a cache is
    first used or looked at. Where a cache has a `RedisTier`, all processes with a dashboard or
    `share` are shown together, or one of them.

    `ConfigurationError` for what is no `PromptCache`, and for none at all.
    """

    def __init__(self, *caches: PromptCache) -> None:
        if not caches:
            raise ConfigurationError("Dashboard(): expected at least one PromptCache")
        self._watches = [_watched(cache) for cache in caches]
        self._names = _names(caches)
        for watch in self._watches:
            watch.hears = True
        page = files(__name__.rpartition(".")[0]) / "page"
        self._files = {name: (page / name).read_bytes() for name in _FILES}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "http":
            query = scope.get("query_string", b"").decode("latin-1")
            answer = await self.respond(scope["method"], scope["path"], _route(scope), query)
            await _send(send, answer, whole=scope["method"] != "HEAD")

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """Where it runs alone; a mounted app is not told."""
        message = await receive()
        for watch in self._watches:
            watch.begin()
        await send({"type": f"{message['type']}.complete"})
        message = await receive()
        for watch in self._watches:
            await watch.aclose()
            watch.arm()
        await send({"type": f"{message['type']}.complete"})

    async def respond(self, method: str, path: str, route: str, query: str) -> Response:
        """The answer to one request; `route` is the part of its path below where this is mounted.

        All paths are decoded, the query is not.
        """
        if method not in ("GET", "HEAD"):
            return _text(405, "read only", allow="GET, HEAD")
        if route == "":  # relative addresses need the slash
            return _text(307, "", location=quote(path.rpartition("/")[2]) + "/")
        if route == "/data.json":
            return _ok("application/json", await self._data(query))
        name = "index.html" if route == "/" else route[1:]
        if name not in self._files:
            return _text(404, "not found")
        kind = _TYPES[name.rpartition(".")[2]]
        return _ok(f"{kind}; charset=utf-8", self._files[name])

    async def _data(self, query: str) -> bytes:
        wanted: Mapping[str, list[str]] = {}
        with suppress(ValueError):  # more fields than anybody needs
            wanted = parse_qs(query[:1_000], max_num_fields=10)
        numbers = {str(number): number for number in range(len(self._watches))}
        number = numbers.get(wanted.get("cache", ["0"])[0], 0)
        return await view(self._watches[number], self._names, number, wanted)


def share(cache: PromptCache) -> None:
    """Let dashboards of other processes, and `aiopromptcache stats`, count this one in.

    For processes without a `Dashboard` of their own, such as workers of a queue. What is told
    through the cache's `RedisTier` are counters, nothing of what is cached; see `Dashboard`.
    """
    _watched(cache)


def _watched(cache: object) -> Watch:
    if not isinstance(cache, PromptCache):
        raise ConfigurationError(f"{cache!r}: expected a PromptCache")
    return Watch.of(cache._engine)


def _route(scope: Scope) -> str:
    """The path below where the app is mounted; servers give it with that, older ones without.

    Behind a proxy that strips a prefix, Starlette's paths are without what `root_path` begins with.
    """
    path: str = scope["path"]
    whole: str = scope.get("root_path", "").rstrip("/")
    for root in (whole, whole.removeprefix(scope.get("app_root_path", "").rstrip("/"))):
        if root and (path == root or path.startswith(root + "/")):
            return path[len(root) :]
    return path


def _names(caches: Sequence[PromptCache]) -> list[str]:
    """What each cache is called: its namespace, with a number where another has the same."""
    names: list[str] = []
    for cache in caches:
        name = plain(cache.namespace)
        count = sum(plain(other.namespace) == name for other in caches[: len(names)])
        names.append(f"{name} ({count + 1})" if count else name)
    return names


def _ok(kind: str, body: bytes) -> Response:
    return Response(200, {"content-type": kind, **_SAFE}, body)


def _text(status: int, words: str, **headers: str) -> Response:
    kind = {"content-type": "text/plain; charset=utf-8"}
    return Response(status, {**kind, **_SAFE, **headers}, words.encode())


async def _send(send: Send, answer: Response, *, whole: bool) -> None:
    headers = {**answer.headers, "content-length": str(len(answer.body))}
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": raw})
    await send({"type": "http.response.body", "body": answer.body if whole else b""})
