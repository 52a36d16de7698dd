"""How far `warm` is: a bar on a terminal, and nothing where nobody looks."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.text import Text

from .._stats import money_text
from .._warm import WarmReport
from ._output import messages


class _TwoLines(Bar):
    """A bar, and under it what is said: both fit where it is narrow."""

    def get_renderables(self) -> Iterable[RenderableType]:
        """See rich."""
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            yield Text(task.fields["said"], no_wrap=True, overflow="ellipsis")


class Progress:
    """A bar with rate, time left, cost and failures so far, on stderr."""

    def __init__(self, total: int | None, wanted: bool) -> None:
        self._bar = _TwoLines(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=messages(),
            disable=not (wanted and sys.stderr.isatty()),
        )
        self._task = self._bar.add_task("", total=total, rate="", said="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def update(self, report: WarmReport) -> None:
        """Show a report."""
        if self._bar.disable:
            return
        speed = self._bar.tasks[0].speed
        said = [f"{report.fresh:,} fresh", f"{report.stored:,} stored"]
        if report.failed or report.unstored:
            said.append(f"{report.failed + report.unstored:,} not warm")
        if report.usage.total:
            said.append(f"{report.usage.total:,} tokens")
        if report.cost is not None:
            said.append(money_text(report.cost))
        self._bar.update(
            self._task,
            completed=report.total,
            rate="" if speed is None else f"{speed:.1f}/s",
            said=", ".join(said),
        )
