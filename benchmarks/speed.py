"""Costs side by side in one process, as ratios: the bare SDK over an in-memory transport, and ours.

Nobody waits here, so what is measured is the process's CPU time: what else the machine has to do
counts little. Both sides take turns in many short rounds, and the best round of each counts. The
number of functions called, of Python or C, is the same on every machine.

Run: pip install -e '.[test]' && python benchmarks/speed.py
"""

from __future__ import annotations

import asyncio
import base64
import cProfile
import itertools
import random
import struct
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import httpx2
import orjson
from async_lru import alru_cache
from openai import AsyncOpenAI

from aiopromptcache import MemoryTier, PromptCache

ROUNDS = 30

USAGE = {
    "prompt_tokens": 24,
    "completion_tokens": 60,
    "total_tokens": 84,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
}
CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1_700_000_000,
    "model": "gpt-4o-mini",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "logprobs": None,
            "message": {"role": "assistant", "content": "Rayleigh scattering. " * 25},
        }
    ],
    "usage": USAGE,
}
RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1_700_000_000.0,
    "status": "completed",
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "metadata": {},
    "model": "gpt-4o-mini",
    "output": [
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [
                {"type": "output_text", "annotations": [], "text": "Rayleigh scattering. " * 25}
            ],
        }
    ],
    "parallel_tool_calls": True,
    "temperature": 1.0,
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "usage": {
        "input_tokens": 24,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 60,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 84,
    },
}
VECTOR = [random.Random(1).uniform(-1, 1) for _ in range(1_536)]


def embedding(encoded: bool) -> dict[str, Any]:
    """One vector of 1,536 floats, as floats or as base64."""
    packed = base64.b64encode(struct.pack("<1536f", *VECTOR)).decode()
    return {
        "object": "list",
        "model": "text-embedding-3-small",
        "data": [{"object": "embedding", "index": 0, "embedding": packed if encoded else VECTOR}],
        "usage": {"prompt_tokens": 5, "total_tokens": 5},
    }


BODIES = {
    "/v1/chat/completions": orjson.dumps(CHAT),
    "/v1/responses": orjson.dumps(RESPONSE),
    "float": orjson.dumps(embedding(False)),
    "base64": orjson.dumps(embedding(True)),
}
calls = itertools.count()


async def upstream(request: httpx2.Request) -> httpx2.Response:
    """The in-memory transport: no network, so that only the SDK's own work is compared."""
    next(calls)
    body = BODIES.get(request.url.path)
    if body is None:
        body = BODIES["base64" if b"base64" in request.content else "float"]
    headers = {"content-type": "application/json", "x-request-id": "req_1"}
    return httpx2.Response(200, headers=headers, content=body)


def client() -> AsyncOpenAI:
    """A client over the in-memory transport."""
    transport = httpx2.MockTransport(upstream)
    return AsyncOpenAI(
        api_key="-",
        base_url="http://in-memory/v1",
        http_client=httpx2.AsyncClient(transport=transport),
    )


async def seconds(call: Callable[[], Awaitable[Any]], times: int) -> float:
    """Mean CPU seconds of one call."""
    started = time.process_time()
    for _ in range(times):
        await call()
    return (time.process_time() - started) / times


async def functions(call: Callable[[], Awaitable[Any]], times: int = 50) -> float:
    """How many functions one call takes, on the mean."""
    profile = cProfile.Profile()
    profile.enable()
    for _ in range(times):
        await call()
    profile.disable()
    return sum(entry.callcount for entry in profile.getstats()) / times


async def compare(
    label: str,
    ours: Callable[[], Awaitable[Any]],
    theirs: Callable[[], Awaitable[Any]],
    bound: str,
    *,
    times: tuple[int, int] = (500, 50),
) -> None:
    """One row: ours, theirs and the ratio."""
    await ours()
    await ours()
    await theirs()
    mine, other = [], []
    for _ in range(ROUNDS):
        other.append(await seconds(theirs, times[1]))
        mine.append(await seconds(ours, times[0]))
    a, b = min(mine), min(other)
    ratio = f"1/{b / a:.0f}" if a * 3 < b else f"{a / b:.2f}"
    print(f"{label:<38}{a * 1e6:>10.1f} us{b * 1e6:>10.1f} us{ratio:>10}   {bound}")


QUESTION: list[Any] = [
    {"role": "system", "content": "You are a helpful assistant. " * 6},
    {"role": "user", "content": "Why is the sky blue?"},
]


async def hits() -> None:
    """Repeats, against the same call through the bare SDK."""
    bare = client()
    async with PromptCache(MemoryTier(max_entries=100_000)) as cache:
        ours = cache.wrap(client())
        for label, ask, bound in (
            (
                "chat.completions.create",
                lambda c: c.chat.completions.create(model="m", messages=QUESTION),
                "at most 1/50",
            ),
            (
                "with_raw_response.create + parse",
                lambda c: _parsed(
                    c.chat.completions.with_raw_response, model="m", messages=QUESTION
                ),
                "at most 1/20",
            ),
            (
                "responses.create",
                lambda c: c.responses.create(model="m", input="Why is the sky blue?"),
                "at most 1/20",
            ),
            (
                "embeddings.create, float",
                lambda c: c.embeddings.create(model="m", input="Why?", encoding_format="float"),
                "at most 1/20",
            ),
            (
                "embeddings.create, default",
                lambda c: c.embeddings.create(model="m", input="Why?"),
                "at most 1/8",
            ),
        ):
            await compare(f"hit: {label}", partial(ask, ours), partial(ask, bare), bound)


async def _parsed(resource: Any, **request: Any) -> Any:
    return (await resource.create(**request)).parse()


async def misses() -> None:
    """Calls that were never made before: what the cache adds."""
    bare = client()
    numbers = itertools.count()
    async with PromptCache(MemoryTier(max_entries=100_000)) as cache:
        ours = cache.wrap(client())

        def ask(c: AsyncOpenAI) -> Awaitable[Any]:
            return c.chat.completions.create(model="m", messages=QUESTION, seed=next(numbers))

        await compare(
            "miss: chat.completions.create",
            lambda: ask(ours),
            lambda: ask(bare),
            "at most 1.15",
            times=(50, 50),
        )
        mine, other = await functions(lambda: ask(ours)), await functions(lambda: ask(bare))
        print(f"{'functions called':<38}{mine:>13,.0f}{other:>13,.0f}{mine / other:>10.2f}")


async def plain() -> None:
    """The engine without a client, against async-lru."""
    text = "x" * 600

    async def make() -> str:
        return text

    @alru_cache(maxsize=128)
    async def cached(key: str) -> str:
        return text

    async with PromptCache() as cache:
        await compare(
            "hit: get_or_create, 600-byte str",
            lambda: cache.get_or_create("key", make),
            lambda: cached("key"),
            "at most 6 x async-lru",
            times=(5_000, 5_000),
        )


async def crowds() -> None:
    """Ten thousand at once."""
    async with PromptCache(MemoryTier(max_entries=100_000)) as cache:
        ours = cache.wrap(client())
        for label, seeds in (("identical", [0] * 10_000), ("different", range(1, 10_001))):
            before, started = next(calls), time.perf_counter()
            await asyncio.gather(
                *[
                    ours.chat.completions.create(model="m", messages=QUESTION, seed=seed)
                    for seed in seeds
                ]
            )
            made, took = next(calls) - before - 1, time.perf_counter() - started
            print(f"10,000 {label} calls at once: {made:,} upstream, {took:.1f} s")


async def main() -> None:
    """All of it."""
    print(f"{'':<38}{'ours':>13}{'theirs':>13}{'ratio':>10}   wanted")
    await hits()
    await misses()
    await plain()
    await crowds()


if __name__ == "__main__":
    asyncio.run(main())
