"""What one process says of its cache, to itself and to others: counters and states, no contents.

Others may write anything where reports are kept, so what is read there is checked as a stranger's.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ._readings import MOST, Reading, bounded, plain

if TYPE_CHECKING:
    from .._engine import Engine

MAX_TEXT = 60 * 1_024
"""Bytes of a report; what is too much is left out, the least important first."""
MODELS = 50
ERRORS = 20
RECENT = 24
"""Samples of the last two minutes, for those who look now and then."""

_Count = Annotated[int | float, Field(ge=0, le=MOST)]
_Time = Annotated[float, Field(ge=0, le=1e11)]
_Text = Annotated[str, Field(max_length=100)]
_Name = Annotated[
    str, Field(max_length=80, pattern=r"^[a-z][a-z_]{0,19}(/[^/\x00-\x1f]{1,40}){0,2}$")
]
_Counts = Annotated[dict[_Name, _Count], Field(max_length=1_000)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class TierState(_Part):
    """One tier. Numbers that it does not know are None."""

    name: _Text
    local: bool
    out: bool
    """Does the breaker keep calls away from it?"""
    entries: _Count | None = None
    max_entries: _Count | None = None
    bytes: _Count | None = None
    max_bytes: _Count | None = None


class ModelRow(_Part):
    """One model at one endpoint."""

    endpoint: _Text
    model: _Text
    saved_tokens: _Count
    spent_tokens: _Count
    saved_cost: _Count | None
    spent_cost: _Count | None
    unpriced: _Count
    """Answers whose price is not known."""


class ErrorRow(_Part):
    """One fault; see `RecentError`."""

    time: _Time
    kind: _Text
    where: _Text | None
    error: _Text


class SimilarState(_Part):
    """The running estimate of similar hits."""

    threshold: _Count
    false_hits: _Count
    rate: _Count | None
    bound: _Count | None


class Sample(_Part):
    """What was counted in one step of time."""

    number: Annotated[int, Field(ge=0, le=10**11)]
    """Each is one more than that before."""
    at: Annotated[int, Field(ge=0, le=10**11)]
    """The step's end."""
    counts: _Counts


class Report(_Part):
    """One process."""

    v: Literal[1] = 1
    name: _Text
    """Which one it is, for people: its machine and its number there."""
    started: _Time
    now: _Time
    """By the process's own clock."""
    ended: bool = False
    """Is this its last word?"""
    counts: _Counts
    recent: Annotated[list[Sample], Field(max_length=RECENT)] = []
    tiers: Annotated[list[TierState], Field(max_length=16)] = []
    models: Annotated[list[ModelRow], Field(max_length=MODELS)] = []
    errors: Annotated[list[ErrorRow], Field(max_length=ERRORS)] = []
    similar: SimilarState | None = None


def made(
    engine: Engine,
    counts: Reading,
    started: float,
    recent: Iterable[tuple[int, int, Reading]],
    *,
    ended: bool = False,
) -> Report:
    """What there is to say now of a cache of this process."""
    return Report(
        name=plain(f"{socket.gethostname()} · {os.getpid()}"),
        started=started,
        now=engine.clock(),
        ended=ended,
        counts=counts,
        recent=[Sample(number=number, at=at, counts=each) for number, at, each in recent],
        tiers=_tiers(engine),
        models=_models(engine),
        errors=[
            ErrorRow(
                time=error.time,
                kind=error.kind,
                where=None if error.where is None else plain(error.where),
                error=plain(error.error),
            )
            for error in list(engine.stats.recent_errors)[-ERRORS:]
        ],
        similar=_similar(engine),
    )


def _tiers(engine: Engine) -> list[TierState]:
    storage = engine.storage
    local: Any = storage.local
    states = []
    if local is not None:
        held = len(local) if hasattr(local, "__len__") else None
        bounds = {name: _number(local, name) for name in ("max_entries", "max_bytes")}
        state = {"entries": held, "bytes": _number(local, "size"), **bounds}
        states.append(TierState(name=plain(local.name), local=True, out=False, **state))
    for guard in storage.remote:
        states.append(TierState(name=plain(guard.name), local=False, out=guard.open))
    return states[:16]


def _number(tier: object, name: str) -> int | None:
    value = getattr(tier, name, None)
    return value if type(value) is int and value >= 0 else None


def _models(engine: Engine) -> list[ModelRow]:
    rows = [
        ModelRow(
            endpoint=plain(row.endpoint),
            model=plain(row.model),
            saved_tokens=bounded(row.saved.tokens.total),
            spent_tokens=bounded(row.spent.tokens.total),
            saved_cost=None if row.saved.cost is None else bounded(row.saved.cost),
            spent_cost=None if row.spent.cost is None else bounded(row.spent.cost),
            unpriced=row.saved.unpriced + row.spent.unpriced,
        )
        for row in tuple(engine.stats.by_model.values())
    ]
    return largest(rows)


def _similar(engine: Engine) -> SimilarState | None:
    known = engine.stats.similarity
    if known is None:
        return None
    return SimilarState(
        threshold=known.threshold,
        false_hits=known.false_hits,
        rate=known.rate,
        bound=known.bound,
    )


# Several as one


def largest(rows: Iterable[ModelRow]) -> list[ModelRow]:
    """Rows of the same model as one; of many the largest, and the others together as "other"."""
    found: dict[tuple[str, str], ModelRow] = {}
    for row in rows:
        key = row.endpoint, row.model
        found[key] = _sum([found[key], row]) if key in found else row
    ordered = sorted(found.values(), key=lambda row: -(row.saved_tokens + row.spent_tokens))
    if len(ordered) <= MODELS:
        return ordered
    rest = _sum(ordered[MODELS - 1 :])
    return [*ordered[: MODELS - 1], rest.model_copy(update={"endpoint": "", "model": "other"})]


def _sum(rows: Sequence[ModelRow]) -> ModelRow:
    sums = {
        name: sum(getattr(row, name) for row in rows)
        for name in ("saved_tokens", "spent_tokens", "unpriced")
    }
    costs = {}
    for name in ("saved_cost", "spent_cost"):
        known = [cost for row in rows if (cost := getattr(row, name)) is not None]
        costs[name] = sum(known) if known else None
    return rows[0].model_copy(update={**sums, **costs})


def tiers_of(reports: Iterable[Report]) -> list[dict[str, Any]]:
    """Tiers by name: how many processes have given up on each, and what local ones hold in all."""
    found: dict[str, dict[str, Any]] = {}
    for state in (state for report in reports for state in report.tiers):
        row = found.setdefault(
            state.name, {"name": state.name, "local": state.local, "processes": 0, "out": 0}
        )
        row["processes"] += 1
        row["out"] += state.out
        for name in ("entries", "max_entries", "bytes", "max_bytes"):
            if (value := getattr(state, name)) is not None:
                row[name] = row.get(name, 0) + value
    return list(found.values())


def errors_of(reports: Iterable[Report]) -> list[ErrorRow]:
    """The latest errors, newest first."""
    every = [error for report in reports for error in report.errors]
    return sorted(every, key=lambda error: -error.time)[:50]


def similar_of(reports: Iterable[Report]) -> SimilarState | None:
    """Each process estimates for itself: the worst of them, and all wrong hits that are known."""
    known = [report.similar for report in reports if report.similar is not None]
    if not known:
        return None
    worst = max(known, key=lambda state: (state.rate or 0, state.bound or 0))
    return worst.model_copy(update={"false_hits": sum(state.false_hits for state in known)})


# On the way


def written(report: Report) -> bytes:
    """A report for others, of bounded size."""
    for without in ((), ("recent",), ("recent", "models"), ("recent", "models", "errors")):
        text = report.model_copy(update={name: [] for name in without}).model_dump_json()
        if len(text.encode()) <= MAX_TEXT:
            break
    return text.encode()


def read(text: bytes) -> Report | None:
    """A report of another process; None for what is none."""
    if len(text) > MAX_TEXT:
        return None
    try:
        return Report.model_validate_json(text)
    except ValidationError:
        return None
