"""What a web request means for the cache: which policy it may set, and what is told about it.

Knows no web framework; `asgi` and `aiohttp` are thin layers over it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from ._cache import PromptCache
from ._errors import ConfigurationError, NotCached, PromptCacheError
from ._policy import cache_control, seconds
from ._tally import Tally, current

DIRECTIVES = {
    "max-age": "max_age",
    "max-stale": "max_stale",
    "no-cache": "no_cache",
    "no-store": "no_store",
    "only-if-cached": "only_if_cached",
    "stale-if-error": "stale_if_error",
}
"""What a request's Cache-Control may say, and the policy field that it sets."""
NAME = "aiopromptcache"
"""What this cache is called in a Cache-Status."""
FREE = ("max-age", "only-if-cached")
"""What strangers may say by default: with the floor for max-age it costs next to nothing."""
FLOOR = 60.0
"""Seconds below which a stranger's max-age counts as so many."""


class NoPartition(PromptCacheError):
    """The partition callable gave no partition for a request, so it is not answered.

    Give a non-empty str for every request that is to be answered, or raise the framework's own
    HTTP error.
    """


Fields = tuple[dict[str, Any], dict[str, Any]]
"""Policy fields for all calls of a request; and its directives, for what could be asked anew."""


class Rules:
    """What requests may ask of one cache, and which partition they belong to."""

    def __init__(
        self,
        cache: PromptCache,
        partition: Callable[[Any], Any] | None,
        allow: Iterable[str],
        max_age_floor: float,
    ) -> None:
        if not isinstance(cache, PromptCache):
            raise ConfigurationError(f"cache={cache!r}: expected a PromptCache")
        if partition is not None and not callable(partition):
            raise ConfigurationError(f"partition={partition!r}: expected a callable or None")
        self.cache = cache
        self.partition = partition
        self._fields = {DIRECTIVES[name] for name in _directives(allow)}
        self._floor = seconds("max_age_floor", max_age_floor)

    async def fields(self, request: Any, header: str) -> Fields:
        """The policy fields for one request; `header` is its Cache-Control, "" for none.

        Raises `NoPartition`, and what the partition callable raises.
        """
        directives = self._directives(header) if header else {}
        if self.partition is None:
            return {}, directives
        return {"partition": await self._partition_of(request)}, directives

    def _directives(self, header: str) -> dict[str, Any]:
        said = cache_control(header)
        allowed = {name: value for name, value in said.items() if name in self._fields}
        if "max_age" in allowed:
            asked, own = max(allowed["max_age"], self._floor), self.cache.current_policy.max_age
            allowed["max_age"] = asked if own is None else min(asked, own)  # none gets older ones
            if "max_stale" not in self._fields and said.get("max_stale") == 0:
                allowed["max_stale"] = 0.0  # part of what max-age says
        return allowed

    async def _partition_of(self, request: Any) -> str:
        assert self.partition is not None
        found = self.partition(request)
        if inspect.isawaitable(found):
            found = await found
        if not isinstance(found, str) or not found:
            given = "an empty str" if found == "" else type(found).__name__
            raise NoPartition(
                f"the partition callable gave {given}; expected a str that is not empty"
            )
        outer, own = self.cache.current_policy.partition, _quoted(found)
        return f"{_quoted(outer)}/{own}" if outer else own

    @contextmanager
    def applied(self, fields: Fields) -> Iterator[Tally]:
        """Make calls under these fields, and count how they come out."""
        tally = Tally()
        token = current.set(tally)
        try:
            if any(fields):
                with self.cache._controlled(*fields):
                    yield tally
            else:
                yield tally
        finally:
            current.reset(token)


def nothing_stored(error: BaseException) -> bool:
    """Is `NotCached` all that went wrong? A task group has the errors of its tasks in a group."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(nothing_stored, error.exceptions))
    return isinstance(error, NotCached)


def _quoted(name: str) -> str:
    """Without slashes. aiohttp's headers may hold surrogates, for bytes that are no UTF-8."""
    return quote(name, safe="", errors="surrogatepass")


def _directives(allow: Iterable[str]) -> list[str]:
    names = [allow] if isinstance(allow, str) else list(allow)
    for name in names:
        if name not in DIRECTIVES:
            raise ConfigurationError(
                f"allow: {name!r} is no directive; allowed: {', '.join(DIRECTIVES)}"
            )
    return names


def summary(tally: Tally) -> str | None:
    """The RFC 9211 Cache-Status of all calls made for one request; None where there were none."""
    forwarded = tally.misses + tally.collapsed + tally.bypassed
    if not tally.hits and not forwarded:
        return None
    parts = [NAME]
    if not forwarded:
        parts.append("hit")
    elif tally.misses or tally.collapsed:
        parts.append("fwd=miss")
    else:
        parts.append("fwd=bypass")
    if tally.paid and tally.stored == tally.paid:
        parts.append("stored")
    if tally.collapsed and not (tally.misses or tally.bypassed):
        parts.append("collapsed")
    if tally.hits + forwarded > 1:
        parts.append(f'detail="{_counts(tally)}"')
    return "; ".join(parts)


def _counts(tally: Tally) -> str:
    counts = {
        "hit": tally.hits,
        "miss": tally.misses,
        "collapsed": tally.collapsed,
        "bypass": tally.bypassed,
    }
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)
