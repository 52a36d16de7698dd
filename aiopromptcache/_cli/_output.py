"""What is printed: JSON for machines, tables for people, and nothing that a terminal would obey."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

WIDE = 1_000
"""Columns where nobody looks: a pipe has no edge."""
FIRST, LEAST, GAP = 12, 8, 2
"""Columns that a table's first text has at least, that its others have, and between them."""


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


def table(
    titles: Sequence[str], rows: Iterable[Sequence[object]], right: str = "", spare: str = ""
) -> Table:
    """Rows under titles; `right` names the titles of the columns with numbers, never cut short.

    Where it is narrow the others are, and what `spare` names is left out, the first of it first.
    """
    cells = [[cell(title), *column] for title, column in _columns(titles, rows)]
    numbers, leaving = right.split(), spare.split()
    while (widths := _fitted(cells, numbers, console().width)) is None and leaving:
        first = leaving.pop(0)
        cells = [column for column in cells if column[0].plain != first]
    made = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
    for place, (title, *_) in enumerate(cells):
        justify: JustifyMethod = "right" if title.plain in numbers else "left"
        made.add_column(
            title.plain, justify=justify, no_wrap=True, width=widths[place] if widths else None
        )
    for row in zip(*(column[1:] for column in cells), strict=True):
        made.add_row(*row)
    return made


def _columns(
    titles: Sequence[str], rows: Iterable[Sequence[object]]
) -> Iterator[tuple[str, list[Text]]]:
    kept = [[cell(part) for part in row] for row in rows]
    for place, title in enumerate(titles):
        yield title, [row[place] for row in kept]


def _fitted(cells: list[list[Text]], numbers: Sequence[str], room: int) -> list[int] | None:
    """How wide each column is to be; None where not even the least of each fits."""
    wanted = [max(part.cell_len for part in column) for column in cells]
    widths = [
        wide if column[0].plain in numbers else min(wide, LEAST if place else FIRST)
        for place, (column, wide) in enumerate(zip(cells, wanted, strict=True))
    ]
    rest = room - sum(widths) - GAP * (len(cells) - 1)
    if rest < 0:
        return None
    while rest and (short := [place for place, wide in enumerate(widths) if wide < wanted[place]]):
        widths[min(short, key=widths.__getitem__)] += 1
        rest -= 1
    return widths


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
