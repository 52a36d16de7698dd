"""Who wants to be there while something happens, and not to be told of it afterwards: traces.

A hook comes after the fact, so it cannot make a span that others nest in. An observer is asked
where a caller begins to wait and where an upstream call begins. A cache has at most one; without
it, it costs a look at an attribute.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from ._entry import Entry

if TYPE_CHECKING:
    from ._ask import Answer, Ask
    from ._flights import Flight


class Waiting(Protocol):
    """One caller that waits for an answer."""

    def follows(self, flight: Flight[Any]) -> None:
        """Its answer may come from another caller's flight."""
        ...

    def answered(self, answer: Answer | None) -> None:
        """It has its answer, or a reader of what is still coming; None: there is nothing."""
        ...


class Calling(Protocol):
    """One upstream call."""

    def brought(self, entries: Sequence[Entry], took: float) -> None:
        """It has brought something, after so many seconds."""
        ...


class Observer(Protocol):
    """What is asked for each caller that waits and each upstream call.

    What is raised inside of a context manager passes through it.
    """

    def hit(self) -> None:
        """The local tier has answered: nobody waits."""
        ...

    def waiting(self, ask: Ask) -> AbstractContextManager[Waiting]:
        """A caller begins to wait."""
        ...

    def calling(self, ask: Ask, flight: Flight[Any] | None) -> AbstractContextManager[Calling]:
        """An upstream call begins, as the work of a flight or of one caller alone."""
        ...
