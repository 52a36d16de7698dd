"""The dashboard over real HTTP: its numbers, its manners, and what it must never show."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import httpx
import pytest
from aiohttp import web
from boards import MODEL, ask, hits, state, watch_of
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount
from web_server import serving

from aiopromptcache import ConfigurationError, MemoryTier, Price, PromptCache, cache_status
from aiopromptcache.aiohttp import mount_dashboard
from aiopromptcache.dashboard import Dashboard, share
from aiopromptcache.testing import FaultyTier, OpenAIServer, VirtualClock

pytestmark = pytest.mark.anyio

FILES = ["", "dashboard.css", "dashboard.js", "format.js", "plot.js", "series.js", "table.js"]


# Numbers


async def test_its_numbers_are_those_of_stats_and_of_the_upstream(upstream: OpenAIServer) -> None:
    async with PromptCache(prices={MODEL: Price(1.0, 2.0)}) as cache:
        client = cache.wrap(upstream.client(max_retries=0))
        async with serving(Dashboard(cache)) as http:
            for number in range(12):
                await ask(client, f"question {number % 5}")
            upstream.hold()
            crowd = [asyncio.create_task(ask(client, "all at once")) for _ in range(6)]
            await upstream.wait_active(1)
            upstream.release()
            await asyncio.gather(*crowd)
            upstream.fail(times=1)
            with pytest.raises(Exception, match="500"):
                await ask(client, "fails")
            counts = (await state(http))["counts"]
        stats = cache.stats
        assert counts["calls"] == stats.upstream_calls == upstream.calls == 7
        assert hits(counts) == counts["hits/memory"] == stats.hits == 7
        assert (counts["miss"], counts["collapsed"]) == (stats.misses, stats.collapsed) == (7, 5)
        assert counts["tokens_saved"] == stats.tokens_saved.total
        assert counts["cost_saved"] == pytest.approx(stats.cost_saved)
        assert counts["cost_spent"] == pytest.approx(stats.spent.cost)
        assert counts["errors"] == stats.errors == counts["failures"] == 1


async def test_history_adds_up_to_the_counters(upstream: OpenAIServer, clock: VirtualClock) -> None:
    async with PromptCache(clock=clock) as cache:
        client = cache.wrap(upstream.client())
        async with serving(Dashboard(cache)) as http:
            for round_ in range(4):
                await ask(client, "the same")
                await ask(client, f"question {round_}")
                watch_of(cache).sample()
                clock.advance(100)
            for span, points in ((900, 4), (86_400, 1)):
                found = await state(http, span=span)
                assert len(found["points"]) >= points
                sums = [point for _, point in found["points"]]
                assert sum(point.get("miss", 0) for point in sums) == 5 == found["counts"]["miss"]
                assert sum(hits(point) for point in sums) == 3 == hits(found["counts"])
            newest = found["points"][-1][0]
            again = await state(http, span=86_400, since=newest)
            assert again["points"] == found["points"][-1:]
            clock.advance(2_000)
            assert (await state(http))["points"] == []


async def test_tiers_models_and_errors_are_shown(upstream: OpenAIServer) -> None:
    tier = FaultyTier()
    async with PromptCache(MemoryTier(max_entries=50), tier, prices={MODEL: Price(1.0)}) as cache:
        client = cache.wrap(upstream.client(max_retries=0))
        async with serving(Dashboard(cache)) as http:
            await ask(client, "one")
            await ask(client, "one", "nobody-knows-its-price")
            tier.fail()
            for number in range(5):
                await ask(client, f"question {number}")
            found = await state(http)
            tier.resume()
        memory, remote = found["tiers"]
        held = {name: memory[name] for name in ("entries", "max_entries", "local", "out")}
        assert held == {"entries": 7, "max_entries": 50, "local": True, "out": 0}
        assert memory["bytes"] > 0
        assert (remote["name"], remote["local"], remote["out"]) == (tier.name, False, 1)
        rows = {row["model"]: row for row in found["models"]}
        assert rows[MODEL]["spent_cost"] > 0
        assert rows["nobody-knows-its-price"]["spent_cost"] is None
        assert rows["nobody-knows-its-price"]["unpriced"] == 1
        assert {(error["kind"], error["where"]) for error in found["errors"]} == {
            ("tier", tier.name)
        }
        assert {error["error"] for error in found["errors"]} == {"OSError"}


async def test_the_last_errors_are_kept_without_their_words() -> None:
    async with PromptCache() as cache:
        for number in range(60):

            async def fail(number: int = number) -> None:
                raise LookupError(f"secret prompt {number}")

            with pytest.raises(LookupError):
                await cache.get_or_create(str(number), fail)
        errors = cache.stats.recent_errors
        assert cache.stats.errors == 60
        assert len(errors) == 50
        assert (errors[-1].kind, errors[-1].where, errors[-1].error) == (
            "upstream", "own", "LookupError")  # fmt: skip
        assert "secret" not in repr(errors)
        assert cache.stats.as_dict()["recent_errors"][-1]["error"] == "LookupError"


async def test_nothing_private_is_in_any_answer(upstream: OpenAIServer) -> None:
    secret = "the-secret-of-a-user"

    def fail(_: object) -> None:
        raise RuntimeError(secret)

    async with PromptCache() as cache:
        client = cache.wrap(upstream.client(max_retries=0))
        async with serving(Dashboard(cache)) as http:
            with cache.control(partition=f"tenant-{secret}", tags=[f"tag-{secret}"]):
                for _ in range(2):
                    await ask(client, f"prompt {secret}")
                upstream.answer = fail
                with pytest.raises(Exception, match="500"):
                    await ask(client, f"other prompt {secret}")
                upstream.answer = None
            await cache.set(f"key-{secret}", f"value {secret}")
            answer = await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "known"}]
            )
            status = cache_status(answer)
            assert status is not None
            for path in [*FILES, "data.json", "icon.svg", f"{secret}?x={secret}"]:
                said = await http.get(f"/{path}")
                assert secret not in said.text + str(said.headers)
                assert status.key not in said.text


@pytest.mark.parametrize("model", ["<script>alert(1)</script>", "a\ud800b", "x" * 5_000, "a/b\n"])
async def test_any_name_of_a_model_is_carried_as_text(model: str) -> None:
    async with PromptCache() as cache:
        cache.stats.of_model("chat.completions", model)
        async with serving(Dashboard(cache)) as http:
            answer = await http.get("/data.json")
        assert answer.headers["content-type"] == "application/json"
        [row] = answer.json()["models"]
        assert row["model"][:3] == model[:3].replace("\ud800", "?")
        assert len(row["model"]) <= 80


# Manners


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
async def test_it_only_reads(method: str) -> None:
    async with PromptCache() as cache, serving(Dashboard(cache)) as http:
        for path in ("/", "/data.json", "/anything"):
            answer = await http.request(method, path)
            assert answer.status_code == 405
            assert answer.headers["allow"] == "GET, HEAD"


async def test_headers_keep_a_browser_strict() -> None:
    async with PromptCache() as cache, serving(Dashboard(cache)) as http:
        for path in [*FILES, "data.json", "icon.svg", "missing"]:
            answer = await http.get(f"/{path}")
            assert answer.status_code == (404 if path == "missing" else 200)
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "no-store"
            assert "access-control-allow-origin" not in answer.headers
            head = await http.head(f"/{path}")
            assert (head.status_code, head.content) == (answer.status_code, b"")
            if path != "data.json":  # which tells the time
                assert head.headers["content-length"] == str(len(answer.content))


async def test_it_fetches_nothing_from_elsewhere_and_has_no_inline_code() -> None:
    async with PromptCache() as cache, serving(Dashboard(cache)) as http:
        for path in FILES:
            text = (await http.get(f"/{path}")).text
            assert "//" not in text.replace("http://www.w3.org/2000/svg", "").replace("// ", ""), (
                path
            )
            assert "innerHTML" not in text
            assert "style=" not in text
            assert " on" + "click=" not in text


@pytest.mark.parametrize(
    "query", ["cache=7", "cache=-1", "span=1", "span=nan&since=nan", "since=" + "9" * 400,
              "process=%00%ff", "&".join("a=1" for _ in range(100)), "%", "process=" + "x" * 5_000],
)  # fmt: skip
async def test_odd_queries_are_as_if_they_had_not_been(query: str) -> None:
    async with PromptCache() as cache, serving(Dashboard(cache)) as http:
        answer = await http.get(f"/data.json?{query}")
        assert answer.status_code == 200
        found = answer.json()
        assert (found["cache"], found["span"], found["process"]) == (0, 900, "all")


# Where it is mounted


def stripped(root: str, app: Any) -> Any:
    """Behind a proxy that takes `root` off each path, and a server that was told so."""

    async def handle(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope = {**scope, "root_path": root, "path": root + scope["path"]}
        await app(scope, receive, send)

    return handle


def nested(board: Dashboard) -> Any:
    """Below two apps."""
    inner = FastAPI()
    inner.mount("/in side/cache", board)
    return Starlette(routes=[Mount("/outer", inner)])


async def test_it_works_below_any_path(upstream: OpenAIServer) -> None:
    async with PromptCache() as cache:
        board = Dashboard(cache)
        plain = FastAPI()
        plain.mount("/cache", board)
        behind = stripped("/proxy", plain)
        for app, path in ((board, ""), (plain, "/cache"), (behind, "/cache"),
                          (nested(board), "/outer/in%20side/cache")):  # fmt: skip
            async with serving(app) as http:
                page = await http.get(f"{path}/")
                assert "<title>Prompt cache</title>" in page.text
                assert (await http.get(f"{path}/dashboard.js")).status_code == 200
                assert (await state(http, f"{path}/data.json"))["caches"] == ["default"]
                if path:
                    moved = await http.get(path)
                    assert moved.status_code == 307
                    assert moved.headers["location"].endswith(f"{path}/")


async def test_the_path_itself_leads_to_the_page() -> None:
    async with PromptCache() as cache:
        board = Dashboard(cache)

        async def mounted(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                scope = {**scope, "root_path": "/my cache"}
                await board(scope, receive, send)
            else:
                await board(scope, receive, send)

        async with serving(mounted) as http:
            answer = await http.get("/my%20cache")
            assert (answer.status_code, answer.headers["location"]) == (307, "my%20cache/")
            assert (await http.get("/my%20cache/")).status_code == 200


async def test_several_caches_have_one_page(upstream: OpenAIServer) -> None:
    async with PromptCache(namespace="a") as first, PromptCache(namespace="b") as second:
        await ask(second.wrap(upstream.client()), "one")
        async with serving(Dashboard(first, second)) as http:
            found = [await state(http, cache=number) for number in range(2)]
    assert found[0]["caches"] == ["a", "b"]
    assert [one["counts"].get("calls", 0) for one in found] == [0, 1]


async def test_it_is_mounted_in_aiohttp(upstream: OpenAIServer) -> None:
    async with PromptCache() as cache:
        app = web.Application()
        mount_dashboard(app, "/cache", Dashboard(cache))
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        await ask(cache.wrap(upstream.client()), "one")
        base = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with httpx.AsyncClient(base_url=base) as http:
            assert (await state(http, "/cache/data.json", span=3600))["span"] == 3600
            assert (await state(http, "/cache/data.json"))["counts"]["calls"] == 1
            page = await http.get("/cache", follow_redirects=True)
            assert page.url.path == "/cache/"
            assert page.headers["content-type"] == "text/html; charset=utf-8"
            assert (await http.head("/cache/dashboard.css")).content == b""
            assert (await http.post("/cache/")).status_code == 405
            assert (await http.get("/cache/../secret")).status_code == 404
        await runner.cleanup()
        with pytest.raises(ConfigurationError, match="path='cache'"):
            mount_dashboard(app, "cache", Dashboard(cache))


async def test_what_is_no_cache_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least one"):
        Dashboard()
    with pytest.raises(ConfigurationError, match="expected a PromptCache"):
        Dashboard("cache")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="expected a PromptCache"):
        share(None)  # type: ignore[arg-type]


async def test_a_websocket_is_closed() -> None:
    async with PromptCache() as cache:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message["type"])

        await Dashboard(cache)({"type": "websocket", "path": "/"}, receive, send)
        assert sent == ["websocket.close"]


# Nothing is left, and nothing is paid by those who do not look


async def test_it_begins_with_the_first_use_and_ends_with_the_cache() -> None:
    cache = PromptCache()
    Dashboard(cache)
    watch = watch_of(cache)
    assert (watch._loop, watch._timer) == (None, None)
    for _ in range(2):
        await cache.get("key")
        await asyncio.sleep(0)
        assert watch._loop is asyncio.get_running_loop()
        timer = watch._timer
        assert timer is not None
        assert not timer.cancelled()
        await cache.aclose()
        assert timer.cancelled()
        assert watch._loop is None


async def test_that_a_cache_closes_its_tiers_is_no_use_of_it() -> None:
    cache = PromptCache(FaultyTier())
    Dashboard(cache)
    await cache.aclose()
    watch = watch_of(cache)
    assert (watch._loop, watch._timer) == (None, None)
    await cache.get("key")
    assert watch._loop is asyncio.get_running_loop()
    await cache.aclose()
    assert watch._loop is None


async def test_a_cache_without_memory_is_watched_too() -> None:
    async with PromptCache(FaultyTier()) as cache:
        share(cache)
        await cache.get("key")
        await asyncio.sleep(0)
        assert watch_of(cache)._loop is asyncio.get_running_loop()
        assert watch_of(cache)._sampled == {}
        watch_of(cache).sample()
        assert watch_of(cache)._sampled["miss"] == 1


async def test_one_cache_is_watched_once() -> None:
    async with PromptCache() as cache:
        share(cache)
        watch = watch_of(cache)
        Dashboard(cache)
        Dashboard(cache, cache)
        share(cache)
        assert watch_of(cache) is watch
        await cache.get("key")
        await asyncio.sleep(0)
        assert cache._engine.ledger.timings.heard == []


async def test_watching_keeps_no_cache_alive() -> None:
    cache = PromptCache()
    share(cache)
    await cache.get("key")
    await asyncio.sleep(0)
    watch = weakref.ref(watch_of(cache))
    del cache
    gc.collect()
    assert watch() is None


async def test_when_five_seconds_are_over_it_samples_and_waits_again() -> None:
    async with PromptCache() as cache:
        share(cache)
        await cache.get("key")
        watch = watch_of(cache)
        first = watch._timer
        watch.due(asyncio.get_running_loop())
        assert watch._timer is not first
        assert [counts for _, _, counts in watch._recent] == [{"miss": 1}]


# What others make up


async def test_usage_that_cannot_be_does_not_spoil_the_page(upstream: OpenAIServer) -> None:
    def bogus(request: Any) -> dict[str, Any]:
        usage = {"prompt_tokens": 2**62, "completion_tokens": 2**62, "total_tokens": 2**63 - 1}
        message = {"role": "assistant", "content": "hi"}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        return {"id": "x", "object": "chat.completion", "model": MODEL, "created": 1,
                "choices": [choice], "usage": usage}  # fmt: skip

    upstream.answer = bogus
    async with PromptCache(prices={MODEL: Price(1e300)}) as cache:
        client = cache.wrap(upstream.client())
        async with serving(Dashboard(cache)) as http:
            for _ in range(4):
                await ask(client, "one")
            found = await state(http)
            watch_of(cache).sample()
            await ask(client, "one")
            again = await state(http)
    assert found["counts"]["tokens_saved"] == again["counts"]["tokens_saved"] == 10**15
    assert found["models"][0]["saved_cost"] == 10**15


async def test_caches_of_one_namespace_have_names_of_their_own() -> None:
    caches = [PromptCache(namespace=name) for name in ("a", "b", "a", "a")]
    async with serving(Dashboard(*caches)) as http:
        assert (await state(http))["caches"] == ["a", "b", "a (2)", "a (3)"]


@pytest.mark.parametrize("asked", ["/cache/", "/base/cache/"])
async def test_behind_a_proxy_it_is_found_whether_that_strips_its_prefix_or_not(asked: str) -> None:
    async with PromptCache() as cache:
        app = FastAPI()
        app.mount("/cache", Dashboard(cache))

        async def behind(scope: Any, receive: Any, send: Any) -> None:
            prefix = {"root_path": "/base"} if scope["type"] == "http" else {}
            await app({**scope, **prefix}, receive, send)

        async with serving(behind) as http:
            assert "html" in (await http.get(asked)).headers["content-type"]
            await state(http, asked + "data.json")
