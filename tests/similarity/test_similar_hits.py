"""Similar hits through a wrapped client: what is given, to whom, and what it counts as."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from similar_calls import FIRST, OTHER, SECOND, THIRD, chat, words

from aiopromptcache import (
    ConfigurationError,
    MemoryTier,
    NotCached,
    Policy,
    PromptCache,
    cache_status,
)
from aiopromptcache.testing import OpenAIServer, VirtualClock

pytestmark = pytest.mark.anyio


async def test_the_same_in_other_words_is_a_hit(
    server: OpenAIServer, make: Any, matcher: Any, clock: VirtualClock
) -> None:
    _, client = make(matcher())
    first = await chat(client)
    clock.advance(100)
    second = await chat(client, SECOND)
    assert server.calls == 1
    assert words(second) == words(first)
    status, stored = cache_status(second), cache_status(first)
    assert status is not None
    assert stored is not None
    assert (status.hit, status.tier, status.stored, status.fwd) == (True, "memory", False, None)
    assert status.similarity is not None
    assert 0.8 <= status.similarity < 1
    assert (status.age, status.ttl) == (100, 3500)
    assert status.key == stored.key
    assert status.asked_key not in (None, stored.key)
    assert f"similarity={status.similarity:.3f}" in str(status)
    exact = cache_status(await chat(client))
    assert exact is not None
    assert (exact.hit, exact.similarity, exact.asked_key) == (True, None, None)


async def test_another_question_is_none(server: OpenAIServer, make: Any, matcher: Any) -> None:
    _, client = make(matcher())
    await chat(client)
    status = cache_status(await chat(client, OTHER))
    assert status is not None
    assert (status.hit, status.similarity, status.stored) == (False, None, True)
    assert server.calls == 2


async def test_it_is_not_stored_under_the_new_key(
    server: OpenAIServer, make: Any, matcher: Any, clock: VirtualClock
) -> None:
    _, client = make(matcher(), ttl=60)
    await chat(client)
    clock.advance(50)
    assert cache_status(await chat(client, SECOND)).similarity is not None  # type: ignore[union-attr]
    clock.advance(11)  # its life was not extended
    assert not cache_status(await chat(client, SECOND)).hit  # type: ignore[union-attr]
    assert server.calls == 2


async def test_where_asked_a_copy_is_stored_for_the_rest_of_its_life(
    server: OpenAIServer, make: Any, matcher: Any, clock: VirtualClock
) -> None:
    cache, client = make(matcher(store_similar=True), ttl=60)
    await chat(client)
    clock.advance(50)
    status = cache_status(await chat(client, SECOND))
    assert status is not None
    assert status.stored
    copy = cache_status(await chat(client, SECOND))
    assert copy is not None
    assert (copy.hit, copy.similarity, copy.ttl) == (True, None, 10)
    assert await cache.delete(status.key) == 2  # both
    assert not cache_status(await chat(client, SECOND)).hit  # type: ignore[union-attr]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("second", [True, False])
async def test_streams_and_plain_calls_answer_each_other(
    server: OpenAIServer, make: Any, matcher: Any, first: bool, second: bool
) -> None:
    _, client = make(matcher(), policy=Policy(stream_usage=True))
    stored = await chat(client, stream=first)
    answer = await chat(client, SECOND, stream=second)
    assert server.calls == 1
    assert words(answer) == words(stored)
    assert cache_status(answer).similarity is not None  # type: ignore[union-attr]


async def test_a_stream_that_lacks_something_is_no_answer(
    server: OpenAIServer, make: Any, lexical: Any
) -> None:
    _, client = make(lexical())
    await chat(client, stream=True)  # says no usage
    status = cache_status(await chat(client, SECOND))
    assert status is not None
    assert not status.hit
    assert server.calls == 2


async def test_raw_and_parsed_forms(server: OpenAIServer, make: Any, lexical: Any) -> None:
    _, client = make(lexical())
    await chat(client)
    asked = {"model": "m", "messages": [{"role": "user", "content": SECOND}]}
    raw = await client.chat.completions.with_raw_response.create(**asked)
    assert "similarity=0.9" in raw.headers["Cache-Status"]
    assert cache_status(raw.parse()).similarity is not None
    parsed = await client.chat.completions.parse(**asked)
    assert cache_status(parsed).similarity is not None
    assert server.calls == 1


@pytest.mark.parametrize("field", ["model", "responses", "completions", "list"])
async def test_other_endpoints_and_forms_of_text(
    server: OpenAIServer, make: Any, lexical: Any, field: str
) -> None:
    _, client = make(lexical())

    async def ask(text: str) -> Any:
        if field == "responses":
            return await client.responses.create(model="m", input=text)
        if field == "list":
            item = {"role": "user", "content": [{"type": "input_text", "text": text}]}
            return await client.responses.create(model="m", input=[item])
        if field == "completions":
            return await client.completions.create(model="m", prompt=text)
        return await chat(client, [{"type": "text", "text": text}])

    await ask(FIRST)
    assert cache_status(await ask(SECOND)).similarity is not None  # type: ignore[union-attr]
    assert server.calls == 1


async def test_embeddings_and_moderations_have_none(
    server: OpenAIServer, make: Any, lexical: Any
) -> None:
    _, client = make(lexical())
    for text in (FIRST, SECOND):
        await client.embeddings.create(model="m", input=text)
        await client.moderations.create(model="m", input=text)
    assert server.calls == 4


async def test_a_hundred_at_once_are_embedded_once(
    server: OpenAIServer, make: Any, semantic: Any, embed: Any
) -> None:
    cache, client = make(semantic())
    await chat(client)
    embed.texts.clear()
    embed.gate = asyncio.Event()
    waiting = [asyncio.ensure_future(chat(client, SECOND)) for _ in range(100)]
    while not embed.texts:
        await asyncio.sleep(0)
    embed.gate.set()
    statuses = [cache_status(answer) for answer in await asyncio.gather(*waiting)]
    assert all(status is not None and status.hit and status.similarity for status in statuses)
    assert embed.texts == [SECOND]
    assert server.calls == 1
    assert (cache.stats.requests, cache.stats.hits, cache.stats.similar_hits) == (101, 100, 100)


async def test_a_hundred_new_ones_are_embedded_once_and_one_call(
    server: OpenAIServer, make: Any, semantic: Any, embed: Any
) -> None:
    _, client = make(semantic())
    await asyncio.gather(*[chat(client) for _ in range(100)])
    assert embed.texts == [FIRST]
    assert server.calls == 1


async def test_an_exact_hit_embeds_nothing(make: Any, semantic: Any, embed: Any) -> None:
    _, client = make(semantic())
    await chat(client)
    embed.texts.clear()
    await chat(client)
    await chat(client, stream=True)
    assert embed.texts == []


@pytest.mark.parametrize("raising", [True, False])
async def test_a_failing_embed_costs_nobody_an_answer(
    server: OpenAIServer, make: Any, semantic: Any, embed: Any, events: Any, raising: bool,
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    cache, client = make(semantic())
    if raising:
        embed.error = OSError("down")
    else:
        monkeypatch.setattr("aiopromptcache._similar.LOOK_SECONDS", 0.0)
        embed.gate = asyncio.Event()
    with caplog.at_level(logging.WARNING):
        await chat(client)
        await chat(client, SECOND)
    assert server.calls == 2
    assert len([one for one in caplog.records if one.name == "aiopromptcache"]) == 1
    assert FIRST not in caplog.text
    await cache.aclose()
    assert [event.kind for event in events].count("error") == cache.stats.errors
    assert cache.stats.errors == len(embed.texts) == 2  # for each call once
    embed.error = embed.gate = None


async def test_who_leaves_while_it_is_embedded_leaves_nothing_behind(
    server: OpenAIServer, make: Any, semantic: Any, embed: Any
) -> None:
    _, client = make(semantic())
    embed.gate = asyncio.Event()
    task = asyncio.ensure_future(chat(client))
    while not embed.texts:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert server.calls == 0
    embed.gate = None
    await chat(client)
    assert server.calls == 1


async def test_control_turns_it_off_tightens_and_loosens(
    server: OpenAIServer, make: Any, matcher: Any, embed: Any
) -> None:
    cache, client = make(matcher(guards=()))
    await chat(client)
    embed.texts.clear()
    for number, threshold in enumerate([None, 0.9999, 1]):
        with cache.control(similarity=threshold, no_store=True):
            assert not cache_status(await chat(client, SECOND)).hit  # type: ignore[union-attr]
        assert server.calls == 2 + number
        assert embed.texts.count(SECOND) <= number
    with cache.control(similarity=0.0, no_store=True):  # zero is a number, not "unset"
        assert cache_status(await chat(client, OTHER)).similarity is not None  # type: ignore[union-attr]
    assert not cache_status(await chat(client, OTHER)).hit  # type: ignore[union-attr]


async def test_who_turned_it_off_gets_no_similar_hit_from_another_callers_flight(
    server: OpenAIServer, make: Any, semantic: Any, embed: Any
) -> None:
    cache, client = make(semantic())
    await chat(client)
    embed.texts.clear()
    embed.gate = asyncio.Event()
    liberal = asyncio.ensure_future(chat(client, SECOND))
    while not embed.texts:
        await asyncio.sleep(0)
    with cache.control(similarity=None):
        strict = [asyncio.ensure_future(chat(client, SECOND)) for _ in range(3)]
        await asyncio.sleep(0)
    embed.gate.set()
    assert cache_status(await liberal).similarity is not None  # type: ignore[union-attr]
    statuses = [cache_status(answer) for answer in await asyncio.gather(*strict)]
    assert [status.similarity for status in statuses if status] == [None] * 3
    assert server.calls == 2


async def test_the_directives_of_a_call_hold(
    server: OpenAIServer, make: Any, matcher: Any, clock: VirtualClock
) -> None:
    cache, client = make(matcher())
    await chat(client)
    clock.advance(10)
    with cache.control(only_if_cached=True):
        assert cache_status(await chat(client, SECOND)).similarity is not None  # type: ignore[union-attr]
        with pytest.raises(NotCached):
            await chat(client, OTHER)
    with cache.control(no_store=True):
        assert cache_status(await chat(client, THIRD)).similarity is not None  # type: ignore[union-attr]
    with cache.control(max_age=9, only_if_cached=True), pytest.raises(NotCached):
        await chat(client, SECOND)
    with cache.control(no_cache=True):
        status = cache_status(await chat(client, SECOND))
    assert status is not None
    assert (status.hit, status.fwd, status.stored) == (False, "request", True)
    assert server.calls == 2


async def test_a_stale_answer_is_no_similar_hit(
    server: OpenAIServer, make: Any, matcher: Any, clock: VirtualClock
) -> None:
    policy = Policy(ttl=10, stale_while_revalidate=100, stale_if_error=100)
    _, client = make(matcher(), policy=policy)
    await chat(client)
    clock.advance(11)
    assert not cache_status(await chat(client, SECOND)).hit  # type: ignore[union-attr]
    assert server.calls == 2


async def gone_by_delete(cache: PromptCache, status: Any, clock: VirtualClock) -> None:
    assert await cache.delete(status.key) == 1


async def gone_by_tag(cache: PromptCache, status: Any, clock: VirtualClock) -> None:
    assert await cache.invalidate("t") == 1


async def gone_by_clear(cache: PromptCache, status: Any, clock: VirtualClock) -> None:
    assert await cache.clear() == 1


async def gone_by_time(cache: PromptCache, status: Any, clock: VirtualClock) -> None:
    clock.advance(3601)


async def gone_by_others(cache: PromptCache, status: Any, clock: VirtualClock) -> None:
    await cache.set("a", 1)
    await cache.set("b", 1)


@pytest.mark.parametrize(
    "go", [gone_by_delete, gone_by_tag, gone_by_clear, gone_by_time, gone_by_others]
)
async def test_what_is_gone_is_never_matched(
    server: OpenAIServer, make: Any, matcher: Any, clock: VirtualClock, go: Any
) -> None:
    cache, client = make(matcher(), MemoryTier(max_entries=2), policy=Policy(tags=("t",)))
    await chat(client)
    status = cache_status(await chat(client, SECOND))
    assert status is not None
    assert status.similarity
    await go(cache, status, clock)
    assert not cache_status(await chat(client, SECOND)).hit  # type: ignore[union-attr]
    assert server.calls == 2


async def test_behind_many_that_are_gone_one_that_is_there_is_found(
    server: OpenAIServer, make: Any, matcher: Any
) -> None:
    cache, client = make(matcher(), policy=Policy(ttl=None))
    with cache.control(tags=["gone"], similarity=1):
        for number in range(1, 13):
            await chat(client, f"{SECOND} {'y' * number}")
    with cache.control(similarity=1):
        await chat(client, THIRD)
    assert await cache.invalidate("gone") == 12
    status = cache_status(await chat(client, SECOND))
    assert status is not None
    assert status.similarity
    assert server.calls == 13


async def test_a_replaced_answer_is_what_is_given(
    server: OpenAIServer, make: Any, matcher: Any
) -> None:
    cache, client = make(matcher())
    old = await chat(client)
    with cache.control(no_cache=True):
        new = await chat(client)
    answer = await chat(client, SECOND)
    assert answer.id == new.id != old.id


async def test_the_oldest_make_room(server: OpenAIServer, make: Any, matcher: Any) -> None:
    cache, client = make(matcher(max_entries=1))
    await chat(client)
    await chat(client, OTHER)
    with cache.control(only_if_cached=True):
        with pytest.raises(NotCached):
            await chat(client, SECOND)
        assert cache_status(await chat(client, OTHER + "!")).similarity  # type: ignore[union-attr]


@pytest.mark.parametrize("plain", [True, False])
async def test_verify_has_the_last_word(
    server: OpenAIServer, make: Any, matcher: Any, events: Any, plain: bool
) -> None:
    seen: list[tuple[str, str, Any]] = []

    def verify(asked: str, stored: str, answer: Any) -> bool:
        seen.append((asked, stored, answer))
        return asked == THIRD

    async def slow(asked: str, stored: str, answer: Any) -> bool:
        return verify(asked, stored, answer)

    cache, client = make(matcher(verify=verify if plain else slow))
    first = await chat(client)
    with cache.control(no_store=True):
        assert not cache_status(await chat(client, SECOND)).hit  # type: ignore[union-attr]
    assert cache_status(await chat(client, THIRD)).similarity  # type: ignore[union-attr]
    assert [texts for *texts, _ in seen] == [[SECOND, FIRST], [THIRD, FIRST]]
    assert [answer["id"] for *_, answer in seen] == [first.id] * 2
    await cache.aclose()
    [refused] = [event for event in events if event.kind == "miss" and event.reason]
    assert refused.similar_key == cache_status(first).key  # type: ignore[union-attr]
    assert refused.similarity > 0.8


async def test_what_goes_while_it_is_verified_is_not_given(
    server: OpenAIServer, make: Any, lexical: Any
) -> None:
    caches: list[PromptCache] = []

    async def verify(asked: str, stored: str, answer: Any) -> bool:
        return await caches[0].clear() == 1

    cache, client = make(lexical(verify=verify))
    caches.append(cache)
    await chat(client)
    assert not cache_status(await chat(client, SECOND)).hit  # type: ignore[union-attr]
    assert server.calls == 2


async def test_a_failing_verify_serves_nothing(
    server: OpenAIServer, make: Any, lexical: Any
) -> None:
    def verify(asked: str, stored: str, answer: Any) -> bool:
        raise ZeroDivisionError

    cache, client = make(lexical(verify=verify))
    await chat(client)
    assert not cache_status(await chat(client, SECOND)).hit  # type: ignore[union-attr]
    assert cache.stats.errors == 1


async def test_a_judge_on_the_same_client_is_not_judged_itself(
    server: OpenAIServer, make: Any, lexical: Any
) -> None:
    clients: list[Any] = []

    async def verify(asked: str, stored: str, answer: Any) -> bool:
        question = json.dumps([asked, stored])
        verdict = await chat(clients[0], question)
        assert not cache_status(verdict).similarity  # type: ignore[union-attr]
        return True

    _, client = make(lexical(verify=verify))
    clients.append(client)
    await chat(client)
    assert cache_status(await chat(client, SECOND)).similarity  # type: ignore[union-attr]
    assert cache_status(await chat(client, THIRD)).similarity  # type: ignore[union-attr]
    assert server.calls == 3


async def test_a_guard_explains_itself_in_the_event(
    server: OpenAIServer, make: Any, matcher: Any, events: Any
) -> None:
    cache, client = make(matcher())
    first = await chat(client, "How long does it take to boil 3 eggs until they are soft?")
    await chat(client, "How long does it take to boil 4 eggs until they are soft?")
    assert server.calls == 2
    await cache.aclose()
    [refused] = [event for event in events if event.kind == "miss" and event.reason]
    assert refused.similar_key == cache_status(first).key  # type: ignore[union-attr]
    assert refused.key != refused.similar_key


async def test_the_event_of_a_similar_hit_has_both_digests(
    make: Any, matcher: Any, events: Any, clock: VirtualClock
) -> None:
    cache, client = make(matcher())
    await chat(client)
    clock.advance(5)
    status = cache_status(await chat(client, SECOND))
    await cache.aclose()
    [event] = [event for event in events if event.kind == "similar"]
    assert status is not None
    assert (event.key, event.similar_key, event.asked_key) == (
        status.key,
        status.key,
        status.asked_key,
    )
    assert (event.similarity, event.age, event.tier) == (status.similarity, 5, "memory")
    assert event.endpoint == "chat.completions"
    assert "hit" not in [event.kind for event in events]
    assert cache.stats.tokens_saved.total == event.usage.total


async def test_warm_stores_each_and_lets_it_answer_others(
    server: OpenAIServer, make: Any, matcher: Any
) -> None:
    cache, client = make(matcher())
    lines = [
        {"model": "m", "messages": [{"role": "user", "content": text}]} for text in (FIRST, SECOND)
    ]
    report = await cache.warm(lines, client=client, concurrency=1)
    assert report.stored == 2
    while cache._engine.similar._tasks:
        await asyncio.sleep(0)
    assert cache_status(await chat(client, THIRD)).similarity  # type: ignore[union-attr]
    assert server.calls == 2


async def test_without_a_matcher_nothing_runs(
    server: OpenAIServer, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: Any) -> Any:
        raise AssertionError("it ran")

    monkeypatch.setattr("aiopromptcache._openai._prompts.split", never)
    monkeypatch.setattr("aiopromptcache._similar.Similar.__init__", never)
    cache, client = make(None)
    for text in (FIRST, SECOND):
        assert not cache_status(await chat(client, text)).hit  # type: ignore[union-attr]
    assert server.calls == 2
    assert not {"similar_hits", "false_hit_rate"} & cache.stats.as_dict().keys()
    assert "similar" not in str(cache.stats)
    assert cache.stats.similarity_threshold is None


@pytest.mark.parametrize("wrong", [0.9, "lexical", lambda text: text, object()])
def test_what_is_no_matcher_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="similarity="):
        PromptCache(similarity=wrong)


async def test_keys_of_the_callers_own_have_none(make: Any, semantic: Any, embed: Any) -> None:
    cache, _ = make(semantic())

    async def load() -> int:
        return 1

    await cache.get_or_create(FIRST, load)
    await cache.get_or_create(SECOND, load)
    assert embed.texts == []
    assert cache.stats.misses == 2
