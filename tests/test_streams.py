"""`PromptCache.stream`: one run of an iterator for all, who may come late, leave, lag or fail."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import pytest
from engine_tools import Gate, Gated, cancel, finish, quiet, until

from aiopromptcache import (
    CacheEvent,
    NotCached,
    PromptCache,
    ReentrantCall,
    StreamBroken,
    cache_status,
)
from aiopromptcache.testing import VirtualClock

pytestmark = pytest.mark.anyio

FALSY: list[Any] = [None, False, 0, 0.0, "", [], {}, b""]


class Source:
    """An iterator's factory whose items come when a test lets them."""

    def __init__(self, count: int = 4, error: Exception | None = None) -> None:
        self.items: list[Any] = [{"item": number} for number in range(count)]
        self.error = error
        self.gates: list[Gate] = [Gate() for _ in range(count + 1)]
        self.calls = 0
        self.closed = 0

    async def __call__(self) -> AsyncIterator[Any]:
        self.calls += 1
        try:
            for item, gate in zip(self.items, self.gates, strict=False):
                await gate.wait()
                yield item
            await self.gates[-1].wait()
            if self.error is not None:
                raise self.error
        finally:
            self.closed += 1

    def give(self, count: int) -> None:
        """Let so many items come in all."""
        for gate in self.gates[:count]:
            gate.open()

    def finish(self) -> None:
        """Let all come, and the end."""
        self.give(len(self.gates))


class Consumer:
    """Reads a stream in a task of its own."""

    def __init__(self, cache: PromptCache, source: Any, key: str = "key", **options: Any) -> None:
        self.stream = cache.stream(key, source, **options)
        self.got: list[Any] = []
        self.task = asyncio.ensure_future(self._read())

    async def _read(self) -> list[Any]:
        async for item in self.stream:
            self.got.append(item)
        return self.got


async def read(stream: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in stream]


async def test_all_who_ask_share_one_run_and_late_comers_get_the_beginning(
    cache: PromptCache,
) -> None:
    source = Source()
    early = [Consumer(cache, source) for _ in range(3)]
    source.give(2)
    await until(lambda: all(len(consumer.got) == 2 for consumer in early))
    late = Consumer(cache, source)
    await until(lambda: len(late.got) == 2)
    source.give(3)
    await until(lambda: all(len(consumer.got) == 3 for consumer in [*early, late]))
    source.finish()
    results = [await finish(consumer.task) for consumer in [*early, late]]
    assert results == [source.items] * 4
    assert source.calls == source.closed == 1
    assert len({id(item) for result in results for item in result}) == 16
    assert await read(cache.stream("key", source)) == source.items
    assert source.calls == 1


async def test_each_consumer_may_change_what_it_got(cache: PromptCache) -> None:
    source = Source(1)
    one, other = Consumer(cache, source), Consumer(cache, source)
    source.finish()
    (await finish(one.task))[0]["item"] = "changed"
    assert await finish(other.task) == source.items
    for _ in range(2):
        (again,) = await read(cache.stream("key", source))
        assert again == source.items[0]
        again["item"] = "changed"


@pytest.mark.parametrize("tier", [None, Gated], ids=["memory", "remote"])
async def test_falsy_items_are_items(clock: VirtualClock, tier: Any) -> None:
    source = Source(0)
    source.items = [*FALSY, 2**70, float("inf"), "\ud800", *FALSY]
    source.gates = [Gate() for _ in source.items]
    source.finish()
    cache = PromptCache(*([tier()] if tier else []), clock=clock)
    for _ in range(3):
        got = await read(cache.stream("key", source))
        assert [(type(item), item) for item in got] == [(type(item), item) for item in source.items]
    assert source.calls == 1
    assert await cache.get("key") == source.items


async def test_an_empty_stream_is_an_answer(cache: PromptCache) -> None:
    source = Source(0)
    source.finish()
    for _ in range(2):
        assert await read(cache.stream("key", source)) == []
    assert source.calls == 1


async def test_nothing_happens_before_the_first_item_is_asked_for(cache: PromptCache) -> None:
    source = Source()
    stream = cache.stream("key", source)
    await quiet()
    assert source.calls == 0
    await stream.aclose()
    assert await read(stream) == []
    assert source.calls == 0


async def leave_by_aclose(consumer: Any) -> None:
    await consumer.aclose()


async def leave_by_cancellation(consumer: Any) -> None:
    task = asyncio.ensure_future(anext(consumer))
    await quiet()
    await cancel(task)


async def leave_by_context(consumer: Any) -> None:
    async with consumer:
        pass


LEAVING = [leave_by_aclose, leave_by_cancellation, leave_by_context]
N = 3


@pytest.mark.parametrize("leave", LEAVING)
@pytest.mark.parametrize("at", range(5))
@pytest.mark.parametrize(
    "leavers", [who for k in range(N + 1) for who in itertools.combinations(range(N), k)], ids=str
)
async def test_any_may_leave_at_any_item_and_the_rest_get_all(
    cache: PromptCache, leavers: tuple[int, ...], at: int, leave: Any
) -> None:
    source = Source()
    streams = [cache.stream("key", source) for _ in range(N)]
    source.give(at)
    got: list[list[Any]] = [[] for _ in streams]
    for number, stream in enumerate(streams):
        for _ in range(at):
            got[number].append(await anext(stream))
    waiting = []
    if at == 0:  # everyone waits for the first item
        waiting = [
            asyncio.ensure_future(read(stream))
            for number, stream in enumerate(streams)
            if number not in leavers
        ]
        await quiet()
    for number in leavers:
        await leave(streams[number])
    everyone = len(leavers) == N
    assert source.closed == (source.calls if everyone else 0)
    source.finish()
    if waiting:
        assert [await finish(task) for task in waiting] == [source.items] * len(waiting)
    else:
        for number, stream in enumerate(streams):
            if number not in leavers:
                assert got[number] + await read(stream) == source.items
    started = source.calls
    assert await read(cache.stream("key", source)) == source.items
    assert source.calls == (started + 1 if everyone else 1)


@pytest.mark.parametrize("begun", [False, True])
async def test_a_dropped_stream_has_left(cache: PromptCache, begun: bool) -> None:
    source = Source()
    source.give(1)
    stays, goes = cache.stream("key", source), cache.stream("key", source)
    await anext(stays)
    if begun:
        await anext(goes)
    del goes
    await quiet()
    assert source.closed == 0
    del stays
    await until(lambda: source.closed == 1)
    assert len(cache._engine.flights) == 0


async def test_a_break_leaves_a_stream_open(cache: PromptCache) -> None:
    source = Source()
    source.finish()
    stream = cache.stream("key", source)
    got = []
    for _ in range(2):
        async for item in stream:
            got.append(item)
            break
    assert got + await read(stream) == source.items


async def test_a_stream_may_be_dropped_in_another_thread(cache: PromptCache) -> None:
    source = Source()
    source.give(1)
    held = [cache.stream("key", source)]
    await anext(held[0])
    thread = threading.Thread(target=held.clear)
    thread.start()
    await asyncio.get_running_loop().run_in_executor(None, thread.join)
    await until(lambda: source.closed == 1)
    assert len(cache._engine.flights) == 0


def test_a_stream_dropped_after_its_loop_hurts_nobody() -> None:
    async def begin() -> Any:
        source = Source()
        source.give(1)
        stream = PromptCache().stream("key", source)
        await anext(stream)
        return stream

    stream = asyncio.run(begin())
    del stream
    gc.collect()


async def test_the_last_ones_leaving_ends_a_run_and_newcomers_start_anew(
    cache: PromptCache,
) -> None:
    source = Source()
    first = Consumer(cache, source)
    source.give(1)
    await until(lambda: len(first.got) == 1)
    await first.stream.aclose()
    assert source.closed == 1
    source.finish()
    assert await read(cache.stream("key", source)) == source.items
    assert source.calls == 2
    with pytest.raises(StreamBroken, match="closed"):
        await finish(first.task)


async def test_who_is_closed_while_it_waits_is_told(cache: PromptCache) -> None:
    source = Source()
    stays, closed = Consumer(cache, source), Consumer(cache, source)
    source.give(1)
    await until(lambda: len(stays.got) == len(closed.got) == 1)
    await closed.stream.aclose()
    with pytest.raises(StreamBroken, match="closed"):
        await finish(closed.task)
    source.finish()
    assert await finish(stays.task) == source.items


async def test_a_slow_consumer_slows_nobody(cache: PromptCache) -> None:
    source = Source(200)
    source.finish()
    slow = cache.stream("key", source)
    first = await anext(slow)
    quick = Consumer(cache, source)
    assert await finish(quick.task) == source.items
    assert source.closed == 1
    assert cache_status(quick.stream).stored  # type: ignore[union-attr]
    assert [first, *await read(slow)] == source.items


class Oops(Exception):
    """A user's own error."""


@pytest.mark.parametrize("at", [0, 1, 3])
async def test_an_error_reaches_each_after_the_items_before_it(cache: PromptCache, at: int) -> None:
    source = Source(at, Oops("no"))
    consumers = [Consumer(cache, source) for _ in range(3)]
    source.finish()
    await asyncio.wait([consumer.task for consumer in consumers])
    errors = [consumer.task.exception() for consumer in consumers]
    assert [repr(error) for error in errors] == ["Oops('no')"] * 3
    assert len({id(error) for error in errors}) == 3
    for consumer in consumers:
        assert consumer.got == source.items
        assert await read(consumer.stream) == []
        assert not cache_status(consumer.stream).stored  # type: ignore[union-attr]
    assert cache.stats.errors == 1
    with pytest.raises(Oops):
        await read(cache.stream("key", source))
    assert source.calls == 2


@pytest.mark.parametrize("item", [object(), {1, 2}, {1: 2}], ids=type)
async def test_what_cannot_be_kept_is_a_type_error(cache: PromptCache, item: Any) -> None:
    source = Source(1)
    source.items = [item]
    source.finish()
    with pytest.raises(TypeError, match=r"allowed: "):
        await read(cache.stream("key", source))
    assert source.closed == 1


async def test_a_factory_that_gives_no_iterator_is_a_type_error(cache: PromptCache) -> None:
    factory: Any = lambda: [1, 2]  # noqa: E731
    with pytest.raises(TypeError, match="list"):
        await read(cache.stream("key", factory))


async def test_an_iterator_without_aclose_is_welcome(cache: PromptCache) -> None:
    class Numbers:
        def __init__(self) -> None:
            self.left = [1, 2, 3]

        def __aiter__(self) -> Numbers:
            return self

        async def __anext__(self) -> int:
            if not self.left:
                raise StopAsyncIteration
            return self.left.pop(0)

    assert await read(cache.stream("key", Numbers)) == [1, 2, 3]
    assert await read(cache.stream("key", Numbers)) == [1, 2, 3]


# Invalidation

HOWS: dict[str, Any] = {
    "delete": lambda cache: cache.delete("key"),
    "clear": lambda cache: cache.clear(),
    "tag": lambda cache: cache.invalidate("tag"),
    "set": lambda cache: cache.set("key", 1, ttl=0),
}


@pytest.mark.parametrize("how", HOWS)
async def test_what_is_invalidated_meanwhile_is_given_and_not_stored(
    cache: PromptCache, how: str
) -> None:
    source, other = Source(), Source()
    old = Consumer(cache, source, tags=["tag"])
    source.give(2)
    await until(lambda: len(old.got) == 2)
    await HOWS[how](cache)
    new = Consumer(cache, other, tags=["tag"])
    await until(lambda: other.calls == 1)
    source.finish()
    assert await finish(old.task) == source.items
    assert not cache_status(old.stream).stored  # type: ignore[union-attr]
    other.finish()
    await finish(new.task)
    assert cache_status(new.stream).stored  # type: ignore[union-attr]
    assert await cache.delete("key") == 1
    assert (source.calls, other.calls) == (1, 1)


# Policies, status, counters


async def test_a_stream_lives_as_long_as_it_is_told(
    cache: PromptCache, clock: VirtualClock
) -> None:
    source = Source()
    source.finish()
    for calls in (1, 2):
        for _ in range(2):
            await read(cache.stream("key", source, ttl=10))
        assert source.calls == calls
        clock.advance(11)


async def test_policies_hold_for_streams(cache: PromptCache) -> None:
    source = Source()
    source.finish()
    with cache.control(only_if_cached=True):
        unread = cache.stream("key", source)
    with pytest.raises(NotCached):
        await read(unread)
    with cache.control(no_store=True):
        await read(cache.stream("key", source))
    with cache.control(partition="a"):
        await read(cache.stream("key", source))
    assert source.calls == 2
    await read(cache.stream("key", source))
    assert source.calls == 3
    with cache.control(no_cache=True):
        stream = cache.stream("key", source)
    await read(stream)
    assert cache_status(stream).fwd == "request"  # type: ignore[union-attr]
    assert source.calls == 4


async def test_status_and_counters_and_events(clock: VirtualClock) -> None:
    events: list[CacheEvent] = []
    async with PromptCache(clock=clock, hooks=[events.append]) as cache:
        source = Source()
        one = Consumer(cache, source)
        await until(lambda: source.calls == 1)
        two = Consumer(cache, source)
        source.give(1)
        await until(lambda: len(two.got) == 1)
        live = cache_status(two.stream)
        assert live is not None
        assert (live.hit, live.collapsed, live.stored, live.fwd) == (False, True, False, "miss")
        source.finish()
        await finish(one.task)
        await finish(two.task)
        status = [cache_status(consumer.stream) for consumer in (one, two)]
        assert [(s.collapsed, s.stored, s.ttl) for s in status if s] == [
            (False, True, 3600.0),
            (True, True, 3600.0),
        ]
        hit = cache.stream("key", source)
        await read(hit)
        assert cache_status(hit).hit  # type: ignore[union-attr]
        stats = cache.stats
        assert (stats.requests, stats.misses, stats.collapsed, stats.hits) == (3, 1, 1, 1)
        assert (stats.upstream_calls, stats.stores) == (1, 1)
    assert sorted(event.kind for event in events) == ["collapsed", "hit", "miss", "store"]


async def test_a_value_of_another_kind_is_no_stream(cache: PromptCache) -> None:
    source = Source()
    source.finish()
    for value in ([1, 2], b"", b"\x01\x00\x00\x00\x09x", "text"):
        await cache.set("key", value)
        assert await read(cache.stream("key", source)) == source.items
        assert await read(cache.stream("key", source)) == source.items
    assert source.calls == 4


async def test_a_run_has_its_first_callers_context(cache: PromptCache) -> None:
    who: ContextVar[str] = ContextVar("who")

    async def tell() -> AsyncIterator[str]:
        yield who.get()
        who.set("nobody")
        yield who.get()

    async def ask(name: str) -> list[str]:
        who.set(name)
        got = await read(cache.stream("key", tell))
        assert who.get() == name
        return got

    tasks = [asyncio.ensure_future(ask(name)) for name in ("first", "second")]
    assert await asyncio.gather(*tasks) == [["first", "nobody"]] * 2


async def test_a_stream_that_reads_itself_is_refused(cache: PromptCache) -> None:
    async def again() -> AsyncIterator[Any]:
        async for item in cache.stream("key", again):
            yield item

    with pytest.raises(ReentrantCall):
        await finish(asyncio.ensure_future(read(cache.stream("key", again))))


async def test_streams_that_wait_for_each_other_are_refused(cache: PromptCache) -> None:
    gate = Gate()

    def reads(other: str, back: Any) -> Any:
        async def items() -> AsyncIterator[Any]:
            await gate.wait()
            async for item in cache.stream(other, back()):
                yield item

        return items

    one = asyncio.ensure_future(read(cache.stream("a", reads("b", lambda: Source()))))
    two = asyncio.ensure_future(read(cache.stream("b", reads("a", lambda: Source()))))
    await gate.reached(2)
    gate.open()
    await until(lambda: one.done() and two.done())
    assert {type(one.exception()), type(two.exception())} == {ReentrantCall}


async def test_a_run_that_is_cancelled_from_outside_breaks_its_readers(
    cache: PromptCache,
) -> None:
    source = Source()
    consumers = [Consumer(cache, source) for _ in range(2)]
    source.give(2)
    await until(lambda: all(len(consumer.got) == 2 for consumer in consumers))
    for task in asyncio.all_tasks():
        if task.get_name() == "aiopromptcache flight":
            task.cancel()
    for consumer in consumers:
        with pytest.raises(StreamBroken, match="cancelled"):
            await finish(consumer.task)
    source.finish()
    assert await read(cache.stream("key", source)) == source.items


async def test_a_stored_stream_comes_from_a_remote_tier(clock: VirtualClock) -> None:
    tier, source = Gated(), Source()
    source.finish()
    await read(PromptCache(tier, clock=clock).stream("key", source))
    cache = PromptCache(tier, clock=clock)
    streams = [cache.stream("key", source) for _ in range(3)]
    assert await asyncio.gather(*map(read, streams)) == [source.items] * 3
    assert [cache_status(stream).hit for stream in streams] == [True] * 3  # type: ignore[union-attr]
    assert source.calls == 1


# Memory


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams that may keep some 20 items."""
    monkeypatch.setattr("aiopromptcache._streams.LIMIT", 400)


@pytest.mark.usefixtures("small")
async def test_what_is_too_long_to_keep_is_delivered_and_not_stored(cache: PromptCache) -> None:
    source = Source(200)
    source.finish()
    one, two = Consumer(cache, source), Consumer(cache, source)
    assert await finish(one.task) == await finish(two.task) == source.items
    assert not cache_status(one.stream).stored  # type: ignore[union-attr]
    await read(cache.stream("key", source))
    assert source.calls == 2


@pytest.mark.usefixtures("small")
async def test_an_iterator_waits_for_the_only_reader_there_is(cache: PromptCache) -> None:
    source = Source(200)
    source.finish()
    stream = cache.stream("key", source)
    got = [await anext(stream)]
    await quiet()
    live = stream._reader._live  # type: ignore[union-attr]
    for _ in range(50):
        assert live.size <= 420
        got.append(await anext(stream))
        await quiet()
    assert source.closed == 0
    assert got + await read(stream) == source.items


@pytest.mark.usefixtures("small")
async def test_who_lags_too_far_behind_is_cut_off_and_the_others_are_not(
    cache: PromptCache,
) -> None:
    source = Source(200)
    source.finish()
    slow = cache.stream("key", source)
    await anext(slow)
    quick = Consumer(cache, source)
    assert await finish(quick.task) == source.items
    with pytest.raises(StreamBroken, match="too far behind"):
        await read(slow)
    assert await read(slow) == []


@pytest.mark.usefixtures("small")
async def test_who_comes_when_the_beginning_is_gone_starts_anew(cache: PromptCache) -> None:
    source = Source(200)
    source.give(100)
    early = Consumer(cache, source)
    await until(lambda: len(early.got) == 100)
    late = Consumer(cache, source)
    await until(lambda: len(late.got) == 100)
    assert source.calls == 2
    source.finish()
    assert await finish(early.task) == await finish(late.task) == source.items


@pytest.mark.usefixtures("small")
async def test_an_iterator_that_waits_ends_when_its_reader_leaves(cache: PromptCache) -> None:
    source = Source(200)
    source.finish()
    stream = cache.stream("key", source)
    await anext(stream)
    await quiet()
    await stream.aclose()
    assert source.closed == 1
