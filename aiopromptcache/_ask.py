"""What is asked, and what comes of it: the records that pass between callers and the engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from ._entry import Entry, Kind
from ._follow import Form
from ._observer import Waiting
from ._policy import Policy
from ._refresh import is_outage
from ._streams import Live

SIDE = "/stream"
"""After a slot: where a stream is kept whose plain form is kept already, and cannot be played."""

LONGEST_QUESTION = 1_000
"""Characters of a text that may be in other words. A longer one is no mere question; looking at it
closely would take the event loop for longer than others can wait."""


class Loaded(NamedTuple):
    """What an upstream call brought. `extra` is for its leader alone and is never stored."""

    entry: Entry
    storable: bool = True
    extra: Any = None

    @property
    def brought(self) -> tuple[Entry, ...]:
        """All entries."""
        return (self.entry,)


class Similarity(NamedTuple):
    """The stored question whose answer stands in for one in other words."""

    key: str
    score: float
    text: str


class Landed(NamedTuple):
    """What a flight brought: from a tier (`tier` names it), or from upstream."""

    entry: Entry
    tier: str | None = None
    stored: bool = False
    extra: Any = None
    waited: bool = False
    """Did the flight of another process bring it?"""
    near: Similarity | None = None
    """Set where it is the answer to a similar question."""


class Answer(NamedTuple):
    """One caller's answer; `status` are the arguments of a CacheStatus.

    An answer that is still coming has `COMING` as its entry, and its `Reader` as `extra`.
    """

    entry: Entry
    status: Any
    extra: Any = None


COMING = Entry(Kind.SSE, b"", stored_at=0.0, ttl=0.0)


class Prompt:
    """What of a question may be in other words, worked out where it is needed.

    `split` gives the family (a digest of all else that was asked) and the text, or None where no
    text stands for itself; `body` gives an answer's JSON body.
    """

    __slots__ = ("__dict__", "_split", "body", "failed", "given")

    def __init__(
        self,
        split: Callable[[], tuple[str, str] | None],
        body: Callable[[Entry], Any],
    ) -> None:
        self._split = split
        self.body = body
        self.given: Any = None
        """What the matcher made of the text."""
        self.failed = False
        """Looking for something similar has failed: it is not tried again for this call."""

    @cached_property
    def parts(self) -> tuple[str, str] | None:
        """The family and the text."""
        return self._split()


async def _nothing() -> Loaded:
    raise AssertionError("this question is not for the upstream")


@dataclass(slots=True, kw_only=True)
class Ask:
    """One caller's question."""

    key: str
    slot: str
    policy: Policy
    load: Callable[[], Awaitable[Loaded]] = _nothing
    accepts: Callable[[Entry], bool] = lambda entry: True
    """False where an entry is there but of no use to this caller: then it is a miss."""
    outlasts: Callable[[Exception, float | None], bool] = lambda error, patience: False
    """Told a flight's error and its leader's patience: does this caller rather try by itself?"""
    patience: float | None = None
    live: Live | None = None
    """The stream that `load` fills; then its caller gets a reader as soon as it has begun."""
    form: Form | None = None
    """How that stream is passed on to other processes, if it is."""
    leads: str = ""
    """What its flight will bring, as part of its lane."""
    follows: tuple[str, ...] = ("",)
    """Whose answers serve this caller, best first."""
    looked: bool = False
    """True where the tiers were asked just now, and had nothing."""
    spent: float = 0.0
    """Seconds that remote tiers took of this call already (see `_idle`)."""
    waited: float = 0.0
    """Seconds that its caller waited before it was asked."""
    outage: Callable[[Exception], bool] = is_outage
    """Is an error the upstream's fault, so that an old answer may stand in for it?"""
    fwd: str = "miss"
    """Why it goes upstream, in RFC 9211's words."""
    seen: Entry | None = None
    """What a refresh has to beat."""
    settle: Callable[[], None] = lambda: None
    """Called where the caller goes on before `load` runs: copies what it may change by then."""
    endpoint: str | None = None
    model: str | None = None
    prompt: Prompt | None = None
    """Set where a similar question's answer may do."""
    remarks: dict[str, Any] | None = None
    """Fields of the event of a miss."""
    background: bool = False
    """True where no caller waits for it."""
    waiting: Waiting | None = None
    """What an observer made of its caller's waiting."""
