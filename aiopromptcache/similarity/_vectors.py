"""Vectors of one family, searched exactly: no neighbour is ever missed, and few are looked at.

Rows are kept in blocks, so growing copies nothing large. In a large family each row also has a
short head: its coordinates in the few directions in which the family's vectors differ most. By
Cauchy and Schwarz, the heads' product plus the product of the remainders' lengths is no less than
the whole cosine. So a row whose bound is below what is sought need not be read. Heads are in two
parts: of those that the first has ruled out, the second is not read either.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

BLOCK = 4_096
"""Rows in one block."""
HEADS_BLOCK = 8 * BLOCK
"""Heads in one, no fewer than `SMALL`: they are short, and each block costs some calls to read."""
SMALL = 2 * BLOCK
"""Rows up to which all are read: that is fast enough."""
TAKEN = 1_024
"""Rows that are taken from a block at once: so few that they are still near when they are read."""
HEAD = 63
"""Coordinates in a head."""
FIRST = 31
"""How many of them are in its first part."""
SAMPLE = 512
"""Rows that the directions are found by."""
TURN_SECONDS = 20e-6
"""A pause in which other threads get the interpreter's lock."""
_SLACK = 1e-5
"""More than float32 may be off by."""


class Rows:
    """A matrix of float32 that grows block by block."""

    def __init__(self, width: int, block: int | None = None) -> None:
        self._width = width
        self._block = block or BLOCK
        self.blocks: list[Array] = []

    def set(self, place: int, row: Array) -> None:
        """Write one row, at most one past the last."""
        block, at = divmod(place, self._block)
        if block == len(self.blocks):
            rows = min(16 if block == 0 else BLOCK, self._block)
            self.blocks.append(np.empty((rows, self._width), np.float32))
        if at >= len(self.blocks[block]):
            grown = np.empty((min(self._block, 2 * at), self._width), np.float32)
            grown[:at] = self.blocks[block]
            self.blocks[block] = grown
        self.blocks[block][at] = row

    def get(self, place: int) -> Array:
        """One row."""
        block, at = divmod(place, self._block)
        row: Array = self.blocks[block][at]
        return row

    def products(self, row: Array, count: int) -> Array:
        """The first `count` rows, each times this one."""
        found = np.empty(count, np.float32)
        for start in range(0, count, self._block):
            end = min(count, start + self._block)
            _times(self.blocks[start // self._block][: end - start], row, found[start:end])
        return found

    def products_of(self, places: Array, row: Array) -> Array:
        """Some rows, in ascending order, each times this one."""
        found = np.empty(len(places), np.float32)
        some = np.empty((min(TAKEN, len(places)), self._width), np.float32)
        cuts = np.searchsorted(places, np.arange(1, len(self.blocks)) * self._block)
        start = 0
        for number, end in enumerate([*cuts.tolist(), len(places)]):
            block, first = self.blocks[number], self._block * number
            for at in range(start, end, TAKEN):
                until = min(end, at + TAKEN)
                taken = some[: until - at]
                # Without "clip" numpy copies once more, for the case that a place is out of range.
                block.take(places[at:until] - first, axis=0, out=taken, mode="clip")
                _times(taken, row, found[at:until])
            start = end
        return found


class Vectors:
    """Normalised vectors by place; the last one moves to where one is taken away."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self.width = width
        self._rows = Rows(width)
        self._basis: Array | None = None
        self._heads = Rows(FIRST + 1, HEADS_BLOCK)
        self._more = Rows(HEAD - FIRST + 2, HEADS_BLOCK)

    def append(self, vector: Array) -> None:
        """Add one at the end."""
        self._put(self.count, vector)
        self.count += 1
        if self._basis is None and self.count >= SMALL and self.width > 2 * HEAD:
            self._begin_heads()

    def remove(self, place: int) -> None:
        """Take one away: the last takes its place."""
        self.count -= 1
        if place != self.count:
            self._put(place, self._rows.get(self.count))

    def _put(self, place: int, vector: Array) -> None:
        self._rows.set(place, vector)
        if self._basis is not None:
            first, more = _heads(vector[np.newaxis], self._basis)
            self._heads.set(place, first[0])
            self._more.set(place, more[0])

    def _begin_heads(self) -> None:
        """Find the directions by a few steps of subspace iteration. They need not be the best."""
        sample = self._rows.blocks[0][:SAMPLE]
        basis = np.random.default_rng(0).standard_normal((HEAD, self.width), dtype=np.float32)
        for _ in range(3):
            spread = np.einsum("ij,kj->ik", sample, basis)
            basis = _orthonormal(np.einsum("ik,ij->kj", spread, sample))
        self._basis = basis
        heads = [_heads(block, basis) for block in self._rows.blocks]
        self._heads.blocks = [np.concatenate([first for first, _ in heads])]
        self._more.blocks = [np.concatenate([more for _, more in heads])]

    def nearest(self, vector: Array, limit: int, least: float) -> list[tuple[int, float]]:
        """The places and cosines of the `limit` nearest that have `least`, nearest first."""
        if self._basis is None or not self.count:
            return self._best_of_all(vector, limit, least)
        floor = least - _SLACK
        places, bounds = self._bounded(vector, floor, self._basis)
        if len(places) > max(BLOCK // 2, 4 * limit):
            # The nearest by bound say how near the others must be.
            first = places[np.argpartition(bounds, -4 * limit)[-4 * limit :]]
            scores = self._rows.products_of(np.sort(first), vector)
            floor = max(floor, float(np.partition(scores, -limit)[-limit]) - _SLACK)
            places = places[bounds >= floor]
            if len(places) > self.count // 3:
                return self._best_of_all(vector, limit, least)
        return _best(self._rows.products_of(places, vector), limit, least, places)

    def _bounded(self, vector: Array, floor: float, basis: Array) -> tuple[Array, Array]:
        """The places whose bound is at least `floor`, and their bounds."""
        first, more = _heads(vector[np.newaxis], basis)
        more[0, -1] *= -1  # what the first part has put in for the coordinates of the second
        bounds = self._heads.products(first[0], self.count)
        places = np.flatnonzero(bounds >= floor)
        if len(places) > self.count // 3:  # reading them one after the other is faster
            bounds += self._more.products(more[0], self.count)
            places = np.flatnonzero(bounds >= floor)
            return places, bounds[places]
        bounds = bounds[places] + self._more.products_of(places, more[0])
        good = bounds >= floor
        return places[good], bounds[good]

    def _best_of_all(self, vector: Array, limit: int, least: float) -> list[tuple[int, float]]:
        if not self.count:
            return []
        return _best(self._rows.products(vector, self.count), limit, least)


# Without BLAS, which would start threads that wait for each other, for long where the cores are
# busy with other things.


def _times(rows: Array, row: Array, out: Array | None = None) -> Array:
    products: Array = np.einsum("ij,j->i", rows, row, out=out)
    return products


def _orthonormal(rows: Array) -> Array:
    """The same space by rows of length 1, each at a right angle to the others."""
    for place in range(len(rows)):
        row = rows[place]
        for _ in range(2):  # the second time for what the first has rounded
            row -= np.einsum("k,kj->j", _times(rows[:place], row), rows[:place])
        row /= np.sqrt(np.einsum("j,j->", row, row)) + np.float32(1e-12)
        time.sleep(TURN_SECONDS)
    return rows


def _heads(rows: Array, basis: Array) -> tuple[Array, Array]:
    """The two parts of rows' heads: coordinates, and the length of what these leave out. The second
    part ends with the length that the first part ended with.
    """
    heads = np.einsum("ij,kj->ik", rows, basis)
    whole = np.einsum("ij,ij->i", rows, rows)
    first, more = heads[:, :FIRST], heads[:, FIRST:]
    rests = whole - np.einsum("ij,ij->i", first, first)
    ends = rests - np.einsum("ij,ij->i", more, more)
    rests, ends = [np.sqrt(np.maximum(rest, 0) + np.float32(1e-6)) for rest in (rests, ends)]
    return np.column_stack([first, rests]), np.column_stack([more, ends, rests])


def _best(
    scores: Array, limit: int, least: float, places: Array | None = None
) -> list[tuple[int, float]]:
    good = np.flatnonzero(scores >= least - _SLACK)
    if len(good) > limit:
        good = good[np.argpartition(scores[good], -limit)[-limit:]]
    good = good[np.argsort(-scores[good], kind="stable")]
    return [(int(n if places is None else places[n]), float(scores[n])) for n in good]
