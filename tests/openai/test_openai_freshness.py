"""Stale windows and directives of a wrapped client's calls, and what their statuses say."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import openai
import pytest
from engine_tools import cancel, quiet, until
from freshness_oracle import AGES, TTL, Case, Expected, cases, expect
from openai import APIConnectionError, APIStatusError, APITimeoutError, AsyncOpenAI
from openai_calls import CHAT, CHAT_BODY, FORMS, Upstream, fixed, gather, outcome, same

from aiopromptcache import CacheStatus, MemoryTier, NotCached, Policy, PromptCache, cache_status
from aiopromptcache._openai._binding import _is_outage
from aiopromptcache._policy import cache_control
from aiopromptcache.testing import FaultyTier, OpenAIServer, VirtualClock

pytestmark = pytest.mark.anyio

BOTH = Policy(ttl=TTL, stale_while_revalidate=50, stale_if_error=80)


@pytest.fixture
def upstream() -> Upstream:
    return Upstream(json.dumps(CHAT_BODY).encode())


@pytest.fixture
async def plain(upstream: Upstream) -> AsyncIterator[AsyncOpenAI]:
    async with upstream.client() as plain:
        yield plain


def status_of(result: Any) -> CacheStatus:
    status = cache_status(result)
    assert status is not None
    return status


def ask(client: Any, **params: Any) -> Any:
    return client.chat.completions.create(**CHAT, **params)


def ask_raw(client: Any, **params: Any) -> Any:
    return client.chat.completions.with_raw_response.create(**CHAT, **params)


async def ask_streaming(client: Any, **params: Any) -> Any:
    call = client.chat.completions.with_streaming_response.create(**CHAT, **params)
    async with call as response:
        return await response.parse()


async def ask_stream(client: Any, **params: Any) -> Any:
    stream = await ask(client, stream=True, **params)
    async for _ in stream:
        pass
    return stream


PLAINLY = [ask, ask_raw, ask_streaming]


# The table, with statuses, by control and by header


def header_of(case: Case) -> str | None:
    """The caller's directives as a header; None where there is no such header."""
    parts = {
        f"max-age={case.max_age or 0:.0f}": case.max_age is not None,
        f"max-stale={case.max_stale or 0:.0f}": case.max_stale is not None,
        case.switch.replace("_", "-"): bool(case.switch),
    }
    if case.max_age is not None and case.max_stale is None:
        return None  # RFC 9111: then nothing stale is wanted, which no field says
    return ", ".join(part for part, there in parts.items() if there)


async def come_out(case: Case, upstream: Upstream, plain: AsyncOpenAI, how: str) -> Expected:
    clock = VirtualClock()
    cache = PromptCache(policy=Policy(ttl=TTL), clock=clock)
    client = cache.wrap(plain)
    names = ("stale_while_revalidate", "stale_if_error")
    upstream.status, upstream.headers["x-request-id"] = 200, "old"
    with cache.control(**dict(zip(names, case.recorded, strict=True))):
        await ask(client)
    clock.advance(case.age)
    upstream.status, upstream.headers["x-request-id"] = (200 if case.up else 503), "new"
    upstream.requests.clear()
    reader, header = case.reader, header_of(case)
    status = CacheStatus("")
    if how == "header" and header is not None:
        reader = {name: reader[name] for name in names}
    with cache.control(**reader):
        try:
            extra = {"Cache-Control": header} if how == "header" and header else None
            result = await ask(client, extra_headers=extra)
            answer, status = result._request_id, status_of(result)
        except APIStatusError:
            answer = "error"
        except NotCached:
            answer = "not cached"
    await until(lambda: not cache._engine.flights)
    await quiet()
    calls = upstream.calls
    assert all("cache-control" not in request.headers for request in upstream.requests)
    with cache.control(max_age=0, only_if_cached=True):
        stored = await outcome(ask(client))
    await cache.aclose()
    return Expected(
        answer, calls, status.hit, status.stale, status.fwd, not isinstance(stored, tuple)
    )


@pytest.mark.parametrize("how", ["control", "header"])
@pytest.mark.parametrize("age", AGES)
async def test_the_table_holds_for_clients_with_statuses(
    upstream: Upstream, plain: AsyncOpenAI, age: str, how: str
) -> None:
    for case in cases(AGES[age])[3::11]:
        assert await come_out(case, upstream, plain, how) == expect(case), case


# While revalidating


@pytest.mark.parametrize("form", PLAINLY)
async def test_a_stale_answer_says_so_and_is_refreshed(
    server: OpenAIServer, connect: Callable[..., AsyncOpenAI], clock: VirtualClock, form: Any
) -> None:
    cache = PromptCache(policy=BOTH, clock=clock)
    client = cache.wrap(connect())
    first = status_of(await form(client))
    clock.advance(107.5)
    status = status_of(await form(client))
    assert status == CacheStatus(
        first.key, hit=True, tier="memory", age=107.5, ttl=-7.5, stale=True
    )
    assert str(status) == "aiopromptcache; hit; ttl=-8; detail=memory"
    await server.wait_calls(2)
    await until_async(lambda: cache.stats.refreshes == 1)
    fresh = status_of(await form(client))
    assert (fresh.age, fresh.stale, fresh.stored) == (0.0, False, False)
    assert (server.calls, cache.stats.stale, cache.stats.upstream_calls) == (2, 1, 2)
    assert server.requests[0].body == server.requests[1].body


async def until_async(condition: Callable[[], bool]) -> None:
    """For what a real server has a part in."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("form", PLAINLY)
async def test_500_callers_at_the_moment_of_expiry(
    upstream: Upstream, plain: AsyncOpenAI, clock: VirtualClock, form: Any
) -> None:
    cache = PromptCache(policy=BOTH, clock=clock)
    client = cache.wrap(plain)
    await form(client)
    clock.advance(100)
    upstream.open.clear()
    answers = await gather(*(form(client) for _ in range(500)))
    assert all(status_of(answer).stale for answer in answers)
    await until(lambda: upstream.calls == 2)
    upstream.open.set()
    await until(lambda: cache.stats.refreshes == 1)
    assert upstream.calls == 2
    assert not status_of(await form(client)).stale


@pytest.mark.parametrize("form", PLAINLY)
async def test_a_refresh_sends_what_was_asked_though_it_changes_meanwhile(
    upstream: Upstream, plain: AsyncOpenAI, clock: VirtualClock, form: Any
) -> None:
    cache = PromptCache(policy=BOTH, clock=clock)
    client = cache.wrap(plain)
    headers, body = {"X-Route": "a", "Cache-Control": "max-stale=60"}, {"k": [1]}
    extras = {"extra_headers": headers, "extra_body": body, "timeout": 7}
    await form(client, **copy.deepcopy(extras))
    clock.advance(100)
    assert status_of(await form(client, **extras)).stale
    body["k"].append(2)
    await until(lambda: cache.stats.refreshes == 1)
    first, second = upstream.requests
    assert first.content == second.content
    ours = {"x-stainless-retry-count"}
    assert {k: v for k, v in first.headers.items() if k not in ours} == {
        k: v for k, v in second.headers.items() if k not in ours
    }
    assert second.headers["x-route"] == "a"
    assert "cache-control" not in second.headers


async def test_a_refresh_outlives_its_caller_and_ends_with_the_cache(
    upstream: Upstream, plain: AsyncOpenAI, clock: VirtualClock
) -> None:
    cache = PromptCache(policy=BOTH, clock=clock)
    client = cache.wrap(plain)
    await ask(client)
    clock.advance(100)
    upstream.open.clear()

    async def caller() -> None:
        await ask(client)
        await asyncio.Event().wait()

    task = asyncio.create_task(caller())
    await until(lambda: upstream.calls == 2)
    await cancel(task)
    assert upstream.cancelled == 0
    await cache.aclose()
    assert upstream.cancelled == 1


async def test_streams_are_played_while_a_new_one_is_recorded(
    server: OpenAIServer, connect: Callable[..., AsyncOpenAI], clock: VirtualClock
) -> None:
    cache = PromptCache(policy=BOTH, clock=clock)
    client = cache.wrap(connect())
    await ask_stream(client)
    clock.advance(110)
    status = status_of(await ask_stream(client))
    assert (status.hit, status.stale, status.ttl) == (True, True, -10.0)
    await until_async(lambda: cache.stats.refreshes == 1)
    status = status_of(await ask_stream(client))
    assert (status.hit, status.stale, status.age) == (True, False, 0.0)
    assert server.calls == 2


async def test_a_stream_under_way_is_refresh_enough(
    server: OpenAIServer, connect: Callable[..., AsyncOpenAI], clock: VirtualClock
) -> None:
    cache = PromptCache(policy=BOTH, clock=clock)
    client = cache.wrap(connect())
    await ask_stream(client)
    clock.advance(110)
    server.hold()
    task = asyncio.create_task(ask_stream(client, extra_headers={"Cache-Control": "max-stale=0"}))
    await server.wait_calls(2)
    assert status_of(await ask_stream(client)).stale
    await quiet()
    assert len(cache._engine.refreshes._tasks) == 0
    server.release()
    assert status_of(await task).stored
    assert status_of(await ask_stream(client)).age == 0.0
    assert server.calls == 2


async def test_a_stale_answer_of_a_remote_tier(
    server: OpenAIServer, connect: Callable[..., AsyncOpenAI], clock: VirtualClock
) -> None:
    tier = FaultyTier(name="shelf")
    one, two = (PromptCache(MemoryTier(), tier, policy=BOTH, clock=clock) for _ in range(2))
    await ask(one.wrap(connect()))
    clock.advance(110)
    client = two.wrap(connect())
    server.hold()
    for name, form in zip(["shelf", "memory", "memory"], PLAINLY, strict=True):
        status = status_of(await form(client))
        assert (status.tier, status.stale, status.ttl) == (name, True, -10.0)
    server.release()
    await until_async(lambda: two.stats.refreshes == 1)
    assert server.calls == 2


async def test_a_refresh_ahead_of_time_costs_its_caller_nothing(
    upstream: Upstream, plain: AsyncOpenAI, clock: VirtualClock
) -> None:
    cache = PromptCache(policy=Policy(ttl=100, refresh_ahead=1e6), clock=clock)
    client = cache.wrap(plain)
    await ask(client)
    entry = cache._engine.storage.peek(f"default:{status_of(await ask(client)).key}")
    assert entry is not None
    entry.cost = 1.0
    clock.advance(50)
    status = status_of(await ask(client))
    assert (status.hit, status.stale, status.ttl) == (True, False, 50.0)
    await until(lambda: cache.stats.refreshes == 1)
    assert status_of(await ask(client)).age == 0.0


# On errors


@pytest.mark.parametrize("form", PLAINLY)
@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 422, 429, 500, 502, 503, 504])
async def test_an_outage_gives_the_old_answer_and_the_callers_fault_does_not(
    upstream: Upstream, plain: AsyncOpenAI, clock: VirtualClock, status: int, form: Any
) -> None:
    cache = PromptCache(policy=BOTH, clock=clock)
    client = cache.wrap(plain)
    reference = await form(client)
    clock.advance(160)
    upstream.status = status
    if status >= 500 or status in (408, 409, 429):
        result = await form(client)
        told = status_of(result)
        assert told == CacheStatus(
            told.key, hit=True, tier="memory", age=160.0, ttl=-60.0, fwd="stale", stale=True
        )
        assert str(told) == "aiopromptcache; fwd=stale; ttl=-60; detail=memory"
        assert same(result, reference) or form is ask_raw
        again = status_of(await form(client))  # which asks nobody
        assert (again.hit, again.stale, again.fwd) == (True, True, None)
        assert upstream.calls == 2
    else:
        for _ in range(2):
            with pytest.raises(APIStatusError):
                await form(client)
        assert upstream.calls == 3


class Broken(httpx2.AsyncBaseTransport):
    """Fails below HTTP."""

    error: Exception | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if self.error is not None:
            raise self.error
        return httpx2.Response(
            200, headers={"content-type": "application/json"}, content=json.dumps(CHAT_BODY)
        )


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (httpx2.ConnectError("refused"), APIConnectionError),
        (httpx2.ReadTimeout("slow"), APITimeoutError),
        (httpx2.RemoteProtocolError("cut"), APIConnectionError),
    ],
    ids=repr,
)
async def test_a_broken_connection_is_an_outage(
    clock: VirtualClock, error: Exception, raised: type[Exception]
) -> None:
    transport = Broken()
    http = httpx2.AsyncClient(transport=transport)
    cache = PromptCache(policy=BOTH, clock=clock)
    async with AsyncOpenAI(api_key="-", base_url="http://x", max_retries=0, http_client=http) as c:
        client = cache.wrap(c)
        await ask(client)
        clock.advance(160)
        transport.error = error
        assert status_of(await ask(client)).fwd == "stale"
        clock.advance(30)
        with pytest.raises(raised):
            await ask(client)


async def test_a_stream_that_breaks_off_before_its_first_event_is_an_outage(
    server: OpenAIServer, connect: Callable[..., AsyncOpenAI], clock: VirtualClock
) -> None:
    cache = PromptCache(policy=BOTH, clock=clock)
    client = cache.wrap(connect())
    await ask_stream(client)
    clock.advance(160)
    server.truncate_stream(0)
    assert status_of(await ask_stream(client)).fwd == "stale"
    assert status_of(await ask_stream(client)).fwd is None  # asks nobody
    assert server.calls == 2
    clock.advance(10)
    server.truncate_stream(1)  # too late for an old answer
    with pytest.raises(APIConnectionError):
        await ask_stream(client)
    clock.advance(20)
    server.truncate_stream(0)
    with pytest.raises(APIConnectionError):  # the window is over
        await ask_stream(client)


async def test_all_who_wait_for_a_streams_first_event_are_given_the_old_answer(
    server: OpenAIServer, connect: Callable[..., AsyncOpenAI], clock: VirtualClock
) -> None:
    cache = PromptCache(policy=BOTH, clock=clock)
    client = cache.wrap(connect())
    await ask_stream(client)
    clock.advance(160)
    server.truncate_stream(0)
    server.hold_after(0)
    tasks = [asyncio.create_task(ask_stream(client)) for _ in range(5)]
    await server.wait_calls(2)
    await cancel(tasks.pop())
    server.release()
    statuses = [status_of(stream) for stream in await gather(*map(_result, tasks))]
    assert all(status.hit and status.stale for status in statuses)
    assert server.calls == 2


async def _result(task: asyncio.Task[Any]) -> Any:
    return await task


async def test_errors_of_the_sdk_that_nobody_upstream_has_made_are_no_outage() -> None:
    assert not _is_outage(openai.OpenAIError("Missing credentials"))
    assert not _is_outage(TypeError("unexpected keyword"))
    assert _is_outage(httpx2.ReadError("the body was cut"))


async def test_a_follower_out_of_patience_is_given_the_old_answer(
    upstream: Upstream, plain: AsyncOpenAI, clock: VirtualClock
) -> None:
    cache = PromptCache(policy=BOTH, clock=clock)
    client = cache.wrap(plain)
    await ask(client)
    clock.advance(160)
    upstream.open.clear()
    leader = asyncio.create_task(ask(client))
    await until(lambda: upstream.calls == 2)
    status = status_of(await ask(client, timeout=0.001))
    assert (status.hit, status.stale, status.fwd) == (True, True, "stale")
    upstream.open.set()
    assert status_of(await leader).fwd == "stale"  # why it went upstream
    assert status_of(await ask(client)).age == 0.0


async def test_why_a_call_went_upstream(
    upstream: Upstream, plain: AsyncOpenAI, clock: VirtualClock
) -> None:
    cache = PromptCache(policy=BOTH, clock=clock)
    client = cache.wrap(plain)
    assert str(status_of(await ask(client))) == "aiopromptcache; fwd=miss; ttl=100; stored"
    clock.advance(10)
    refused = await ask(client, extra_headers={"Cache-Control": "max-age=5"})
    assert str(status_of(refused)) == "aiopromptcache; fwd=request; ttl=100; stored"
    clock.advance(160)
    raw = await ask_raw(client)
    assert raw.headers["cache-status"] == "aiopromptcache; fwd=stale; ttl=100; stored"
    clock.advance(160)
    upstream.status = 500
    raw = await ask_raw(client)
    assert raw.headers["cache-status"] == "aiopromptcache; fwd=stale; ttl=-60; detail=memory"


# Directives


@pytest.mark.parametrize(
    ("header", "fields"),
    [
        ("", {}),
        ("no-cache", {"no_cache": True}),
        ("No-Store", {"no_store": True}),
        ("ONLY-IF-CACHED", {"only_if_cached": True}),
        ("max-age=10", {"max_age": 10.0, "max_stale": 0.0}),
        ('max-age="10"', {"max_age": 10.0, "max_stale": 0.0}),
        ("max-age=10, max-stale=3", {"max_age": 10.0, "max_stale": 3.0}),
        ("max-stale=3,max-age=10", {"max_age": 10.0, "max_stale": 3.0}),
        ("max-stale", {"max_stale": 2.0**31}),
        ("stale-if-error=7", {"stale_if_error": 7.0}),
        ("max-age=1, max-age=5, max-stale=2, max-stale", {"max_age": 1.0, "max_stale": 2.0}),
        ("max-age=0", {"max_age": 0.0, "max_stale": 0.0}),
        (f"max-age={'9' * 400}", {"max_age": 2.0**31, "max_stale": 0.0}),
        (" ,, no-cache ,", {"no_cache": True}),
        ('no-cache=x, no-store="y, z"', {"no_cache": True, "no_store": True}),
        # Malformed or unknown: as if it were not there.
        ("max-age", {}),
        ("max-age=", {}),
        ("max-age=-1", {}),
        ("max-age=1.5", {}),
        ("max-age=ten, no-store", {"no_store": True}),
        ("max-age=1e3", {}),
        ("max-age=\u0663", {}),
        ("max-age = 10", {}),
        ("max-age=1 0", {}),
        ("max-stale=soon", {}),
        ("stale-if-error", {}),
        ("no-cache no-store", {}),
        ("nocache, no_cache, no-transform, min-fresh=3, immutable", {}),
        ('x="no-cache, no-store", only-if-cached', {"only_if_cached": True}),
        ('x="a\\", no-cache", no-store', {"no_store": True}),
        ('"no-cache', {}),
        ("=no-cache", {}),
        ("\x00\n, no-cache", {"no_cache": True}),
    ],
)
async def test_a_header_is_read_as_rfc_9111_says(header: str, fields: dict[str, Any]) -> None:
    assert cache_control(header) == fields


async def test_no_header_is_too_long_or_too_odd() -> None:
    for header in ('"' * 30_001, 'x="' + '\\"' * 20_000, "a=," * 20_000, "=" * 60_000, "\\" * 9):
        assert cache_control(header) == {}


@pytest.mark.parametrize("value", [None, 3, b"no-cache", openai.omit, ["no-cache"]], ids=type)
async def test_a_header_that_is_no_text_says_nothing(
    upstream: Upstream, plain: AsyncOpenAI, cache: PromptCache, value: Any
) -> None:
    client = cache.wrap(plain)
    await ask(client)
    again = await ask(client, extra_headers={"Cache-Control": value})
    assert status_of(again).hit
    assert upstream.calls == 1


async def test_max_age_alone_wants_nothing_stale(
    upstream: Upstream, plain: AsyncOpenAI, clock: VirtualClock
) -> None:
    cache = PromptCache(policy=BOTH, clock=clock)
    client = cache.wrap(plain)

    async def told(header: str) -> CacheStatus:
        return status_of(await ask(client, extra_headers={"Cache-Control": header}))

    await ask(client)
    clock.advance(110)
    upstream.open.clear()
    assert (await told("max-age=200, max-stale=10")).stale
    upstream.open.set()
    await until(lambda: cache.stats.refreshes == 1)
    clock.advance(110)
    assert (await told("max-age=200")).fwd == "stale"
    clock.advance(110)
    upstream.status = 500  # on errors: its own window, whatever max-age wants otherwise
    assert (await told("max-age=200")).hit
    clock.advance(3)
    with pytest.raises(openai.InternalServerError):
        await told("max-age=100")


async def test_stale_if_error_by_header_alone(
    upstream: Upstream, plain: AsyncOpenAI, clock: VirtualClock
) -> None:
    cache = PromptCache(ttl=100, clock=clock)
    client = cache.wrap(plain)
    extra = {"extra_headers": {"Cache-Control": "stale-if-error=60"}}
    await ask(client, **extra)
    clock.advance(159)
    upstream.status = 500
    with pytest.raises(openai.InternalServerError):
        await ask(client)
    assert status_of(await ask(client, **extra)).stale
    clock.advance(1)
    with pytest.raises(openai.InternalServerError):
        await ask(client, **extra)


@pytest.mark.parametrize("header", ["stale-if-error=0", "max-age=5", "max-stale=1"])
async def test_one_calls_header_takes_nothing_from_what_is_recorded(
    upstream: Upstream, plain: AsyncOpenAI, clock: VirtualClock, header: str
) -> None:
    cache = PromptCache(policy=BOTH, clock=clock)
    client = cache.wrap(plain)
    await ask(client, extra_headers={"Cache-Control": header})
    clock.advance(149)
    assert status_of(await ask(client)).stale
    await until(lambda: cache.stats.refreshes == 1)
    await ask(client, extra_headers={"Cache-Control": f"no-cache, {header}"})
    clock.advance(179)
    upstream.status = 500
    assert status_of(await ask(client)).stale


async def test_forms_that_no_fast_layer_sees(
    server: OpenAIServer, connect: Callable[..., AsyncOpenAI], clock: VirtualClock
) -> None:
    server.answer = fixed
    cache = PromptCache(policy=BOTH, clock=clock)
    client = cache.wrap(connect())
    for name in ("chat post", "chat parse", "responses parse", "chat streaming_response.json"):
        reference = await FORMS[name](client)
        clock.advance(120)
        calls = server.calls
        assert same(await FORMS[name](client), reference)
        await until_async(lambda calls=calls: server.calls == calls + 1)  # type: ignore[misc]
        await until_async(lambda: not cache._engine.flights)
        clock.advance(160)
        server.fail(503)
        assert same(await FORMS[name](client), reference)
        clock.advance(1_000)
