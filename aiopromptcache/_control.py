"""What `PromptCache.control` overrides for the calls made inside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, NamedTuple

from ._policy import Policy


class Control(NamedTuple):
    """The policies in force in one context."""

    asking: Policy
    """For what could be asked anew: model calls, factories, cached functions."""
    given: Policy
    """For values that the app itself gives and gets: a request's directives do not reach them."""


controls: ContextVar[dict[Any, Control] | None] = ContextVar("aiopromptcache control", default=None)
"""What is in force, by cache."""


@contextmanager
def side_calls() -> Iterator[None]:
    """For calls that serve to answer another one, as for vectors: what was said of that one's
    answer does not hold for them, but for whom it is, and whether anything may be asked upstream.
    """
    token = controls.set(
        {cache: _bare(cache.policy, control) for cache, control in (controls.get() or {}).items()}
    )
    try:
        yield
    finally:
        controls.reset(token)


def _bare(policy: Policy, control: Control) -> Control:
    own = replace(policy, partition=control.asking.partition)
    return Control(replace(own, only_if_cached=control.asking.only_if_cached), own)
