"""`ls` and `show`: the entries, and one of them."""

from __future__ import annotations

import heapq
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple

import click

from .._ask import SIDE
from .._prices import Price
from .._stats import money_text
from ._find import resolved
from ._money import priced
from ._options import Command, Settings, common
from ._output import clean, console, emit, facts, say, size_text, span_text, table
from ._output import described as or_dash
from ._reveal import revealed
from ._rows import Filter, described, filtered
from ._session import Row, Session, opened, run

_DIGEST = re.compile(r"[0-9a-f]{64}(/.*)?", re.DOTALL)
SHORT = 12
"""Characters of a digest that a terminal is shown, enough to name it."""

_SORTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "newest": lambda row: -row["age"],
    "oldest": lambda row: row["age"],
    "largest": lambda row: row["bytes"],
    "ttl": lambda row: -(float("inf") if row["ttl"] is None else row["ttl"]),
    "tokens": lambda row: (row["usage"] or {"total": -1})["total"],
    "cost": lambda row: -1.0 if row["cost"] is None else row["cost"],
}
"""What comes first has most of it."""

LS_EXAMPLES = """
aiopromptcache ls
aiopromptcache ls --model gpt-4o-mini --stale
aiopromptcache ls --tag docs --sort largest --limit 10
aiopromptcache ls --limit 0 --json | jq -r '.entries[].key'
"""
SHOW_EXAMPLES = """
aiopromptcache show 3f9a41c2
aiopromptcache show 3f9a41c2 --reveal
aiopromptcache show user:42:summary --json
"""


class Listing(NamedTuple):
    """What `ls` found."""

    shown: list[dict[str, Any]]
    matching: int
    unreadable: int
    elsewhere: str = ""
    """Where nothing is here: which namespaces there are."""


@click.command(cls=Command, examples=LS_EXAMPLES)
@filtered
@click.option(
    "--sort", type=click.Choice(list(_SORTS)), default="newest", help="Which come first: newest."
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=50,
    metavar="N",
    help="How many are shown: 50. 0: all.",
)
@priced
@common
@click.pass_obj
def ls(
    settings: Settings,
    /,
    sort: str,
    limit: int,
    prices: tuple[tuple[str, Price], ...],
    **fields: Any,
) -> None:
    """List entries: key, model, endpoint, age, ttl, size, cost, tags. Never what is in them.

    A ttl below 0 is that of a stale entry. On a terminal keys are shortened as in git,
    and a narrow one shows fewer columns.
    """
    found = run(settings, _list(settings, dict(prices), Filter(**fields), _SORTS[sort], limit))
    if settings.json:
        emit({"entries": found.shown, "matching": found.matching, "unreadable": found.unreadable})
        return
    console().print(
        table(
            ["key", "model", "endpoint", "age", "ttl", "size", "tokens", "cost", "tags"],
            [_line(row) for row in found.shown],
            right="age ttl size tokens cost",
            spare="endpoint tokens cost tags size model",
        )
    )
    if found.matching > len(found.shown):
        say(f"{len(found.shown):,} of {found.matching:,} entries; --limit 0 shows all")
    if not found.matching:
        say("no entries")
    if found.elsewhere:
        say(found.elsewhere)
    if found.unreadable:
        say(f"{found.unreadable:,} more cannot be read: see `aiopromptcache doctor`")


async def _list(
    settings: Settings,
    prices: Mapping[str, Price],
    wanted: Filter,
    rank: Callable[[dict[str, Any]], Any],
    limit: int,
) -> Listing:
    """Only what is shown is kept in memory."""
    best: list[tuple[Any, int, dict[str, Any]]] = []
    matching = unreadable = 0
    async with opened(settings, prices=prices) as session, aclosing(session.rows()) as rows:
        now = session.clock()
        async for row in rows:
            if row is None:
                unreadable += 1
            elif wanted.takes(row.entry, now):
                matching += 1
                about = described(row, now)
                item = (rank(about), -matching, about)
                if not limit or len(best) < limit:
                    heapq.heappush(best, item)
                else:
                    heapq.heappushpop(best, item)
        elsewhere = "" if matching or unreadable else await session.elsewhere()
    return Listing(
        [about for _, _, about in sorted(best, reverse=True)], matching, unreadable, elsewhere
    )


def _line(row: dict[str, Any]) -> tuple[object, ...]:
    key = row["key"]
    if sys.stdout.isatty() and _DIGEST.fullmatch(key):
        key = key[:SHORT] + key[64:]
    return (
        key,
        or_dash(row["model"]),
        or_dash(row["endpoint"]),
        span_text(row["age"]),
        span_text(row["ttl"]),
        size_text(row["bytes"]),
        f"{row['usage']['total']:,}" if row["usage"] else "-",
        "-" if row["cost"] is None else money_text(row["cost"]),
        ",".join(row["tags"]),
    )


@click.command(cls=Command, examples=SHOW_EXAMPLES)
@click.argument("key")
@click.option("--reveal", is_flag=True, help="Show the answer too. It may be confidential.")
@priced
@common
@click.pass_obj
def show(settings: Settings, key: str, reveal: bool, prices: tuple[tuple[str, Price], ...]) -> None:
    """Show all about the entry of KEY: a key of `ls`, of a status or of your own.

    Where its stream is kept apart, that follows. The beginning of a key will do where it has 4
    characters or more and is not that of several.
    """
    for row, now in run(settings, _find(settings, dict(prices), key)):
        about = described(row, now)
        if settings.json:
            emit(about | ({"answer": revealed(row.entry)} if reveal else {}))
        else:
            _print(about)
            if reveal:
                answer = revealed(row.entry)
                console().print("")
                sys.stdout.write(clean(answer["text"], keep="\n\t") + "\n")


async def _find(
    settings: Settings, prices: Mapping[str, Price], key: str
) -> list[tuple[Row, float]]:
    """The entry, and its stream where there is one that differs."""
    async with opened(settings, prices=prices) as session:
        whole = await resolved(session, [key])
        found = await session.find([one + side for one in whole for side in ("", SIDE)])
        now = session.clock()
        return [
            (session.row(one, entry, await _kept(session, one)), now)
            for one, entry in found.items()
        ]


async def _kept(session: Session, key: str) -> int:
    """Bytes of the record on the server."""
    places = session.tier._names.places(session.slots + key).entries
    records = await session.within(session.tier._link.mget(places))
    return max(len(record or b"") for record in records)


def _tokens(usage: dict[str, int]) -> str:
    always = ("prompt", "completion", "total")
    told = [f"{count:,} {name}" for name, count in usage.items() if count or name in always]
    return ", ".join(told).replace("_", " ")


def _print(about: dict[str, Any]) -> None:
    usage = about["usage"]
    console().print(
        facts(
            [
                ("key", about["key"]),
                ("kind", about["kind"]),
                ("model", about["model"]),
                ("endpoint", about["endpoint"]),
                ("age", span_text(about["age"])),
                ("ttl", span_text(about["ttl"]) + (" (stale)" if about["stale"] else "")),
                ("gone in", span_text(about["expires_in"])),
                ("size", f"{size_text(about['bytes'])}, {size_text(about['stored_bytes'])} kept"),
                ("tags", ", ".join(about["tags"]) or None),
                ("tokens", usage and _tokens(usage)),
                ("cost", None if about["cost"] is None else money_text(about["cost"])),
            ]
        )
    )
