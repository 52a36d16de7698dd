"""Looking for similar questions among 100,000: how long a look takes, and what it costs the loop.

Vectors are made up: each is a mixture of a few of 2,000 topics and noise, in directions that differ
in weight, as those of embedding models do. Texts are made of 3,000 words. Before that, all are
added one by one. Meanwhile a task wakes up every millisecond and notes how late it is.

With `--redis URL` (a server with vector sets, which is written to), the same vectors are shared
there instead: how long adding and looking take, and how often the nearest is found.

Run: pip install -e '.[similarity]' && python benchmarks/similar_lookup.py
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from rapidfuzz import fuzz

from aiopromptcache.similarity import LexicalSimilarity
from aiopromptcache.similarity._index import NEAREST, Index, VectorShelf
from aiopromptcache.similarity._letters import TextShelf

FAMILY = "family"
LOOKS = 200


class Lateness:
    """How long the event loop was held up at most, in seconds, besides the machine's own delays."""

    def __init__(self) -> None:
        self.worst = 0.0
        self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        while True:
            started = time.perf_counter()
            await asyncio.sleep(0.001)
            self.worst = max(self.worst, time.perf_counter() - started - 0.001)

    def stop(self) -> float:
        """End it; gives the worst."""
        self._task.cancel()
        return self.worst


def vectors(count: int, width: int) -> Any:
    """Unit vectors of `width` float32."""
    dice = np.random.default_rng(0)
    weight = (1 / np.sqrt(1 + np.arange(width) / 16)).astype(np.float32)
    topics = dice.standard_normal((2_000, width), dtype=np.float32)
    picked = topics[dice.integers(0, 2_000, count)] + 0.7 * topics[dice.integers(0, 2_000, count)]
    rows = (picked + 0.8 * dice.standard_normal((count, width), dtype=np.float32)) * weight
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def texts(count: int) -> list[str]:
    """Questions of 4 to 16 words."""
    dice = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(dice.choices(letters, k=dice.randint(2, 9))) for _ in range(3_000)]
    return [" ".join(dice.choices(words, k=dice.randint(4, 16))) for _ in range(count)]


async def measure(
    name: str, index: Index[Any], given: list[Any], least: float, change: Callable[[Any], Any]
) -> None:
    """Add all, then look for changed ones; print a row."""
    late = Lateness()
    started = time.perf_counter()
    for number, one in enumerate(given):
        await asyncio.wrap_future(index.add(FAMILY, str(number), "", one))
    filled, late_adding = time.perf_counter() - started, late.stop()
    late, took = Lateness(), []
    for number in range(LOOKS):
        asked = change(given[number * 37])
        began = time.perf_counter()
        near = await index.nearest(FAMILY, asked, least)
        took.append(time.perf_counter() - began)
        assert str(number * 37) in [one.key for one in near]
        await asyncio.sleep(0.002)
    late_looking = late.stop()
    took.sort()
    print(
        f"{name:<24} {took[LOOKS // 2] * 1e3:7.2f} {took[LOOKS * 99 // 100] * 1e3:7.2f}"
        f" {late_looking * 1e3:10.2f} {late_adding * 1e3:10.2f} {filled / len(given) * 1e6:8.1f}"
    )
    index.close()


async def shared(url: str, count: int) -> None:
    """Print the table of an index in Redis."""
    from aiopromptcache import RedisTier
    from aiopromptcache.tiers._base import Asked, Family

    tier = RedisTier(url, timeout=60.0)
    dice = np.random.default_rng(1)
    print(f"{count:,} entries in Redis    look p50     p99  nearest found   add, µs  bytes each")
    for width in (256, 384):
        family, rows = Family("benchmark", str(width), FAMILY), vectors(count, width)
        begun = await used_memory(tier)
        started = time.perf_counter()
        for at in range(0, count, 16):
            some = [
                Asked(family, str(n), "How does it stay upright?", packed(rows[n]), 60)
                for n in range(at, min(count, at + 16))
            ]
            await tier.neighbours.add(some, count)
        filled, grown = time.perf_counter() - started, await used_memory(tier) - begun
        took, found = [], 0
        for number in range(LOOKS):
            row = near(rows[number * 37], dice)
            best = str(int(np.argmax(rows @ row)))
            began = time.perf_counter()
            some_near = await tier.neighbours.nearest(family, packed(row), NEAREST, 0.8)
            took.append(time.perf_counter() - began)
            found += best in [one.key for one in some_near]
        took.sort()
        print(
            f"{f'{width} floats, at 0.8':<24} {took[LOOKS // 2] * 1e3:7.2f}"
            f" {took[LOOKS * 99 // 100] * 1e3:7.2f} {found / LOOKS:14.1%}"
            f" {filled / count * 1e6:9.0f} {grown / count:11,.0f}"
        )
        await tier.clear("benchmark")
    await tier.aclose()


async def used_memory(tier: Any) -> int:
    """Bytes that the server uses."""
    words = (await tier._link.command("INFO", "memory")).decode()
    return int(words.partition("used_memory:")[2].split()[0])


def packed(row: Any) -> bytes:
    """A vector as it is sent."""
    return bytes(row.astype("<f4").tobytes())


def near(row: Any, dice: np.random.Generator) -> Any:
    """A vector near another one."""
    moved = row + dice.standard_normal(len(row)).astype(np.float32) * 0.2 / len(row) ** 0.5
    return (moved / np.linalg.norm(moved)).astype(np.float32)


async def quiet() -> None:
    """What the loop is late by when nothing is done at all."""
    late = Lateness()
    await asyncio.sleep(1)
    print(f"{'nothing, for 1 s':<24} {'':7} {'':7} {late.stop() * 1e3:10.2f}")


async def main(count: int) -> None:
    """Print the table."""
    print(f"{count:,} entries          look p50     p99  loop late: looking  adding  add, µs")
    await quiet()
    dice = np.random.default_rng(1)

    for width in (256, 384):
        for least in (0.9, 0.8):
            rows = list(vectors(count, width))
            name = f"{width} floats, at {least}"
            await measure(name, Index(count, VectorShelf), rows, least, partial(near, dice=dice))
    prepared = [LexicalSimilarity.prepare(text) for text in texts(count)]
    for least in (0.9, 0.8, 0.7):
        index: Index[Any] = Index(count, lambda first: TextShelf(fuzz.ratio, 100.0, NEAREST))
        await measure(f"texts, at {least}", index, prepared, least, lambda text: text[:-1] + "q")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--redis", metavar="URL")
    options = parser.parse_args()
    if options.redis:
        asyncio.run(shared(options.redis, options.entries))
    else:
        asyncio.run(main(options.entries))
