"""What `PromptCache.control` overrides for the calls made inside it, and what similar hits do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from ._policy import Policy


class Control(NamedTuple):
    """The policies in force in one context."""

    asking: Policy
    """For what could be asked anew: model calls, factories, cached functions."""
    given: Policy
    """For values that the app itself gives and gets: a request's directives do not reach them."""


controls: ContextVar[dict[Any, Control] | None] = ContextVar("aiopromptcache control", default=None)
"""What is in force, by cache."""

_stored_only: ContextVar[bool] = ContextVar("aiopromptcache stored only", default=False)
"""Set for what serves a call that may ask nothing upstream; by no `control`, but by its header."""

Mode = Literal["on", "learn", "off"]

mode: ContextVar[Mode] = ContextVar("aiopromptcache similar", default="on")
"""What is done for calls made here: "learn" looks for nothing similar, and keeps what is asked;
"off" is for calls that a matcher makes itself."""


def control_of(cache: Any) -> Control:
    """What is in force for a cache."""
    found = (controls.get() or {}).get(cache)
    if found is not None:
        return found
    policy: Policy = cache.policy
    return Control(replace(policy, only_if_cached=True) if _stored_only.get() else policy, policy)


class Inside(AbstractContextManager[None]):
    """A context manager that is no decorator: on an async function that would do nothing."""

    def __init__(self, block: AbstractContextManager[None]) -> None:
        self._block = block

    def __enter__(self) -> None:
        self._block.__enter__()

    def __exit__(self, *error: Any) -> bool | None:
        return self._block.__exit__(*error)


@contextmanager
def learning() -> Iterator[None]:
    """For calls made inside, nothing similar will do; what they ask may answer others."""
    token = mode.set("learn")
    try:
        yield
    finally:
        mode.reset(token)


@contextmanager
def side_calls(*, stored_only: bool = False) -> Iterator[None]:
    """For calls that a matcher makes to answer another one, perhaps by the same cache's client.

    What was said of that one's answer does not hold for them, but for whom it is, and whether
    anything may be asked upstream (`stored_only`: it may not).
    """
    inner = (controls.get() or {}).items()
    bare = {cache: _bare(cache.policy, control, stored_only) for cache, control in inner}
    off, only, under = mode.set("off"), _stored_only.set(stored_only), controls.set(bare)
    try:
        yield
    finally:
        mode.reset(off)
        _stored_only.reset(only)
        controls.reset(under)


def _bare(policy: Policy, control: Control, stored_only: bool) -> Control:
    own = replace(policy, partition=control.asking.partition)
    stored_only = stored_only or control.asking.only_if_cached
    return Control(replace(own, only_if_cached=stored_only), own)
