"""Entries as they are shown, and which of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from .._entry import Entry
from ._money import dollars
from ._output import rounded
from ._session import Row

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def left(entry: Entry, now: float) -> float | None:
    """Seconds of fresh life that are left, below 0 past it; None: for ever."""
    return None if entry.ttl is None else entry.ttl - entry.age(now)


def is_stale(entry: Entry, now: float) -> bool:
    """Past its fresh life, and kept for a window after it."""
    rest = left(entry, now)
    return rest is not None and rest <= 0


def described(row: Row, now: float) -> dict[str, Any]:
    """All about an entry but what is in it."""
    entry, usage = row.entry, row.entry.usage
    gone = None if entry.ttl is None else entry.expires_at - now
    return {
        "key": row.key,
        "kind": entry.kind.name.lower(),
        "model": entry.model,
        "endpoint": entry.endpoint,
        "stored_at": rounded(entry.stored_at),
        "age": rounded(entry.age(now)),
        "ttl": rounded(left(entry, now)),
        "stale": is_stale(entry, now),
        "expires_in": rounded(gone),
        "bytes": len(entry.payload) + len(entry.head or b""),
        "stored_bytes": row.size,
        "tags": list(entry.tags),
        "usage": None if usage is None else usage._asdict(),
        "cost": dollars(row.cost),
    }


@dataclass(frozen=True)
class Filter:
    """Which entries are meant: those for which all of it holds."""

    models: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    stale: bool | None = None

    def takes(self, entry: Entry, now: float) -> bool:
        """Is it one of them?"""
        return (
            (not self.models or entry.model in self.models)
            and (not self.endpoints or entry.endpoint in self.endpoints)
            and (not self.tags or not set(self.tags).isdisjoint(entry.tags))
            and (self.stale is None or is_stale(entry, now) is self.stale)
        )


_OPTIONS = (
    click.option("--model", "models", multiple=True, metavar="NAME", help="Only this model's."),
    click.option(
        "--endpoint",
        "endpoints",
        multiple=True,
        metavar="NAME",
        help="Only answers of this endpoint, such as chat.completions or embeddings.",
    ),
    click.option("--tag", "tags", multiple=True, metavar="TAG", help="Only what carries the tag."),
    click.option(
        "--stale/--fresh", "stale", default=None, help="Only what is past its ttl; or only not."
    ),
)


def filtered(command: CommandT) -> CommandT:
    """Add the options of a `Filter`; each may be given more than once."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
