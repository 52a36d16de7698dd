"""Processes, event loops one after the other, large numbers: tests that make their own loops."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
from openai_calls import CHAT, CHAT_BODY, Upstream, user

from aiopromptcache import PromptCache, cache_status

SCRIPT = """
import asyncio, json, sys
sys.path.insert(0, {place!r})
from openai_calls import CHAT, CHAT_BODY, Upstream
from aiopromptcache import PromptCache, cache_status

async def main():
    upstream = Upstream(json.dumps(CHAT_BODY).encode())
    cache = PromptCache()
    headers = dict.fromkeys({{"X-A", "X-B", "X-C"}}, "1")
    async with upstream.client(default_headers=headers) as plain:
        client = cache.wrap(plain)
        params = {{**CHAT, "metadata": dict.fromkeys({{"a", "b", "c", "d"}}, "1"), "seed": 2**70}}
        print(cache_status(await client.chat.completions.create(**params)).key)
        print(cache_status(await client.chat.completions.parse(**CHAT)).key)
        print(cache.key(**params))

asyncio.run(main())
"""


def test_every_process_makes_the_same_keys() -> None:
    script = SCRIPT.format(place=str(Path(__file__).parent))
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    one, two = (process.communicate()[0].split() for process in running)
    assert one == two
    assert len(set(one)) == 3


CACHE = PromptCache()
"""As an application has it: at module level, and never closed."""


def test_one_cache_serves_one_event_loop_after_another() -> None:
    upstream = Upstream(json.dumps(CHAT_BODY).encode())

    async def serve(seed: int) -> list[Any]:
        upstream.open = asyncio.Event()
        async with upstream.client() as plain:
            client = CACHE.wrap(plain)
            create = client.chat.completions.create
            old, new = (
                [asyncio.ensure_future(create(**CHAT, seed=which)) for _ in range(3)]
                for which in (0, seed)
            )
            upstream.open.set()
            return [cache_status(answer) for answer in await asyncio.gather(*old, *new)]

    first = asyncio.run(serve(1))
    assert upstream.calls == 2
    second = asyncio.run(serve(2))
    assert upstream.calls == 3
    assert [status.hit for status in first] == [False] * 6
    assert [status.hit for status in second] == [True] * 3 + [False] * 3
    assert [status.collapsed for status in second] == [False] * 3 + [False, True, True]


def test_a_loop_that_died_during_a_call_leaves_nothing_to_wait_for() -> None:
    upstream = Upstream(json.dumps(CHAT_BODY).encode())
    cache = PromptCache()

    async def start() -> None:
        upstream.open = asyncio.Event()
        async with upstream.client() as plain:
            task = asyncio.ensure_future(cache.wrap(plain).chat.completions.create(**CHAT))
            for _ in range(20):
                await asyncio.sleep(0)
            assert upstream.calls == 1
            assert not task.done()

    async def again() -> Any:
        async with upstream.client() as plain:
            return await cache.wrap(plain).chat.completions.create(**CHAT)

    asyncio.run(start())
    upstream.open = asyncio.Event()
    upstream.open.set()
    assert cache_status(asyncio.run(again())).fwd == "miss"  # type: ignore[union-attr]
    assert upstream.calls == 2


MANY = 10_000


def test_ten_thousand_identical_calls_make_one() -> None:
    upstream = Upstream(json.dumps(CHAT_BODY).encode())

    async def run() -> None:
        async with upstream.client() as plain:
            client = PromptCache().wrap(plain)
            calls = (client.chat.completions.create(**CHAT) for _ in range(MANY))
            answers = await asyncio.gather(*calls)
        assert len({id(answer) for answer in answers}) == MANY
        assert {answer.id for answer in answers} == {CHAT_BODY["id"]}

    asyncio.run(run())
    assert upstream.calls == 1


def test_ten_thousand_different_calls_all_succeed_each_with_its_own_answer() -> None:
    async def echo(request: httpx2.Request) -> httpx2.Response:
        await asyncio.sleep(0)
        asked = json.loads(request.content)["messages"][0]["content"]
        return httpx2.Response(200, json={**CHAT_BODY, "id": asked})

    async def run() -> None:
        upstream = Upstream()
        http = httpx2.AsyncClient(transport=httpx2.MockTransport(echo))
        cache = PromptCache()
        async with upstream.client(http_client=http) as plain:
            client = cache.wrap(plain)

            async def ask(number: int) -> str:
                answer = await client.chat.completions.create(model="m", messages=user(str(number)))
                return str(answer.id)

            expected = [str(number) for number in range(MANY)]
            assert await asyncio.gather(*map(ask, range(MANY))) == expected
            assert await asyncio.gather(*map(ask, range(MANY))) == expected
        assert cache.stats.upstream_calls == MANY
        assert cache.stats.hits == MANY

    asyncio.run(run())
