"""Texts of one family, compared exactly, and only those that can be near enough.

What two texts have in common, in order, is never more than the letters that both have at all. So of
each text the letters are counted, and a text is compared only where its counts allow for the score.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from rapidfuzz import fuzz, process

Array = np.ndarray[Any, Any]

KINDS = 32
"""Letters are told apart by their code modulo this: a bound stays a bound."""
BLOCK = 16_384
"""Texts in one block of counts."""
COMPARED = 1_000
"""Texts that are compared before other threads get their turn: comparing holds the interpreter's
lock."""
TURN_SECONDS = 20e-6
_MOST = 2**16 - 1


class Letters:
    """How often each kind of letter is in each text, and how long the texts are."""

    def __init__(self) -> None:
        self.count = 0
        self._blocks: list[Array] = []
        self._lengths: list[Array] = []

    def append(self, text: str) -> None:
        """Add one at the end."""
        self._set(self.count, _counts(text), len(text))
        self.count += 1

    def remove(self, place: int) -> None:
        """Take one away: the last takes its place."""
        self.count -= 1
        block, at = divmod(self.count, BLOCK)
        self._set(place, self._blocks[block][:, at], float(self._lengths[block][at]))

    def _set(self, place: int, counts: Array, length: float) -> None:
        block, at = divmod(place, BLOCK)
        if block == len(self._blocks):
            size = 16 if block == 0 else BLOCK
            self._blocks.append(np.zeros((KINDS, size), np.uint16))
            self._lengths.append(np.zeros(size, np.float32))
        if at >= self._blocks[block].shape[1]:
            self._grow(block, min(BLOCK, 2 * at))
        self._blocks[block][:, at] = counts
        self._lengths[block][at] = length

    def _grow(self, block: int, size: int) -> None:
        more = size - len(self._lengths[block])
        self._blocks[block] = np.pad(self._blocks[block], ((0, 0), (0, more)))
        self._lengths[block] = np.pad(self._lengths[block], (0, more))

    def near(self, text: str, least: float) -> Array:
        """All places whose ratio with a text, 0 to 1, may be `least`, and few others."""
        if len(text) > _MOST:
            return np.arange(self.count)
        counts, found = _counts(text), []
        kinds = np.flatnonzero(counts)
        for number, block in enumerate(self._blocks):
            shared = np.zeros(block.shape[1], np.uint16)
            for kind in kinds:
                shared += np.minimum(block[kind], counts[kind])
            needed = np.float32(least * 0.9999 / 2) * (self._lengths[number] + len(text))
            found.append(np.flatnonzero(shared >= needed) + number * BLOCK)
        places = np.concatenate(found) if found else np.empty(0, np.int64)
        near: Array = places[: np.searchsorted(places, self.count)]
        return near


def _counts(text: str) -> Array:
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32) % KINDS
    counts: Array = np.minimum(np.bincount(codes, minlength=KINDS), _MOST).astype(np.uint16)
    return counts


class TextShelf:
    """Prepared texts by place, for one of RapidFuzz's scorers; `scale` is its score of equals."""

    def __init__(self, scorer: Any, scale: float, limit: int) -> None:
        self._scorer = scorer
        self._scale = scale
        self._limit = limit
        self._texts: list[str] = []
        self._letters = Letters() if scorer is fuzz.ratio else None  # of others nothing is known

    def append(self, given: str) -> None:
        """Add one at the end."""
        if self._letters is not None:
            self._letters.append(given)
        self._texts.append(given)

    def remove(self, place: int) -> None:
        """Take one away: the last takes its place."""
        if self._letters is not None:
            self._letters.remove(place)
        last = self._texts.pop()
        if place != len(self._texts):
            self._texts[place] = last

    def nearest(self, given: str, least: float) -> list[tuple[int, float]]:
        """The places and scores of those that score at least `least`, the best first."""
        least = max(0.0, least)
        places = np.arange(len(self._texts))
        if self._letters is not None and least:
            places = self._letters.near(given, least)
        found: list[tuple[int, float]] = []
        for start in range(0, len(places), COMPARED):
            if start:
                time.sleep(TURN_SECONDS)
            some = places[start : start + COMPARED].tolist()  # all at once would hold the lock
            found += self._compared(given, some, least)
        return sorted(found, key=lambda one: -one[1])[: self._limit]

    def _compared(self, given: str, places: list[int], least: float) -> list[tuple[int, float]]:
        best = process.extract(
            given,
            [self._texts[place] for place in places],
            scorer=self._scorer,
            limit=self._limit,
            score_cutoff=least * self._scale,
        )
        return [(places[at], score / self._scale) for _, score, at in best]
