"""What one piece of work took from upstream, for whoever runs it and cannot see its calls."""

from __future__ import annotations

from contextvars import ContextVar

from ._entry import Usage


class Tally:
    """Notes of all calls made in one context, and in the tasks begun there."""

    __slots__ = (
        "bypassed", "collapsed", "costs", "hits", "misses", "paid", "stale", "stored", "usages",
    )  # fmt: skip

    def __init__(self) -> None:
        self.hits = self.misses = self.collapsed = self.bypassed = 0
        """How its calls came out, as in `Stats`."""
        self.paid = 0
        """Upstream calls of its own."""
        self.stored = 0
        """Those whose answer was stored."""
        self.stale = 0
        """Old answers in place of what could not be fetched."""
        self.usages: list[Usage] = []
        self.costs: list[float | None] = []


current: ContextVar[Tally | None] = ContextVar("aiopromptcache tally", default=None)


def note_hit() -> None:
    """A tier has answered a call made here."""
    tally = current.get()
    if tally is not None:
        tally.hits += 1


def note_request(*, leader: bool) -> None:
    """A call made here was answered by no tier."""
    tally = current.get()
    if tally is not None:
        tally.misses += leader
        tally.collapsed += not leader


def note_bypass() -> None:
    """A call made here may not be cached."""
    tally = current.get()
    if tally is not None:
        tally.bypassed += 1


def note_paid(*, stored: bool, usage: Usage | None, cost: float | None) -> None:
    """An upstream call has been made here."""
    tally = current.get()
    if tally is not None:
        tally.paid += 1
        tally.stored += stored
        if usage is not None:
            tally.usages.append(usage)
            tally.costs.append(cost)


def note_stale() -> None:
    """An old answer was given here."""
    tally = current.get()
    if tally is not None:
        tally.stale += 1
