"""Middleware and dependencies for FastAPI, Starlette and other ASGI apps.

Install with `aiopromptcache[asgi]`. It is plain ASGI: bodies and streams pass through untouched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from functools import cache as once
from typing import TYPE_CHECKING, Any, TypeVar

from ._cache import PromptCache
from ._errors import ConfigurationError, NotCached
from ._tally import Tally
from ._web import FLOOR, FREE, NoPartition, Rules, nothing_stored, summary

try:
    from starlette.exceptions import HTTPException
    from starlette.requests import HTTPConnection
    from starlette.responses import JSONResponse, PlainTextResponse, Response
except ImportError as error:  # pragma: no cover
    raise ImportError(
        "aiopromptcache.asgi needs Starlette: pip install 'aiopromptcache[asgi]'"
    ) from error

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    ClientT = TypeVar("ClientT", bound=AsyncOpenAI)

__all__ = ["NoPartition", "PromptCacheMiddleware", "get_cache", "wrapped"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_KEY = "aiopromptcache"
"""Where a request's scope holds its cache."""
WATCH_AFTER = 0.05
"""Seconds that a request is handled before anybody looks whether its client is still there."""
_BODIES = {"http.response.body", "http.response.pathsend", "http.response.zerocopysend"}
"""Messages that may be the last of a response; some servers take a file's path for its bytes."""
_LEFT = 499
"""The status that nginx made usual for a client that did not wait for its response."""
_REASON = 123
"""Bytes that a websocket's close frame holds beside its code."""
_SHUT_DOWN = {
    "lifespan.startup.failed",
    "lifespan.shutdown.complete",
    "lifespan.shutdown.failed",
}


class PromptCacheMiddleware:
    """Gives an app's requests one cache: `app.add_middleware(PromptCacheMiddleware, cache=cache)`.

    - The cache is closed with the app's lifespan, after the app's own shutdown.
    - The request's `Cache-Control` holds for the calls made for it, as far as `allow` says (names
      of directives: "max-age", "max-stale", "no-cache", "no-store", "only-if-cached",
      "stale-if-error"); by default only what costs nothing. A `max-age` below `max_age_floor`
      seconds counts as that, one above the policy's own `max_age` as that one. Where only-if-cached
      finds nothing and the app does not handle it, the answer is 504, as RFC 9111 says. What a
      websocket's handshake says is about that alone.
    - `partition`, a plain or async callable of a starlette `HTTPConnection` (a request or a
      websocket; with `.headers`, `.cookies`, `.user`, `.session`), gives the tenant that answers
      are kept apart for: a non-empty str, joined to the policy's own partition. Where it gives none
      the answer is 403; what it raises is raised, or answered where it is an HTTPException. Add
      the middleware before those that it reads from, so that they come first (`add_middleware`
      puts the latest outermost).
    - The response carries a `Cache-Status` (RFC 9211) that sums up the calls made until it began.
    - A client that disconnects cancels its request's handling, so that it leaves its flights as any
      caller does; `cancel_on_disconnect=False` lets handlers run to their end. Who handles a
      websocket notices when it is received from or sent to.
    """

    def __init__(
        self,
        app: App,
        cache: PromptCache,
        *,
        partition: Callable[[HTTPConnection], str | Awaitable[str]] | None = None,
        allow: Iterable[str] = FREE,
        max_age_floor: float = FLOOR,
        cancel_on_disconnect: bool = True,
    ) -> None:
        self._app = app
        self._rules = Rules(cache, partition, allow, max_age_floor)
        self._cancels = cancel_on_disconnect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] in ("http", "websocket"):
            scope[_KEY] = self._rules.cache
            await self._request(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def told(message: Message) -> None:
            if message["type"] in _SHUT_DOWN:
                await self._rules.cache.aclose()
            await send(message)

        await self._app(scope, receive, told)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            fields = await self._rules.fields(HTTPConnection(scope), _cache_control(scope))
        except NoPartition:
            await _refuse(scope, receive, send, HTTPException(403, "no partition for this request"))
            return
        except HTTPException as error:
            await _refuse(scope, receive, send, error)
            return
        with self._rules.applied(fields) as tally:
            if scope["type"] == "websocket":
                await self._app(scope, receive, send)
            else:
                await self._http(scope, receive, send, tally)

    async def _http(self, scope: Scope, receive: Receive, send: Send, tally: Tally) -> None:
        began = left = False

        async def told(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                if status := summary(tally):
                    headers = [*message.get("headers", ()), (b"cache-status", status.encode())]
                    message = {**message, "headers": headers}
            await send(message)

        try:
            if self._cancels:
                left = await _Watched(receive).run(self._app, scope, told)
            else:
                await self._app(scope, receive, told)
        except (NotCached, ExceptionGroup) as error:
            if began or not nothing_stored(error):
                raise
            await _refuse(scope, receive, told, HTTPException(504, "not in the cache"))
        if left and not began:  # for middlewares that cannot do without a response
            with suppress(OSError):
                await _refuse(scope, receive, told, HTTPException(_LEFT, "the client has gone"))


class _Watched:
    """A request whose handling is cancelled when its client has gone.

    Somebody must receive to notice. That costs a task, so it begins only when handling takes long,
    and it is at most one message ahead of the app, unless that is the last part of the body. An app
    that receives by itself at that time notices by itself.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._turn = asyncio.Lock()
        self._ahead: Message | None = None
        self._taken = asyncio.Event()
        self._whole = False
        self._gone: Message | None = None
        self._watching: asyncio.Task[None] | None = None

    async def run(self, app: App, scope: Scope, send: Send) -> bool:
        """Handle the request; gives whether that was cancelled."""
        handling = asyncio.timeout(None)
        timer = asyncio.get_running_loop().call_later(WATCH_AFTER, self._begin, handling)

        async def told(message: Message) -> None:
            if message["type"] in _BODIES and not message.get("more_body", False):
                self._end(timer)  # what the app does from now on, it does not do for this client
            await send(message)

        try:
            async with handling:
                await app(scope, self._next, told)
        except TimeoutError:
            if not handling.expired():
                raise
        finally:
            self._end(timer)
            if self._watching is not None:
                await asyncio.gather(self._watching, return_exceptions=True)
        return handling.expired()

    def _begin(self, handling: asyncio.Timeout) -> None:
        self._watching = asyncio.create_task(self._watch(handling), name="aiopromptcache client")

    def _end(self, timer: asyncio.TimerHandle) -> None:
        timer.cancel()
        if self._watching is not None:
            self._watching.cancel()

    async def _watch(self, handling: asyncio.Timeout) -> None:
        while self._gone is None:
            async with self._turn:
                if self._gone is not None:
                    return
                message = await self._message()
                if self._gone is None:
                    self._ahead = message
                    self._taken.clear()
            if self._gone is None and not self._whole:
                await self._taken.wait()
        handling.reschedule(asyncio.get_running_loop().time())

    async def _message(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._gone = message
        elif not message.get("more_body", False):
            self._whole = True
        return message

    async def _next(self) -> Message:
        """The app's own `receive`."""
        if self._ahead is None:
            async with self._turn:
                if self._ahead is None:
                    return self._gone or await self._message()
        message, self._ahead = self._ahead, None
        self._taken.set()
        return message


def _cache_control(scope: Scope) -> str:
    if scope["type"] == "websocket":  # browsers say no-cache with each: it is about the handshake
        return ""
    values = [value for name, value in scope.get("headers", ()) if name == b"cache-control"]
    return b", ".join(values).decode("latin-1") if values else ""


async def _refuse(scope: Scope, receive: Receive, send: Send, error: HTTPException) -> None:
    """A short answer; a websocket is not accepted."""
    if scope["type"] == "websocket":
        reason = str(error.detail).encode()[:_REASON].decode(errors="ignore")
        await send({"type": "websocket.close", "code": 1008, "reason": reason})
    else:
        await _response(error)(scope, receive, send)


def _response(error: HTTPException) -> Response:
    """What the frameworks make of it: a FastAPI app may give a detail that is no text."""
    if isinstance(error.detail, str):
        return PlainTextResponse(error.detail, error.status_code, error.headers)
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)


# Dependencies


def get_cache(connection: HTTPConnection) -> PromptCache:
    """The request's cache, as a FastAPI dependency: `Annotated[PromptCache, Depends(get_cache)]`.

    In Starlette, call it with the request. `ConfigurationError` where the middleware is missing.
    """
    found = connection.scope.get(_KEY)
    if not isinstance(found, PromptCache):
        raise ConfigurationError("this app has no PromptCacheMiddleware: add_middleware(...) it")
    return found


def wrapped(
    client: ClientT | Callable[[], ClientT],
) -> Callable[[HTTPConnection], Awaitable[ClientT]]:
    """A FastAPI dependency that gives `client`, wrapped by the request's cache.

    `Client = Annotated[AsyncOpenAI, Depends(wrapped(AsyncOpenAI))]`, once for all handlers. A
    callable is called once for each `wrapped`, when a client is first needed.
    """
    make: Any = once(client) if callable(client) else lambda: client

    @once
    def of(cache: PromptCache) -> ClientT:
        made: ClientT = cache.wrap(make())
        return made

    async def dependency(connection: HTTPConnection) -> ClientT:
        # A plain function would be called in threads: slower, and in several at once.
        return of(get_cache(connection))

    return dependency
