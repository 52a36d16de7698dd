"""Embeddings by item: upstream gets only what nobody knows, and no vector is ever a wrong one."""

from __future__ import annotations

import array
import asyncio
import base64
import json
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import httpx2
import openai
import pytest
from engine_tools import cancel, quiet, until
from openai import AsyncOpenAI
from openai.types import CreateEmbeddingResponse
from openai_calls import gather

from aiopromptcache import (
    CacheStatus,
    Kind,
    MemoryTier,
    NotCached,
    Policy,
    PromptCache,
    cache_status,
)
from aiopromptcache._openai._vectors import shared_out, take_apart
from aiopromptcache.testing import FaultyTier, VirtualClock

pytestmark = pytest.mark.anyio

FORMATS: list[dict[str, Any]] = [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}]


def numbers(item: Any, size: int = 4) -> list[float]:
    """The vector of an input: exact in float32, and another for every other input."""
    source = random.Random(json.dumps(item))
    return array.array("f", [source.uniform(-1, 1) for _ in range(size)]).tolist()


def encoded(vector: list[float]) -> str:
    return base64.b64encode(array.array("f", vector).tobytes()).decode()


class Server:
    """Computes each vector from its input alone; may wait, fail, shuffle, or change its answers."""

    def __init__(self) -> None:
        self.asked: list[list[Any]] = []
        self.bodies: list[dict[str, Any]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.status = 200
        self.change: Callable[[dict[str, Any]], Any] = lambda body: body
        self.refuses: Callable[[list[Any]], bool] = lambda inputs: False
        self.steps: Callable[[], int] = lambda: 0

    @property
    def calls(self) -> int:
        return len(self.asked)

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content)
        given = body["input"]
        inputs = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
        self.asked.append(inputs)
        self.bodies.append(body)
        number = self.calls
        for _ in range(self.steps()):
            await asyncio.sleep(0)
        await self.open.wait()
        if self.status != 200 or self.refuses(inputs):
            status = self.status if self.status != 200 else 400
            return httpx2.Response(status, json={"error": {"message": "no", "type": "t"}})
        headers = {"x-request-id": f"req_{number}", "x-ratelimit-remaining-tokens": "9"}
        return httpx2.Response(200, headers=headers, json=self.change(self.answer(body, inputs)))

    def answer(self, body: dict[str, Any], inputs: list[Any]) -> dict[str, Any]:
        size = body.get("dimensions") or 4
        vectors = [numbers([item, body["model"]], size) for item in inputs]
        if body.get("encoding_format") == "base64":
            vectors = [encoded(vector) for vector in vectors]  # type: ignore[misc]
        tokens = sum(len(item) for item in inputs)
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": vector}
                for index, vector in enumerate(vectors)
            ],
            "model": body["model"],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }

    def client(self) -> AsyncOpenAI:
        http = httpx2.AsyncClient(transport=httpx2.MockTransport(self))
        return AsyncOpenAI(api_key="-", base_url="http://s/v1", max_retries=0, http_client=http)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
async def plain(server: Server) -> AsyncIterator[AsyncOpenAI]:
    async with server.client() as client:
        await embed(client, "first")  # the SDK's first call waits for a thread
        server.asked.clear()
        server.bodies.clear()
        yield client


@pytest.fixture
def client(plain: AsyncOpenAI, cache: PromptCache) -> AsyncOpenAI:
    return cache.wrap(plain)


def embed(client: AsyncOpenAI, given: Any, **params: Any) -> Coroutine[Any, Any, Any]:
    return client.embeddings.create(**{"model": "m", **params}, input=given)


def status_of(result: Any) -> CacheStatus:
    status = cache_status(result)
    assert status is not None
    return status


def check(answer: CreateEmbeddingResponse, inputs: list[Any], **params: Any) -> None:
    """Every vector is that of its input, in its place, in the form that was asked for."""
    form, size = params.get("encoding_format", "float"), params.get("dimensions", 4)
    assert len(answer.data) == len(inputs)
    for index, (item, one) in enumerate(zip(inputs, answer.data, strict=True)):
        expected = numbers([item, params.get("model", "m")], size)
        assert (one.index, one.object) == (index, "embedding")
        assert one.embedding == (encoded(expected) if form == "base64" else expected)
    lists = [id(one.embedding) for one in answer.data if isinstance(one.embedding, list)]
    assert len(lists) == len(set(lists)), "a vector belongs to two items"


@pytest.mark.parametrize("options", FORMATS, ids=str)
async def test_of_a_thousand_inputs_upstream_gets_the_ten_that_nobody_knows(
    server: Server, client: AsyncOpenAI, cache: PromptCache, options: dict[str, Any]
) -> None:
    known = [f"text {number}" for number in range(990)]
    await embed(client, known, **options)
    new = [f"new {number}" for number in range(10)]
    mixed = [*known, *new]
    random.Random(1).shuffle(mixed)
    answer = await embed(client, mixed, **options)
    check(answer, mixed, **options)
    assert server.calls == 2
    assert sorted(server.asked[1]) == sorted(new)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(map(len, new))
    assert answer._request_id == "req_2"
    status = status_of(answer)
    assert (status.hit, status.fwd, status.stored, status.collapsed) == (False, "miss", True, False)
    again = await embed(client, mixed, **options)
    check(again, mixed, **options)
    assert server.calls == 2
    assert status_of(again).hit
    assert again.usage.total_tokens == 0  # nobody has ever paid for this very answer
    stats = cache.stats
    assert (stats.requests, stats.hits, stats.misses, stats.upstream_calls) == (3, 1, 2, 2)
    assert stats.tokens_saved.total == sum(map(len, known)) + sum(map(len, mixed))


async def test_each_distinct_input_is_asked_for_once(server: Server, client: AsyncOpenAI) -> None:
    given = ["a", "b", "a", "a", "c", "b"]
    answer = await embed(client, given)
    check(answer, given)
    assert server.asked == [["a", "b", "c"]]
    assert answer.usage.total_tokens == 3
    check(await embed(client, ["c", "c"]), ["c", "c"])
    assert server.calls == 1


async def test_one_input_is_the_same_alone_and_in_a_list(
    server: Server, client: AsyncOpenAI
) -> None:
    check(await embed(client, "one"), ["one"])
    check(await embed(client, ["one"]), ["one"])
    check(await embed(client, [1, 2]), [[1, 2]])
    check(await embed(client, [[1, 2]]), [[1, 2]])
    check(await embed(client, [(1, 2)]), [[1, 2]])
    assert server.asked == [["one"], [[1, 2]]]
    assert [body["input"] for body in server.bodies] == ["one", [1, 2]]


async def test_what_differs_is_never_mixed(server: Server, client: AsyncOpenAI) -> None:
    inputs: list[Any] = ["1", "12", [1], [12], [1, 2], "[1]", "\u00e9", "e\u0301", "1 "]
    options: list[dict[str, Any]] = [
        {**encoding, **more}
        for encoding in FORMATS
        for more in ({}, {"dimensions": 3}, {"model": "n"})
    ]
    for _ in range(2):
        for params in options:
            for item in inputs:
                check(await embed(client, item, **params), [item], **params)
    # Where no encoding is asked for, the SDK asks for base64.
    assert server.calls == len(inputs) * 6
    for params in options:
        for kind in (str, list):
            batch = [item for item in inputs if type(item) is kind]
            check(await embed(client, batch, **params), batch, **params)
    assert server.calls == len(inputs) * 6


@pytest.mark.parametrize("difference", [{"user": "u"}, {"extra_body": {"k": 1}}], ids=str)
async def test_all_else_that_is_sent_counts(
    server: Server, client: AsyncOpenAI, difference: dict[str, Any]
) -> None:
    await embed(client, ["a", "b"])
    await embed(client, ["a", "c"], **difference)
    assert server.asked[1] == ["a", "c"]


async def test_an_input_in_the_extra_body_is_the_input(server: Server, client: AsyncOpenAI) -> None:
    await embed(client, ["a"])
    answer = await embed(client, ["never sent"], extra_body={"input": ["a", "b"]})
    check(answer, ["a", "b"])
    assert server.asked == [["a"], ["b"]]


# Forms


async def raw(client: AsyncOpenAI, given: Any, **params: Any) -> Any:
    response = await client.embeddings.with_raw_response.create(
        **{"model": "m", **params}, input=given
    )
    assert response.headers["cache-status"] == str(cache_status(response))
    assert response.status_code == 200
    assert len(json.loads(response.text)["data"]) == len(given)
    return response.parse()


async def streamed(client: AsyncOpenAI, given: Any, **params: Any) -> Any:
    call = client.embeddings.with_streaming_response.create(**{"model": "m", **params}, input=given)
    async with call as response:
        return await response.parse()


async def posted(client: AsyncOpenAI, given: Any, **params: Any) -> Any:
    body = {"model": "m", "encoding_format": "float", **params, "input": given}
    return await client.post("/embeddings", body=body, cast_to=CreateEmbeddingResponse)


async def posted_as_dict(client: AsyncOpenAI, given: Any, **params: Any) -> Any:
    body = {"model": "m", "encoding_format": "float", **params, "input": given}
    answer = await client.post("/embeddings", body=body, cast_to=object)
    return CreateEmbeddingResponse.construct(**answer)


FORMS = [embed, raw, streamed, posted, posted_as_dict]


@pytest.mark.parametrize("options", FORMATS[1:], ids=str)
@pytest.mark.parametrize("second", FORMS)
@pytest.mark.parametrize("first", FORMS)
async def test_every_form_shares_its_items_with_every_other(
    server: Server, client: AsyncOpenAI, first: Any, second: Any, options: dict[str, Any]
) -> None:
    check(await first(client, ["a", "b"], **options), ["a", "b"], **options)
    answer = await second(client, ["b", "c", "a"], **options)
    check(answer, ["b", "c", "a"], **options)
    assert answer.usage.total_tokens == 1
    check(await first(client, ["c", "a"], **options), ["c", "a"], **options)
    assert server.asked == [["a", "b"], ["c"]]


async def test_a_raw_response_of_a_mixed_batch_is_that_of_the_call_that_was_made(
    server: Server, client: AsyncOpenAI
) -> None:
    await embed(client, ["a", "b"])
    response = await client.embeddings.with_raw_response.create(model="m", input=["a", "c"])
    assert response.headers["x-request-id"] == "req_2"
    assert response.headers["cache-status"] == "aiopromptcache; fwd=miss; ttl=3600; stored"
    assert json.loads(response.http_request.content)["input"] == ["c"]
    check(response.parse(), ["a", "c"])


# Together


async def test_overlapping_batches_in_flight_share_their_items(
    server: Server, client: AsyncOpenAI, cache: PromptCache
) -> None:
    server.open.clear()
    batches = [["a", "b"], ["b", "c"], ["c", "a"], ["b"], ["d", "a", "d"]]
    tasks = [asyncio.create_task(embed(client, batch)) for batch in batches]
    await until(lambda: server.calls == 3)
    await quiet()
    server.open.set()
    answers = await asyncio.gather(*tasks)
    for answer, batch in zip(answers, batches, strict=True):
        check(answer, batch)
    assert server.asked == [["a", "b"], ["c"], ["d"]]
    assert [answer.usage.total_tokens for answer in answers] == [2, 1, 0, 0, 1]
    statuses = [status_of(answer) for answer in answers]
    assert [status.collapsed for status in statuses] == [False, False, True, True, False]
    assert all(status.stored and not status.hit for status in statuses)
    assert (cache.stats.misses, cache.stats.collapsed, cache.stats.upstream_calls) == (3, 2, 3)


async def test_500_callers_of_one_batch_make_one_call(server: Server, client: AsyncOpenAI) -> None:
    answers = await gather(*(embed(client, ["a", "b"]) for _ in range(500)))
    for answer in answers:
        check(answer, ["a", "b"])
        assert answer.usage.total_tokens == 2  # it is that answer
    assert server.calls == 1


@pytest.mark.parametrize("leaver", [0, 1])
async def test_whoever_leaves_takes_nothing_from_the_others(
    server: Server, client: AsyncOpenAI, leaver: int
) -> None:
    server.open.clear()
    batches = [["a", "b"], ["b", "c"]]
    tasks = [asyncio.create_task(embed(client, batch)) for batch in batches]
    await until(lambda: server.calls == 2)
    await cancel(tasks[leaver])
    server.open.set()
    check(await tasks[1 - leaver], batches[1 - leaver])
    assert server.calls == 2


async def test_a_batch_that_everybody_left_is_cancelled_and_asked_for_anew(
    server: Server, client: AsyncOpenAI, cache: PromptCache
) -> None:
    server.open.clear()
    tasks = [asyncio.create_task(embed(client, batch)) for batch in (["a", "b"], ["b"])]
    await until(lambda: server.calls == 1)
    await quiet()
    await cancel(*tasks)
    await until(lambda: not cache._engine.flights)
    server.open.set()
    check(await embed(client, ["b"]), ["b"])
    assert server.asked == [["a", "b"], ["b"]]


async def test_a_failure_is_the_sdks_and_stores_nothing(
    server: Server, client: AsyncOpenAI
) -> None:
    await embed(client, ["a"])
    server.status = 500
    with pytest.raises(openai.InternalServerError):
        await embed(client, ["a", "b"])
    check(await embed(client, ["a"]), ["a"])
    server.status = 200
    check(await embed(client, ["a", "b"]), ["a", "b"])
    assert server.asked == [["a"], ["b"], ["b"]]


async def test_anothers_bad_input_is_not_ones_own(server: Server, client: AsyncOpenAI) -> None:
    server.refuses = lambda inputs: "bad" in inputs
    server.open.clear()
    bad = asyncio.create_task(embed(client, ["bad", "a", "b"]))
    await until(lambda: server.calls == 1)
    good = asyncio.create_task(embed(client, ["b", "c"]))
    same = asyncio.create_task(embed(client, ["a", "b", "bad"]))
    await until(lambda: server.calls == 2)
    server.open.set()
    for task in (bad, same):
        with pytest.raises(openai.BadRequestError):
            await task
    check(await good, ["b", "c"])
    assert server.asked == [["bad", "a", "b"], ["c"], ["b"]]


async def test_an_invalidated_item_is_neither_stored_nor_shared(
    server: Server, client: AsyncOpenAI, cache: PromptCache
) -> None:
    key = status_of(await embed(client, ["b"])).key
    await cache.delete(key)
    server.open.clear()
    first = asyncio.create_task(embed(client, ["a", "b"]))
    await until(lambda: server.calls == 2)
    await cache.delete(key)
    second = asyncio.create_task(embed(client, ["a", "b"]))
    await until(lambda: server.calls == 3)
    server.open.set()
    check(await first, ["a", "b"])
    check(await second, ["a", "b"])
    assert server.asked[2] == ["b"]
    assert not status_of(await first).stored
    assert status_of(await embed(client, ["a", "b"])).hit


@pytest.mark.parametrize("how", ["clear", "invalidate"])
async def test_clear_and_invalidate_overtake_batches(
    server: Server, client: AsyncOpenAI, cache: PromptCache, how: str
) -> None:
    server.open.clear()
    with cache.control(tags=["t"]):
        first = asyncio.create_task(embed(client, ["a", "b"]))
        await until(lambda: server.calls == 1)
    await (cache.clear() if how == "clear" else cache.invalidate("t"))
    server.open.set()
    assert not status_of(await first).stored
    assert not status_of(await embed(client, ["a"])).hit
    assert server.asked == [["a", "b"], ["a"]]


async def test_the_key_of_a_batch_removes_all_its_items(
    server: Server, client: AsyncOpenAI, cache: PromptCache
) -> None:
    for partition in ("", "p"):
        with cache.control(partition=partition):
            key = status_of(await embed(client, ["a", "b", "a"])).key
            assert await cache.delete(key) == 2
            assert not status_of(await embed(client, ["a"])).hit
    await cache.set("a,b", 1)
    assert await cache.delete("a,b") == 1


# Tiers, windows, directives


class Counting(FaultyTier):
    """Counts what one operation asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[int] = []
        self.writes: list[int] = []

    async def get(self, slots: Any) -> Any:
        self.reads.append(len(slots))
        return await super().get(slots)

    async def set(self, entries: Any) -> None:
        self.writes.append(len(entries))
        await super().set(entries)


async def test_one_read_and_one_write_for_each_batch_and_tier(
    server: Server, plain: AsyncOpenAI, clock: VirtualClock
) -> None:
    near, far = Counting(), Counting()
    one, two = (PromptCache(MemoryTier(), near, far, clock=clock).wrap(plain) for _ in range(2))
    texts = [str(number) for number in range(300)]
    await embed(one, texts)
    assert (len(near.reads), near.writes, len(far.reads), far.writes) == (1, [300], 1, [300])
    answer = await embed(two, texts)
    check(answer, texts)
    status = status_of(answer)
    assert (status.hit, status.tier, server.calls) == (True, "faulty", 1)
    assert (len(near.reads), len(far.reads)) == (2, 2)  # the second one: as a whole, it may be odd
    assert status_of(await embed(two, texts)).tier == "memory"
    assert answer.usage.total_tokens == sum(map(len, texts))  # it is the one that was paid for
    assert (len(near.reads), len(near.writes)) == (2, 1)
    await embed(two, [*texts, "new"])
    assert (len(near.reads), near.writes, server.asked[1]) == (3, [300, 1], ["new"])


async def test_windows_hold_for_items(
    server: Server, plain: AsyncOpenAI, clock: VirtualClock
) -> None:
    policy = Policy(ttl=100, stale_while_revalidate=50, stale_if_error=80)
    cache = PromptCache(policy=policy, clock=clock)
    client = cache.wrap(plain)
    await embed(client, ["a", "b"])
    clock.advance(60)
    await embed(client, ["c"])
    clock.advance(50)
    server.open.clear()
    answer = await embed(client, ["c", "a", "b"])  # though the upstream answers none
    check(answer, ["c", "a", "b"])
    status = status_of(answer)
    assert (status.hit, status.stale, status.age, status.ttl) == (True, True, 110.0, -10.0)
    assert status_of(await embed(client, ["a"])).stale
    server.open.set()
    await until(lambda: cache.stats.refreshes == 1)
    assert server.asked[2:] == [["a", "b"]]
    assert not status_of(await embed(client, ["a", "b", "c"])).stale
    clock.advance(160)
    server.status = 503
    answer = await embed(client, ["b", "a"])
    check(answer, ["b", "a"])
    status = status_of(answer)
    assert (status.hit, status.stale, status.fwd) == (True, True, "stale")
    assert status_of(await embed(client, ["a", "b"])).fwd is None  # asked nobody
    with pytest.raises(openai.InternalServerError):
        await embed(client, ["a", "unknown"])
    clock.advance(20)
    with pytest.raises(openai.InternalServerError):
        await embed(client, ["a", "b"])


async def test_items_are_refreshed_ahead_of_time(
    server: Server, plain: AsyncOpenAI, clock: VirtualClock
) -> None:
    cache = PromptCache(policy=Policy(ttl=100, refresh_ahead=1), clock=clock)
    client = cache.wrap(plain)
    key = status_of(await embed(client, ["a"])).key
    await embed(client, ["b"])
    entry = cache._engine.storage.peek(f"default:{key}")
    assert entry is not None
    entry.cost = 1e9  # the other one was computed in no time
    for _ in range(3):
        answer = await embed(client, ["b", "a"])
        check(answer, ["b", "a"])
        assert status_of(answer).hit
    await until(lambda: cache.stats.refreshes == 1)
    assert server.asked == [["a"], ["b"], ["a"]]


async def test_an_item_is_no_value_by_itself(client: AsyncOpenAI, cache: PromptCache) -> None:
    key = status_of(await embed(client, ["a"])).key
    assert await cache.get(key, "nothing") == "nothing"


async def test_a_refresh_of_items_that_fails_is_not_tried_at_once(
    server: Server, plain: AsyncOpenAI, clock: VirtualClock
) -> None:
    cache = PromptCache(policy=Policy(ttl=100, stale_while_revalidate=50), clock=clock)
    client = cache.wrap(plain)
    await embed(client, ["a", "b"])
    clock.advance(110)
    server.status = 500
    for _ in range(5):
        assert status_of(await embed(client, ["a", "b"])).stale
        await quiet()
    assert server.calls == 2
    await cache.aclose()


async def test_directives_hold_for_items(
    server: Server, client: AsyncOpenAI, cache: PromptCache, clock: VirtualClock
) -> None:
    def told(given: Any, header: str) -> Any:
        return embed(client, given, extra_headers={"Cache-Control": header})

    with pytest.raises(NotCached):
        await told(["a"], "only-if-cached")
    assert server.calls == 0
    assert not status_of(await told(["a"], "no-store")).stored
    assert status_of(await told(["a", "b"], "no-cache")).fwd == "request"
    assert status_of(await told(["b", "a"], "only-if-cached")).hit
    with pytest.raises(NotCached, match="1 of the inputs"):
        await told(["b", "c"], "only-if-cached")
    clock.advance(10)
    await embed(client, ["c"])
    calls = server.calls
    answer = await told(["a", "c"], "max-age=5")
    check(answer, ["a", "c"])
    assert server.asked[calls:] == [["a"]]
    with cache.control(cacheable=lambda request: False):
        assert status_of(await embed(client, ["a"])).fwd == "bypass"
    with cache.control(storable=lambda request, body: False):
        assert not status_of(await embed(client, ["z"])).stored
    with cache.control(normalize=lambda r: {**r.params, "input": str(r.params["input"]).lower()}):
        await embed(client, "ABC")
        assert status_of(await embed(client, "abc")).hit


# Answers that are odd


def without(name: str, where: str | None = None) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def change(body: dict[str, Any]) -> dict[str, Any]:
        for container in [body] if where is None else body[where]:
            del container[name]
        return body

    return change


def items(change: Callable[[list[Any]], list[Any]]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda body: {**body, "data": change(body["data"])}


ODD: dict[str, Callable[[dict[str, Any]], Any]] = {
    "one too few": items(lambda data: data[:-1]),
    "one too many": items(lambda data: [*data, data[0]]),
    "no index": without("index", "data"),
    "one index for all": items(lambda data: [{**item, "index": 0} for item in data]),
    "index from 1": items(lambda data: [{**one, "index": one["index"] + 1} for one in data]),
    "index as text": items(lambda data: [{**one, "index": str(one["index"])} for one in data]),
    "no usage": without("usage"),
    "usage of text": lambda body: {**body, "usage": {"prompt_tokens": "1", "total_tokens": 1}},
    "empty vectors": items(lambda data: [{**item, "embedding": []} for item in data]),
    "cut base64": items(lambda data: [{**item, "embedding": "AAAAPwA="} for item in data]),
    "a nested vector": items(lambda data: [{**item, "embedding": [[1.0]]} for item in data]),
    "a long integer": lambda body: {**body, "created": 2**70},
    "an error beside": lambda body: {**body, "error": {"message": "half of it failed"}},
}


@pytest.mark.parametrize("form", [embed, raw, posted])
@pytest.mark.parametrize("name", ODD)
async def test_odd_answers_are_kept_as_a_whole_or_not_at_all(
    server: Server, plain: AsyncOpenAI, name: str, form: Any
) -> None:
    policy = Policy(storable=lambda request, body: True)
    client = PromptCache(policy=policy).wrap(plain)
    server.change = ODD[name]
    options = {"encoding_format": "float"}

    async def told(who: AsyncOpenAI, given: list[Any]) -> Any:
        answer = await who.embeddings.create(model="m", input=given, **options)
        return repr(answer)

    for given in (["a", "b"], ["b", "a"], ["a", "b", "c"]):
        reference = await told(plain, given)
        calls = server.calls
        for _ in range(3):
            assert await told(client, given) == reference
        assert server.calls == calls + 1
    server.change = lambda body: body


async def test_a_server_that_turns_odd_is_asked_for_the_whole(
    server: Server, client: AsyncOpenAI
) -> None:
    await embed(client, ["a", "b"])
    server.change = ODD["one too few"]
    answer = await embed(client, ["a", "c"])
    assert server.asked[1:] == [["c"], ["a", "c"]]
    assert len(answer.data) == 1  # what the bare SDK would have returned
    server.change = lambda body: body


async def test_another_order_is_put_right(server: Server, client: AsyncOpenAI) -> None:
    server.change = items(lambda data: data[::-1])
    await embed(client, ["a", "b", "c"])
    server.change = lambda body: body
    check(await embed(client, ["c", "b", "a"]), ["c", "b", "a"])
    assert server.calls == 1


async def test_vectors_that_float32_cannot_hold_are_kept_as_received(
    server: Server, client: AsyncOpenAI, cache: PromptCache
) -> None:
    values: list[list[Any]] = [[0.1, 1e300], [1, 2.5], [-0.0, 0.5], [1e-320, 3.0]]
    server.change = items(
        lambda data: [{**one, "embedding": values[one["index"]], "extra": [1]} for one in data]
    )
    given = ["a", "b", "c", "d"]
    params = {"model": "m", "input": given, "encoding_format": "float"}
    first: Any = await client.post("/embeddings", body=params, cast_to=object)
    for _ in range(2):
        again: Any = await client.post("/embeddings", body=params, cast_to=object)
        assert repr(again["data"]) == repr(first["data"])
    objects = [await embed(client, given, encoding_format="float") for _ in range(2)]
    for answer in objects:
        assert repr([one.embedding for one in answer.data]) == repr(
            [[float(number) for number in vector] for vector in values]
        )
        assert answer.data[0].extra == [1]
    objects[0].data[0].extra.append(2)
    assert objects[1].data[0].extra == [1]
    assert server.calls == 1


async def test_vectors_are_stored_as_packed_float32(
    server: Server, client: AsyncOpenAI, cache: PromptCache
) -> None:
    for options in FORMATS:
        key = status_of(await embed(client, "a", dimensions=1_536, **options)).key
        entry = cache._engine.storage.peek(f"default:{key}")
        assert entry is not None
        assert entry.kind is Kind.VECTOR
        packed = array.array("f", numbers(["a", "m"], 1_536)).tobytes()
        assert entry.payload.endswith(packed)
        assert len(entry.payload) < len(packed) + 250


async def test_tokens_are_shared_out_without_a_rest() -> None:
    source = random.Random(3)
    for _ in range(200):
        inputs = ["x" * source.randrange(40) for _ in range(source.randrange(1, 30))]
        tokens = source.randrange(500)
        shares = shared_out(tokens, inputs)
        assert sum(shares) == tokens
        assert all(share >= 0 for share in shares)
    assert take_apart(b"", None, ["a"]) is None


# At random


@pytest.mark.parametrize("seed", range(12))
async def test_no_vector_is_ever_a_wrong_one(
    server: Server, plain: AsyncOpenAI, clock: VirtualClock, seed: int
) -> None:
    source = random.Random(seed)
    policy = Policy(ttl=50, stale_while_revalidate=20, stale_if_error=40)
    tiers = [MemoryTier(max_entries=source.choice([5, 1_000])), FaultyTier()]
    caches = [PromptCache(*tiers, policy=policy, clock=clock), PromptCache(tiers[1], clock=clock)]
    clients = [cache.wrap(plain) for cache in caches]
    pool: list[Any] = [f"text {number}" for number in range(12)]
    pool += [[number, number + 1] for number in range(12)]
    server.steps = lambda: source.randrange(6)
    server.refuses = lambda inputs: "text 0" in inputs or source.random() < 0.1
    outcomes = {"right": 0, "failed": 0}

    async def one() -> None:
        kind = source.choice([str, list])
        choices = [item for item in pool if type(item) is kind]
        given = source.choices(choices, k=source.randrange(1, 9))
        params = source.choice(FORMATS)
        form = embed if "encoding_format" not in params else source.choice(FORMS)
        for _ in range(source.randrange(10)):
            await asyncio.sleep(0)
        try:
            answer = await form(source.choice(clients), given, **params)
        except openai.APIStatusError:
            outcomes["failed"] += 1
        else:
            check(answer, given, **params)
            outcomes["right"] += 1

    for _ in range(6):
        tasks = [asyncio.create_task(one()) for _ in range(25)]
        for task in source.sample(tasks, 3):
            asyncio.get_running_loop().call_soon(task.cancel)
        if source.random() < 0.3:
            await caches[0].clear()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        wrong = [r for r in results if isinstance(r, BaseException)]
        assert all(isinstance(error, asyncio.CancelledError) for error in wrong), wrong
        clock.advance(source.choice([0, 5, 30, 55]))
    for cache in caches:
        await cache.aclose()
    assert outcomes["right"] > 60
    assert outcomes["failed"] > 0
