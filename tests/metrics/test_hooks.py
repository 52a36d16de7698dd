"""Hooks: off the caller's path, harmless, and no work where there are none."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from engine_tools import Gate, until
from observed import chat

from aiopromptcache import CacheEvent, PromptCache
from aiopromptcache.testing import OpenAIServer

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("error", [asyncio.CancelledError, ValueError])
@pytest.mark.parametrize("plain", [True, False])
async def test_a_hook_that_fails_or_cancels_itself_is_told_what_comes_next(
    error: type[BaseException], plain: bool, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str | None] = []

    def hook(event: CacheEvent) -> None:
        told.append(event.key)
        raise error

    async def later(event: CacheEvent) -> None:
        await asyncio.sleep(0)
        hook(event)

    async with PromptCache(hooks=[hook if plain else later]) as cache:
        await cache.set("one", 1)
        await cache.set("two", 2)
        await until(lambda: len(told) == 2)
        await cache.set("three", 3)
    assert told == ["one", "two", "three"]
    assert cache.stats.errors == 3
    assert len([record for record in caplog.records if record.name == "aiopromptcache"]) == 1


def test_a_hook_that_waits_when_the_loop_ends_is_ended() -> None:
    ended: list[str] = []

    async def hook(event: CacheEvent) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    async def main() -> None:
        cache = PromptCache(hooks=[hook])
        await cache.set("one", 1)
        await cache.set("two", 2)
        await asyncio.sleep(0)

    asyncio.run(main())
    assert ended == ["cancelled"]


async def test_a_slow_hook_delays_nobody_and_what_it_misses_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aiopromptcache._events.QUEUE_LIMIT", 5)
    gate, told, quick = Gate(), list[str | None](), list[str | None]()

    async def slow(event: CacheEvent) -> None:
        await gate.wait()
        told.append(event.key)

    async with PromptCache(hooks=[slow, lambda event: quick.append(event.key)]) as cache:
        for number in range(9):
            await cache.set(str(number), number)
            await until(lambda: len(quick) == number + 1)  # noqa: B023
        assert told == []
        assert cache.stats.dropped_events == 3  # one is with the hook, five wait
        gate.open()
    assert told == [str(number) for number in range(6)]
    assert quick == [str(number) for number in range(9)]


async def test_many_events_for_a_plain_hook_leave_others_their_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aiopromptcache._events.TURN_SECONDS", 0)
    told: list[str | None] = []
    async with PromptCache(hooks=[lambda event: told.append(event.key)]) as cache:
        for number in range(100):
            await cache.set(str(number), number)
        waiting = 100 - len(told)
        await asyncio.sleep(0)
        assert waiting - (100 - len(told)) <= 1
        assert waiting > 50
    assert told == [str(number) for number in range(100)]


async def test_where_nobody_listens_no_event_is_made(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(*args: Any, **fields: Any) -> None:
        raise AssertionError("an event was made")

    monkeypatch.setattr("aiopromptcache._ledger.CacheEvent", made)
    async with PromptCache() as cache:
        client = cache.wrap(server.client(max_retries=0))
        for _ in range(2):
            await client.chat.completions.create(**chat())
            await client.embeddings.create(model="vectors", input="one")
            await cache.get_or_create("key", lambda: asyncio.sleep(0, 1))
        assert cache.stats.hits == 3


async def test_calls_that_may_not_be_cached_are_counted_and_no_event(
    server: OpenAIServer,
) -> None:
    events: list[CacheEvent] = []
    async with PromptCache(hooks=[events.append]) as cache:
        await cache.wrap(server.client()).chat.completions.create(**chat(store=True))
    assert cache.stats.bypassed == cache.stats.upstream_calls == 1
    assert cache.stats.requests == 0
    assert cache.stats.as_dict()["outcomes"] == [
        {"endpoint": "chat.completions", "outcome": "bypass", "tier": "", "count": 1}
    ]
    assert cache.stats.tokens_spent.total > 0
    assert events == []
