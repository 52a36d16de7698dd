"""A live stream across processes: one upstream, the beginning at once, then live; and what breaks.

Caches here share a server and nothing else, as processes do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis.asyncio
from openai import APIConnectionError, APIError, AsyncOpenAI
from servers import Server
from together import Worker, leases, team, wait_until, workers

from aiopromptcache import PromptCache, StreamBroken, cache_status
from aiopromptcache.testing import OpenAIServer, TCPProxy

pytestmark = pytest.mark.anyio

CHAT: dict[str, Any] = {
    "model": "gpt-test",
    "messages": [{"role": "user", "content": "one two three four five six seven"}],
}
USAGE = {"stream_options": {"include_usage": True}}
SHORT = 0.3
"""A lease that runs out soon."""


@pytest.fixture
async def upstream(anyio_backend: Any) -> AsyncIterator[OpenAIServer]:
    async with OpenAIServer() as server:
        yield server


class Consumer:
    """Reads a chat stream in a task of its own."""

    def __init__(self, client: AsyncOpenAI, **params: Any) -> None:
        self.got: list[Any] = []
        self.stream: Any = None
        self.task = asyncio.ensure_future(self._read(client, params))

    async def _read(self, client: AsyncOpenAI, params: dict[str, Any]) -> str:
        self.stream = await client.chat.completions.create(**{**CHAT, **params}, stream=True)
        async for chunk in self.stream:
            self.got.append(chunk)
        return self.text

    @property
    def text(self) -> str:
        return "".join(c.choices[0].delta.content or "" for c in self.got if c.choices)

    @property
    def ids(self) -> set[str]:
        return {chunk.id for chunk in self.got}

    async def has(self, count: int) -> None:
        await wait_until(f"{count} chunks", lambda: len(self.got) >= count or self.task.done())
        assert len(self.got) >= count, self.task

    async def leave(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


@asynccontextmanager
async def clients(
    url: Any, upstream: OpenAIServer, count: int = 2, **options: Any
) -> AsyncIterator[tuple[list[AsyncOpenAI], list[PromptCache]]]:
    """Clients of one upstream, each with a cache of its own."""
    async with team(url, count, **options) as caches:
        them = [cache.wrap(upstream.client(max_retries=0)) for cache in caches]
        for client in them:  # what the SDK imports and makes for a first call takes its time
            await client.chat.completions.create(**{**CHAT, "messages": []})
        upstream.reset()
        yield them, caches


def held(cache: PromptCache) -> int:
    """Senders and followers that are at work."""
    relays = cache._engine.relays
    return len(relays._senders) + relays._following + len(relays._tasks)


async def all_over(*caches: PromptCache) -> None:
    await wait_until("the end of all relays", lambda: not any(map(held, caches)))


async def keys(raw: Any, pattern: str) -> list[bytes]:
    return [key async for key in raw.scan_iter(match=pattern, count=1_000)]


# One upstream stream


async def test_a_hundred_consumers_each_in_two_caches(
    url: str, raw: Any, upstream: OpenAIServer
) -> None:
    # All share one loop here, which is busy for longer than a call may wait for Redis.
    async with clients(url, upstream, timeout=5.0) as (them, caches):
        upstream.hold_after(3)
        consumers = [Consumer(client) for client in them for _ in range(100)]
        for consumer in consumers:
            await consumer.has(3)
        assert upstream.calls == upstream.active == 1
        upstream.release()
        texts = await asyncio.gather(*[consumer.task for consumer in consumers])
        assert len(set(texts)) == 1
        assert texts[0].endswith("seven")
        assert len({id(chunk) for c in consumers for chunk in c.got}) == 200 * len(consumers[0].got)
        statuses = [cache_status(consumer.stream) for consumer in consumers]
        assert sum(not status.collapsed for status in statuses if status) == 1
        # With the warm-ups: one of the team's and one of the clients'.
        assert sum(cache.stats.upstream_calls for cache in caches) == 1 + 2
        await all_over(*caches)
        slots = [cache._engine.prefix + statuses[0].key for cache in caches]  # type: ignore[union-attr]
        assert all(c._engine.storage.peek(s) for c, s in zip(caches, slots, strict=True))
        assert upstream.calls == 1
        assert await leases(raw) == []


async def test_a_late_joiner_gets_the_beginning_and_then_each_chunk_as_it_comes(
    url: str, upstream: OpenAIServer
) -> None:
    async with clients(url, upstream, 3) as ([one, two, three], caches):
        upstream.hold_after(2)
        first = Consumer(one)
        await first.has(2)
        late = Consumer(two)
        await late.has(2)
        upstream.hold_after(4)
        upstream.release()
        upstream.hold_after(4)
        await first.has(3)
        await late.has(3)
        upstream.release()
        later = Consumer(three)
        texts = await asyncio.gather(first.task, late.task, later.task)
        assert len(set(texts)) == 1
        assert upstream.calls == 1
        assert [c.model_dump() for c in late.got] == [c.model_dump() for c in first.got]
        await all_over(*caches)


async def test_nothing_is_written_where_nobody_else_wants_it(
    url: str, raw: Any, upstream: OpenAIServer
) -> None:
    async with clients(url, upstream) as ([one, _], _):
        await Consumer(one).task
        assert await keys(raw, "*:v:*") == await keys(raw, "*:w:*") == []


async def test_what_is_left_on_the_server_runs_out(
    url: str, raw: Any, upstream: OpenAIServer
) -> None:
    async with clients(url, upstream) as ([one, two], caches):
        upstream.hold_after(1)
        consumers = [Consumer(one), Consumer(two)]
        for consumer in consumers:
            await consumer.has(1)
        upstream.release()
        await asyncio.gather(*[consumer.task for consumer in consumers])
        await all_over(*caches)
        [stream] = await keys(raw, "*:v:*")
        assert 0 < await raw.pttl(stream) <= 30_000
        assert await keys(raw, "*:w:*") == []


async def test_raw_responses_and_usage_come_across(url: str, upstream: OpenAIServer) -> None:
    async with clients(url, upstream) as ([one, two], _):
        upstream.hold_after(2)
        first = Consumer(one, **USAGE)
        await first.has(2)
        create = two.chat.completions.with_raw_response.create
        raw = await create(**CHAT, **USAGE, stream=True)
        genuine = first.stream.response.headers["x-request-id"]
        assert raw.headers["x-request-id"] == genuine
        assert raw.headers["cache-status"] == "aiopromptcache; fwd=miss; collapsed"
        plain = Consumer(two)  # of whom the usage is kept
        await plain.has(2)
        upstream.release()
        chunks = [chunk async for chunk in raw.parse()]
        await asyncio.gather(first.task, plain.task)
        assert chunks[-1].usage == first.got[-1].usage is not None
        assert len(plain.got) == len(chunks) - 1
        assert upstream.calls == 1


async def test_who_needs_usage_does_not_join_a_stream_without(
    url: str, upstream: OpenAIServer
) -> None:
    async with clients(url, upstream) as ([one, two], _):
        upstream.hold_after(2)
        first = Consumer(one)
        await first.has(2)
        second = Consumer(two, **USAGE)
        await second.has(2)
        assert upstream.active == 2
        upstream.release()
        await asyncio.gather(first.task, second.task)
        assert second.got[-1].usage is not None
        assert all(chunk.usage is None for chunk in first.got)


async def test_a_plain_call_elsewhere_waits_for_the_stream(
    url: str, upstream: OpenAIServer
) -> None:
    async with clients(url, upstream) as ([one, two], _):
        upstream.hold_after(2)
        first = Consumer(one, **USAGE)
        await first.has(2)
        follower = Consumer(two, **USAGE)
        await follower.has(2)
        plain = asyncio.ensure_future(two.chat.completions.create(**CHAT))
        upstream.release()
        answer = await plain
        assert answer.choices[0].message.content == await first.task == await follower.task
        assert upstream.calls == 1


# Leaving


async def test_a_follower_that_leaves_harms_nobody(url: str, upstream: OpenAIServer) -> None:
    async with clients(url, upstream, 3) as (them, caches):
        upstream.hold_after(2)
        leader = Consumer(them[0])
        await leader.has(2)
        staying, leaving = Consumer(them[1]), Consumer(them[2])
        await staying.has(2)
        await leaving.has(2)
        await leaving.leave()
        await wait_until("its end", lambda: held(caches[2]) == 0)
        upstream.release()
        assert await leader.task == await staying.task
        assert (upstream.calls, upstream.disconnects) == (1, 0)


async def test_the_last_one_anywhere_ends_the_upstream(url: str, upstream: OpenAIServer) -> None:
    async with clients(url, upstream) as ([one, two], caches):
        upstream.hold_after(2)
        leader = Consumer(one)
        await leader.has(2)
        follower = Consumer(two)
        await follower.has(2)
        await leader.leave()
        newcomer = Consumer(one)  # joins what is still read for the other process
        await newcomer.has(2)
        await newcomer.leave()
        assert (upstream.calls, upstream.disconnects) == (1, 0)
        await follower.leave()
        await upstream.wait_disconnects(1, 1.0)
        await all_over(*caches)
        upstream.release()


async def test_a_leader_that_leaves_is_not_noticed_elsewhere(
    url: str, upstream: OpenAIServer
) -> None:
    async with clients(url, upstream) as ([one, two], _):
        upstream.hold_after(2)
        leader = Consumer(one)
        await leader.has(2)
        follower = Consumer(two)
        await follower.has(2)
        await leader.leave()
        upstream.release()
        assert (await follower.task).endswith("seven")
        assert upstream.calls == 1


async def test_followers_that_vanish_count_no_more(
    url: str, raw: Any, upstream: OpenAIServer
) -> None:
    async with clients(url, upstream, lease=SHORT) as ([one, two], _):
        upstream.hold_after(2)
        leader, follower = Consumer(one), Consumer(two)
        await leader.has(2)
        await follower.has(2)
        [wanted] = await keys(raw, "*:w:*")
        assert await raw.zcard(wanted) == 1
        assert 0 < await raw.pttl(wanted) <= 2_000 * SHORT
        upstream.release()
        await asyncio.gather(leader.task, follower.task)


# Ends


async def test_an_error_within_the_stream_reaches_everyone_as_the_sdk_makes_it(
    url: str, upstream: OpenAIServer
) -> None:
    async with clients(url, upstream) as (them, _):
        upstream.error_in_stream(2, code="oops")
        upstream.hold_after(2)
        consumers = [Consumer(client) for client in them]
        for consumer in consumers:
            await consumer.has(2)
        upstream.release()
        outcomes = await asyncio.gather(*[c.task for c in consumers], return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {APIError}
        assert len({str(outcome) for outcome in outcomes}) == 1
        assert upstream.calls == 1
        assert (await Consumer(them[1]).task).endswith("seven")
        assert upstream.calls == 2


async def test_an_upstream_that_breaks_off_is_an_error_in_the_middle_everywhere(
    url: str, upstream: OpenAIServer
) -> None:
    async with clients(url, upstream) as (them, caches):
        upstream.truncate_stream(2)
        upstream.hold_after(2)
        consumers = [Consumer(client) for client in them]
        for consumer in consumers:
            await consumer.has(2)
        upstream.release()
        outcomes = await asyncio.gather(*[c.task for c in consumers], return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [APIConnectionError] * 2
        assert all("peer closed" in story(outcome) for outcome in outcomes)
        assert sum("another process broke off" in story(outcome) for outcome in outcomes) == 1
        await all_over(*caches)
        assert (await Consumer(them[0]).task).endswith("seven")


def story(error: BaseException | None) -> str:
    """What an error and its causes say."""
    said = []
    while error is not None:
        said.append(str(error))
        error = error.__cause__ or error.__context__
    return "; ".join(said)


async def test_an_upstream_that_fails_before_the_first_chunk_is_its_own_callers_affair(
    url: str, upstream: OpenAIServer
) -> None:
    async with clients(url, upstream) as (them, _):
        upstream.hold()
        upstream.fail(400)
        leader = Consumer(them[0])
        await upstream.wait_active(1)
        follower = Consumer(them[1])
        await wait_until("a follower", lambda: held(them_cache(them[1])) > 0)
        upstream.release()
        with pytest.raises(APIError):
            await leader.task
        assert (await follower.task).endswith("seven")
        assert upstream.calls == 2


def them_cache(client: Any) -> Any:
    """The cache behind a client."""

    class Cache:
        _engine = client._binding.engine

    return Cache


HOWS: dict[str, Callable[..., Any]] = {
    "delete": lambda cache, key: cache.delete(key),
    "clear": lambda cache, key: cache.clear(),
    "tag": lambda cache, key: cache.invalidate("tag"),
}


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("where", [0, 1])
async def test_a_stream_that_is_invalidated_is_given_to_all_and_stored_nowhere(
    url: str, raw: Any, upstream: OpenAIServer, how: str, where: int
) -> None:
    async with clients(url, upstream) as (them, caches):
        upstream.hold_after(2)
        with caches[0].control(tags=("tag",)), caches[1].control(tags=("tag",)):
            consumers = [Consumer(them[0])]
            await consumers[0].has(2)
            consumers.append(Consumer(them[1]))
            await consumers[1].has(2)
        key = cache_status(consumers[0].stream).key  # type: ignore[union-attr]
        await HOWS[how](caches[where], key)
        for cache in caches:
            await wait_until("the news", lambda c=cache: len(c._engine.flights) == 0)
        upstream.release()
        texts = await asyncio.gather(*[c.task for c in consumers])
        assert len(set(texts)) == 1
        await all_over(*caches)
        assert await keys(raw, f"*:e:*{key}*") == []
        for cache in caches:
            assert await cache.get(key) is None
        assert upstream.calls == 1


# Processes that die, servers that are lost


@pytest.mark.parametrize("seen", [0, 2])
async def test_a_leader_that_dies(server: Server, upstream: OpenAIServer, seen: int) -> None:
    """Cut off from the server for good, which for the others is the same."""
    async with TCPProxy("127.0.0.1", server.port) as proxy:
        urls = [f"redis://127.0.0.1:{proxy.port}/0", server.url]
        async with clients(urls, upstream, lease=SHORT) as (them, _):
            if seen:
                upstream.hold_after(seen)
            else:
                upstream.hold()
            leader = Consumer(them[0])
            await upstream.wait_active(1)
            await leader.has(seen)
            follower = Consumer(them[1])
            await follower.has(seen)
            await wait_until("a follower", lambda: held(them_cache(them[1])) > 0)
            proxy.black_hole()
            if seen:
                with pytest.raises(APIConnectionError) as raised:
                    await follower.task
                assert "silent" in story(raised.value)
                again = Consumer(them[1])
            else:
                again = follower
            await upstream.wait_calls(2)
            assert upstream.calls == 2
            upstream.release()
            assert (await again.task).endswith("seven")
            assert len(again.ids) == 1
            assert (await leader.task).endswith("seven")
            proxy.pass_through()


async def test_a_server_that_is_lost_amid_a_stream(server: Server, upstream: OpenAIServer) -> None:
    async with clients(server.url, upstream, lease=SHORT) as (them, _):
        upstream.hold_after(2)
        leader = Consumer(them[0])
        await leader.has(2)
        follower = Consumer(them[1])
        await follower.has(2)
        server.kill()
        with pytest.raises(APIConnectionError) as raised:
            await follower.task
        assert "broke off" in story(raised.value)
        upstream.release()
        assert (await leader.task).endswith("seven")
        server.start()


@pytest.mark.parametrize("arrives", [False, True])
async def test_a_record_that_fails_to_be_written_is_written_again(
    url: str, upstream: OpenAIServer, arrives: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with clients(url, upstream) as (them, caches):
        relay: Any = caches[0]._engine.relays._tier.relay  # type: ignore[union-attr]
        publish, failures = relay.publish, [True, True]

        async def failing(*record: Any) -> Any:
            if not failures:
                return await publish(*record)
            failures.pop()
            if arrives:  # only its acknowledgement is lost
                await publish(*record)
            raise TimeoutError

        upstream.hold_after(2)
        leader = Consumer(them[0])
        await leader.has(2)
        follower = Consumer(them[1])
        await follower.has(2)
        monkeypatch.setattr(relay, "publish", failing)
        upstream.release()
        assert await follower.task == await leader.task
        assert len(follower.got) == len(leader.got)
        assert (upstream.calls, failures) == (1, [])
        await all_over(*caches)


async def test_readers_that_cannot_be_counted_are_taken_to_be_there(
    url: str, upstream: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with clients(url, upstream, lease=SHORT) as (them, caches):
        relay: Any = caches[0]._engine.relays._tier.relay  # type: ignore[union-attr]
        asked = asyncio.Event()

        async def failing(*_: Any) -> bool:
            asked.set()
            raise TimeoutError

        upstream.hold_after(2)
        leader = Consumer(them[0])
        await leader.has(2)
        follower = Consumer(them[1])
        await follower.has(2)
        monkeypatch.setattr(relay, "wanted", failing)
        await leader.leave()
        async with asyncio.timeout(5):
            await asked.wait()
        upstream.release()
        assert (await follower.task).endswith("seven")
        assert upstream.calls == 1


async def test_a_cache_that_is_closed_tells_its_followers(url: str, upstream: OpenAIServer) -> None:
    async with clients(url, upstream) as (them, caches):
        upstream.hold_after(2)
        leader, follower = Consumer(them[0]), None
        await leader.has(2)
        follower = Consumer(them[1])
        await follower.has(2)
        await caches[0].aclose()
        with pytest.raises(APIConnectionError) as raised:
            await follower.task
        assert "closed" in story(raised.value)
        upstream.release()
        assert (await leader.task).endswith("seven")


# Real processes


async def chatting(worker: Worker, upstream: OpenAIServer, text: str, consumers: int = 5) -> int:
    """Let a process read a chat's first chunks; gives the number of the answer to come."""
    seen = len(worker.of("chunk"))
    number = worker.tell("chat", base_url=upstream.base_url, text=text, consumers=consumers)
    await wait_until("chunks in a process", lambda: len(worker.of("chunk")) >= seen + 2, 30)
    return number


async def test_real_processes_share_a_stream(url: str, upstream: OpenAIServer) -> None:
    async with workers(url, 3) as them:
        upstream.hold_after(2)
        numbers = [await chatting(worker, upstream, "a b c d e f", 30) for worker in them]
        assert upstream.calls == upstream.active == 1
        upstream.release()
        answers = [await w.answer(n, 30) for w, n in zip(them, numbers, strict=True)]
        assert len({text for answer in answers for text in answer["texts"]}) == 1
        assert upstream.calls == 1


async def test_a_killed_leader_is_an_error_in_the_middle_and_no_error_before(
    url: str, upstream: OpenAIServer
) -> None:
    async with workers(url, 3, lease=SHORT) as (leader, amid, early):
        upstream.hold_after(2)
        await chatting(leader, upstream, "a b c")
        number = await chatting(amid, upstream, "a b c")
        await leader.kill()
        assert (await amid.answer(number))["error"] == "APIConnectionError"
        upstream.release()
        upstream.reset()
        upstream.hold()
        amid.tell("chat", base_url=upstream.base_url, text="another")
        await upstream.wait_active(1)
        number = early.tell("chat", base_url=upstream.base_url, text="another", consumers=5)
        await wait_until("a follower", lambda: wanted(url))
        await amid.kill()
        await upstream.wait_calls(2)
        upstream.release()
        assert len((await early.answer(number))["texts"]) == 1
        assert upstream.calls == 2


async def wanted(url: str) -> bool:
    async with redis.asyncio.Redis.from_url(url) as client:
        return bool(await keys(client, "*:w:*"))


async def test_a_killed_follower_keeps_no_stream_alive(url: str, upstream: OpenAIServer) -> None:
    async with workers(url, 1, lease=SHORT) as [follower]:
        async with clients(url, upstream, 1, lease=SHORT) as ([one], [cache]):
            upstream.hold_after(2)
            text = CHAT["messages"][0]["content"]
            leader = Consumer(one, model="m")
            await leader.has(2)
            await chatting(follower, upstream, text)
            await leader.leave()
            assert (upstream.calls, upstream.disconnects) == (1, 0)
            await follower.kill()
            await upstream.wait_disconnects(1, 10 * SHORT)
            await all_over(cache)
            upstream.release()


# Encryption


async def test_nothing_on_the_server_is_readable_with_encryption(
    url: str, raw: Any, upstream: OpenAIServer
) -> None:
    async with clients(url, upstream, encryption_key=b"k" * 32) as (them, _):
        upstream.hold_after(4)
        leader = Consumer(them[0])
        await leader.has(4)
        follower = Consumer(them[1])
        await follower.has(4)
        key = cache_status(leader.stream).key.encode()  # type: ignore[union-attr]
        dumps = b""
        for name in await keys(raw, "*"):
            dumps += name
            if await raw.type(name) == b"stream":
                dumps += repr(await raw.xrange(name)).encode()
        assert b"gpt-test" not in dumps
        assert b"chatcmpl" not in dumps
        assert key not in dumps
        upstream.release()
        assert await leader.task == await follower.task
        assert upstream.calls == 1


# `cache.stream`


async def test_streams_of_ones_own_are_shared_too(url: str) -> None:
    gate, begun = asyncio.Event(), 0

    async def items() -> AsyncIterator[Any]:
        nonlocal begun
        begun += 1
        yield ""
        yield {"a": [1, None]}
        await gate.wait()
        yield b"\0"

    async def read(cache: PromptCache, got: list[Any]) -> None:
        async for item in cache.stream("key", items):
            got.append(item)

    async with team(url, 2) as caches:
        gots: list[list[Any]] = [[], []]
        first = asyncio.ensure_future(read(caches[0], gots[0]))
        await wait_until("the beginning", lambda: len(gots[0]) == 2)
        second = asyncio.ensure_future(read(caches[1], gots[1]))
        await wait_until("the beginning elsewhere", lambda: len(gots[1]) == 2)
        gate.set()
        await asyncio.gather(first, second)
        assert gots == [["", {"a": [1, None]}, b"\0"]] * 2
        assert begun == 1


async def test_ones_own_stream_that_fails_amid_tells_followers_what_happened(url: str) -> None:
    gate = asyncio.Event()

    async def items() -> AsyncIterator[Any]:
        yield 1
        await gate.wait()
        raise RuntimeError("no luck")

    async def read(cache: PromptCache, got: list[Any]) -> None:
        async for item in cache.stream("key", items):
            got.append(item)

    async with team(url, 2) as caches:
        got: list[Any] = []
        first = asyncio.ensure_future(read(caches[0], got))
        await wait_until("the beginning", lambda: len(got) == 1)
        second = asyncio.ensure_future(read(caches[1], got))
        await wait_until("the beginning elsewhere", lambda: len(got) == 2)
        gate.set()
        with pytest.raises(RuntimeError, match="no luck"):
            await first
        with pytest.raises(StreamBroken, match="no luck"):
            await second


async def test_what_a_long_stream_leaves_on_the_server_is_bounded(
    monkeypatch: pytest.MonkeyPatch, url: str, raw: Any
) -> None:
    monkeypatch.setattr("aiopromptcache._streams.LIMIT", 20_000)
    turn = asyncio.Semaphore(1)
    longest = 0

    async def items() -> AsyncIterator[Any]:
        for number in range(200):
            await turn.acquire()
            yield [number, "x" * 1_000]

    async def read(cache: PromptCache, got: list[int]) -> None:
        async for number, _ in cache.stream("key", items):
            got.append(number)

    async with team(url, 2) as caches:
        gots: list[list[int]] = [[], []]
        tasks = [asyncio.ensure_future(read(caches[0], gots[0]))]
        await wait_until("the beginning", lambda: gots[0])
        tasks.append(asyncio.ensure_future(read(caches[1], gots[1])))
        for count in range(1, 200):
            await wait_until("it elsewhere", lambda n=count: len(gots[1]) == n)
            longest = max([longest, *[await raw.xlen(key) for key in await keys(raw, "*:v:*")]])
            turn.release()
        await asyncio.gather(*tasks)
        assert gots == [list(range(200))] * 2
        assert longest <= 20
        await all_over(*caches)
        assert await caches[0].get("key") is None


# What may not be stored


async def test_a_stream_that_may_not_be_stored_is_passed_on_all_the_same(
    url: str, raw: Any, upstream: OpenAIServer
) -> None:
    async with clients(url, upstream) as (them, caches):
        upstream.finish_reason = "length"
        upstream.hold_after(2)
        consumers = [Consumer(them[0])]
        await consumers[0].has(2)
        consumers.append(Consumer(them[1]))
        await consumers[1].has(2)
        upstream.release()
        texts = await asyncio.gather(*[c.task for c in consumers])
        assert len(set(texts)) == upstream.calls == 1
        await all_over(*caches)
        key = cache_status(consumers[0].stream).key  # type: ignore[union-attr]
        assert await keys(raw, f"*:e:*{key}*") == await leases(raw) == []


async def test_it_saves_what_the_model_and_the_service_tier_that_it_names_cost(
    url: str, upstream: OpenAIServer
) -> None:
    """gpt-5.4 in its tier "flex": 1.25 and 7.50 dollars per million tokens."""
    message = {"role": "assistant", "content": "one two three four"}
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "gpt-5.4",
        "service_tier": "flex",
        "choices": [{"index": 0, "finish_reason": "length", "message": message}],
        "usage": {"prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100},
    }
    async with clients(url, upstream) as (them, caches):
        upstream.answer = lambda _: body
        upstream.hold_after(2)
        consumers = [Consumer(them[0], model="a deployment", **USAGE)]
        await consumers[0].has(2)
        consumers.append(Consumer(them[1], model="a deployment", **USAGE))
        await consumers[1].has(2)
        upstream.release()
        await asyncio.gather(*[consumer.task for consumer in consumers])
        await all_over(*caches)
        assert upstream.calls == 1
        dollars = pytest.approx((1_000 * 1.25 + 100 * 7.5) / 1e6)
        assert [caches[0].stats.cost_spent, caches[1].stats.cost_saved] == [dollars, dollars]


async def test_answers_that_may_not_be_stored_are_not_made_one_after_another(
    url: str, raw: Any, upstream: OpenAIServer
) -> None:
    async with clients(url, upstream, 4, lease=30.0) as (them, _):
        upstream.finish_reason = "length"
        upstream.hold()
        calls = [asyncio.ensure_future(them[0].chat.completions.create(**CHAT))]
        await upstream.wait_active(1)
        calls += [asyncio.ensure_future(c.chat.completions.create(**CHAT)) for c in them[1:]]
        others = [client._binding.engine.storage.shared for client in them[1:]]  # type: ignore[attr-defined]
        await wait_until("all to wait", lambda: all(o._waiting for o in others))
        await wait_until("a waiter's mark", lambda: marked(raw))
        upstream.release()
        upstream.hold()
        await calls[0]
        await upstream.wait_active(3)
        upstream.release()
        assert len({(await call).id for call in calls}) == 4


async def marked(raw: Any) -> bool:
    """Does anybody wait for a lease that is held?"""
    return any([(await raw.get(lease) or b"").endswith(b"w") for lease in await leases(raw)])
