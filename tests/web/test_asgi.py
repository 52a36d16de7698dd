"""The ASGI middleware under a real server, with FastAPI and bare."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from openai import AsyncOpenAI
from web_calls import answer, arguments
from web_server import serving

from aiopromptcache import ConfigurationError, Policy, PromptCache, asgi
from aiopromptcache.asgi import PromptCacheMiddleware, get_cache, wrapped
from aiopromptcache.testing import OpenAIServer, VirtualClock

pytestmark = pytest.mark.anyio


def app_of(client: AsyncOpenAI, cache: PromptCache, **options: Any) -> FastAPI:
    """An app whose handlers make 0, 1 or several calls."""
    app = FastAPI()
    app.add_middleware(PromptCacheMiddleware, cache=cache, **options)
    given: Any = Depends(wrapped(client))

    @app.get("/ask")
    async def ask(q: str, client: AsyncOpenAI = given) -> str:
        return await answer(client, q)

    @app.get("/both")
    async def both(a: str, b: str, client: AsyncOpenAI = given) -> list[str]:
        return [await answer(client, a), await answer(client, b)]

    @app.get("/own")
    async def own(cache: Annotated[PromptCache, Depends(get_cache)]) -> Any:
        async def make() -> int:
            return 1

        return await cache.get_or_create("own", make)

    @app.get("/looks")
    async def looks(
        q: str, cache: Annotated[PromptCache, Depends(get_cache)], client: AsyncOpenAI = given
    ) -> str:
        await cache.get("nowhere")
        return await answer(client, q)

    @app.get("/none")
    async def none() -> str:
        return "nothing asked"

    @app.post("/echo")
    async def echo(body: dict[str, Any]) -> dict[str, Any]:
        return body

    @app.get("/stream")
    async def stream(q: str, client: AsyncOpenAI = given) -> StreamingResponse:
        chunks = await client.chat.completions.create(**arguments(q), stream=True)

        async def texts() -> AsyncIterator[str]:
            async for chunk in chunks:
                yield chunk.choices[0].delta.content or "" if chunk.choices else ""

        return StreamingResponse(texts(), media_type="text/plain")

    return app


def status(response: httpx.Response) -> str | None:
    assert response.status_code == 200, response.text
    found: str | None = response.headers.get("cache-status")
    return found


async def test_the_response_sums_up_its_calls(client: AsyncOpenAI) -> None:
    async with serving(app_of(client, PromptCache())) as http:
        assert status(await http.get("/none")) is None
        assert status(await http.get("/ask?q=1")) == "aiopromptcache; fwd=miss; stored"
        assert status(await http.get("/ask?q=1")) == "aiopromptcache; hit"
        assert status(await http.get("/both?a=1&b=1")) == 'aiopromptcache; hit; detail="2 hit"'
        assert (
            status(await http.get("/both?a=1&b=2"))
            == 'aiopromptcache; fwd=miss; stored; detail="1 hit, 1 miss"'
        )
        assert status(await http.get("/looks?q=1")) == "aiopromptcache; hit"  # and no miss
        assert status(await http.get("/own")) == "aiopromptcache; fwd=miss; stored"
        assert status(await http.get("/own")) == "aiopromptcache; hit"


async def test_bodies_pass_through(client: AsyncOpenAI) -> None:
    async with serving(app_of(client, PromptCache())) as http:
        large = {"text": "x" * 1_000_000}
        assert (await http.post("/echo", json=large)).json() == large


async def test_a_stream_grows_and_is_told_before_it_ends(
    client: AsyncOpenAI, upstream: OpenAIServer
) -> None:
    async with serving(app_of(client, PromptCache())) as http:
        upstream.hold_after(2)
        async with http.stream("GET", "/stream?q=tell me more of it") as response:
            parts = response.aiter_text()
            assert await anext(parts)
            upstream.release()
            first = "".join([part async for part in parts])
        assert first
        async with http.stream("GET", "/stream?q=tell me more of it") as response:
            assert response.headers["cache-status"] == "aiopromptcache; hit"
        assert upstream.calls == 1


async def test_concurrent_requests_share_a_call(
    client: AsyncOpenAI, upstream: OpenAIServer
) -> None:
    async with serving(app_of(client, cache := PromptCache())) as http:
        upstream.hold()
        tasks = [asyncio.create_task(http.get("/ask?q=1")) for _ in range(20)]
        while _waiting(cache) < 20:
            await asyncio.sleep(0)
        upstream.release()
        told = [status(task) for task in await asyncio.gather(*tasks)]
        assert upstream.calls == 1
        assert told.count("aiopromptcache; fwd=miss; collapsed") == 19
        assert told.count("aiopromptcache; fwd=miss; stored") == 1


def _waiting(cache: PromptCache) -> int:
    flights = cache._engine.flights._flights.values()
    return sum(flight.waiting for same in flights for flight in same)


async def test_a_crowd_has_one_client_made(client: AsyncOpenAI) -> None:
    crowd, made = 5, 0
    together = threading.Barrier(crowd)

    def make() -> AsyncOpenAI:
        nonlocal made
        made += 1
        with suppress(threading.BrokenBarrierError):
            together.wait(0 if threading.current_thread() is threading.main_thread() else 10)
        return client

    app = FastAPI()
    app.add_middleware(PromptCacheMiddleware, cache=PromptCache())
    given: Any = Depends(wrapped(make))

    @app.get("/")
    async def same(client: AsyncOpenAI = given) -> int:
        return id(client)

    async with serving(app) as http:
        told = await asyncio.gather(*[http.get("/") for _ in range(crowd)])
        assert len({response.text for response in told}) == made == 1


# What strangers may say


async def test_a_strangers_no_cache_costs_nothing(
    client: AsyncOpenAI, upstream: OpenAIServer
) -> None:
    async with serving(app_of(client, PromptCache())) as http:
        for said in ("no-cache", "no-store", "max-age=0", "stale-if-error=9, max-age=1"):
            await http.get("/ask?q=1", headers={"Cache-Control": said})
        assert upstream.calls == 1


async def test_only_if_cached_is_504_where_there_is_nothing(
    client: AsyncOpenAI, upstream: OpenAIServer
) -> None:
    async with serving(app_of(client, PromptCache())) as http:
        headers = {"Cache-Control": "only-if-cached"}
        response = await http.get("/ask?q=1", headers=headers)
        assert response.status_code == 504
        assert "cache-status" in response.headers
        await http.get("/ask?q=1")
        assert status(await http.get("/ask?q=1", headers=headers)) == "aiopromptcache; hit"
        assert upstream.calls == 1


async def test_max_age_holds_down_to_the_floor(
    client: AsyncOpenAI, upstream: OpenAIServer, clock: VirtualClock
) -> None:
    app = app_of(client, PromptCache(clock=clock), max_age_floor=30)
    async with serving(app) as http:
        await http.get("/ask?q=1")
        clock.advance(20)
        await http.get("/ask?q=1", headers={"Cache-Control": "max-age=10"})
        assert upstream.calls == 1
        clock.advance(15)
        await http.get("/ask?q=1", headers={"Cache-Control": "max-age=10"})
        assert upstream.calls == 2


@pytest.mark.parametrize("header", ["max-age=0", "no-cache", "no-store", "only-if-cached"])
async def test_a_handler_keeps_its_own_state_whatever_a_request_says(
    header: str, clock: VirtualClock
) -> None:
    """What could be asked anew heeds the request; what only the app knows is not its to drop."""
    cache, found = PromptCache(clock=clock), []
    await cache.set("old", 1)
    await cache.get_or_create("costly", _two)
    clock.advance(61)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.append(await cache.get("old"))
        await cache.set("new", 2)
        found.append(await cache.get("new"))
        await cache.get_or_create("costly", _two)
        with cache.control(no_cache=True):  # the app's own word holds for all
            found.append(await cache.get("old"))

    headers = [(b"cache-control", header.encode())]
    middleware = PromptCacheMiddleware(
        app, cache, allow=["max-age", "no-cache", "no-store", "only-if-cached"]
    )
    await middleware({"type": "http", "headers": headers}, _never, _never)
    assert found == [1, 2, None]
    assert cache.stats.upstream_calls == (2 if header in ("max-age=0", "no-cache") else 1)


async def test_a_partition_holds_for_all_that_a_handler_does(clock: VirtualClock) -> None:
    cache, found = PromptCache(clock=clock), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.append(await cache.get("state"))
        await cache.set("state", dict(scope["headers"])[b"x-tenant"].decode())

    middleware = PromptCacheMiddleware(app, cache, partition=tenant)
    for name in (b"a", b"b", b"a"):
        scope = {"type": "http", "headers": [(b"x-tenant", name)]}
        await middleware(scope, _never, _never)
    assert found == [None, None, "a"]


async def _two() -> int:
    return 2


async def test_an_app_may_allow_more(client: AsyncOpenAI, upstream: OpenAIServer) -> None:
    async with serving(app_of(client, PromptCache(), allow=["no-cache"])) as http:
        await http.get("/ask?q=1")
        again = await http.get("/ask?q=1", headers={"Cache-Control": "no-cache, max-age=0"})
        assert status(again) == "aiopromptcache; fwd=miss; stored"
        response = await http.get("/ask?q=2", headers={"Cache-Control": "only-if-cached"})
        assert response.status_code == 200
        assert upstream.calls == 3


# Partitions


def tenant(connection: Any) -> Any:
    return connection.headers.get("x-tenant")


async def test_two_tenants_never_share(client: AsyncOpenAI, upstream: OpenAIServer) -> None:
    app = app_of(client, cache := PromptCache(), partition=tenant)
    async with serving(app) as http:
        for name in ("a", "b", "a"):
            await http.get("/ask?q=1", headers={"x-tenant": name})
        assert upstream.calls == 2
        assert cache.stats.hits == 1


@pytest.mark.parametrize(
    ("partition", "code"),
    [
        (tenant, 403),
        (lambda connection: "", 403),
        (lambda connection: 7, 403),
        (lambda connection: connection.headers["x-tenant"], 500),
        (lambda connection: connection.user, 500),
    ],
)
async def test_without_a_partition_there_is_no_answer(
    client: AsyncOpenAI, upstream: OpenAIServer, partition: Any, code: int
) -> None:
    async with serving(app_of(client, PromptCache(), partition=partition)) as http:
        assert (await http.get("/ask?q=1")).status_code == code
        assert upstream.calls == 0


@pytest.mark.parametrize(
    ("detail", "body"),
    [("who are you?", b"who are you?"), ({"code": 7}, b'{"detail":{"code":7}}')],
)
async def test_a_partition_may_refuse_with_an_http_error(
    client: AsyncOpenAI, detail: Any, body: bytes
) -> None:
    async def refuse(connection: Any) -> str:
        raise HTTPException(401, detail, headers={"WWW-Authenticate": "Bearer"})

    async with serving(app_of(client, PromptCache(), partition=refuse)) as http:
        response = await http.get("/ask?q=1")
        assert (response.status_code, response.content) == (401, body)
        assert response.headers["www-authenticate"] == "Bearer"


async def test_a_partition_joins_the_policys_own(
    client: AsyncOpenAI, upstream: OpenAIServer
) -> None:
    cache = PromptCache()
    async with serving(app_of(client, cache, partition=tenant)) as http:
        headers = {"x-tenant": "a"}
        for version in ("v1", "v2", "v1"):
            cache.policy = cache.policy.merged(partition=version)
            await http.get("/ask?q=1", headers=headers)
        assert upstream.calls == 2


async def test_a_tenant_cannot_name_itself_into_a_policys_partition() -> None:
    seen = []
    for outer, name in (("a", b"b"), ("", b"a/b")):
        cache = PromptCache(policy=Policy(partition=outer))

        async def app(scope: Any, receive: Any, send: Any, cache: PromptCache = cache) -> None:
            seen.append(cache.current_policy.partition)

        middleware = PromptCacheMiddleware(app, cache, partition=tenant)
        await middleware({"type": "websocket", "headers": [(b"x-tenant", name)]}, _never, _never)
    assert seen == ["a/b", "a%2Fb"]


async def _never(*_: Any) -> Any:
    raise AssertionError("not to be called")


# Lifespan and disconnection


async def test_the_cache_is_closed_after_the_app(client: AsyncOpenAI) -> None:
    order: list[str] = []

    class Told(PromptCache):
        async def aclose(self) -> None:
            order.append("cache")
            await super().aclose()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        order.append("up")
        yield
        order.append("down")

    app = FastAPI(lifespan=lifespan)
    app.add_middleware(PromptCacheMiddleware, cache=Told())
    async with serving(app) as http:
        assert (await http.get("/nowhere")).status_code == 404
        assert order == ["up"]
    assert order == ["up", "down", "cache"]


async def test_a_client_that_goes_leaves_its_flight(
    client: AsyncOpenAI, upstream: OpenAIServer
) -> None:
    async with serving(app_of(client, cache := PromptCache())) as http:
        upstream.hold()
        asking = asyncio.create_task(http.get("/ask?q=1"))
        await upstream.wait_active(1)
        asking.cancel()
        await upstream.wait_disconnects(1)  # nobody waits for it any more
        while len(cache._engine.flights):
            await asyncio.sleep(0)
        upstream.release()
        assert (await http.get("/ask?q=1")).status_code == 200
        assert upstream.calls == 2


async def test_a_handler_may_run_to_its_end(client: AsyncOpenAI, upstream: OpenAIServer) -> None:
    app = app_of(client, cache := PromptCache(), cancel_on_disconnect=False)
    async with serving(app) as http:
        upstream.hold()
        asking = asyncio.create_task(http.get("/ask?q=1"))
        await upstream.wait_active(1)
        asking.cancel()
        await asyncio.wait([asking])
        upstream.release()
        while cache.stats.stores == 0:
            await asyncio.sleep(0)
        assert upstream.disconnects == 0


async def turns(count: int = 20) -> None:
    """Let everything that can go on do so."""
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("last", ["http.response.body", "http.response.pathsend"])
async def test_what_comes_after_the_response_is_not_cancelled(
    monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    monkeypatch.setattr(asgi, "WATCH_AFTER", 0)
    ended, watched, done = asyncio.Event(), asyncio.Event(), []

    async def receive() -> Any:  # as servers do: once it is answered the client counts as gone
        watched.set()
        await ended.wait()
        return {"type": "http.disconnect"}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await watched.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": last})
        ended.set()
        await turns()
        done.append(1)

    async def send(message: Any) -> None:
        assert not done

    middleware = PromptCacheMiddleware(app, PromptCache())
    await middleware({"type": "http", "headers": []}, receive, send)
    assert done


async def test_an_app_that_receives_slowly_gets_every_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asgi, "WATCH_AFTER", 0)
    parts = [{"type": "http.request", "body": b"%d" % n, "more_body": n < 4} for n in range(5)]
    gone, seen = asyncio.Event(), []

    async def send(message: Any) -> None:
        assert message.get("status") in (499, None)

    async def receive() -> Any:
        if parts:
            return parts.pop(0)
        await gone.wait()
        return {"type": "http.disconnect"}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for number in range(5):
            await turns()
            assert len(parts) >= 3 - number, "it read ahead by more than one"
            seen.append((await receive())["body"])
        gone.set()
        await turns()
        raise AssertionError("it was not cancelled")

    middleware = PromptCacheMiddleware(app, PromptCache())
    await middleware({"type": "http", "headers": []}, receive, send)
    assert seen == [b"0", b"1", b"2", b"3", b"4"]


async def test_an_error_of_the_app_is_its_own() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise TimeoutError("the app's")

    middleware = PromptCacheMiddleware(app, PromptCache())
    with pytest.raises(TimeoutError, match="the app's"):
        await middleware({"type": "http", "headers": []}, _never, _never)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"cache": 1}, "cache=1"),
        ({"partition": "a"}, "partition='a'"),
        ({"allow": ["no-caching"]}, "'no-caching'"),
        ({"max_age_floor": -1}, "max_age_floor=-1"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        PromptCacheMiddleware(_never, **{"cache": PromptCache(), **options})


def test_an_app_without_the_middleware_is_told() -> None:
    from starlette.requests import HTTPConnection

    with pytest.raises(ConfigurationError, match="PromptCacheMiddleware"):
        get_cache(HTTPConnection({"type": "http", "headers": []}))
