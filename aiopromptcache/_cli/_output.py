"""What is printed: JSON for machines, tables for people, and nothing that a terminal would obey."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDE = 1_000
"""Columns where nobody looks: a pipe has no edge."""


def emit(value: object) -> None:
    """One line of JSON on stdout."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """A line for people, on stderr."""
    sys.stderr.write(clean(text) + "\n")
    sys.stderr.flush()


def console() -> Console:
    """Stdout for people. No colour where it is no terminal, or NO_COLOR is set."""
    width = None if sys.stdout.isatty() else WIDE
    return Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)


def messages() -> Console:
    """Stderr, for what moves while a command works."""
    return Console(file=sys.stderr, highlight=False, markup=False, emoji=False)


def clean(text: str, keep: str = "\n") -> str:
    """Text in which nothing is left that a terminal would obey."""
    if text.isprintable():
        return text
    return "".join([c if c.isprintable() or c in keep else _escaped(c) for c in text])


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def cell(text: object) -> Text:
    """A part of a table. What it says may come from anybody."""
    return Text(clean(str(text), keep=""), overflow="ellipsis", no_wrap=True)


def table(titles: Sequence[str], rows: Iterable[Sequence[object]], right: str = "") -> Table:
    """Rows under titles; `right` names the titles of the columns with numbers, never cut short."""
    made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    cells = [[cell(part) for part in row] for row in rows]
    numbers = right.split()
    for place, title in enumerate(titles):
        if title in numbers:
            width = max([len(title), *(len(row[place]) for row in cells)])
            made.add_column(title, justify="right", no_wrap=True, min_width=width)
        else:
            made.add_column(title, no_wrap=True)
    for row in cells:
        made.add_row(*row)
    return made


def facts(pairs: Iterable[tuple[str, object]]) -> Table:
    """Names and what they are; those that are None are left out."""
    made = Table(box=None, show_header=False, pad_edge=False)
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in pairs:
        if value is not None:
            made.add_row(name, value if isinstance(value, Text) else Text(clean(str(value))))
    return made


# Numbers as people read them


def size_text(size: float) -> str:
    """Bytes."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def span_text(seconds: float | None) -> str:
    """A duration; None is for ever."""
    if seconds is None:
        return "for ever"
    sign, seconds = ("-", -seconds) if seconds < 0 else ("", seconds)
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{sign}{seconds / length:.0f} {unit}"
    return f"{sign}{seconds:.0f} s"


def count_text(count: int, one: str, many: str = "") -> str:
    """A number of things."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def rounded(seconds: float | None) -> float | None:
    """Seconds for JSON: milliseconds are enough."""
    return None if seconds is None else round(seconds, 3)


def described(value: Any) -> str:
    """A value that may be missing."""
    return "-" if value is None or value == "" else str(value)
