"""Many callers, one upstream call: who gets what, who may leave, and what is not stored then."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from itertools import combinations
from typing import Any

import anyio
import openai
import pytest
from openai import APITimeoutError, AsyncOpenAI
from openai_calls import (
    CHAT,
    CHAT_BODY,
    FORMS,
    PLAIN,
    Upstream,
    fixed,
    gather,
    outcome,
    parts,
    same,
)

from aiopromptcache import MemoryTier, PromptCache, cache_status
from aiopromptcache.testing import OpenAIServer, VirtualClock
from aiopromptcache.tiers._memory import ENTRY_OVERHEAD

pytestmark = pytest.mark.anyio

Task = asyncio.Task[Any]


def ask(client: Any, **params: Any) -> Any:
    return client.chat.completions.create(**CHAT, **params)


def start(*calls: Coroutine[Any, Any, Any]) -> list[Task]:
    return [asyncio.ensure_future(call) for call in calls]


# Together


@pytest.mark.parametrize("name", [*PLAIN, "embeddings floats", "chat parse", "responses parse"])
async def test_callers_at_once_make_one_call_and_each_owns_its_answer(
    server: OpenAIServer, bare: AsyncOpenAI, client: AsyncOpenAI, cache: PromptCache, name: str
) -> None:
    server.answer = fixed
    reference = await FORMS[name](bare)
    server.reset()
    answers = await gather(*(FORMS[name](client) for _ in range(20)))
    assert server.calls == 1
    for answer in answers:
        assert same(answer, reference)
        assert answer._request_id == "req_2"
    owned = [part for answer in answers for part in parts(answer)]
    assert len(owned) == len(set(owned))
    statuses = [cache_status(answer) for answer in answers]
    assert [status.collapsed for status in statuses].count(True) == 19  # type: ignore[union-attr]
    stats = cache.stats
    assert (stats.requests, stats.misses, stats.collapsed, stats.upstream_calls) == (20, 1, 19, 1)


MIXED = ["create", "raw", "streaming_response", "streaming_response.json", "post", "post as str"]


@pytest.mark.parametrize("first", MIXED)
@pytest.mark.parametrize("endpoint", ["chat", "responses", "embeddings"])
async def test_callers_of_different_forms_make_one_call(
    server: OpenAIServer, bare: AsyncOpenAI, client: AsyncOpenAI, endpoint: str, first: str
) -> None:
    server.answer = fixed
    names = [f"{endpoint} {name}" for name in [first, *MIXED, *MIXED]]
    if endpoint == "embeddings":  # `post` asks for no encoding, and gets another answer
        names = [name for name in names if "post" not in name] or [f"{endpoint} create"]
    references = {name: await FORMS[name](bare) for name in names}
    server.reset()
    answers = await gather(*(FORMS[name](client) for name in names))
    assert server.calls == 1
    for name, answer in zip(names, answers, strict=True):
        assert same(answer, references[name])


async def test_what_memory_remembers_of_an_answer_counts_in_its_bytes(
    server: OpenAIServer, connect: Callable[..., AsyncOpenAI], clock: VirtualClock
) -> None:
    tier = MemoryTier()
    client = PromptCache(tier, clock=clock).wrap(connect())
    calls = (client.embeddings.create(model="m", input="hi") for _ in range(3))
    status = cache_status((await gather(*calls))[0])
    assert status is not None
    await client.embeddings.create(model="m", input="hi")
    entry = tier.peek(f"default:{status.key}")
    assert entry is not None
    assert tier.size == entry.size + ENTRY_OVERHEAD


async def test_followers_work_inside_task_groups_and_cancel_scopes(
    server: OpenAIServer, client: AsyncOpenAI
) -> None:
    server.hold()
    answers: list[Any] = []

    async def keep() -> None:
        answers.append(await ask(client))

    async with anyio.create_task_group() as outer:
        async with anyio.create_task_group() as inner:
            inner.start_soon(keep)
            inner.start_soon(keep)
            await server.wait_active(1)
            outer.start_soon(keep)
            await anyio.lowlevel.checkpoint()
            inner.cancel_scope.cancel()
        assert answers == []
        server.release()
    assert len(answers) == 1
    assert (server.calls, server.disconnects) == (1, 0)


# Leaving

CALLERS = 4
LEAVERS = [who for count in range(1, CALLERS + 1) for who in combinations(range(CALLERS), count)]
ASKED = [
    lambda client: ask(client),
    lambda client: FORMS["chat raw"](client),
    lambda client: FORMS["chat streaming_response"](client),
    lambda client: FORMS["chat post"](client),
]


@pytest.mark.parametrize("who", LEAVERS)
async def test_whoever_leaves_the_others_get_the_one_answer(
    server: OpenAIServer, client: AsyncOpenAI, who: tuple[int, ...]
) -> None:
    server.answer = fixed
    server.hold()
    tasks = start(*(form(client) for form in ASKED))
    await server.wait_active(1)
    for index in who:
        tasks[index].cancel()
    if len(who) == CALLERS:
        await server.wait_disconnects(1)
    server.release()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for index, result in enumerate(results):
        assert isinstance(result, asyncio.CancelledError) is (index in who)
    assert server.calls == 1
    await ask(client)
    assert server.calls == (2 if len(who) == CALLERS else 1)


@pytest.mark.parametrize("who", [(0,), (1,), (0, 1), (0, 1, 2)])
async def test_leaving_at_any_step_hurts_nobody(who: tuple[int, ...]) -> None:
    upstream = Upstream(json.dumps(CHAT_BODY).encode())
    upstream.steps = 3
    ended = 0
    async with upstream.client() as plain:
        await ask(plain)
        for steps in range(40):
            client = PromptCache().wrap(plain)
            upstream.requests.clear()
            tasks = start(*(form(client) for form in ASKED[:3]))
            for _ in range(steps):
                await asyncio.sleep(0)
            for index in who:
                tasks[index].cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            gone = [isinstance(result, asyncio.CancelledError) for result in results]
            ended += not any(gone)
            for index, result in enumerate(results):
                if not gone[index]:
                    assert not isinstance(result, BaseException), result
                else:
                    assert index in who
            assert upstream.calls == 1 or all(gone)
            await ask(client)
            assert upstream.calls <= 2
    assert 0 < ended < 40, "the steps reach from before the start to after the end"


async def test_a_newcomer_after_the_last_one_left_starts_anew(
    server: OpenAIServer, client: AsyncOpenAI
) -> None:
    server.hold()
    [gone] = start(ask(client))
    await server.wait_active(1)
    gone.cancel()
    newcomers = [asyncio.Task(ask(client)) for _ in range(2)]  # not eager on any loop
    await server.wait_disconnects(1)
    await server.wait_calls(2)
    server.release()
    answers = await asyncio.gather(*newcomers)
    assert {answer._request_id for answer in answers} == {"req_2"}
    assert gone.cancelled()


# Errors

STATUSES = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    409: openai.ConflictError,
    418: openai.APIStatusError,
    422: openai.UnprocessableEntityError,
    429: openai.RateLimitError,
    500: openai.InternalServerError,
    503: openai.InternalServerError,
}


async def waiters(client: AsyncOpenAI) -> list[Any]:
    forms = ["create", "create", "raw", "streaming_response", "post", "create"]
    return await gather(*(FORMS[f"chat {form}"](client) for form in forms))


@pytest.mark.parametrize("status", STATUSES)
async def test_an_error_reaches_each_waiter_as_the_sdks_own(
    server: OpenAIServer, bare: AsyncOpenAI, client: AsyncOpenAI, cache: PromptCache, status: int
) -> None:
    server.answer = fixed
    server.fail(status, times=2, code="some_code")
    with pytest.raises(STATUSES[status]) as raised:
        await ask(bare)
    reference = raised.value
    errors = await waiters(client)
    assert server.calls == 2
    assert len({id(error) for error in errors}) == len(errors) == 6
    for error in errors:
        assert type(error) is STATUSES[status]
        assert str(error) == str(reference)
        assert error.args == reference.args
        assert error.status_code == status
        assert error.code == "some_code"
        assert error.body == reference.body  # type: ignore[attr-defined]
        assert error.request_id == "req_2"
        assert error.response.status_code == status
        assert error.request.url == reference.request.url  # type: ignore[attr-defined]
    assert len({id(error.__traceback__) for error in errors}) == len(errors)
    errors[0].add_note("mine")
    assert not any(hasattr(error, "__notes__") for error in errors[1:])
    assert cache.stats.errors == 1
    await ask(client)
    await ask(client)
    assert server.calls == 3


async def test_a_lost_connection_reaches_each_waiter_as_the_sdks_own(
    server: OpenAIServer, client: AsyncOpenAI
) -> None:
    server.answer = fixed
    server.fail_connection()
    errors = await waiters(client)
    assert [type(error) for error in errors] == [openai.APIConnectionError] * 6
    assert len({id(error) for error in errors}) == 6
    assert all(error.__cause__ is not None for error in errors)
    assert server.calls == 1
    await ask(client)
    assert server.calls == 2


async def test_a_body_that_cannot_be_read_reaches_each_waiter_and_is_not_stored(
    cache: PromptCache,
) -> None:
    upstream = Upstream(b"<html>")
    async with upstream.client() as plain:
        reference = await outcome(ask(plain))
        client = cache.wrap(plain)
        errors = await gather(ask(client), ask(client), FORMS["chat post"](client))
        assert [(type(error), str(error)) for error in errors] == [reference] * 3
        assert len({id(error) for error in errors}) == 3
        assert upstream.calls == 2
        await gather(ask(client))
        assert upstream.calls == 3


@pytest.mark.parametrize("form", ["create", "raw", "streaming_response", "stream=True"])
async def test_retries_are_the_sdks_own(
    server: OpenAIServer, connect: Callable[..., AsyncOpenAI], cache: PromptCache, form: str
) -> None:
    server.answer = fixed
    client = cache.wrap(connect(max_retries=2))
    server.fail(500, times=2, headers={"retry-after-ms": "1"})
    await gather(*(FORMS[f"chat {form}"](client) for _ in range(3)))
    counts = [request.headers["x-stainless-retry-count"] for request in server.requests]
    assert counts[:3] == ["0", "1", "2"] if form != "stream=True" else {"1", "0"} <= set(counts)
    if form != "stream=True":
        assert server.calls == 3
    server.fail(500, times=3, headers={"retry-after-ms": "1"})
    with cache.control(no_cache=True), pytest.raises(openai.InternalServerError):
        await FORMS[f"chat {form}"](client)


# Patience

SHORT = 0.05
LONG = 60.0


@pytest.mark.parametrize("form", ["create", "raw", "streaming_response", "post"])
async def test_an_impatient_follower_leaves_with_the_sdks_timeout_and_the_rest_stay(
    server: OpenAIServer, client: AsyncOpenAI, form: str
) -> None:
    server.answer = fixed
    server.hold()
    staying = start(ask(client, timeout=LONG), ask(client, timeout=None))
    await server.wait_active(1)
    with pytest.raises(APITimeoutError) as raised:
        await FORMS[f"chat {form}"](client.with_options(timeout=SHORT))
    assert str(raised.value.request.url) == f"{server.base_url}/chat/completions"
    assert (server.calls, server.disconnects) == (1, 0)
    server.release()
    answers = await asyncio.gather(*staying)
    assert [answer.id for answer in answers] == [CHAT_BODY["id"]] * 2
    assert server.calls == 1


async def test_a_patient_follower_outlives_an_impatient_leader(
    server: OpenAIServer, client: AsyncOpenAI
) -> None:
    server.hold()
    leader, *followers = start(
        ask(client, timeout=SHORT), ask(client, timeout=LONG), FORMS["chat raw"](client)
    )
    with pytest.raises(APITimeoutError):
        await leader
    await server.wait_calls(2)
    server.release()
    answers = await asyncio.gather(*followers)
    assert answers[0]._request_id == answers[1][0]._request_id == "req_2"
    assert server.calls == 2


class Hasty(AsyncOpenAI):
    """Tries again at once."""

    def _calculate_retry_timeout(self, *args: Any, **kwargs: Any) -> float:
        return 0.0


async def test_followers_have_the_time_of_all_their_tries(
    server: OpenAIServer, connect: Callable[..., AsyncOpenAI], cache: PromptCache
) -> None:
    client = cache.wrap(connect(Hasty, max_retries=1, timeout=0.3))
    server.hold()
    calls = start(*(ask(client) for _ in range(3)))
    await server.wait_calls(2)  # the first try ran out of time
    server.release()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(answer).__name__ for answer in answers] == ["ChatCompletion"] * 3
    assert server.calls == 2


async def test_a_follower_without_retries_does_not_wait_for_its_leaders(
    server: OpenAIServer, connect: Callable[..., AsyncOpenAI], cache: PromptCache
) -> None:
    client = cache.wrap(connect(Hasty, max_retries=40, timeout=SHORT))
    server.hold()
    [leader] = start(ask(client))
    await server.wait_active(1)
    with pytest.raises(APITimeoutError):
        await ask(client.with_options(max_retries=0, timeout=0.3))
    assert not leader.done()
    leader.cancel()
    await asyncio.gather(leader, return_exceptions=True)


# Invalidation


async def forget(cache: PromptCache, key: str, how: str) -> None:
    match how:
        case "delete":
            await cache.delete(key)
        case "clear":
            await cache.clear()
        case "set":
            await cache.set(key, {"mine": 1})
        case "invalidate":
            await cache.invalidate("tag")


HOWS = ["delete", "clear", "set", "invalidate"]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("form", ["create", "raw", "post"])
async def test_what_is_overtaken_by_an_invalidation_is_given_and_not_stored(
    server: OpenAIServer, client: AsyncOpenAI, cache: PromptCache, form: str, how: str
) -> None:
    server.answer = fixed
    with cache.control(tags=("tag",)):
        status = cache_status(await ask(client))
        assert status is not None
        await cache.clear()
        server.hold()
        before = start(FORMS[f"chat {form}"](client), ask(client))
        await server.wait_active(1)
        await forget(cache, status.key, how)
        after = start(ask(client))
        await server.wait_active(2, timeout=1)
        server.release()
        overtaken = await asyncio.gather(*before)
        [fresh] = await asyncio.gather(*after)
    assert [cache_status(answer).stored for answer in overtaken[1:]] == [False]  # type: ignore[union-attr]
    assert cache_status(fresh).stored  # type: ignore[union-attr]
    assert cache_status(await ask(client)).hit  # type: ignore[union-attr]
    assert server.calls == 3


@pytest.mark.parametrize("how", HOWS)
async def test_a_stream_overtaken_by_an_invalidation_is_given_and_not_stored(
    server: OpenAIServer, client: AsyncOpenAI, cache: PromptCache, how: str
) -> None:
    server.hold_after(2)
    with cache.control(tags=("tag",)):
        stream = await ask(client, stream=True)
        status = cache_status(stream)
        assert status is not None
        first = await anext(stream)
        await forget(cache, status.key, how)
        server.release()
        chunks = [first, *[chunk async for chunk in stream]]
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert not cache_status(stream).stored  # type: ignore[union-attr]
    assert [chunk async for chunk in await ask(client, stream=True)]
    assert server.calls == 2


async def test_what_was_set_during_a_flight_stays(
    server: OpenAIServer, client: AsyncOpenAI, cache: PromptCache
) -> None:
    key = cache_status(await ask(client)).key  # type: ignore[union-attr]
    await cache.clear()
    server.hold()
    calls = start(ask(client))
    await server.wait_active(1)
    await cache.set(key, {"mine": 1})
    server.release()
    await asyncio.gather(*calls)
    assert await cache.get(key) == {"mine": 1}


@pytest.mark.parametrize("form", ["create", "raw", "post", "stream=True"])
async def test_a_value_of_the_callers_own_is_no_answer(
    server: OpenAIServer, client: AsyncOpenAI, cache: PromptCache, form: str
) -> None:
    server.answer = fixed
    stream = form == "stream=True"
    reference = await FORMS[f"chat {form}"](client)
    status = cache_status(await ask(client, **({"stream": True} if stream else {})))
    assert status is not None
    for value in ({"mine": 1}, b"mine"):
        await cache.set(status.key, value)
        assert same(await FORMS[f"chat {form}"](client), reference)
    assert server.calls == 3
