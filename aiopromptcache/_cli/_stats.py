"""`stats`: what a namespace holds, and how the server is."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import click
from redis.exceptions import ResponseError
from rich.console import Group, RenderableType
from rich.live import Live

from .._entry import Usage, total
from .._prices import Price
from .._stats import money_text
from .._warm import NOTHING
from ._errors import place_of
from ._fleet import app_counters, app_rows
from ._money import added, dollars, priced
from ._options import Command, Settings, common
from ._output import (
    console,
    count_text,
    described,
    emit,
    facts,
    rounded,
    say,
    size_text,
    span_text,
    table,
)
from ._rows import is_stale
from ._session import Row, Session, opened, run

EXAMPLES = """
aiopromptcache stats
aiopromptcache stats --watch
aiopromptcache stats --watch=10 --namespace support
aiopromptcache stats --json | jq .entries
"""


@dataclass
class Share:
    """What one model has at one endpoint, or all of them together."""

    entries: int = 0
    bytes: int = 0
    stored_bytes: int = 0
    stale: int = 0
    usage: Usage = NOTHING
    cost: float | None = None
    """US dollars that its answers were billed, as far as prices are known."""
    unpriced: int = 0
    """Answers whose price is not known. They are not in `cost`."""

    def add(self, row: Row, now: float) -> None:
        """Count an entry."""
        entry = row.entry
        self.entries += 1
        self.bytes += len(entry.payload) + len(entry.head or b"")
        self.stored_bytes += row.size
        self.stale += is_stale(entry, now)
        if entry.usage is not None:
            self.usage = total([self.usage, entry.usage]) or NOTHING
        self.cost = added([self.cost, row.cost])
        self.unpriced += entry.endpoint is not None and row.cost is None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "entries": self.entries,
            "fresh": self.entries - self.stale,
            "stale": self.stale,
            "bytes": self.bytes,
            "stored_bytes": self.stored_bytes,
            "tokens": self.usage._asdict(),
            "cost": dollars(self.cost),
            "unpriced": self.unpriced,
        }

    @property
    def money(self) -> str | None:
        """For people; None where there is nothing that could have a price."""
        if self.cost is None:
            return f"unknown: {self._unpriced}" if self.unpriced else None
        told = f"{money_text(self.cost)} that they cost"
        return f"{told}, and {self._unpriced}" if self.unpriced else told

    @property
    def _unpriced(self) -> str:
        return f"{count_text(self.unpriced, 'answer')} without a price"


@dataclass
class Holdings:
    """What a namespace holds."""

    total: Share = field(default_factory=Share)
    shares: dict[tuple[str | None, str | None], Share] = field(default_factory=dict)
    ages: tuple[float, float] | None = None
    unreadable: int = 0
    app: dict[str, Any] | None = None
    """What the app's processes have counted, where they tell it."""

    def add(self, row: Row | None, now: float) -> None:
        """Count one record."""
        if row is None:
            self.unreadable += 1
            return
        entry, age = row.entry, row.entry.age(now)
        self.total.add(row, now)
        self.shares.setdefault((entry.model, entry.endpoint), Share()).add(row, now)
        low, high = self.ages or (age, age)
        self.ages = (min(low, age), max(high, age))

    @property
    def largest_first(self) -> Iterable[tuple[tuple[str | None, str | None], Share]]:
        """Models and endpoints by the number of entries."""
        return sorted(self.shares.items(), key=lambda item: -item[1].entries)


@click.command(cls=Command, examples=EXAMPLES)
@click.option(
    "--watch",
    is_flag=False,
    flag_value="2",
    type=click.FloatRange(min=0.1),
    metavar="[=SECONDS]",
    help="Again and again, every 2 seconds or as given, until Ctrl-C. With --json a line each.",
)
@priced
@common
@click.pass_obj
def stats(settings: Settings, watch: float | None, prices: tuple[tuple[str, Price], ...]) -> None:
    """Show what the cache holds: entries, bytes, models, tokens, money; and the server's memory.

    Every record of the namespace is read for it, in batches: on millions of entries that takes
    a while, and does not hold up the server. A narrow terminal shows fewer columns. Where the
    app's processes have a dashboard, or `aiopromptcache.dashboard.share`, their hits and misses
    are shown too.
    """
    table = dict(prices)
    run(settings, _watch(settings, table, watch) if watch else _once(settings, table))


async def _once(settings: Settings, prices: Mapping[str, Price]) -> None:
    async with opened(settings, prices=prices) as session:
        holdings, server = await _look(session)
        _show(settings, holdings, server)
        empty = not (holdings.shares or holdings.unreadable)
        if empty and (elsewhere := await session.elsewhere()):
            say(elsewhere)


def _show(settings: Settings, holdings: Holdings, server: dict[str, Any]) -> None:
    if settings.json:
        emit(_as_dict(settings, holdings, server))
    else:
        console().print(_rendered(settings, holdings, server))


async def _watch(settings: Settings, prices: Mapping[str, Price], seconds: float) -> None:
    async with opened(settings, prices=prices) as session:
        if settings.json or not sys.stdout.isatty():
            while True:
                _show(settings, *await _look(session))
                await asyncio.sleep(seconds)
        with Live(console=console(), auto_refresh=False) as live:
            while True:
                live.update(_rendered(settings, *await _look(session)), refresh=True)
                await asyncio.sleep(seconds)


async def _look(session: Session) -> tuple[Holdings, dict[str, Any]]:
    holdings, now = Holdings(), session.clock()
    async with aclosing(session.rows()) as rows:
        async for row in rows:
            holdings.add(row, now)
    holdings.app = await app_counters(session)
    return holdings, await server_facts(session)


async def server_facts(session: Session) -> dict[str, Any]:
    """What the server says of itself; of a cluster its nodes together. Empty where it may not."""
    try:
        nodes = await session.info()
    except ResponseError:
        return {}
    first = nodes[0]
    return {
        "kind": "valkey" if "valkey_version" in first else "redis",
        "version": first.get("valkey_version") or first.get("redis_version"),
        "nodes": len(nodes),
        "used_memory": sum(node.get("used_memory", 0) for node in nodes),
        "maxmemory": sum(node.get("maxmemory", 0) for node in nodes),
        "evicted_keys": sum(node.get("evicted_keys", 0) for node in nodes),
    }


def _as_dict(settings: Settings, holdings: Holdings, server: dict[str, Any]) -> dict[str, Any]:
    newest, oldest = holdings.ages or (None, None)
    return {
        "namespace": settings.room,
        "prefix": settings.beginning,
        **holdings.total.as_dict(),
        "unreadable": holdings.unreadable,
        "oldest_age": rounded(oldest),
        "newest_age": rounded(newest),
        "models": [
            {"model": model, "endpoint": endpoint, **share.as_dict()}
            for (model, endpoint), share in holdings.largest_first
        ],
        "app": holdings.app,
        "server": server or None,
    }


def _rendered(settings: Settings, holdings: Holdings, server: dict[str, Any]) -> RenderableType:
    parts: list[RenderableType] = [facts(_summary(settings, holdings, server))]
    if holdings.shares:
        parts += ["", _by_model(holdings)]
    return Group(*parts)


def _summary(
    settings: Settings, holdings: Holdings, server: dict[str, Any]
) -> list[tuple[str, object]]:
    whole, ages = holdings.total, holdings.ages
    state = f" ({whole.entries - whole.stale:,} fresh, {whole.stale:,} stale)"
    tokens = f"{whole.usage.total:,} that answers were billed for"
    unreadable = f"{count_text(holdings.unreadable, 'record')}: see `aiopromptcache doctor`"
    return [
        ("cache", f"namespace {settings.room}, prefix {settings.beginning}"),
        ("server", _server_text(settings, server)),
        ("entries", f"{whole.entries:,}{state if whole.entries else ''}"),
        ("unreadable", unreadable if holdings.unreadable else None),
        ("size", f"{size_text(whole.bytes)}, {size_text(whole.stored_bytes)} as it is kept"),
        ("tokens", tokens if whole.usage.total else None),
        ("money", whole.money),
        ("age", f"{span_text(ages[0])} to {span_text(ages[1])}" if ages else None),
        *app_rows(holdings.app),
    ]


def _server_text(settings: Settings, server: dict[str, Any]) -> str:
    place = place_of(settings.where)
    if not server:
        return place
    limit = size_text(server["maxmemory"]) if server["maxmemory"] else "no limit"
    nodes = f", {count_text(server['nodes'], 'node')}" if server["nodes"] > 1 else ""
    evicted = f", {server['evicted_keys']:,} evicted" if server["evicted_keys"] else ""
    name = f"{server['kind']} {server['version']}"
    return f"{place}, {name}{nodes}, {size_text(server['used_memory'])} of {limit}{evicted}"


def _by_model(holdings: Holdings) -> RenderableType:
    return table(
        ["model", "endpoint", "entries", "stale", "size", "tokens", "cost"],
        [
            (
                described(model),
                described(endpoint),
                f"{share.entries:,}",
                f"{share.stale:,}",
                size_text(share.bytes),
                f"{share.usage.total:,}" if share.usage.total else "-",
                "-" if share.cost is None else money_text(share.cost),
            )
            for (model, endpoint), share in holdings.largest_first
        ],
        right="entries stale size tokens cost",
        spare="stale tokens endpoint size",
    )
