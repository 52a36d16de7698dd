"""Known embeddings side by side with the bare SDK over an in-memory transport, in one process.

Building the lists of a million floats is most of a hit, and how long that takes depends on whether
the process has to ask the system for their memory each time. So there are two tables: as it comes,
and with memory that stays with the process, as in one that has run for a while.

Run: pip install -e '.[test]' && python benchmarks/embeddings.py
"""

from __future__ import annotations

import asyncio
import base64
import ctypes.util
import gc
import random
import struct
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import orjson
from openai import AsyncOpenAI

from aiopromptcache import MemoryTier, PromptCache

SIZE = 1_536
ROUNDS = 5
TEXTS = [f"A paragraph of a document, number {number}." for number in range(1_000)]
_random = random.Random(1)
VECTORS = {
    text: struct.unpack(
        f"<{SIZE}f", struct.pack(f"<{SIZE}f", *[_random.uniform(-1, 1) for _ in range(SIZE)])
    )
    for text in TEXTS
}
answers: dict[bytes, bytes] = {}


def answer(content: bytes) -> bytes:
    """The upstream's body for a request; made once, so that no round pays for it."""
    if content not in answers:
        request = orjson.loads(content)
        inputs = request["input"] if isinstance(request["input"], list) else [request["input"]]
        encoded = request.get("encoding_format") == "base64"
        data = [
            {"object": "embedding", "index": index, "embedding": vector(text, encoded)}
            for index, text in enumerate(inputs)
        ]
        usage = {"prompt_tokens": 8 * len(inputs), "total_tokens": 8 * len(inputs)}
        answers[content] = orjson.dumps(
            {"object": "list", "data": data, "model": "text-embedding-3-small", "usage": usage}
        )
    return answers[content]


def vector(text: str, encoded: bool) -> Any:
    """The vector of a text, as it is sent."""
    if not encoded:
        return VECTORS[text]
    return base64.b64encode(struct.pack(f"<{SIZE}f", *VECTORS[text])).decode()


async def upstream(request: httpx2.Request) -> httpx2.Response:
    """The in-memory transport."""
    headers = {"content-type": "application/json", "x-request-id": "req_1"}
    return httpx2.Response(200, headers=headers, content=answer(request.content))


def client() -> AsyncOpenAI:
    """A client over the in-memory transport."""
    http = httpx2.AsyncClient(transport=httpx2.MockTransport(upstream))
    return AsyncOpenAI(api_key="-", base_url="http://in-memory/v1", http_client=http)


async def seconds(call: Callable[[], Awaitable[Any]], times: int) -> float:
    """Mean seconds of one call."""
    gc.collect()
    started = time.perf_counter()
    for _ in range(times):
        await call()
    return (time.perf_counter() - started) / times


async def compare(label: str, ours: Any, theirs: Any, wanted: str, times: tuple[int, int]) -> None:
    """Alternate both in short rounds; the best round of each counts."""
    await ours()
    await ours()
    mine, other = [], []
    for _ in range(ROUNDS):
        other.append(await seconds(theirs, times[1]))
        mine.append(await seconds(ours, times[0]))
    a, b = min(mine), min(other)
    print(f"{label:<42}{a * 1e6:>12,.0f} us{b * 1e6:>12,.0f} us{f'1/{b / a:.1f}':>9}   {wanted}")


def keep_memory() -> list[float]:
    """Let memory stay with the process: what is returned keeps Python's blocks from being freed."""
    libc = ctypes.util.find_library("c")
    mallopt = getattr(ctypes.CDLL(libc), "mallopt", None) if libc else None
    if mallopt is not None:  # glibc
        mallopt(-1, 2**30)  # M_TRIM_THRESHOLD
        mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
    return [number + 0.5 for number in range(6_000_000)][::2_000]


async def table(title: str) -> None:
    """Batches and single ones, in every encoding."""
    print(f"\n{title:<42}{'ours':>15}{'bare SDK':>15}{'ratio':>9}   wanted")
    bare = client()
    async with PromptCache(MemoryTier(max_entries=100_000, max_bytes=2**30)) as cache:
        ours = cache.wrap(client())
        for encoding, wanted in (("float", "1/20"), (None, "1/3"), ("base64", "")):
            options: dict[str, Any] = {"model": "text-embedding-3-small"}
            if encoding is not None:
                options["encoding_format"] = encoding

            def ask(who: AsyncOpenAI, given: Any, options: Any = options) -> Any:
                return lambda: who.embeddings.create(input=given, **options)

            name = encoding or "default"
            single, bound = TEXTS[0], "at most 60 us"
            await compare(
                f"1,000 known, {name}", ask(ours, TEXTS), ask(bare, TEXTS), wanted, (3, 1)
            )
            await compare(
                f"one known, {name}", ask(ours, single), ask(bare, single), bound, (1_000, 50)
            )


async def main() -> None:
    """Both tables."""
    await table("memory as it comes")
    kept = keep_memory()
    await table("memory kept")
    del kept


if __name__ == "__main__":
    asyncio.run(main())
