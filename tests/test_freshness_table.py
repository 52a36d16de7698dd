"""Every combination of age, window, directive and upstream against an independent oracle."""

from __future__ import annotations

from typing import Any

import pytest
from engine_tools import quiet
from freshness_oracle import AGES, TTL, Case, Expected, cases, expect

from aiopromptcache import CacheStatus, MemoryTier, NotCached, PromptCache
from aiopromptcache._ask import Answer, Ask
from aiopromptcache.testing import FaultyTier, VirtualClock

pytestmark = pytest.mark.anyio


class Source:
    """Gives "new", or is down."""

    def __init__(self, up: bool) -> None:
        self.up = up
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        if not self.up:
            raise ConnectionError("down")
        return "new"


def statuses_of(cache: PromptCache) -> list[CacheStatus]:
    """What the engine says of the questions that it was asked (fresh hits need none)."""
    engine, told = cache._engine, list[CacheStatus]()
    plain = engine.fetch

    async def fetch(ask: Ask) -> Answer:
        answer = await plain(ask)
        told.append(CacheStatus(*answer.status))
        return answer

    engine.fetch = fetch  # type: ignore[method-assign]
    return told


async def store(cache: PromptCache, tiers: list[Any], case: Case) -> None:
    names = ("stale_while_revalidate", "stale_if_error")
    with cache.control(ttl=TTL, **dict(zip(names, case.recorded, strict=True))):
        await cache.set("key", "old")
    if len(tiers) > 1:
        await tiers[0].clear("default")  # another process stored it


async def outcome(case: Case, tiers: list[Any]) -> Expected:
    """What comes of a case."""
    clock, source = VirtualClock(), Source(case.up)
    cache = PromptCache(*tiers, clock=clock)
    await store(cache, tiers, case)
    clock.advance(case.age)
    statuses = statuses_of(cache)
    with cache.control(ttl=TTL, **case.reader):
        try:
            answer = await cache.get_or_create("key", source)
        except ConnectionError:
            answer = "error"
        except NotCached:
            answer = "not cached"
    await quiet()
    stats = cache.stats
    assert (stats.requests, stats.hits + stats.misses) == (1, 1)
    status = statuses[0] if statuses else CacheStatus("key", hit=stats.hits == 1)
    assert status.hit == (stats.hits == 1)
    assert status.stale == (stats.stale == 1) == (status.ttl is not None and status.ttl <= 0)
    stored = await cache.get("key") == "new"
    await cache.aclose()
    return Expected(answer, source.calls, status.hit, status.stale, status.fwd, stored)


TIERS: dict[str, Any] = {
    "memory": lambda: [MemoryTier()],
    "remote": lambda: [FaultyTier()],
    "both": lambda: [MemoryTier(), FaultyTier()],
}


@pytest.mark.parametrize("tiers", TIERS)
@pytest.mark.parametrize("age", AGES)
async def test_every_case_comes_out_as_the_rfcs_say(age: str, tiers: str) -> None:
    step = 1 if tiers == "memory" else 7  # of the rest a sample that meets every field's values
    for case in cases(AGES[age])[::step]:
        assert await outcome(case, TIERS[tiers]()) == expect(case), case


def test_the_table_has_every_kind_of_outcome() -> None:
    outcomes = [expect(case) for age in AGES.values() for case in cases(age)]
    assert {(o.answer, o.calls) for o in outcomes} == {
        ("old", 0),
        ("old", 1),
        ("new", 1),
        ("error", 1),
        ("not cached", 0),
    }
    assert len(outcomes) > 7_000
