"""The dashboard file: all that it asks for is there when Prometheus scrapes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from engine_tools import quiet
from observed import MODEL, chat, samples, scrape, traffic
from prometheus_client import CollectorRegistry

from aiopromptcache import MemoryTier, Price, PromptCache, cache_status
from aiopromptcache.metrics.prometheus import PrometheusMetrics
from aiopromptcache.similarity import LexicalSimilarity
from aiopromptcache.testing import FaultyTier, OpenAIServer

pytestmark = pytest.mark.anyio

DASHBOARD = json.loads((Path(__file__).parents[2] / "examples" / "grafana.json").read_text("utf-8"))
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


async def everything(server: OpenAIServer, registry: CollectorRegistry) -> dict[str, Any]:
    """A scrape in which every metric has a number."""
    faulty = FaultyTier()
    cache = PromptCache(
        MemoryTier(),
        faulty,
        similarity=LexicalSimilarity(threshold=0.7),
        prices={MODEL: Price(input=1.0)},
    )
    async with cache:
        with PrometheusMetrics(cache, registry=registry):
            client = cache.wrap(server.client(max_retries=0))
            with cache.control(similarity=None):
                await traffic(cache, server, client)
            await client.chat.completions.create(**chat("How do bicycles stay upright at all?"))
            await quiet()
            answer = await client.chat.completions.create(
                **chat("How do bicycles stay upright at all")
            )
            status = cache_status(answer)
            assert status is not None
            cache.report_false_hit(status)
            faulty.fail()
            await cache.set("key", 1)
            return samples(await scrape(registry))


async def test_all_that_the_dashboard_asks_for_is_scraped(
    server: OpenAIServer, registry: CollectorRegistry
) -> None:
    found = await everything(server, registry)
    asked: set[str] = set()
    for query in QUERIES:
        names = set(re.findall(r"aiopromptcache_\w+", query))
        assert names, query
        asked |= names
        labels = {
            name.strip()
            for group in re.findall(r"by \(([^)]*)\)|\{(\w+)[=!]", query)
            for name in ",".join(group).split(",")
            if name.strip()
        }
        for metric in names:
            known = {label for row in found[metric] for label, _ in row}
            assert labels <= known, query
    made = {re.sub(r"_(created|sum|count)$", "", name) for name in found}
    missing = {name for name in made - asked if f"{name}_bucket" not in asked}
    assert not missing, "there is more to see than the dashboard shows"


def test_what_processes_share_is_not_added_up() -> None:
    sizes = [query for query in QUERIES if "_tier_entries" in query or "_tier_size" in query]
    assert len(sizes) == 2
    for query in sizes:
        added, largest = query.split(" or ")
        assert added.startswith("sum by")
        assert 'tier="memory"' in added
        assert largest.startswith("max by")


def test_legends_name_labels_of_their_queries() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            grouped = set(
                re.split(r"[,\s()]+", " ".join(re.findall(r"by \([^)]*\)", target["expr"])))
            )
            assert named <= grouped, target


def test_panels_have_ids_of_their_own_and_no_place_twice() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [
        (x, y)
        for grid in (panel["gridPos"] for panel in panels)
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len(set(places)) == len(places)
    assert max(x for x, _ in places) < 24
