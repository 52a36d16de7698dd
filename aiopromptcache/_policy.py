"""What may be stored, for how long, and when a stored answer may be used.

`Policy` is data, `decide` is arithmetic: neither knows a tier or awaits anything.
Field names follow RFC 9111 (`no_store`, `max_age`, …) and RFC 5861 (the stale windows).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from enum import Enum
from typing import Any, Literal, cast

from ._entry import Entry
from ._errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Request:
    """What `cacheable`, `storable` and `normalize` get to see of a call.

    `endpoint` is "chat.completions", "responses", "embeddings", "completions" or "moderations";
    `params` is the request's JSON body as sent (with `extra_body` merged in); do not change it.
    """

    endpoint: str
    params: dict[str, Any]
    stream: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How answers are cached. Times are seconds, or a `timedelta`, which becomes seconds.

    Raises `ConfigurationError` for a value out of range, naming the field, the value and what is
    allowed. Derive a changed policy with `dataclasses.replace`, or for some calls with
    `cache.control(...)`.
    """

    ttl: float | timedelta | None = 3600.0
    """Fresh life of what is stored; None: no expiry; 0: do not store."""
    stale_while_revalidate: float | timedelta = 0.0
    """Window after the fresh life in which the old answer is given while a new one is fetched."""
    stale_if_error: float | timedelta = 0.0
    """Window after the fresh life in which the old answer is given if the upstream fails."""
    refresh_ahead: float = 0.0
    """Strength of probabilistic early refresh (XFetch's beta); 0 is off, 1 is usual."""
    jitter: float = 0.0
    """Fraction of the ttl, 0 to 1, that is taken off at random when an answer is stored."""
    max_age: float | timedelta | None = None
    """Accept no entry older than this, not even where the upstream fails."""
    max_stale: float | timedelta | None = None
    """Accept answers that are past their fresh life by no more than this, without a refresh; 0:
    none but those of stale_if_error; None: as the windows say. RFC 9111's max-stale as a field."""
    no_cache: bool = False
    """Do not answer from the cache; store the new answer."""
    no_store: bool = False
    """Store nothing."""
    only_if_cached: bool = False
    """Never go upstream: raise `NotCached` instead."""
    partition: str = ""
    """Part of the key: tenants, users or prompt versions that must never share an answer."""
    tags: tuple[str, ...] = ()
    """Labels for `invalidate`. A list or any iterable of str is accepted."""
    normalize: Callable[[Request], Mapping[str, Any]] | None = None
    """Gives the parameters that are hashed, never those that are sent."""
    similarity: Any = ...
    """`...`: as the cache says; None: no similar hits; a number from 0 to 1: its threshold."""
    stream_usage: bool = False
    """Ask upstream for usage on every stream; callers who did not ask do not see it."""
    cacheable: Callable[[Request], bool] | None = None
    """May this be cached at all? None: the built-in rule."""
    storable: Callable[[Request, dict[str, Any]], bool] | None = None
    """May this answer (the JSON body) be stored? None: the built-in rule."""

    def __post_init__(self) -> None:
        for name, checked in _CHECKS.items():
            object.__setattr__(self, name, checked(name, getattr(self, name)))

    def merged(self, **changes: Any) -> Policy:
        """This policy with some fields replaced; an unknown name is a `ConfigurationError`."""
        unknown = changes.keys() - POLICY_FIELDS
        if unknown:
            raise ConfigurationError(
                f"unknown policy field {sorted(unknown)[0]!r}; allowed: {', '.join(POLICY_FIELDS)}"
            )
        if not changes:
            return self
        merged, put = object.__new__(type(self)), object.__setattr__
        for name in POLICY_FIELDS:  # what stays was checked when this policy was made
            kept = name not in changes
            put(merged, name, getattr(self, name) if kept else _CHECKS[name](name, changes[name]))
        return merged


POLICY_FIELDS = tuple(field.name for field in fields(Policy))


def seconds(name: str, value: object) -> float:
    """A duration in seconds from a number or a timedelta; `ConfigurationError` otherwise."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigurationError(f"{name}={value!r}: expected seconds (a number) or a timedelta")
    if math.isnan(value) or math.isinf(value) or value < 0:
        raise ConfigurationError(
            f"{name}={value!r}: expected a finite number of seconds, 0 or more"
        )
    return float(value)


def fraction(name: str, value: object) -> float:
    """A number from 0 to 1; `ConfigurationError` otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ConfigurationError(f"{name}={value!r}: expected a number from 0 to 1")
    return float(value)


def _seconds_or_none(name: str, value: object) -> float | None:
    return None if value is None else seconds(name, value)


def _fraction_or_word(name: str, value: object) -> object:
    return value if value is None or value is ... else fraction(name, value)


def _bool(name: str, value: object) -> object:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name}={value!r}: expected True or False")
    return value


def _str(name: str, value: object) -> object:
    if not isinstance(value, str):
        raise ConfigurationError(f"{name}={value!r}: expected a str")
    return value


def _callable_or_none(name: str, value: object) -> object:
    if value is not None and not callable(value):
        raise ConfigurationError(f"{name}={value!r}: expected a callable or None")
    return value


def tag_tuple(tags: Iterable[str]) -> tuple[str, ...]:
    """Tags as a tuple; a bare str or a tag that is no str is a `ConfigurationError`."""
    if isinstance(tags, str) or not isinstance(tags, Iterable):
        raise ConfigurationError(f"tags={tags!r}: expected an iterable of str, not one str")
    collected = tuple(tags)
    for tag in collected:
        if not isinstance(tag, str) or not tag:
            raise ConfigurationError(f"tags: {tag!r} is no tag; expected a str that is not empty")
    return collected


_CHECKS: dict[str, Callable[[str, Any], object]] = {
    "ttl": _seconds_or_none,
    "max_age": _seconds_or_none,
    "max_stale": _seconds_or_none,
    "stale_while_revalidate": seconds,
    "stale_if_error": seconds,
    "refresh_ahead": seconds,
    "jitter": fraction,
    "tags": lambda _, tags: tag_tuple(tags),
    "no_cache": _bool,
    "no_store": _bool,
    "only_if_cached": _bool,
    "stream_usage": _bool,
    "partition": _str,
    "normalize": _callable_or_none,
    "cacheable": _callable_or_none,
    "storable": _callable_or_none,
    "similarity": _fraction_or_word,
}
"""By field: gives the value as it is kept; `ConfigurationError` for one out of range."""


class Verdict(Enum):
    """What an entry is good for now."""

    FRESH = "fresh"
    REVALIDATE = "revalidate"
    """Past its fresh life, inside stale_while_revalidate: an answer, while a new one is fetched."""
    ACCEPTED = "accepted"
    """Past its fresh life, inside the caller's max_stale: an answer as it is."""
    ON_ERROR = "on error"
    """Past its fresh life, an answer only where the upstream fails."""
    UNUSABLE = "unusable"


def decide(entry: Entry, policy: Policy, now: float) -> Verdict:
    """Judge one entry for one caller.

    The windows were recorded when the entry was written; the caller's policy may tighten them,
    never widen them. Who stores nothing could keep no refresh either, so stale_while_revalidate is
    not for them.
    """
    age = now - entry.stored_at
    if policy.max_age is not None and age > cast(float, policy.max_age):
        return Verdict.UNUSABLE
    if entry.ttl is None or age < entry.ttl:
        return Verdict.FRESH
    staleness = age - entry.ttl
    max_stale = cast(float | None, policy.max_stale)
    accepted = max_stale is not None and max_stale > 0 and staleness <= max_stale
    window = min(entry.stale_while_revalidate, cast(float, policy.stale_while_revalidate))
    if staleness < window and keeps(policy) and (accepted or max_stale is None):
        return Verdict.REVALIDATE
    if accepted:
        return Verdict.ACCEPTED
    if staleness < min(entry.stale_if_error, cast(float, policy.stale_if_error)):
        return Verdict.ON_ERROR
    return Verdict.UNUSABLE


def keeps(policy: Policy) -> bool:
    """May what a call brings be stored at all?"""
    return not policy.no_store and policy.ttl != 0


def refused_as(entry: Entry, now: float) -> Literal["stale", "request"]:
    """RFC 9211's word for going upstream though there was an entry: stale, or not wanted."""
    fresh = entry.ttl is None or now - entry.stored_at < entry.ttl
    return "request" if fresh else "stale"


def due_early(entry: Entry, policy: Policy, now: float, chance: float) -> bool:
    """Should a fresh entry be refreshed before its time?

    XFetch (Vattani, Chierichetti, Lowenstein: Optimal Probabilistic Cache Stampede Prevention,
    VLDB 2015): yes with a probability that rises towards expiry, the earlier the longer the answer
    took to compute. `chance` is random, 0 up to but not including 1.
    """
    if entry.ttl is None or not keeps(policy):
        return False
    left = entry.stored_at + entry.ttl - now
    return entry.cost * policy.refresh_ahead * -math.log(1 - chance) >= left


FOR_EVER = float(2**31)
"""Seconds that RFC 9111 takes for "without end"."""

_DIRECTIVE = re.compile(
    r"""\s*(?: (?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+)
             (?: = (?: (?P<token>[^\s,"]+) | "(?P<quoted>(?:[^"\\]|\\.)*)" ) )? \s* (?=,|$)
          | (?: "(?:[^"\\]|\\.)*"? | [^,"] )* )""",
    re.VERBOSE,
)
_SWITCHES = {"no-cache": "no_cache", "no-store": "no_store", "only-if-cached": "only_if_cached"}
_SECONDS = {"max-age": "max_age", "max-stale": "max_stale", "stale-if-error": "stale_if_error"}


def cache_control(header: str) -> dict[str, Any]:
    """The policy fields that a request's Cache-Control header sets.

    As RFC 9111 asks, names are case-insensitive, what is unknown or malformed is ignored, and the
    first of several counts. A max-age without max-stale wants no stale answer (5.2.1.1).
    """
    changes: dict[str, Any] = {}
    for name, argument in _directives(header):
        if name in _SWITCHES:
            changes[_SWITCHES[name]] = True
        elif name == "max-stale" and argument is None:
            changes.setdefault("max_stale", FOR_EVER)
        elif name in _SECONDS and argument and argument.isascii() and argument.isdigit():
            changes.setdefault(_SECONDS[name], min(float(argument[:20]), FOR_EVER))
    if "max_age" in changes:
        changes.setdefault("max_stale", 0.0)
    return changes


def _directives(header: str) -> Iterator[tuple[str, str | None]]:
    """Well-formed directives with their arguments; commas inside quotes do not part them."""
    position = 0
    while position <= len(header):
        match = cast("re.Match[str]", _DIRECTIVE.match(header, position))
        if match["name"]:
            quoted = match["quoted"]
            argument = match["token"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            yield match["name"].lower(), argument
        position = match.end() + 1
