"""A process with a cache of its own. It reads what to do, a JSON object a line, and says what
happened in the same way. Times are those of CLOCK_MONOTONIC, which all processes share."""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import sys
import time
from collections import Counter
from typing import Any
from zlib import crc32

from openai import AsyncOpenAI

from aiopromptcache import MemoryTier, PromptCache, RedisTier, cache_status
from aiopromptcache.similarity import SemanticSimilarity


def say(event: str, **fields: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, "at": time.monotonic(), **fields}) + "\n")
    sys.stdout.flush()


def pairs_of_letters(texts: list[str]) -> list[list[int]]:
    """Counts of hashed pairs of letters, as an embedding model."""
    counts = [
        Counter(crc32(text[i : i + 2].encode()) % 256 for i in range(1_000)) for text in texts
    ]
    return [[count[place] for place in range(1, 256)] for count in counts]


class Worker:
    def __init__(
        self, url: str, skew: float = 0.0, similar: float | None = None, **options: Any
    ) -> None:
        tier = RedisTier(url, **options)
        matcher = None if similar is None else SemanticSimilarity(pairs_of_letters, similar)
        self.cache = PromptCache(
            MemoryTier(), tier, clock=lambda: time.time() + skew, similarity=matcher
        )
        self.client: AsyncOpenAI | None = None

    async def run(self) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        await self.cache.get_or_create("warm", self.warm)
        say("ready")
        tasks = set()
        while line := await reader.readline():
            task = asyncio.create_task(self.do(**json.loads(line)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def warm(self) -> int:
        return 1

    async def do(self, do: str, number: int, **arguments: Any) -> None:
        try:
            outcome = await getattr(self, do)(**arguments)
        except Exception as error:
            say("done", number=number, error=type(error).__name__)
        else:
            say("done", number=number, **outcome)

    async def load(
        self, key: str, value: Any, callers: int = 1, seconds: float = 0.0, fail: bool = False
    ) -> dict[str, Any]:
        """Many callers of one key at once."""

        async def factory() -> Any:
            say("upstream", key=key)
            await asyncio.sleep(seconds)
            if fail:
                raise RuntimeError("the upstream failed")
            return value

        answers = []

        async def call() -> None:
            answer = await self.cache.get_or_create(key, factory)
            answers.append((time.monotonic(), answer))

        await asyncio.gather(*[call() for _ in range(callers)])
        values = [answer for _, answer in answers]
        return {"values": values, "times": [at for at, _ in answers]}

    async def chat(self, base_url: str, text: str, consumers: int = 1) -> dict[str, Any]:
        """Many streams of one chat at once; the times at which chunks came, and what they said."""
        if self.client is None:  # making one takes long
            self.client = AsyncOpenAI(base_url=base_url, api_key="test", max_retries=0)
        client = self.cache.wrap(self.client)
        messages: Any = [{"role": "user", "content": text}]
        times: list[list[float]] = []

        async def consume() -> str:
            stream: Any = await client.chat.completions.create(
                model="m", messages=messages, stream=True
            )
            said = ""
            for number in itertools.count():
                chunk = await anext(stream, None)
                if chunk is None:
                    return said
                if number == len(times):
                    times.append([])
                    say("chunk", number=number)
                times[number].append(time.monotonic())
                said += chunk.choices[0].delta.content or "" if chunk.choices else ""
            raise AssertionError

        texts = await asyncio.gather(*[consume() for _ in range(consumers)])
        calls = self.cache.stats.upstream_calls
        middle = [statistics.median(each) for each in times]
        return {"texts": sorted(set(texts)), "times": middle, "calls": calls}

    async def question(self, base_url: str, text: str, stored: bool = True) -> dict[str, Any]:
        """One question; how it was answered."""
        if self.client is None:
            self.client = AsyncOpenAI(base_url=base_url, api_key="test", max_retries=0)
        messages: Any = [{"role": "user", "content": text}]
        with self.cache.control(no_store=not stored):
            answer = await self.cache.wrap(self.client).chat.completions.create(
                model="m", messages=messages
            )
        status: Any = cache_status(answer)
        text = answer.choices[0].message.content or ""
        return {"hit": status.hit, "similarity": status.similarity, "text": text, "key": status.key}

    async def put(self, key: str, value: Any, tags: list[str] = []) -> dict[str, Any]:  # noqa: B006
        await self.cache.set(key, value, tags=tags)
        return {}

    async def read(self, key: str) -> dict[str, Any]:
        return {"value": await self.cache.get(key)}

    async def watch(self, key: str, gone: Any) -> dict[str, Any]:
        """Wait until memory no longer holds a value."""
        engine = self.cache._engine
        slot = engine.prefix + key
        while (entry := engine.storage.peek(slot)) and json.loads(entry.payload) == gone:
            await asyncio.sleep(0.0005)
        return {}

    async def forget(self, key: str) -> dict[str, Any]:
        await self.cache.delete(key)
        return {}

    async def invalidate(self, tag: str) -> dict[str, Any]:
        await self.cache.invalidate(tag)
        return {}

    async def clear(self) -> dict[str, Any]:
        await self.cache.clear()
        return {}


if __name__ == "__main__":
    asyncio.run(Worker(**json.loads(sys.argv[1])).run())
