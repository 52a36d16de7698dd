"""Dashboards of several processes over one server: they show all of them, and believe nobody."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import redis.asyncio
from boards import ask, hits, state, tell, watch_of
from redis.asyncio import RedisCluster
from servers import Cluster, Server
from web_server import serving

from aiopromptcache import MemoryTier, PromptCache, RedisTier, Tier
from aiopromptcache._dashboard._report import MAX_TEXT, Report, read, written
from aiopromptcache.dashboard import Dashboard, share
from aiopromptcache.testing import FaultyTier, OpenAIServer
from aiopromptcache.tiers._base import Held

pytestmark = pytest.mark.anyio

TEXTS, TIMES = "aiopromptcache:{default}:r", "aiopromptcache:{default}:rt"


@asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[httpx.AsyncClient]:
    """A process with an app; gives an HTTP client of it."""
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).parent / "served.py"),
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert running.stdin is not None
    assert running.stdout is not None
    try:
        port = json.loads(await running.stdout.readline())["port"]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as http:
            yield http
    finally:
        running.stdin.close()
        await running.wait()


def make_cache(url: str, **options: Any) -> PromptCache:
    """A cache as another process would have it."""
    return PromptCache(MemoryTier(), RedisTier(url, timeout=5, **options))


async def test_two_processes_are_shown_as_one(url: str, upstream: OpenAIServer) -> None:
    async with (
        process(url, upstream.base_url, "shown") as first,
        process(url, upstream.base_url, "hidden") as second,
    ):
        params = {"question": "one", "times": "4"}
        stats = [(await http.post("/ask", params=params)).json() for http in (first, second)]
        more = (await second.post("/ask", params={"question": "two", "times": "3"})).json()
        end = asyncio.get_running_loop().time() + 20  # they speak every five seconds
        while True:
            found = await state(first, "/cache/data.json")
            told = sum(point.get("calls", 0) for _, point in found["points"])
            if (found["counts"].get("calls"), told) == (2, 2):
                break
            assert asyncio.get_running_loop().time() < end, found
            await asyncio.sleep(0.1)
        assert upstream.calls == 2
        assert hits(found["counts"]) == stats[0]["hits"] + more["hits"] == 9
        assert len(found["processes"]) == 2
        for each in found["processes"]:
            one = await state(first, "/cache/data.json", process=each["id"])
            assert one["process"] == each["id"]
            assert hits(one["counts"]) == (3 if each["answers"] else 6)


@pytest.fixture
async def raw(url: str, anyio_backend: Any) -> AsyncIterator[redis.asyncio.Redis]:
    """A client of the test's own."""
    async with redis.asyncio.Redis.from_url(url) as client:
        yield client


async def test_what_redis_holds_is_measured_by_the_page_that_shows_it(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_cache(url) as first, make_cache(url) as second:
        share(second)
        async with serving(Dashboard(first)) as http:
            for number in range(3):
                await second.set(str(number), number)
            await tell(second)
            memory, shared = (await state(http))["tiers"]
            assert (memory["entries"], memory["processes"]) == (3, 2)
            assert (shared["entries"], shared["estimated"]) == (3, False)
            assert shared["bytes"] > 0
            asked = [cache._engine.ledger.timings.histograms["tier"] for cache in (first, second)]
            assert [("redis", "measure") in each for each in asked] == [True, False]
            monkeypatch.setattr("aiopromptcache._sizes.EVERY_SECONDS", 0.0)

            async def measure(namespace: str) -> Held:
                return Held(50_000, 7_000_000, exact=False)

            monkeypatch.setattr(first._engine.storage.remote[0].tier, "measure", measure)
            (*_, shared) = (await state(http))["tiers"]
            assert (shared["entries"], shared["estimated"]) == (50_000, True)


async def test_a_page_of_a_closed_cache_shows_what_was_and_connects_no_more(url: str) -> None:
    async with make_cache(url) as cache, serving(Dashboard(cache)) as http:
        await cache.set("key", 1)
        assert await cache.get("key") == 1
        await state(http)
        await cache.aclose()
        for _ in range(2):
            assert hits((await state(http))["counts"]) == 1
        tier: Any = cache._engine.storage.remote[0].tier
        assert tier._link._loop is None
        assert await cache.get("key") == 1  # in use again, it is watched again
        await state(http)
        assert watch_of(cache)._loop is asyncio.get_running_loop()


async def test_tokens_money_and_models_are_summed(url: str, upstream: OpenAIServer) -> None:
    async with make_cache(url) as first, make_cache(url) as second:
        share(second)
        async with serving(Dashboard(first)) as http:
            for number, cache in enumerate([first, second, second]):
                await ask(cache.wrap(upstream.client()), "one")
                await ask(cache.wrap(upstream.client()), "two", f"model {number}")
            await tell(second)
            found = await state(http)
        both = [first.stats, second.stats]
        assert found["counts"]["calls"] == sum(stats.upstream_calls for stats in both) == 4
        assert found["counts"]["tokens_spent"] == sum(s.spent.tokens.total for s in both)
        assert found["counts"]["tokens_saved"] == sum(s.tokens_saved.total for s in both)
        models = {row["model"] for row in found["models"]}
        assert models == {"gpt-4o-mini", "model 0", "model 1", "model 2"}
        assert [tier["processes"] for tier in found["tiers"]] == [2, 2]


async def test_who_has_ended_leaves_the_totals_and_stays_in_the_plots(
    url: str, upstream: OpenAIServer
) -> None:
    async with make_cache(url) as first, make_cache(url) as second:
        share(second)
        async with serving(Dashboard(first)) as http:
            await ask(second.wrap(upstream.client()), "one")
            await tell(second)
            await watch_of(first).hear()
            assert (await state(http))["counts"]["calls"] == 1
            await ask(second.wrap(upstream.client()), "two")  # it has no time to tell of it
            await second.aclose()
            await watch_of(first).hear()
            found = await state(http)
            assert found["counts"] == {}
            assert len(found["processes"]) == 1
            assert sum(point["calls"] for _, point in found["points"]) == 2


async def test_who_is_silent_for_a_minute_is_forgotten(url: str, upstream: OpenAIServer) -> None:
    async with make_cache(url) as first, make_cache(url) as second:
        share(second)
        Dashboard(first)
        watch = watch_of(first)
        watch.begin()
        await ask(second.wrap(upstream.client()), "one")
        await tell(second)
        await watch.hear()
        [other] = watch.others.values()
        assert len(watch.live) == 1
        left = other.until - asyncio.get_running_loop().time()
        assert 50 < left <= 60
        await watch_of(second).aclose()  # no timer of it speaks any more
        watch.others[next(iter(watch.others))].until = 0
        tier = watch.guard
        assert tier is not None
        watch.guard = None
        await watch.hear()  # nothing is known without a tier
        watch.guard = tier
        await watch.hear()
        assert watch.live == {}


async def test_the_server_forgets_by_itself(url: str, raw: redis.asyncio.Redis) -> None:
    async with make_cache(url) as cache:
        share(cache)
        await cache.set("key", 1)
        await tell(cache)
        for name in (TEXTS, TIMES):
            assert 50_000 < await raw.pttl(name) <= 60_000
        seconds, _ = await raw.time()
        old = {f"{number:x}": 1_000 * seconds - 61_000 for number in range(100, 200)}
        await raw.zadd(TIMES, old)
        await raw.hset(TEXTS, mapping=dict.fromkeys(old, "x"))
        await tell(cache)
        assert await raw.hlen(TEXTS) == await raw.zcard(TIMES) == 1
        many = {f"{number:x}": 1_000 * seconds for number in range(100, 200)}
        await raw.zadd(TIMES, many)
        await raw.hset(TEXTS, mapping=dict.fromkeys(many, "x"))
        await tell(cache)
        assert await raw.hlen(TEXTS) == await raw.zcard(TIMES) == 64


def hostile(good: dict[str, Any]) -> list[bytes]:
    """Reports that nobody may believe, or choke on."""
    changes: list[dict[str, Any]] = [
        {"v": 2},
        {"counts": {"calls": -1}},
        {"counts": {"calls": "9"}},
        {"counts": {"calls": 1e300}},
        {"counts": {"__proto__": 1}},
        {"counts": {"<img src=x>": 1}},
        {"counts": {f"hits/{n}": 1 for n in range(1_001)}},
        {"counts": []},
        {"name": "x" * 101},
        {"now": None},
        {"tiers": [{"name": {}, "local": True, "out": False}]},
        {"models": [{}] * 51},
        {"errors": [{"time": "now"}]},
        {"recent": [{"number": 1, "at": 10**30, "counts": {"calls": 5}}]},
    ]
    texts = [json.dumps({**good, **change}).encode() for change in changes]
    nan = orjson.dumps(good).replace(b'"calls":7', b'"calls":NaN')
    wide = orjson.dumps({**good, "more": "x" * MAX_TEXT})
    return [*texts, nan, wide, b"", b"null", b"[" * 60_000, b"\xff\xfe", b'{"v":1}', b'"x"']


async def test_hostile_reports_are_ignored(url: str, raw: redis.asyncio.Redis) -> None:
    async with make_cache(url) as cache, serving(Dashboard(cache)) as http:
        now = int((await raw.time())[0])
        report = Report(name="good", started=now, now=now, counts={"calls": 7})
        good = report.model_dump()
        texts = hostile(good)
        assert [text for text in texts if read(text) is not None] == []
        reports: dict[str | bytes, bytes] = {f"{n:x}": text for n, text in enumerate(texts)}
        for name in ("G", "../..", "<b>", "x" * 500, b"\xff\xfe", ""):
            reports[name] = orjson.dumps(good)
        reports["abcdef"] = orjson.dumps(good)  # the one among them that is none
        await raw.hset(TEXTS, mapping=reports)  # type: ignore[arg-type]
        await raw.zadd(TIMES, dict.fromkeys(reports, now * 1000))
        found = await state(http)
        assert found["counts"] == {"calls": 7}
        assert [each["name"] for each in found["processes"][1:]] == ["good"]
        await raw.delete(TEXTS, TIMES)
        await raw.set(TEXTS, "a string")
        await raw.lpush(TIMES, "a list")
        await tell(cache)
        await watch_of(cache).hear()
        assert (await state(http))["shared"]
        await cache.set("key", 1)
        assert await cache.get("key") == 1
        assert cache.stats.errors == 0


async def test_a_report_is_of_bounded_size(upstream: OpenAIServer) -> None:
    async with PromptCache() as cache:
        share(cache)
        for number in range(2_000):
            row = cache.stats.of_model("chat.completions", f"{number:04}" + "é" * 2_000)
            row.saved.tokens.total = number
        watch = watch_of(cache)
        for number in range(24):
            for tier in "abcdefghijklmnop":
                cache.stats.outcomes["own", "hit", tier * 40] += 1
            cache.stats.stores += number + 1
            watch.sample()
            watch._recent.append(
                (number, 1, {f"read/{'é' * 40}/{n}": 1.5e14 + n for n in range(99)})
            )
        text = written(watch.report())
        assert len(text) <= MAX_TEXT
        report = read(text)
        assert report is not None
        assert report.counts["stores"] == 300
        rows = watch.report().models
        assert (len(rows), rows[-1].model) == (50, "other")
        assert sum(row.saved_tokens for row in rows) == cache.stats.tokens_saved.total > 0


async def test_what_is_told_is_sealed_where_the_tier_is(
    url: str, raw: redis.asyncio.Redis, upstream: OpenAIServer
) -> None:
    key = bytes(range(32))
    async with (
        make_cache(url, encryption_key=key) as first,
        make_cache(url, encryption_key=key) as second,
        make_cache(url, encryption_key=bytes(32)) as stranger,
    ):
        share(second)
        await ask(second.wrap(upstream.client()), "one")
        await tell(second)
        [(name, text)] = (await raw.hgetall(TEXTS)).items()
        assert b"gpt-4o-mini" not in text
        await raw.hset(TEXTS, "abc", text)  # one process's words are not another's
        await raw.zadd(TIMES, {"abc": (await raw.zscore(TIMES, name)) or 0})
        for cache, calls in ((first, 1), (stranger, None)):
            async with serving(Dashboard(cache)) as http:
                assert (await state(http))["counts"].get("calls") == calls


async def test_a_server_that_is_out_is_no_problem(upstream: OpenAIServer) -> None:
    with Server("valkey") as server:
        async with make_cache(server.url) as first, make_cache(server.url) as second:
            share(second)
            async with serving(Dashboard(first)) as http:
                await ask(second.wrap(upstream.client()), "one")
                await tell(second)
                assert (await state(http))["counts"]["calls"] == 1
                server.kill()
                for _ in range(8):
                    await ask(first.wrap(upstream.client()), "two")
                    await watch_of(first).tell()
                    await watch_of(first).hear()
                found = await state(http)
                assert found["counts"]["calls"] == 2  # until a minute has passed
                assert [tier["out"] for tier in found["tiers"]] == [0, 1]


async def test_on_a_cluster_too(cluster: Cluster, upstream: OpenAIServer) -> None:
    port = cluster.alive()[0].port
    async with (
        RedisCluster(host="127.0.0.1", port=port) as one,
        RedisCluster(host="127.0.0.1", port=port) as two,
        PromptCache(MemoryTier(), RedisTier(one, timeout=5)) as first,
        PromptCache(MemoryTier(), RedisTier(two, timeout=5)) as second,
    ):
        share(second)
        await ask(second.wrap(upstream.client()), "one")
        await tell(second)
        async with serving(Dashboard(first)) as http:
            assert (await state(http))["counts"]["calls"] == 1


class OddReports:
    """What a third party may have written."""

    def __init__(self, told: Any) -> None:
        self._told = told

    async def tell(self, namespace: str, process: str, text: bytes) -> None:
        raise RuntimeError

    async def told(self, namespace: str) -> Any:
        return self._told


@pytest.mark.parametrize("told", [None, 3, ["x"], [("a", 1.0, b"x")]])
async def test_a_tier_that_tells_nonsense_is_its_own_problem(told: Any) -> None:
    tier: Any = FaultyTier()
    tier.reports = OddReports(told)
    kept: Tier = tier
    async with PromptCache(MemoryTier(), kept) as cache, serving(Dashboard(cache)) as http:
        await cache.set("key", 1)
        await tell(cache)
        found = await state(http)
        assert found["counts"]["stores"] == 1
        assert {error["where"] for error in found["errors"]} == {tier.name}
