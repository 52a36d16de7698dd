"""Many requests ahead of time: what is fresh costs nothing, what fails is counted."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import openai
import pytest
from engine_tools import cancel, gives, quiet, until
from openai import AsyncOpenAI
from openai_calls import CHAT_BODY, user

from aiopromptcache import (
    ConfigurationError,
    MemoryTier,
    Policy,
    PromptCache,
    Usage,
    WarmReport,
    cache_status,
)
from aiopromptcache._warm import StaleAnswer
from aiopromptcache.testing import FaultyTier, OpenAIServer, VirtualClock

pytestmark = pytest.mark.anyio


def request(number: int, **params: Any) -> dict[str, Any]:
    return {"model": "m", "messages": user(f"question {number}"), **params}


def line(number: int, url: str = "/v1/chat/completions", **body: Any) -> dict[str, Any]:
    body = body or request(number)
    return {"custom_id": str(number), "method": "POST", "url": url, "body": body}


class Upstream:
    """Answers chats; counts what was answered to its end, by question."""

    def __init__(self) -> None:
        self.paid: Counter[str] = Counter()
        self.active = self.peak = 0
        self.open = asyncio.Event()
        self.open.set()
        self.only: int | None = None
        """How many it still answers before it waits."""
        self.status = 200

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        question = json.loads(request.content)["messages"][-1]["content"]
        self.active += 1
        self.peak = max(self.peak, self.active)
        try:
            await asyncio.sleep(0)
            await self.open.wait()
        finally:
            self.active -= 1
        self.paid[question] += 1
        if sum(self.paid.values()) == self.only:
            self.open.clear()
        return httpx2.Response(self.status, json=CHAT_BODY)

    def client(self) -> AsyncOpenAI:
        http = httpx2.AsyncClient(transport=httpx2.MockTransport(self))
        return AsyncOpenAI(api_key="-", base_url="http://u/v1", max_retries=0, http_client=http)


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
async def plain(upstream: Upstream) -> AsyncIterator[AsyncOpenAI]:
    async with upstream.client() as client:
        await client.chat.completions.create(**request(-1))  # its first call waits for a thread
        upstream.paid.clear()
        upstream.peak = 0
        yield client


async def test_what_is_missing_is_asked_for_and_what_is_fresh_is_not(
    upstream: Upstream, plain: AsyncOpenAI, cache: PromptCache
) -> None:
    client = cache.wrap(plain)
    for number in range(5):
        await client.chat.completions.create(**request(number))
    seen: list[WarmReport] = []
    report = await cache.warm(
        (request(number) for number in range(20)), client=client, on_progress=seen.append
    )
    assert report == WarmReport(total=20, fresh=5, stored=15, usage=Usage(75, 105, 180))
    assert report.unstored == 0
    assert [one.total for one in seen] == list(range(1, 21))
    assert seen[-1] == report
    assert set(upstream.paid.values()) == {1}
    again = await cache.warm((request(number) for number in range(20)), client=client)
    assert again == WarmReport(total=20, fresh=20)
    assert cache_status(await client.chat.completions.create(**request(19))).hit  # type: ignore[union-attr]


@pytest.mark.parametrize("concurrency", [1, 3, 8])
async def test_no_more_than_so_many_at_once_and_no_fewer(
    upstream: Upstream, plain: AsyncOpenAI, cache: PromptCache, concurrency: int
) -> None:
    pulled = 0

    def requests() -> Iterator[dict[str, Any]]:
        nonlocal pulled
        for number in range(20):
            pulled += 1
            yield request(number)

    upstream.open.clear()
    warming = asyncio.create_task(cache.warm(requests(), client=plain, concurrency=concurrency))
    await until(lambda: upstream.active == concurrency)
    await quiet()
    assert pulled == concurrency
    upstream.open.set()
    assert (await warming).stored == 20
    assert upstream.peak == concurrency


async def test_input_is_neither_held_nor_read_ahead(cache: PromptCache) -> None:
    class Call:
        async def __call__(self) -> str:
            return await cache.get_or_create("key", gives("value"))

    alive: weakref.WeakSet[Call] = weakref.WeakSet()
    most = 0

    async def calls() -> AsyncIterator[Call]:
        nonlocal most
        for _ in range(2_000):
            call = Call()
            alive.add(call)
            most = max(most, len(alive))
            yield call
            del call

    report = await cache.warm(calls(), concurrency=4)
    assert (report.total, report.stored, report.fresh) == (2_000, 1, 1_999)
    gc.collect()
    assert most <= 12


async def test_every_kind_of_request(
    server: OpenAIServer, connect: Any, cache: PromptCache
) -> None:
    client = cache.wrap(connect())
    calls: list[Any] = [
        request(1),
        request(2, stream=True),
        line(3),
        line(4, stream=True, **request(4)),
        line(5, "/v1/embeddings", model="m", input=["a", "b"]),
        line(6, "/v1/responses", model="m", input="hi"),
        line(7, "/v1/moderations", model="m", input="hi"),
        line(8, "/v1/completions", model="m", prompt="hi"),
        line(9, num_ctx=3, **request(9)),
        lambda: client.chat.completions.create(**request(10)),
        lambda: client.chat.completions.create(**request(11), stream=True),
        lambda: cache.get_or_create("own", gives(1)),
    ]
    report = await cache.warm(calls, client=client)
    assert (report.stored, report.failed, report.errors) == (12, 0, ())
    assert server.calls == 11
    assert [r.body.get("num_ctx") for r in server.requests].count(3) == 1
    again = await cache.warm(calls, client=client)
    assert again == WarmReport(total=12, fresh=12)
    assert cache_status(await client.embeddings.create(model="m", input="b")).hit  # type: ignore[union-attr]
    stored = client.chat.completions.create(**request(9), extra_body={"num_ctx": 3})
    assert cache_status(await stored).hit  # type: ignore[union-attr]
    assert server.calls == 11


@pytest.mark.parametrize("wrapped", [True, False])
async def test_a_client_may_be_wrapped_or_not(
    upstream: Upstream, plain: AsyncOpenAI, cache: PromptCache, wrapped: bool
) -> None:
    client = cache.wrap(plain) if wrapped else plain
    assert (await cache.warm([request(1)], client=client)).stored == 1
    assert cache_status(await cache.wrap(plain).chat.completions.create(**request(1))).hit  # type: ignore[union-attr]


async def test_failures_are_counted_and_shown(
    upstream: Upstream, plain: AsyncOpenAI, cache: PromptCache
) -> None:
    async def failing() -> None:
        raise KeyError("mine")

    async def cancelled() -> None:
        raise asyncio.CancelledError

    bad: list[Any] = [
        3,
        "text",
        None,
        {"model": "m"},
        {"url": "/v1/chat/completions"},
        line(1, "/v1/files", **request(1)),
        {**line(1), "method": "GET"},
        lambda: 3,
        {"messages": [], "no_such": 1},
        failing,
        cancelled,
    ]
    mixed = [item for index, wrong in enumerate(bad) for item in (wrong, request(index))]
    report = await cache.warm(mixed, client=plain)
    assert (report.total, report.stored, report.failed) == (22, 11, 11)
    errors = dict(report.errors)
    assert sorted(errors) == list(range(0, 22, 2))
    for position in range(0, 16, 2):
        assert isinstance(errors[position], ConfigurationError)
        assert f"item {position} " in str(errors[position])
        assert "allowed" in str(errors[position])
    assert [type(errors[position]) for position in (16, 18, 20)] == [
        TypeError,
        KeyError,
        asyncio.CancelledError,
    ]
    upstream.status = 500
    report = await cache.warm((request(number) for number in range(100, 150)), client=plain)
    assert (report.failed, len(report.errors)) == (50, 20)
    assert all(isinstance(error, openai.InternalServerError) for _, error in report.errors)


async def test_arguments_that_are_not_usable_are_refused(
    plain: AsyncOpenAI, cache: PromptCache
) -> None:
    for arguments in ({"concurrency": 0}, {"concurrency": True}, {"client": object()}):
        with pytest.raises(ConfigurationError):
            await cache.warm([], **arguments)  # type: ignore[arg-type]
    for calls in (3, "text", request(1), None):
        with pytest.raises(ConfigurationError):
            await cache.warm(calls, client=plain)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="item 1 is a dict: give client="):
        await cache.warm([gives(1), request(1)], concurrency=1)
    assert await cache.warm([]) == WarmReport()


async def test_what_the_input_or_the_listener_raises_comes_out_in_the_end(
    upstream: Upstream, plain: AsyncOpenAI, cache: PromptCache
) -> None:
    def requests() -> Iterator[dict[str, Any]]:
        yield request(1)
        yield request(2)
        raise OSError("the file ended early")

    with pytest.raises(OSError, match="ended early"):
        await cache.warm(requests(), client=plain)
    assert sum(upstream.paid.values()) == 2

    async def listener(report: WarmReport) -> None:
        raise ValueError("a listener's own")

    with pytest.raises(ValueError, match="own"):
        await cache.warm([request(1)], client=plain, on_progress=listener)


async def test_what_may_not_be_stored_is_neither_stored_nor_failed(
    upstream: Upstream, plain: AsyncOpenAI, cache: PromptCache
) -> None:
    with cache.control(storable=lambda request, body: False):
        report = await cache.warm([request(1), request(2, store=True)], client=plain)
    assert (report.total, report.stored, report.failed, report.unstored) == (2, 0, 0, 2)


async def test_stale_is_not_fresh(
    upstream: Upstream, plain: AsyncOpenAI, clock: VirtualClock
) -> None:
    policy = Policy(ttl=100, stale_while_revalidate=50, stale_if_error=90)
    cache = PromptCache(policy=policy, clock=clock)
    await cache.warm([request(1)], client=plain)
    for age in (100, 120):
        clock.advance(age)
        report = await cache.warm([request(1)], client=plain)
        assert (report.stored, report.fresh) == (1, 0)
    clock.advance(120)
    upstream.status = 503
    report = await cache.warm([request(1)], client=plain)
    assert (report.failed, report.stored, report.fresh) == (1, 0, 0)
    assert isinstance(report.errors[0][1], StaleAnswer)
    clock.advance(3)
    upstream.status = 200
    await cache.warm([request(1)], client=plain)
    clock.advance(149)
    upstream.status = 503
    status = cache_status(await cache.wrap(plain).chat.completions.create(**request(1)))
    assert status is not None
    assert status.stale, "warming records the policy's own windows"
    await until(lambda: not cache._engine.flights)


async def test_interrupted_and_started_again_it_pays_only_for_what_is_missing(
    upstream: Upstream, plain: AsyncOpenAI, clock: VirtualClock
) -> None:
    shared = FaultyTier()  # what another process sees
    count = 1_000

    async def start(stop_after: int | None) -> WarmReport | None:
        upstream.only, upstream.open = stop_after, asyncio.Event()
        upstream.open.set()
        cache = PromptCache(MemoryTier(), shared, clock=clock)
        task = asyncio.create_task(
            cache.warm((request(number) for number in range(count)), client=plain)
        )
        if stop_after is None:
            return await task
        while upstream.open.is_set():
            await asyncio.sleep(0)
        await quiet()
        await cancel(task)
        await until(lambda: not cache._engine.flights)
        return None

    for stop_after in (1, 317, 500):
        await start(stop_after)
        assert sum(upstream.paid.values()) == stop_after
    report = await start(None)
    assert report is not None
    assert (report.fresh, report.stored, report.failed) == (500, 500, 0)
    assert len(upstream.paid) == count
    assert set(upstream.paid.values()) == {1}, "a request was paid for twice"


async def test_two_at_once_share_their_work(
    upstream: Upstream, plain: AsyncOpenAI, cache: PromptCache
) -> None:
    one, two = await asyncio.gather(
        *(cache.warm((request(n) for n in range(50)), client=plain) for _ in range(2))
    )
    assert one.stored + two.stored == 50
    assert one.fresh + two.fresh == 50
    assert set(upstream.paid.values()) == {1}
