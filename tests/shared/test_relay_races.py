"""A stream whose beginning comes from another process while its flight is looking elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Self

import pytest
from engine_tools import Gate, quiet
from openai import APIConnectionError
from test_relay import Consumer, all_over, clients
from together import wait_until

from aiopromptcache import PromptCache
from aiopromptcache.testing import OpenAIServer
from aiopromptcache.tiers._base import Claim, Lease

pytestmark = pytest.mark.anyio


@pytest.fixture
async def upstream(anyio_backend: Any) -> AsyncIterator[OpenAIServer]:
    async with OpenAIServer() as server:
        yield server


class Slow:
    """One cache's way to the server: each step of a follower happens when a test says so."""

    def __init__(self, cache: PromptCache) -> None:
        shared: Any = cache._engine.storage.shared
        relay = shared.guard.tier.relay
        self._shared, self._claim, self._follow = shared, shared.guard.claim, relay.follow
        self.claiming, self.first, self.rest = Gate(), Gate(), Gate()
        self.outcome: Claim | None = None
        """What the claim comes to instead of what is there."""
        self.fails = False
        shared.guard.claim, relay.follow = self.claim, self.follow

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for gate in (self.claiming, self.first, self.rest):
            gate.open()

    async def claimed(self) -> None:
        """Wait until what was claimed is known to those who claimed it."""
        await wait_until("the claim's end", lambda: not self._shared.claims._tasks)
        await quiet()

    async def claim(self, slots: Sequence[str], **options: Any) -> Mapping[str, Claim]:
        if self.first.arrived and not self.claiming.arrived:
            await self.claiming.wait()
            if self.outcome is not None:
                lease = self.outcome.lease
                of = {slot: lease and lease._replace(slot=slot) for slot in slots}
                return {slot: self.outcome._replace(lease=of[slot]) for slot in slots}
        found: Mapping[str, Claim] = await self._claim(slots, **options)
        return found

    async def follow(self, *place: Any) -> AsyncIterator[bytes | None]:
        await self.first.wait()
        async for data in self._follow(*place):
            yield data
            if data is not None:
                await self.rest.wait()
                if self.fails:
                    raise ConnectionError("the connection was lost")


OUTCOMES = [
    pytest.param(None, id="stored"),
    pytest.param(Claim(lease=Lease("", "made up.", "0-0")), id="a lease"),
    pytest.param(Claim(wait=0.01), id="another's lease"),
]


async def overlapping(
    slow: Slow, clients: Sequence[Any], upstream: OpenAIServer, outcome: Claim | None
) -> tuple[Consumer, Consumer]:
    """A leader that has ended, and a follower that has the beginning and is claiming the slot."""
    slow.outcome = outcome
    upstream.hold_after(2)
    leader = Consumer(clients[0])
    await leader.has(2)
    follower = Consumer(clients[1])
    await wait_until("a follower", lambda: slow.first.arrived)
    upstream.release()
    await leader.task
    await wait_until("a claim", lambda: slow.claiming.arrived)
    slow.first.open()
    await follower.has(1)
    await wait_until("the beginning", lambda: slow.rest.arrived)
    slow.claiming.open()
    return leader, follower


@pytest.mark.parametrize("outcome", OUTCOMES)
async def test_what_has_begun_is_read_to_its_end(
    url: str, upstream: OpenAIServer, outcome: Claim | None
) -> None:
    async with clients(url, upstream) as (them, caches):
        with Slow(caches[1]) as slow:
            leader, follower = await overlapping(slow, them, upstream, outcome)
            await slow.claimed()
            assert not follower.task.done()
            slow.rest.open()
            assert await follower.task == leader.text
            assert follower.ids == leader.ids
            assert upstream.calls == 1
        await all_over(*caches)


@pytest.mark.parametrize("outcome", OUTCOMES)
async def test_what_has_begun_and_breaks_off_is_an_error(
    url: str, upstream: OpenAIServer, outcome: Claim | None
) -> None:
    async with clients(url, upstream) as (them, caches):
        with Slow(caches[1]) as slow:
            slow.fails = True
            leader, follower = await overlapping(slow, them, upstream, outcome)
            slow.rest.open()
            with pytest.raises(APIConnectionError):
                await follower.task
            assert follower.ids == leader.ids
            assert upstream.calls == 1
        await all_over(*caches)
