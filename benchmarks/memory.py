"""What an entry costs in memory: 100,000 stored answers of 1 KB, measured by the process's size.

Run: python benchmarks/memory.py
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiopromptcache import Kind, MemoryTier, PromptCache, Usage

ENTRIES = 100_000
SIZE = 1_024


def resident() -> int:
    """Bytes of physical memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def plain(cache: PromptCache, number: int) -> None:
    """A value of 1 KB under a digest."""
    await cache.set(cache.key(number=number), f"{number:010}" + "x" * (SIZE - 12))


async def answer(cache: PromptCache, number: int) -> None:
    """An HTTP answer of 1 KB, with a head and usage, as the wrapper stores it."""
    engine = cache._engine
    head = b'[200,[["content-type","application/json"],["x-request-id","req_%010d"]]]' % number
    entry = engine.answers.entry(
        Kind.HTTP,
        b"%010d" % number + b"x" * (SIZE - 10),
        cache.policy,
        head=head,
        endpoint="chat.completions",
        model="gpt-4o-mini",
        usage=Usage(1_000 + number, 2_000 + number, 3_000 + 2 * number),
    )
    await engine.storage.store(engine.prefix + cache.key(number=number), entry)


async def measure(store: Callable[[PromptCache, int], Awaitable[None]]) -> None:
    """Print bytes an entry, all told."""
    tier = MemoryTier(max_entries=2 * ENTRIES, max_bytes=2**31)
    cache = PromptCache(tier)
    await store(cache, -1)
    gc.collect()
    before = resident()
    for number in range(ENTRIES):
        await store(cache, number)
    gc.collect()
    each = (resident() - before) / ENTRIES
    counted = tier.size / len(tier)
    print(f"{store.__name__:8} {each:6,.0f} bytes an entry of 1 KB, counted as {counted:,.0f}")


def run(name: str) -> None:
    """Measure one kind of entry in this process."""
    asyncio.run(measure(globals()[name]))


if __name__ == "__main__":
    for store in (plain, answer):  # each in a process of its own: freed memory is used again
        process = multiprocessing.get_context("spawn").Process(target=run, args=(store.__name__,))
        process.start()
        process.join()
