"""Several real processes over one server: one upstream call, whoever dies."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise
from typing import Any

import pytest
from servers import Server
from together import HEARD, Worker, commands, leases, wait_until, workers

pytestmark = pytest.mark.anyio

LEASE = 0.6


@pytest.fixture
def anyio_backend() -> Any:
    """The loop of the test itself; the workers have their own."""
    return ("asyncio", {})


def upstream_calls(them: list[Worker], key: str) -> int:
    return sum(len(worker.of("upstream", key=key)) for worker in them)


async def test_a_thousand_callers_in_four_processes_are_one_call(url: str, valkey: Server) -> None:
    async with workers(url, 4) as them:
        before = commands(valkey)
        loads = [
            (worker, worker.tell("load", key="cold", value=name, callers=250, seconds=1.0))
            for name, worker in enumerate(them)
        ]
        answers = [await worker.answer(number) for worker, number in loads]
        spent = commands(valkey) - before
        assert upstream_calls(them, "cold") == 1
        [leader] = [name for name, worker in enumerate(them) if worker.of("upstream", key="cold")]
        assert [answer["values"] for answer in answers] == [[leader] * 250] * 4
        # The leader may use more, and its second of waiting is included.
        assert spent <= 4 * (10 + 2)


async def test_waiters_are_woken_by_push(url: str) -> None:
    """Far sooner than the lease would run out, which is when they look by themselves."""
    async with workers(url, 3, lease=30.0) as them:
        late = []
        for key in map(str, range(10)):
            loads = [(w, w.tell("load", key=key, value=1, seconds=0.05)) for w in them]
            answers = [await worker.answer(number) for worker, number in loads]
            assert upstream_calls(them, key) == 1
            first = min(answer["times"][0] for answer in answers)
            late += [answer["times"][0] - first for answer in answers]
        assert max(late) < HEARD


@pytest.mark.parametrize("seed", range(4))
async def test_whoever_waits_outlives_the_leader(url: str, seed: int) -> None:
    async with workers(url, 4, lease=LEASE) as them:
        leader, others = them[0], them[1:]
        leader.tell("load", key="key", value="dead", callers=20, seconds=30)
        await wait_until("the leader's call", lambda: leader.of("upstream", key="key"))
        loads = [
            (worker, worker.tell("load", key="key", value="alive", callers=20, seconds=0.3))
            for worker in others
        ]
        await asyncio.sleep(random.Random(seed).uniform(0, 2 * LEASE))  # any moment of its call
        assert upstream_calls(others, "key") == 0
        await leader.kill()
        for worker, number in loads:
            answer = await worker.answer(number, within=2 * LEASE + 1)
            assert answer["values"] == ["alive"] * 20
        assert upstream_calls(others, "key") == 1


async def test_leaders_that_die_one_after_another(url: str, raw: Any) -> None:
    async with workers(url, 4, lease=LEASE) as them:
        for worker in them[:3]:
            worker.tell("load", key="key", value=1, seconds=30)
        last = them[3].tell("load", key="key", value="last", seconds=0)
        answered = asyncio.ensure_future(them[3].answer(last, within=20))
        alive = list(them)
        while not answered.done():
            leading = [w for w in alive[:-1] if w.of("upstream", key="key")]
            for worker in leading:
                await worker.kill()
                alive.remove(worker)
            await asyncio.wait([answered], timeout=0.01)
        answer = await answered
        assert answer["values"] == ["last"]
        assert upstream_calls(them, "key") == 1 + len(them) - len(alive), "one for each death"
        calls = sorted(event["at"] for w in them for event in w.of("upstream", key="key"))
        assert all(later - earlier > LEASE / 2 for earlier, later in pairwise(calls))
        for worker in alive[:-1]:  # the answer was for all
            assert (await worker.answer(0))["values"] == ["last"]
        await wait_until("the end of the leases", lambda: none_left(raw))


async def none_left(raw: Any) -> bool:
    return not await leases(raw)


async def test_what_one_process_drops_the_others_forget(url: str) -> None:
    async with workers(url, 3) as them:
        first, *others = them
        for way, argument in (
            ("forget", {"key": "k"}),
            ("invalidate", {"tag": "t"}),
            ("clear", {}),
        ):
            await first.ask("put", key="k", value=way, tags=["t"])
            for worker in others:
                await wait_until("the value", lambda w=worker, v=way: reads(w, v))
            watches = [(w, w.tell("watch", key="k", gone=way)) for w in others]
            done = await first.ask(way, **argument)
            for worker, number in watches:
                answer = await worker.answer(number)
                assert answer["at"] - done["at"] < HEARD
                assert (await worker.ask("read", key="k"))["value"] is None


async def reads(worker: Worker, value: str) -> bool:
    return bool((await worker.ask("read", key="k"))["value"] == value)


@pytest.mark.parametrize("skew", [3_600.0, -3_600.0])
async def test_clocks_an_hour_apart_change_nothing(url: str, skew: float) -> None:
    async with workers(url, 1) as [here], workers(url, 1, skew=skew, lease=LEASE) as [there]:
        for leader, other in ((here, there), (there, here)):
            key = f"led by {'here' if leader is here else 'there'}"
            loads = [(leader, leader.tell("load", key=key, value=1, seconds=2 * LEASE))]
            await wait_until("the call", lambda k=key, w=leader: w.of("upstream", key=k))
            loads += [(other, other.tell("load", key=key, value=2, seconds=0))]
            for worker, number in loads:
                assert (await worker.answer(number))["values"] == [1]
            assert upstream_calls([here, there], key) == 1
            watch = other.tell("watch", key=key, gone=1)
            done = await leader.ask("forget", key=key)
            assert (await other.answer(watch))["at"] - done["at"] < HEARD
            loads = [(w, w.tell("load", key=key, value=3, seconds=0.2)) for w in (here, there)]
            for worker, number in loads:
                assert (await worker.answer(number))["values"] == [3]
