"""The point at a glance: a first call, a repeat, and a hundred at once.

Runs offline with no key (it starts a local server that speaks the OpenAI protocol), with the real
API when OPENAI_API_KEY is set, and with Redis behind the memory when REDIS_URL is set.

    python examples/quickstart.py
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from openai import AsyncOpenAI

from aiopromptcache import CacheStatus, MemoryTier, PromptCache, RedisTier, Tier, cache_status

MODEL = os.environ.get("OPENAI_MODEL", "gpt-4o-mini")


@asynccontextmanager
async def openai_client() -> AsyncIterator[AsyncOpenAI]:
    """The real API where there is a key, or a local server that takes 0.8 s an answer."""
    if os.environ.get("OPENAI_API_KEY"):
        async with AsyncOpenAI() as client:
            yield client
    else:
        from aiopromptcache.testing import OpenAIServer

        async with OpenAIServer(latency=0.8) as server:
            yield server.client()


async def ask(client: AsyncOpenAI, question: str) -> CacheStatus | None:
    """One question; how the cache answered it."""
    answer = await client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": question}]
    )
    return cache_status(answer)


async def row(
    label: str, cache: PromptCache, client: AsyncOpenAI, question: str, times: int = 1
) -> None:
    """Ask once, or many times at once, and print what it took."""
    calls, started = cache.stats.upstream_calls, time.perf_counter()
    statuses = await asyncio.gather(*[ask(client, question) for _ in range(times)])
    elapsed = time.perf_counter() - started
    print(
        f"{label:<22}{len(statuses):>8}{cache.stats.upstream_calls - calls:>11}"
        f"{elapsed * 1000:>12,.1f} ms   {statuses[-1]}"
    )


async def main() -> None:
    """Ask the same question in three ways."""
    tiers: list[Tier] = [MemoryTier()]
    if url := os.environ.get("REDIS_URL"):
        tiers.append(RedisTier(url))
    async with (
        openai_client() as plain,
        PromptCache(*tiers, ttl=1800, namespace="quickstart") as cache,
    ):
        client = cache.wrap(plain)  # still an AsyncOpenAI to isinstance, mypy and pyright

        print(f"{'':<22}{'asked':>8}{'API calls':>11}{'time':>15}   status of the last")
        sky, grass = "Why is the sky blue?", "Why is the grass green?"
        await row("first call", cache, client, sky)
        await row("the same again", cache, client, sky)
        await row("a new one, 100 at once", cache, client, grass, times=100)
        await row("those 100 again", cache, client, grass, times=100)

        print(f"\n{cache.stats}")


if __name__ == "__main__":
    asyncio.run(main())
