"""State of the app's own, kept in the cache's tiers, so that every worker finds it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from aiopromptcache import PromptCache

TURNS = 6
"""Turns of a conversation that are remembered, and sent to the model."""
LIFE = 86_400.0
"""Seconds after its last turn that a conversation is remembered."""
OWN = {"partition": ""}
"""Its policy: whose it is stands in the key, so that it is the same one, private or not.

What a request's Cache-Control says is about answers; it does not reach `get` and `set`.
"""


class Badge(BaseModel):
    """How an answer came about, and what that saved."""

    kind: Literal["hit", "shared", "fresh"]
    tokens: int
    """What the answer costs where it is paid for."""
    seconds: float
    """From the question to the end of the answer."""
    saved_tokens: int = 0
    saved_seconds: float = 0.0
    tier: str | None = None
    """Where a hit was found."""


class Turn(BaseModel):
    """A question and its answer."""

    question: str
    answer: str
    badge: Badge


class History:
    """One user's last turns."""

    def __init__(self, cache: PromptCache, user: str) -> None:
        self._cache = cache
        self._key = cache.key(kept="history", user=user)

    async def read(self) -> list[Turn]:
        """The turns, oldest first."""
        with self._cache.control(**OWN):
            return await self._cache.get(self._key, [], type=list[Turn])

    async def add(self, turn: Turn) -> None:
        """Append a turn, once: several windows of a user may have asked the same.

        Turns that end in two workers within the same few milliseconds may overtake each other; a
        chat can live with that.
        """
        turns = await self.read()
        if turns and (turns[-1].question, turns[-1].answer) == (turn.question, turn.answer):
            return
        kept = [each.model_dump() for each in [*turns, turn][-TURNS:]]
        with self._cache.control(**OWN):
            await self._cache.set(self._key, kept, ttl=LIFE)

    async def clear(self) -> None:
        """Forget them."""
        with self._cache.control(**OWN):
            await self._cache.delete(self._key)


async def remember_time(cache: PromptCache, answer: str, seconds: float) -> None:
    """Keep how long an answer took, by its key, for those who will not have to wait."""
    with cache.control(**OWN):
        await cache.set(cache.key(kept="time", answer=answer), seconds)


async def saving(cache: PromptCache, answer: str, seconds: float) -> float:
    """Seconds less than when the answer was made; 0 where that is not known."""
    with cache.control(**OWN):
        took = await cache.get(cache.key(kept="time", answer=answer), 0.0, type=float)
    return max(took - seconds, 0.0)
