"""The server, or the way to it, is lost in mid-flight: everyone falls back, nobody hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from servers import Server
from together import HEARD, Held, commands, peeked, team, wait_until, waiting

from aiopromptcache.testing import TCPProxy
from aiopromptcache.tiers import _news

pytestmark = pytest.mark.anyio

TIMEOUT = 0.1
BEAT = 0.2
GIVEN_UP = BEAT + 4 * TIMEOUT + 0.3
"""Seconds until who waits for a silent server does without it."""


@pytest.fixture(autouse=True)
def quick_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_news, "BEAT_SECONDS", BEAT)


FAULTS: dict[str, tuple[Callable[[Server], None], Callable[[Server], None]]] = {
    "killed": (Server.kill, lambda server: server.start() and None),
    "stopped": (Server.pause, Server.resume),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_everyone_falls_back_to_a_call_of_their_own(server: Server, fault: str) -> None:
    breaks, mends = FAULTS[fault]
    async with team(server.url, 3, timeout=TIMEOUT) as [leader, *others]:
        async with server_client(server) as raw:
            upstream, second = Held(1), Held(10)
            leading = [ask(leader, upstream) for _ in range(5)]
            await upstream.called()
            waiters = [ask(other, second) for other in others for _ in range(5)]
            await waiting(raw, "key")
            await asyncio.sleep(0.05)
        breaks(server)
        try:
            await asyncio.wait_for(second.called(len(others)), GIVEN_UP)
            second.gate.open()
            found = await asyncio.wait_for(asyncio.gather(*waiters), 2 * TIMEOUT + 0.3)
            assert sorted(found) == [10] * 5 + [11] * 5, "one call in each"
            upstream.gate.open()
            assert await asyncio.wait_for(asyncio.gather(*leading), 2 * TIMEOUT + 0.3) == [1] * 5
            assert (upstream.count, second.count) == (1, 2)
        finally:
            await asyncio.to_thread(mends, server)
        await wait_until("the return", lambda: answered_by_redis(leader, others), 3)


async def answered_by_redis(leader: Any, others: Any) -> bool:
    await leader.set("marker", 1)
    return all([await other.get("marker") == 1 for other in others])


def ask(cache: Any, factory: Any) -> Any:
    return asyncio.ensure_future(cache.get_or_create("key", factory))


def server_client(server: Server) -> Any:
    import redis.asyncio

    return redis.asyncio.Redis.from_url(server.url)


async def test_connections_that_are_killed_change_nothing(server: Server) -> None:
    async with team(server.url, 3) as [leader, *others], server_client(server) as raw:
        for number in range(10):
            upstream = Held(number)
            leading = ask(leader, upstream)
            await upstream.called()
            waiters = [ask(other, upstream) for other in others]
            await waiting(raw, "key")
            await raw.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await asyncio.sleep(0.01 * (number % 3))
            upstream.gate.open()
            assert await asyncio.wait_for(asyncio.gather(leading, *waiters), 1) == [number] * 3
            assert upstream.count == 1
            await leader.delete("key")
            await wait_until("the news", lambda: all(peeked(c, "key") is None for c in others))


@pytest.mark.parametrize("fault", ["refuse", "drop", "black_hole"])
@pytest.mark.parametrize("who", ["leader", "waiter"])
async def test_only_one_process_loses_the_server(server: Server, fault: str, who: str) -> None:
    async with TCPProxy("127.0.0.1", server.port) as proxy, server_client(server) as raw:
        way = f"redis://127.0.0.1:{proxy.port}/0"
        options: Any = {"timeout": TIMEOUT, "lease": 0.5}
        urls = [way, server.url] if who == "leader" else [server.url, way]
        async with team([*urls, server.url], **options) as [leader, waiter, third]:
            upstream, second = Held(1), Held(10)
            leading = ask(leader, upstream)
            await upstream.called()
            waiters = [ask(cache, second) for cache in (waiter, third)]
            await waiting(raw, "key")
            await asyncio.sleep(0.05)
            getattr(proxy, fault)()
            # A leader that is cut off is as good as dead: its lease runs out.
            await asyncio.wait_for(second.called(), 0.5 + GIVEN_UP)
            second.gate.open()
            assert await waiters[0] == 10
            upstream.gate.open()
            assert await leading == 1
            assert await waiters[1] == (10 if who == "leader" else 1)
            assert second.count == 1
            proxy.pass_through()
            newest = await third.get("key")
            await wait_until("the news", lambda: reads(leader, waiter, newest), 3)


async def reads(leader: Any, waiter: Any, value: Any) -> bool:
    return [await leader.get("key"), await waiter.get("key")] == [value] * 2


async def test_a_silent_server_costs_a_waiter_few_commands(url: str, valkey: Server) -> None:
    """Nothing but a look at the end of each lease."""
    async with team(url, 2, lease=0.5) as [leader, other]:
        upstream = Held(1)
        leading = ask(leader, upstream)
        await upstream.called()
        waiter = ask(other, upstream)
        await asyncio.sleep(HEARD)
        before = commands(valkey)
        await asyncio.sleep(1.0)
        spent = commands(valkey) - before
        upstream.gate.open()
        assert await asyncio.gather(leading, waiter) == [1, 1]
        # Two leases renewed three times each, looked at twice, and the beat, which is quick here.
        assert spent <= 6 * 3 + 3 * 4 + 2 * 1.0 / BEAT * 2 + 4
