"""Real processes over one Redis 8: what one was asked, another answers in other words."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from servers import Server
from together import Worker, wait_until, workers

from aiopromptcache.testing import OpenAIServer

pytestmark = pytest.mark.anyio

FIRST = "How does a bicycle stay upright when it moves?"
SECOND = "How does a bicycle stay upright when it is moving?"


@pytest.fixture
def anyio_backend() -> Any:
    """The loop of the test itself; the workers have their own."""
    return ("asyncio", {})


@pytest.fixture(scope="module")
def eight() -> Iterator[Server]:
    """A server with vector sets."""
    with Server("redis") as server:
        yield server


@pytest.fixture
async def upstream() -> AsyncIterator[OpenAIServer]:
    """Answers whatever is asked."""
    async with OpenAIServer() as server:
        yield server


async def test_the_same_in_other_words_is_answered_in_another_process(
    eight: Server, upstream: OpenAIServer
) -> None:
    where = f"{upstream.origin}/v1"
    async with workers(eight.url, 2, similar=0.8) as [one, other]:

        async def reworded(worker: Worker) -> dict[str, Any]:
            return await worker.ask("question", base_url=where, text=SECOND, stored=False)

        async def hits() -> bool:
            return bool((await reworded(other))["hit"])

        for way in ("forget", "clear"):
            first = await one.ask("question", base_url=where, text=FIRST)
            assert not first["hit"]
            await wait_until("a similar hit", hits)
            answer = await reworded(other)
            assert (answer["text"], answer["key"]) == (first["text"], first["key"])
            assert 0.8 <= answer["similarity"] < 1
            assert (await reworded(one))["similarity"] == pytest.approx(answer["similarity"])
            await one.ask(way, **({"key": first["key"]} if way == "forget" else {}))
            assert not (await reworded(other))["hit"]
            assert not (await reworded(one))["hit"]


async def test_it_outlives_the_process_that_asked(eight: Server, upstream: OpenAIServer) -> None:
    eight.command("FLUSHALL")
    where = f"{upstream.origin}/v1"
    async with workers(eight.url, 1, similar=0.8) as [one]:
        first = await one.ask("question", base_url=where, text=FIRST)
        await wait_until(
            "the question", lambda: eight.command("ZCARD", "aiopromptcache:{default}:q")
        )
        await one.kill()
    async with workers(eight.url, 1, similar=0.8) as [other]:
        answer = await other.ask("question", base_url=where, text=SECOND)
        assert (answer["hit"], answer["text"]) == (True, first["text"])
    assert upstream.calls == 1
