"""The questions that processes share, for similar hits across them.

A shared tier keeps them, if it can. All of it is at best a help: what fails here is a miss of the
similar search, and is told to nobody but the counters. It has failures of its own, so that a search
which is slow takes nothing else of the tier away.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ._ask import LONGEST_QUESTION
from .similarity._index import NEAREST, Near
from .tiers._base import Asked, Family, Neighbours, NeighbourTier, Unsupported
from .tiers._deadlines import Deadlines

if TYPE_CHECKING:
    from ._engine import Engine
    from .similarity._matchers import Matcher
    from .tiers._guard import Guard

T = TypeVar("T")

logger = logging.getLogger("aiopromptcache")

FAILURES = 5
"""Failures in a row after which the search rests."""
REST_SECONDS = 5.0
"""How long it rests then."""
UNSUPPORTED_SECONDS = 60.0
"""How often a server that could not is asked again: another may have taken its place."""
WAITING = 1_000
"""New questions that wait to be shared, at most: the newest."""
AT_ONCE = 8
"""Questions that are shared at once: on a large index each takes the server some milliseconds."""
_SLACK = 1e-5
"""More than float32 may be off by."""


class SharedQuestions:
    """One cache's view of them, through the tier that `guard` guards.

    `space` names what makes the vectors; those of another length are apart in any case. `most` is
    how many questions the namespace keeps. `failed` is told each failure.
    """

    def __init__(
        self,
        guard: Guard,
        neighbours: Neighbours,
        namespace: str,
        matcher: Matcher,
        failed: Callable[[Exception], Any],
    ) -> None:
        self._guard = guard
        self._neighbours = neighbours
        self._namespace = namespace
        self._space = str(getattr(matcher, "model", ""))
        self._width = 0
        self._most = matcher.max_entries
        self._told_failed = failed
        self._deadlines = Deadlines(guard.timeout)
        self._failures = 0
        self._rests_until = 0.0
        self._unsupported = self._warned = False
        self._waiting: deque[Asked] = deque(maxlen=WAITING)
        self._at_once = AT_ONCE
        self._suspect: Asked | None = None
        """What could not be shared by itself, and is tried once more."""
        self._sharing: asyncio.Task[None] | None = None

    # Looking

    async def nearest(self, name: str, given: Any, least: float, spent: float) -> list[Near]:
        """Those of a family that have at least this cosine; none where the tier gives none.

        `spent` are the seconds that the tier took of this call already.
        """
        family, left = self._family(name, given), self._guard.timeout - spent
        found = await self._try(
            lambda: self._neighbours.nearest(family, _packed(given), NEAREST, least - _SLACK), left
        )
        if found is None:
            return []
        self._start()
        return [Near(*one) for one in found if len(one.text) <= LONGEST_QUESTION]

    async def remove(self, name: str, given: Any, keys: Sequence[str], spent: float) -> None:
        """Forget questions whose answers are gone."""
        family, left = self._family(name, given), self._guard.timeout - spent
        await self._try(lambda: self._neighbours.remove(family, keys), left)

    def _family(self, name: str, given: Any) -> Family:
        self._width = len(given)
        return self._family_of(name)

    def _family_of(self, name: str) -> Family:
        return Family(self._namespace, f"{self._width} {self._space}", name)

    # Sharing, in the background

    def add(self, name: str, key: str, text: str, given: Any, life: float | None) -> None:
        """Share a question whose answer is stored, soon."""
        self._put(Asked(self._family(name, given), key, text, _packed(given), life))

    def renew(self, name: str, key: str, life: float | None) -> None:
        """The answer to a question has been renewed: it stays for longer."""
        if self._width:
            self._put(Asked(self._family_of(name), key, "", b"", life))

    def _put(self, asked: Asked) -> None:
        if not self._unsupported or not self._rests():
            self._waiting.append(asked)
            self._start()

    def _start(self) -> None:
        loop, task = asyncio.get_running_loop(), self._sharing
        busy = task is not None and not task.done() and task.get_loop() is loop
        if self._waiting and not busy and not self._is_out():
            self._sharing = asyncio.Task(self._share(), loop=loop, name="aiopromptcache sharing")

    async def _share(self) -> None:
        while self._waiting and not self._is_out():
            some = [self._waiting.popleft() for _ in range(min(self._at_once, len(self._waiting)))]
            if await self._try(lambda some=some: self._add(some), self._guard.timeout):  # type: ignore[misc]
                self._at_once = min(2 * self._at_once, AT_ONCE)
            elif some[0] is not self._suspect or self._is_out():
                # Each by itself next: one of them may be bad. That one is given up.
                self._at_once = 1
                self._suspect = some[0] if len(some) == 1 else None
                self._waiting.extendleft(reversed(some))

    async def _add(self, some: Sequence[Asked]) -> bool:
        await self._neighbours.add(some, self._most)
        return True

    # Faults

    def _rests(self) -> bool:
        return asyncio.get_running_loop().time() < self._rests_until

    def _is_out(self) -> bool:
        return self._guard.open or self._rests()

    async def _try(self, operation: Callable[[], Awaitable[T]], left: float) -> T | None:
        """What the tier gives; None where it is out, fails, or takes longer than what is left."""
        if left <= 0 or self._is_out():
            return None
        try:
            with self._deadlines.within(left):
                given = await operation()
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            self._failed(OSError(f"the tier cancelled itself: {error}"))
            return None
        except Unsupported as error:
            self._do_without(error)
            return None
        except Exception as error:
            self._failed(error)
            return None
        self._failures = 0
        self._unsupported = self._warned = False
        return given

    def _rest(self, seconds: float) -> None:
        self._rests_until = asyncio.get_running_loop().time() + seconds

    def _do_without(self, error: Exception) -> None:
        self._rest(UNSUPPORTED_SECONDS)
        self._waiting.clear()
        if not self._unsupported:
            self._unsupported = True
            logger.warning(
                "cache tier %s cannot find similar prompts (%s): it takes the vector sets of "
                "Redis 8, and leave to use them; each process finds those that it has seen itself",
                self._guard.name,
                error,
            )

    def _failed(self, error: Exception) -> None:
        logger.debug("similar prompts of cache tier %s failed", self._guard.name, exc_info=error)
        self._told_failed(error)
        self._failures += 1
        if self._failures < FAILURES:
            return
        self._rest(REST_SECONDS)
        if not self._warned and not self._guard.open:  # of an outage the guard tells
            self._warned = True
            logger.warning(
                "looking for similar prompts in cache tier %s fails with %s; until it works "
                "again, each process finds those that it has seen itself",
                self._guard.name,
                type(error).__name__,
            )

    async def aclose(self) -> None:
        """Share what waits, if that is possible in the time of one operation."""
        task = self._sharing
        if task is None or task.done() or task.get_loop() is not asyncio.get_running_loop():
            return
        await asyncio.wait([task], timeout=self._guard.timeout)
        if not task.done():
            task.cancel()
            await asyncio.wait([task])


def _packed(given: Any) -> bytes:
    packed: bytes = given.astype("<f4").tobytes()
    return packed


def shared_questions(engine: Engine, matcher: Matcher) -> SharedQuestions | None:
    """Those of a tier, if it finds questions by vectors, and the matcher makes vectors."""
    if engine.storage.shared is None or not hasattr(matcher, "vectors"):
        return None
    guard = engine.storage.shared.guard
    if not isinstance(guard.tier, NeighbourTier):
        return None
    return SharedQuestions(
        guard,
        guard.tier.neighbours,
        engine.prefix[:-1],
        matcher,
        lambda error: engine.ledger.noticed(guard.name, "error", None, None, error),
    )
