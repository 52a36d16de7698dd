"""What RFC 9111, 5861 and 9211 say about one call, written plainly and apart from the code."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

TTL = 100.0


@dataclass(frozen=True)
class Case:
    """One stored answer, one caller, one upstream."""

    age: float
    recorded: tuple[float, float]
    """The windows that the entry was stored with: while revalidating, on error."""
    allowed: tuple[float, float]
    """The windows that the caller's policy has."""
    max_age: float | None
    max_stale: float | None
    switch: str
    """"no_cache", "no_store", "only_if_cached" or ""."""
    up: bool

    @property
    def reader(self) -> dict[str, Any]:
        """The caller's policy."""
        fields: dict[str, Any] = {
            "stale_while_revalidate": self.allowed[0],
            "stale_if_error": self.allowed[1],
            "max_age": self.max_age,
            "max_stale": self.max_stale,
        }
        return {**fields, **({self.switch: True} if self.switch else {})}


@dataclass(frozen=True)
class Expected:
    """What must come of it."""

    answer: str
    """"old", "new", "error" or "not cached"."""
    calls: int
    """Upstream calls, a background one too."""
    hit: bool = False
    stale: bool = False
    fwd: str | None = None
    stored: bool = False
    """Is the new answer stored in the end, by the call itself or in the background?"""


def expect(case: Case) -> Expected:
    """The oracle."""
    late = case.age - TTL
    there = late < 0 or late < max(case.recorded)  # what is over has left every tier
    young = case.max_age is None or case.age <= case.max_age
    answerable = there and young and case.switch != "no_cache"
    if answerable and late < 0:
        return Expected("old", 0, hit=True)
    accepts = bool(case.max_stale) and late <= case.max_stale  # 0: nothing stale at all
    if answerable:
        in_window = late < case.recorded[0] and late < case.allowed[0]
        if in_window and (accepts or case.max_stale is None) and case.switch != "no_store":
            if case.switch == "only_if_cached":
                return Expected("old", 0, hit=True, stale=True)
            return Expected("old", 1, hit=True, stale=True, stored=case.up)
        if accepts:
            return Expected("old", 0, hit=True, stale=True)
    if case.switch == "only_if_cached":
        return Expected("not cached", 0)
    if case.up:
        why = "miss"
        if there:
            why = "request" if late < 0 else "stale"
        if case.switch == "no_cache":
            why = "request"
        return Expected("new", 1, fwd=why, stored=case.switch != "no_store")
    if answerable and late < case.recorded[1] and late < case.allowed[1]:
        return Expected("old", 1, hit=True, stale=True, fwd="stale")
    return Expected("error", 1)


AGES = {
    "fresh": 50.0,
    "the last moment": 99.75,
    "the first stale moment": 100.0,
    "in both windows": 120.0,
    "in the longer window": 160.0,
    "over": 180.0,
}
RECORDED = [(50.0, 80.0), (80.0, 50.0)]
SWITCHES = ["", "no_cache", "no_store", "only_if_cached"]


def cases(age: float) -> list[Case]:
    """Every combination at one age."""
    combinations = product(
        RECORDED,
        [0.0, 10.0, 1_000.0],
        [0.0, 10.0, 1_000.0],
        [None, 40.0, 140.0],
        [None, 0.0, 70.0],
        SWITCHES,
        [True, False],
    )
    return [
        Case(age, recorded, (revalidate, error), max_age, max_stale, switch, up)
        for recorded, revalidate, error, max_age, max_stale, switch, up in combinations
    ]
