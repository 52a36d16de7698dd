"""One matcher's questions: made ready for comparing, kept, found, scored."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from ._index import NEAREST, Index, Near, VectorShelf


class Questions:
    """The index that suits a matcher: of vectors for one that embeds, else of texts."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher
        self.embeds = hasattr(matcher, "vectors")
        """Are texts compared by vectors?"""
        if self.embeds:
            import numpy  # noqa: F401  # here it fails early

            self._index: Index[Any] = Index(matcher.max_entries, VectorShelf)
        else:
            from ._letters import TextShelf

            scorer = matcher.scorer
            scale = float(scorer("same", "same"))  # RapidFuzz has scorers to 100, and to 1
            self._index = Index(
                matcher.max_entries, lambda first: TextShelf(scorer, scale, NEAREST)
            )

    def __len__(self) -> int:
        return len(self._index)

    def knows(self, key: str) -> bool:
        """Is a question kept? One that was added just now may not be yet."""
        return key in self._index

    def prepared(self, text: str) -> str:
        """The normal form of a text that is compared as such."""
        normal: str = self._matcher.prepare(text)
        return normal

    async def prepare(self, text: str) -> Any:
        """What a text is compared as: its vector, or its normal form."""
        if not self.embeds:
            return self.prepared(text)
        return (await self._matcher.vectors([text]))[0]

    async def nearest(self, family: str, text: str, given: Any, threshold: float) -> list[Near]:
        """Those of the family that score at least `threshold`, the best first."""
        found = await self._index.nearest(self._among(family, given), given, self.least(threshold))
        return self.rated(text, found, threshold)

    def _among(self, family: str, given: Any) -> str:
        """Whom to compare with: vectors of another length are another model's."""
        return f"{len(given)} {family}" if self.embeds else family

    @staticmethod
    def least(threshold: float) -> float:
        """What an index is asked for: a score is never below 0, a cosine may be."""
        return threshold if threshold > 0 else -1.0

    def rated(self, text: str, found: list[Near], threshold: float) -> list[Near]:
        """Those that score at least `threshold` when looked at closely, the best first."""
        scored = [near._replace(score=self._score(text, near)) for near in found]
        good = [near for near in scored if near.score >= threshold]
        return sorted(good, key=lambda near: -near.score)

    def _score(self, text: str, near: Near) -> float:
        if self.embeds:
            return float(self._matcher.refine(text, near.text, near.score))
        return float(self._matcher.score(text, near.text))

    def add(self, family: str, key: str, text: str, given: Any) -> Future[Any]:
        """Keep a question; who looks after this call finds it."""
        return self._index.add(self._among(family, given), key, text, given)

    def remove(self, key: str) -> None:
        """Forget a question."""
        self._index.remove(key)

    def close(self) -> None:
        """End what works in the background."""
        self._index.close()
