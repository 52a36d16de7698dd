"""`stats` of an app whose processes tell their counters."""

from __future__ import annotations

import asyncio

import pytest
from cli_tools import Tool
from servers import Server

from aiopromptcache import MemoryTier, PromptCache, RedisTier
from aiopromptcache.dashboard import share


async def _told(url: str) -> None:
    """Two processes that have told how they are, and were killed then."""
    tiers = [RedisTier(url, timeout=5) for _ in range(2)]
    for number, tier in enumerate(tiers):
        cache = PromptCache(MemoryTier(), tier)
        share(cache)

        async def load() -> str:
            return "value"

        for _ in range(3 + number):
            await cache.get_or_create("key", load)
        watch = cache._engine.watch
        watch.sample()
        await watch.tell()
        watch._timer.cancel()
    for tier in tiers:
        await tier.aclose()


def test_what_processes_tell_is_summed(tool: Tool, url: str, valkey: Server) -> None:
    assert tool.json("stats")["app"] is None
    asyncio.run(_told(url))
    app = tool.json("stats")["app"]
    assert app["processes"] == 2
    assert (app["requests"], app["hits"], app["misses"]) == (7, 6, 1)
    assert app["hit_rate"] == pytest.approx(6 / 7)
    assert sum(app["hits_by_tier"].values()) == 6
    assert set(app["hits_by_tier"]) == {"memory", "redis"}
    assert app["upstream_calls"] == 1
    assert app["cost_saved"] is None
    said = tool("stats").stdout
    assert "2 processes since their start" in said
    assert "7, 6 of them hits (85.7%)" in said
    valkey.command("SET", "aiopromptcache:{other}:r", "no hash")
    valkey.command("ZADD", "aiopromptcache:{other}:rt", "1", "abc")
    assert tool.json("stats", "--namespace", "other")["app"] is None
