"""A cache with one of everything that can be in it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from openai import AsyncOpenAI

from aiopromptcache import Entry, Kind, PromptCache, RedisTier, cache_status

SECRET = "the word that nobody may see"
CHAT: dict[str, Any] = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "user", "content": SECRET}],
}
OTHER: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
TEXTS: dict[str, Any] = {"model": "text-embedding-3-small", "input": ["one", "two"]}
ENTRIES = 8
"""One chat, its stream, two embeddings, JSON, odd JSON, bytes, items of a stream."""
ODD = {"nan is no JSON, this is": 2**70, "half a pair": "\ud800"}


async def items() -> Any:
    for item in ("one", b"\x00\xff", None):
        yield item


async def fill(url: Any, base_url: str, *, namespace: str = "default", **options: Any) -> None:
    """Store everything, as an app would."""
    async with (
        PromptCache(RedisTier(url, timeout=5, **options), namespace=namespace) as cache,
        AsyncOpenAI(base_url=base_url, api_key="-") as bare,
    ):
        client = cache.wrap(bare)
        await client.chat.completions.create(**CHAT)
        async for _ in await client.chat.completions.create(**OTHER, stream=True):
            pass
        await client.embeddings.create(**TEXTS)
        await cache.set("doc:42", {"a": 1}, tags=["docs", "a tag"])
        await cache.set("doc:odd", ODD, tags=["docs"], ttl=100)
        await cache.set("bytes {and} 100%", b"\x00\xff", ttl=None)
        async with cache.stream("poem", items) as stream:
            assert [item async for item in stream] == ["one", b"\x00\xff", None]


async def hits(url: Any, base_url: str, *, namespace: str = "default", **options: Any) -> int:
    """How many calls went upstream when all of it was asked for again; values must be equal."""
    async with (
        PromptCache(RedisTier(url, timeout=5, **options), namespace=namespace) as cache,
        AsyncOpenAI(base_url=base_url, api_key="-") as bare,
    ):
        client = cache.wrap(bare)
        answer = await client.chat.completions.create(**CHAT)
        status = cache_status(answer)
        assert status is None or not status.hit or answer.choices[0].message.content is not None
        async for _ in await client.chat.completions.create(**OTHER, stream=True):
            pass
        await client.embeddings.create(**TEXTS)
        assert await cache.get("doc:42") == {"a": 1}
        assert await cache.get("doc:odd") == ODD
        assert await cache.get("bytes {and} 100%") == b"\x00\xff"
        async with cache.stream("poem", items) as stream:
            assert [item async for item in stream] == ["one", b"\x00\xff", None]
        return cache.stats.upstream_calls


def filled(url: Any, base_url: str, **options: Any) -> None:
    """`fill`, for a test that is not asynchronous."""
    asyncio.run(fill(url, base_url, **options))


def put(
    url: str,
    key: str,
    *,
    age: float = 0.0,
    payload: bytes = b"1",
    encryption_key: str | None = None,
    **fields: Any,
) -> None:
    """One entry of such an age."""

    async def store() -> None:
        tier = RedisTier(url, timeout=5, encryption_key=encryption_key)
        async with PromptCache(tier):  # which attaches it
            entry = Entry(Kind.JSON, payload, stored_at=time.time() - age, **fields)
            await tier.set({f"default:{key}": entry})

    asyncio.run(store())
