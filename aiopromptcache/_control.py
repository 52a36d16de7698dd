"""What `PromptCache.control` overrides for the calls made inside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

from ._policy import Policy

controls: ContextVar[dict[Any, Policy] | None] = ContextVar("aiopromptcache control", default=None)
"""The policies in force, by cache."""


@contextmanager
def side_calls() -> Iterator[None]:
    """For calls that serve to answer another one, as for vectors: what was said of that one's
    answer does not hold for them, but for whom it is, and whether anything may be asked upstream.
    """
    token = controls.set(
        {
            cache: replace(
                cache.policy, partition=policy.partition, only_if_cached=policy.only_if_cached
            )
            for cache, policy in (controls.get() or {}).items()
        }
    )
    try:
        yield
    finally:
        controls.reset(token)
