"""A middleware, a clean-up context and accessors for aiohttp servers.

Install with `aiopromptcache[aiohttp]`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

from ._cache import PromptCache
from ._errors import ConfigurationError, NotCached
from ._tally import Tally, current
from ._web import FLOOR, FREE, NAME, NoPartition, Rules, nothing_stored, summary

try:
    from aiohttp import web
    from aiohttp.typedefs import Handler, Middleware
except ImportError as error:  # pragma: no cover
    raise ImportError(
        "aiopromptcache.aiohttp needs aiohttp: pip install 'aiopromptcache[aiohttp]'"
    ) from error

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from ._dashboard._app import Dashboard

    ClientT = TypeVar("ClientT", bound=AsyncOpenAI)

__all__ = [
    "NoPartition",
    "cleanup_ctx",
    "get_cache",
    "middleware",
    "mount_dashboard",
    "setup",
    "wrap",
]

CACHE = web.AppKey("aiopromptcache", PromptCache)
"""Where an app holds its cache."""


def setup(
    app: web.Application,
    cache: PromptCache,
    *,
    partition: Callable[[web.Request], str | Awaitable[str]] | None = None,
    allow: Iterable[str] = FREE,
    max_age_floor: float = FLOOR,
) -> None:
    """Give an app a cache: its `middleware`, innermost so far, and its `cleanup_ctx`.

    The arguments are those of `middleware`.
    """
    app[CACHE] = cache
    app.middlewares.append(
        middleware(cache, partition=partition, allow=allow, max_age_floor=max_age_floor)
    )
    app.cleanup_ctx.append(cleanup_ctx(cache))
    app.on_response_prepare.append(_tell)


def cleanup_ctx(cache: PromptCache) -> Callable[[web.Application], AsyncIterator[None]]:
    """For `app.cleanup_ctx`: the cache is closed when the app is."""

    async def context(app: web.Application) -> AsyncIterator[None]:
        async with cache:
            yield

    return context


def middleware(
    cache: PromptCache,
    *,
    partition: Callable[[web.Request], str | Awaitable[str]] | None = None,
    allow: Iterable[str] = FREE,
    max_age_floor: float = FLOOR,
) -> Middleware:
    """For `app.middlewares`: makes the calls of each request under what the request may ask for.

    - The request's `Cache-Control` holds for the calls made for it, as far as `allow` says (names
      of directives); by default only what costs nothing. A `max-age` below `max_age_floor` seconds
      counts as that, one above the policy's own `max_age` as that one. Where only-if-cached finds
      nothing and the handler does not handle it, the answer is 504, as RFC 9111 says. What a
      websocket's handshake says is about that alone.
    - `partition`, a plain or async callable of the request, gives the tenant that answers are kept
      apart for: a non-empty str, joined to the policy's own partition. Where it gives none the
      answer is 403; what it raises (an `HTTPException`, too) is raised.
    - The response carries a `Cache-Status` (RFC 9211) that sums up the calls made for the request;
      a streamed one too, up to its beginning, where `setup` was called.

    A handler whose client has gone leaves its flights, as any caller does, when it is cancelled:
    run the app with aiohttp's own `handler_cancellation=True`.
    """
    rules = Rules(cache, partition, allow, max_age_floor)

    @web.middleware
    async def applied(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            fields = await rules.fields(request, _cache_control(request))
        except NoPartition:
            raise web.HTTPForbidden(text="no partition for this request") from None
        with rules.applied(fields) as tally:
            try:
                response = await handler(request)
            except (NotCached, ExceptionGroup) as error:
                begun = request.writer.output_size  # no second answer into the midst of one
                if begun or not nothing_stored(error):
                    raise
                late = web.HTTPGatewayTimeout(text="not in the cache")
                _add(late, tally)
                raise late from None
            except web.HTTPException as error:
                _add(error, tally)
                raise
            if isinstance(response, web.StreamResponse) and not response.prepared:
                _add(response, tally)
            return response

    return applied


def _cache_control(request: web.Request) -> str:
    if request.headers.get("Upgrade", "").lower() == "websocket":
        return ""  # browsers say no-cache with each: it is about the handshake
    return ", ".join(request.headers.getall("Cache-Control", ()))


async def _tell(request: web.Request, response: web.StreamResponse) -> None:
    """A response that its handler begins itself: the middleware comes too late for its head."""
    if (tally := current.get()) is not None:
        _add(response, tally)


def _add(response: web.StreamResponse, tally: Tally) -> None:
    told = any(said.startswith(NAME) for said in response.headers.getall("Cache-Status", ()))
    if not told and (status := summary(tally)):  # an app inside another tells first
        response.headers.add("Cache-Status", status)


def get_cache(request: web.Request) -> PromptCache:
    """The app's cache. `ConfigurationError` where `setup` was not called for it or a parent."""
    found = request.config_dict.get(CACHE)
    if found is None:
        raise ConfigurationError("this app has no cache: call aiopromptcache.aiohttp.setup first")
    return found


def mount_dashboard(app: web.Application, path: str, dashboard: Dashboard) -> None:
    """Serve a dashboard below `path`, such as "/cache".

    It answers whoever can reach it: give a sub-app with a middleware that guards it, where others
    can reach the app too. `ConfigurationError` for a path that does not begin with a slash.
    """
    root = path.rstrip("/")
    if not path.startswith("/") or "{" in path:
        raise ConfigurationError(f"path={path!r}: expected one that begins with a slash, no braces")

    async def handle(request: web.Request) -> web.Response:
        route = "/" + request.match_info["route"] if "route" in request.match_info else ""
        query = request.rel_url.raw_query_string
        answer = await dashboard.respond(request.method, request.path, route, query)
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)

    if root:
        app.router.add_route("*", root, handle)
    app.router.add_route("*", root + "/{route:.*}", handle)


def wrap(app: web.Application, client: ClientT) -> ClientT:
    """`client`, wrapped by the app's cache."""
    cache = app.get(CACHE)
    if cache is None:
        raise ConfigurationError("this app has no cache: call aiopromptcache.aiohttp.setup first")
    return cache.wrap(client)
