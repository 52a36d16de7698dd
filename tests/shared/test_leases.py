"""One upstream call for all processes: who leads, who waits, who takes over, and what is stored."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from engine_tools import Gate, Gated, cancel, gives, unwanted
from together import HEARD, Held, leases, peeked, team, wait_until, waiting

from aiopromptcache import MemoryTier, PromptCache, RedisTier
from aiopromptcache.testing import OpenAIServer, TCPProxy

pytestmark = pytest.mark.anyio

SHORT = 0.15
"""A lease that runs out soon."""


def ask(cache: PromptCache, factory: Callable[[], Awaitable[Any]], key: str = "key") -> Any:
    """One caller."""
    return asyncio.ensure_future(cache.get_or_create(key, factory))


@asynccontextmanager
async def led(
    url: str, raw: Any, others: int = 1, **options: Any
) -> AsyncIterator[tuple[Held, Any, PromptCache, list[PromptCache]]]:
    """A leader's upstream and caller, its cache, and others of which none has asked yet."""
    async with team(url, 1 + others, **options) as caches:
        upstream = Held()
        leading = ask(caches[0], upstream)
        await upstream.called()
        yield upstream, leading, caches[0], caches[1:]
        upstream.gate.open()
        await asyncio.wait([leading])


# One call


async def test_many_callers_in_many_caches_are_one_call(url: str, raw: Any) -> None:
    async with team(url, 4) as caches:
        upstream = Held()
        callers = [ask(cache, upstream) for cache in caches for _ in range(50)]
        await upstream.called()
        await waiting(raw, "key")
        upstream.gate.open()
        assert await asyncio.gather(*callers) == [1] * 200
        assert upstream.count == 1
        assert sum(cache.stats.upstream_calls for cache in caches) == 1 + 1  # with the warm-up
        assert [peeked(cache, "key") for cache in caches] == [1] * 4
        assert await leases(raw) == []


async def test_of_two_claims_the_later_lease_counts_whichever_reply_comes_first(
    url: str, raw: Any
) -> None:
    """The other must not be kept alive by renewals: nobody would ever load that key again."""
    async with team(url) as [one, other]:
        shared: Any = one._engine.storage.shared
        plain, replies = shared.guard.claim, [Gate(), Gate()]
        answered: list[int] = []

        async def claim(*arguments: Any, **options: Any) -> Any:
            claims = await plain(*arguments, **options)
            answered.append(number := len(answered))
            if number < len(replies):
                await replies[number].wait()
            return claims

        shared.guard.claim = claim
        first = ask(one, gives(1))
        await wait_until("the first claim", lambda: len(answered) == 1)
        await one.delete("key")  # what is asked for now may not join what was asked before
        second = ask(one, gives(1))
        await wait_until("the second claim", lambda: len(answered) == 2)
        for reply in reversed(replies):
            reply.open()
        assert await asyncio.gather(first, second) == [1, 1]
        assert not shared._held
        assert await leases(raw) == []
        assert await other.get("key") == 1


async def test_who_knows_of_anothers_call_makes_none_for_want_of_time(
    url: str, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with led(url, raw, timeout=0.2) as (upstream, leading, _, [other]):
        guard: Any = other._engine.storage.shared.guard  # type: ignore[union-attr]
        claim = guard.claim

        async def late(*args: Any, **options: Any) -> Any:
            found = await claim(*args, **options)
            # A busy loop hears of it when the time for Redis is over.
            time.sleep(0.25)  # noqa: ASYNC251
            monkeypatch.undo()
            return found

        monkeypatch.setattr(guard, "claim", late)
        follower = ask(other, unwanted)
        await waiting(raw, "key")
        upstream.gate.open()
        assert await follower == await leading == 1
        assert upstream.count == 1


async def test_a_waiter_counts_as_collapsed(url: str, raw: Any) -> None:
    async with led(url, raw) as (upstream, leading, _, [other]):
        before = other.stats.as_dict()
        waiter = ask(other, unwanted)
        await waiting(raw, "key")
        upstream.gate.open()
        assert await waiter == await leading == 1
        after = other.stats.as_dict()
        assert after["collapsed"] == before["collapsed"] + 1
        assert after["hits"] == before["hits"]
        assert after["misses"] == before["misses"]


async def test_a_call_that_lasts_many_leases_stays_one(url: str, raw: Any) -> None:
    async with led(url, raw, 2, lease=SHORT) as (upstream, leading, _, others):
        waiters = [ask(other, unwanted) for other in others]
        await waiting(raw, "key")
        await asyncio.sleep(6 * SHORT)  # what is waited for is that nothing happens
        assert not any(waiter.done() for waiter in waiters)
        upstream.gate.open()
        assert await asyncio.gather(leading, *waiters) == [1, 1, 1]


async def test_who_stores_nothing_neither_leads_nor_waits(url: str, raw: Any) -> None:
    async with led(url, raw) as (_, _, _, [other]):
        with other.control(no_store=True):
            assert await other.get_or_create("key", gives(2)) == 2
            assert await other.get_or_create("another", gives(3)) == 3
        assert len(await leases(raw)) == 1


async def test_another_type_is_another_call(url: str, raw: Any) -> None:
    """What the leader brings is of no use to who wants another type: one of them loads anew."""
    async with led(url, raw) as (upstream, leading, _, [other]):
        waiter = asyncio.ensure_future(other.get_or_create("key", gives("text"), type=str))
        await waiting(raw, "key")
        upstream.gate.open()
        assert await leading == 1
        assert await waiter == "text"


# Leaders that fail


async def test_a_failed_call_is_its_own_callers_affair(url: str, raw: Any) -> None:
    async with led(url, raw, 3) as (upstream, leading, leader, others):
        followers = [ask(leader, unwanted) for _ in range(5)]
        second = Held(2)
        waiters = [ask(other, second) for other in others for _ in range(5)]
        await waiting(raw, "key")
        await asyncio.sleep(0.05)  # until the last one waits too
        upstream.error = RuntimeError("no luck")
        upstream.gate.open()
        for failed in (leading, *followers):
            with pytest.raises(RuntimeError, match="no luck"):
                await failed
        await asyncio.wait_for(second.called(), HEARD)
        await asyncio.sleep(0.05)
        assert second.count == 1
        second.gate.open()
        assert await asyncio.gather(*waiters) == [2] * 15
        assert second.count == 1


async def test_errors_all_the_way(url: str, raw: Any) -> None:
    """Each process tries once, one after another, and tells its own callers."""
    async with team(url, 4) as caches:
        running, most, count = 0, 0, 0

        async def upstream() -> Any:
            nonlocal running, most, count
            running, count = running + 1, count + 1
            most = max(most, running)
            await asyncio.sleep(0.02)
            running -= 1
            raise RuntimeError("no luck")

        callers = [ask(cache, upstream) for cache in caches for _ in range(10)]
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
        assert all(isinstance(outcome, RuntimeError) for outcome in outcomes)
        assert (count, most) == (4, 1)
        assert await leases(raw) == []


async def test_a_leader_left_by_its_last_caller(url: str, raw: Any) -> None:
    async with led(url, raw, 2) as (upstream, leading, leader, others):
        second = Held(2)
        another = ask(leader, unwanted)
        waiters = [ask(other, second) for other in others]
        await waiting(raw, "key")
        await cancel(another)
        await asyncio.sleep(0.05)
        assert (upstream.cancelled, second.count) == (0, 0), "somebody still waits"
        await cancel(leading)
        await asyncio.wait_for(second.called(), HEARD)
        assert upstream.cancelled == 1
        second.gate.open()
        assert await asyncio.gather(*waiters) == [2, 2]
        assert second.count == 1


async def test_a_waiter_that_leaves_disturbs_nobody(url: str, raw: Any) -> None:
    async with led(url, raw, 2) as (upstream, leading, _, [one, two]):
        leaver, waiter = ask(one, unwanted), ask(two, unwanted)
        await waiting(raw, "key")
        await cancel(leaver)
        upstream.gate.open()
        assert await asyncio.gather(leading, waiter) == [1, 1]


async def test_a_closed_cache_gives_its_leases_back(url: str, raw: Any) -> None:
    async with led(url, raw) as (upstream, leading, leader, [other]):
        second = Held(2)
        waiter = ask(other, second)
        await waiting(raw, "key")
        await leader.aclose()
        await asyncio.wait_for(second.called(), HEARD)
        second.gate.open()
        assert await waiter == 2
        upstream.gate.open()
        assert await leading == 1
        assert await other.get("key") == 2


# Leases that are lost


async def test_a_leader_that_lost_its_lease_stores_nothing_over_newer(url: str, raw: Any) -> None:
    async with led(url, raw) as (upstream, leading, leader, [other]):
        await raw.delete("aiopromptcache:default:l:{key}")  # as if it had run out
        assert await other.get_or_create("key", gives(2)) == 2
        upstream.gate.open()
        assert await leading == 1
        assert await other.get("key") == await leader.get("key") == 2


async def test_a_leader_whose_lease_is_anothers_stores_nothing(url: str, raw: Any) -> None:
    async with led(url, raw) as (upstream, leading, leader, [other]):
        await raw.delete("aiopromptcache:default:l:{key}")
        second = Held(2)
        newer = ask(other, second)
        await second.called()
        upstream.gate.open()
        assert await leading == 1
        assert await raw.exists("aiopromptcache:default:e:{key}") == 0
        second.gate.open()
        assert await newer == 2
        assert await leader.get("key") == 2


async def test_a_new_answer_takes_the_lease_away(url: str, raw: Any) -> None:
    """`no_cache` waits for nobody, and what it brings is newer."""
    async with led(url, raw) as (upstream, leading, leader, [other]):
        with other.control(no_cache=True):
            assert await other.get_or_create("key", gives(2)) == 2
        upstream.gate.open()
        assert await leading == 1
        assert await leader.get("key") == await other.get("key") == 2


async def test_waiters_are_told_of_who_took_the_lease_away(url: str, raw: Any) -> None:
    async with led(url, raw, 2) as (_, _, _, [taker, other]):
        waiter = ask(other, unwanted)
        await waiting(raw, "key")
        with taker.control(no_cache=True):
            assert await taker.get_or_create("key", gives(2)) == 2
        assert await asyncio.wait_for(waiter, HEARD) == 2


async def test_waiters_are_told_if_who_took_the_lease_away_fails(url: str, raw: Any) -> None:
    async with led(url, raw, 2) as (_, _, _, [taker, other]):
        waiter = ask(other, gives(3))
        await waiting(raw, "key")
        with taker.control(no_cache=True), pytest.raises(RuntimeError):
            await taker.get_or_create("key", fails)
        assert await asyncio.wait_for(waiter, HEARD) == 3


async def fails() -> Any:
    raise RuntimeError("no luck")


async def test_a_refresh_reaches_the_others_also_where_redis_had_nothing(
    url: str, raw: Any
) -> None:
    async with team(url) as [one, other]:
        await one.set("key", 1)
        assert await other.get("key") == 1
        await raw.delete("aiopromptcache:default:e:{key}")  # evicted
        with one.control(no_cache=True):
            assert await one.get_or_create("key", gives(2)) == 2
        await wait_until("the news", lambda: peeked(other, "key") is None, HEARD)
        assert await other.get("key") == 2


# Claims that nobody comes back for


async def test_a_caller_cancelled_during_its_claim(url: str, raw: Any) -> None:
    async with TCPProxy("127.0.0.1", int(url.split(":")[-1].split("/")[0])) as proxy:
        slow = f"redis://127.0.0.1:{proxy.port}/0"
        async with team([slow, url]) as [one, other]:
            proxy.delay(0.05)
            caller = ask(one, unwanted)
            await wait_until("the claim", lambda: leases(raw))
            await cancel(caller)
            proxy.pass_through()
            assert await asyncio.wait_for(other.get_or_create("key", gives(2)), 2) == 2


async def test_a_new_answer_cancelled_during_its_claim(url: str, raw: Any) -> None:
    async with TCPProxy("127.0.0.1", int(url.split(":")[-1].split("/")[0])) as proxy:
        slow = f"redis://127.0.0.1:{proxy.port}/0"
        async with team([slow, url]) as [one, other]:
            proxy.delay(0.05)
            with one.control(no_cache=True):
                caller = ask(one, unwanted)
            await wait_until("the claim", lambda: leases(raw))
            await cancel(caller)
            proxy.pass_through()
            assert await asyncio.wait_for(other.get_or_create("key", gives(2)), 2) == 2


async def test_a_wrapped_call_cancelled_before_it_went_upstream(url: str, raw: Any) -> None:
    async with OpenAIServer() as openai, team(url) as [one, other]:
        clients = [cache.wrap(openai.client()) for cache in (one, other)]

        def call(number: int) -> Any:
            return asyncio.ensure_future(
                clients[number].chat.completions.create(
                    model="m", messages=[{"role": "user", "content": "Hi"}]
                )
            )

        openai.hold()
        caller = call(0)
        await wait_until("the claim", lambda: leases(raw))
        await cancel(caller)
        openai.release()
        answer = await asyncio.wait_for(call(1), 2)
        assert "Hi" in answer.choices[0].message.content
        assert await leases(raw) == []


async def test_a_caller_cancelled_while_it_looks_elsewhere(url: str, raw: Any) -> None:
    slow = Gated()
    async with PromptCache(RedisTier(url, lease=SHORT), slow) as one, team(url, 1) as [other]:
        slow.reading = Gate()
        slow.reading.open()
        claimed = await one._engine.storage.look("default:key", claim=True)
        assert claimed is None
        slow.reading = Gate()
        flight = one._engine.flights.open("default:key", ())
        work = one._engine.storage.begin(flight, "default:key", lambda entry: True)
        beginning = asyncio.ensure_future(work)
        await wait_until("the look", lambda: slow.reading and slow.reading.arrived)
        await cancel(beginning)
        one._engine.flights.remove(flight)
        assert await asyncio.wait_for(other.get_or_create("key", gives(2)), 1) == 2
        slow.reading.open()


async def test_the_next_caller_takes_up_a_claim_that_was_left(url: str, raw: Any) -> None:
    async with team(url, 1) as [cache]:
        claim = asyncio.ensure_future(cache._engine.storage.look("default:key", claim=True))
        assert await claim is None
        assert len(await leases(raw)) == 1
        assert await asyncio.wait_for(cache.get_or_create("key", gives(1)), HEARD) == 1
        assert await leases(raw) == []


def test_a_lease_of_a_loop_that_ended_is_not_renewed_for_ever(url: str, valkey: Any) -> None:
    cache = PromptCache(MemoryTier(), RedisTier(url, lease=SHORT))

    async def leave() -> None:
        await cache._engine.storage.look("default:left", claim=True)
        await cache._engine.storage.remote[0].tier.aclose()  # no connection is left to the loop

    async def use() -> None:
        async with team(url, 1) as [other]:
            held = Held()
            caller = ask(cache, held)
            await held.called()
            assert await asyncio.wait_for(other.get_or_create("left", gives(2)), 1) == 2
            waiter = ask(other, unwanted)
            await asyncio.sleep(4 * SHORT)  # its own leases are renewed
            held.gate.open()
            assert await asyncio.gather(caller, waiter) == [1, 1]
        await cache.aclose()

    asyncio.run(leave())
    asyncio.run(use())


# What is on the server


@pytest.mark.parametrize("record", [b"", b"a", b"ap", b"x" * 23, b"x" * 1_000])
async def test_a_record_that_is_none_keeps_nobody_waiting(
    url: str, raw: Any, record: bytes
) -> None:
    async with team(url) as [one, other]:
        await raw.set("aiopromptcache:default:e:{key}", record)
        assert await asyncio.wait_for(one.get_or_create("key", gives(1)), HEARD) == 1
        assert await other.get("key") == 1


async def test_nothing_is_left_over(url: str, raw: Any) -> None:
    async with team(url) as [one, other]:
        for number in range(30):
            key = str(number)
            await asyncio.gather(
                *[c.get_or_create(key, gives(1), ttl=60, tags=["t"]) for c in (one, other)],
                *[ask(c, fails, key + "f") for c in (one, other)],
                return_exceptions=True,
            )
        await wait_until("the release", lambda: empty(raw))
        for key in await raw.keys("*"):
            if b":e:" not in key or not key.endswith(b"{warm}"):
                assert await raw.pttl(key) > 0, key
        storage = one._engine.storage
        assert storage.shared is not None
        left = (storage.shared._held, storage.shared._spare, storage.shared._waiting)
        assert not any(left)


async def empty(raw: Any) -> bool:
    return not await leases(raw)


async def test_without_redis_there_is_neither_task_nor_timer() -> None:
    before = asyncio.all_tasks()
    async with PromptCache(MemoryTier()) as cache:
        upstream = Held()
        caller = ask(cache, upstream)
        await upstream.called()
        names = {task.get_name() for task in asyncio.all_tasks() - before - {caller}}
        assert names == {"aiopromptcache flight"}
        upstream.gate.open()
        await caller
        assert asyncio.all_tasks() == before
        assert cache._engine.storage.shared is None
