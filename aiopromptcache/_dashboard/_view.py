"""What the page asks for: the state of one cache, of all its processes or of one, as JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from .._sizes import Sizes
from .._timings import BOUNDS
from ._history import SPANS
from ._readings import plain, total
from ._report import Report, errors_of, largest, similar_of, tiers_of
from ._watch import Watch

ALL = "all"
_NUMBER = re.compile(r"[0-9]{1,12}")


async def view(
    watch: Watch, caches: list[str], number: int, wanted: Mapping[str, list[str]]
) -> bytes:
    """The state, as the query wants it; what it wants that there is not is as if it had not."""
    await watch.look()
    now = watch.engine.clock()
    reports = {watch.process: watch.report(), **watch.live}
    process = wanted.get("process", [ALL])[0]
    if process not in reports:
        process = ALL
    span = _whole(wanted, "span", 900)
    if span not in SPANS:
        span = 900
    chosen = list(reports.values()) if process == ALL else [reports[process]]
    state = {
        "now": now,
        "caches": caches,
        "cache": number,
        "shared": watch.guard is not None,
        "process": process,
        "processes": [_process(name, report, watch) for name, report in reports.items()],
        "begun": watch.started,
        "bounds": BOUNDS,
        "span": span,
        "step": SPANS[span],
        "points": _history(watch, process).points(span, now, _whole(wanted, "since", 0)),
        **_state(chosen, watch.engine.sizes),
    }
    return orjson.dumps(state)


def _whole(wanted: Mapping[str, list[str]], name: str, default: int) -> int:
    text = wanted.get(name, [""])[0]
    return int(text) if _NUMBER.fullmatch(text) else default


def _history(watch: Watch, process: str) -> Any:
    if process == ALL:
        return watch.history
    return watch.own_history if process == watch.process else watch.others[process].history


def _process(name: str, report: Report, watch: Watch) -> dict[str, Any]:
    return {
        "id": name,
        "name": report.name,
        "started": report.started,
        "answers": name == watch.process,
    }


def _measured(tiers: list[dict[str, Any]], sizes: Sizes) -> list[dict[str, Any]]:
    """What processes share is measured by this one, and not told by each."""
    rows = {row["name"]: row for row in tiers if not row["local"]}
    for size in sizes.look():
        if (row := rows.get(plain(size.tier))) is not None:
            row["entries"] = row.get("entries", 0) + size.held.entries
            row["bytes"] = row.get("bytes", 0) + size.held.bytes
            row["estimated"] = row.get("estimated", False) or not size.held.exact
    return tiers


def _state(reports: list[Report], sizes: Sizes) -> dict[str, Any]:
    similar = similar_of(reports)
    return {
        "counts": total(report.counts for report in reports),
        "tiers": _measured(tiers_of(reports), sizes),
        "models": [row.model_dump() for row in largest(r for one in reports for r in one.models)],
        "errors": [error.model_dump() for error in errors_of(reports)],
        "similar": None if similar is None else similar.model_dump(),
    }
