"""`invalidate`, `rm` and `clear`: as a process of the app would, so that all others hear of it."""

from __future__ import annotations

import sys

import click

from ._errors import FAILED, ToolError, place_of
from ._find import resolved
from ._options import Command, Settings, common
from ._output import count_text, emit
from ._session import opened, run

INVALIDATE_EXAMPLES = """
aiopromptcache invalidate docs
aiopromptcache invalidate user:7 user:8 --namespace support
"""
RM_EXAMPLES = """
aiopromptcache rm 3f9a41c2
aiopromptcache ls --stale --limit 0 --json | jq -r '.entries[].key' | xargs aiopromptcache rm
"""
CLEAR_EXAMPLES = """
aiopromptcache clear
aiopromptcache clear --namespace staging --yes
"""


@click.command(cls=Command, examples=INVALIDATE_EXAMPLES)
@click.argument("tags", nargs=-1, required=True, metavar="TAG...")
@common
@click.pass_obj
def invalidate(settings: Settings, tags: tuple[str, ...]) -> None:
    """Drop all that was stored with any of the tags.

    In every process: memory tiers drop it too, and what is in flight with such a tag is not stored.
    """

    async def work() -> int:
        async with opened(settings) as session:
            return await session.act(session.cache.invalidate(*tags))

    _report(settings, run(settings, work()))


@click.command(cls=Command, examples=RM_EXAMPLES)
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@common
@click.pass_obj
def rm(settings: Settings, keys: tuple[str, ...]) -> None:
    """Remove entries by key, in every process.

    The beginning of a key will do where it has 4 characters or more and is not that of several.
    If one of the keys is not there, nothing is removed.
    """

    async def work() -> int:
        async with opened(settings) as session:
            whole = await resolved(session, keys)
            return await session.act(session.cache.delete(*whole))

    _report(settings, run(settings, work()))


@click.command(cls=Command, examples=CLEAR_EXAMPLES)
@click.option("--yes", is_flag=True, help="Do not ask.")
@common
@click.pass_obj
def clear(settings: Settings, yes: bool) -> None:
    """Remove all entries of the namespace, in every process. Asks first.

    Other namespaces are not touched. Without a terminal to ask at, --yes is needed.
    """
    if not yes:
        _ask(settings)

    async def work() -> int:
        async with opened(settings) as session:
            return await session.act(session.cache.clear())

    _report(settings, run(settings, work()))


def _at_a_terminal() -> bool:
    return sys.stdin.isatty()


def _ask(settings: Settings) -> None:
    if not _at_a_terminal():
        raise ToolError("clear: there is no terminal to ask at; --yes clears without asking")
    place = place_of(settings.where)
    question = f"Remove everything from namespace {settings.room!r} at {place}?"
    if not click.confirm(question, err=True):
        raise ToolError("nothing was removed", FAILED)


def _report(settings: Settings, removed: int) -> None:
    if settings.json:
        emit({"removed": removed, "namespace": settings.room})
    else:
        click.echo(f"removed {count_text(removed, 'entry', 'entries')}")
