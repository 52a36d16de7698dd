"""What happened to one call: `CacheStatus`, and its RFC 9211 form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

Forward = Literal["miss", "bypass", "stale", "request"]

ATTRIBUTE = "_aiopromptcache_status"
"""Where a result carries its status: the arguments of a CacheStatus, made only when asked for."""


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """How one call was answered. `str()` gives the value of an RFC 9211 Cache-Status header."""

    key: str
    """What `cache.delete` takes to remove this answer; "" where the call had no key."""
    hit: bool = False
    tier: str | None = None
    """"memory", "redis" or a third party's name; None unless it is a hit."""
    age: float | None = None
    """Seconds since the answer was stored; None unless it is a hit."""
    ttl: float | None = None
    """Seconds of fresh life left; negative when stale; None where there is no expiry."""
    fwd: Forward | None = None
    """Why the call went upstream: "miss", "bypass" (not cacheable), "stale" (what there was is past
    its fresh life), "request" (the caller refused it: no_cache, max_age). With `hit`: the upstream
    was asked and failed, and the old answer stands in for it (stale_if_error)."""
    collapsed: bool = False
    """Answered by the flight of another caller."""
    stored: bool = False
    stale: bool = False
    """A hit that is past its fresh life."""
    similarity: float | None = None
    """Score of a similar hit, 0 to 1; None for an exact one."""
    asked_key: str | None = None
    """Of a similar hit: the key of the question that was asked; `key` is that of the answer."""

    def __str__(self) -> str:
        parts = ["aiopromptcache"]
        if self.fwd is not None:  # RFC 9211 allows one of both
            parts.append(f"fwd={self.fwd}")
        elif self.hit:
            parts.append("hit")
        if self.ttl is not None:
            parts.append(f"ttl={math.floor(self.ttl)}")
        if self.stored:
            parts.append("stored")
        if self.collapsed:
            parts.append("collapsed")
        if self.tier is not None:
            parts.append(f"detail={self.tier}")
        if self.similarity is not None:
            parts.append(f"similarity={self.similarity:.3f}")
        return "; ".join(parts)


class LiveStatus:
    """The status of a stream, which is final only when the stream has ended."""

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        self.arguments = arguments


def outcome_of(status: tuple[Any, ...] | LiveStatus | None) -> str:
    """How a caller was answered, in one word; None stands for no answer."""
    arguments = status.arguments if isinstance(status, LiveStatus) else status
    if arguments is None:
        return "miss"
    known = CacheStatus(*arguments)
    if known.similarity is not None:
        return "similar"
    if known.hit:
        return "stale" if known.stale else "hit"
    return "collapsed" if known.collapsed else "miss"


def mark(result: Any, status: tuple[Any, ...] | LiveStatus) -> Any:
    """Let a result carry its status, where it can carry anything."""
    try:  # noqa: SIM105  # on the path of every hit
        vars(result)[ATTRIBUTE] = status
    except TypeError:  # a str, a dict: what a body that is no object becomes
        pass
    return result


def cache_status(result: object) -> CacheStatus | None:
    """How the call that returned `result` was answered.

    `result` is anything that a wrapped client returned: a completion, a parsed one, a response,
    embeddings, a stream (whose status is final once it has ended), a raw response. None for
    everything else.
    """
    try:
        carried = vars(result)
        # The SDK's `.stream()` helpers hold the stream itself.
        arguments: Any = carried.get(ATTRIBUTE) or vars(carried["_raw_stream"]).get(ATTRIBUTE)
    except (TypeError, KeyError):
        return None
    if isinstance(arguments, LiveStatus):
        arguments = arguments.arguments
    return CacheStatus(*arguments) if type(arguments) is tuple else None
