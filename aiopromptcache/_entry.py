"""The record that tiers keep: an answer in bytes, and what is needed to judge its freshness."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import Any, NamedTuple


class Kind(IntEnum):
    """What `Entry.payload` holds. The numbers are part of the wire form: never reuse one."""

    JSON = 1
    """A value as strict JSON (every reader agrees on it)."""
    LOOSE_JSON = 2
    """A value as Python's JSON: NaN, infinities, integers past 64 bits, lone surrogates."""
    BYTES = 3
    """The caller's own bytes."""
    HTTP = 4
    """The body of an HTTP response; its head is in `Entry.head`."""
    SSE = 5
    """The body of a cleanly ended event stream; its head is in `Entry.head`."""
    VECTOR = 6
    """One item of an embeddings answer (`_openai/_vectors.py`); `Entry.head` is that answer's."""
    ITEMS = 7
    """The items of a stream of the caller's own: each its kind (1 byte), length (4), payload."""


MOST = 2**63 - 1
"""Tokens that an entry can keep."""


class Usage(NamedTuple):
    """Tokens that an answer was billed for."""

    prompt: int
    completion: int
    total: int
    cached: int = 0
    """Those of the prompt that the provider had in a cache of its own."""
    cache_write: int = 0
    """Those of the prompt that the provider put there, where it says so."""
    audio: int = 0
    """Those of the prompt that are sound."""
    spoken: int = 0
    """Those of the completion that are sound."""

    def written(self) -> tuple[int, ...]:
        """As few numbers as make it again."""
        last = len(self)
        while last > 3 and not self[last - 1]:
            last -= 1
        return self[:last]


def total(usages: Iterable[Usage | None]) -> Usage | None:
    """What several answers were billed for together; None where none of them says."""
    known = [usage for usage in usages if usage is not None]
    sums = map(sum, zip(*known, strict=True))
    # What is stored may say anything: a sum must not be more than an entry can keep.
    return Usage(*(min(count, MOST) for count in sums)) if known else None


UNPRICED = float("-1")
"""The price of an entry that was not looked up yet. Compared by identity."""


def _packed(usage: Usage) -> bytes:
    written = usage.written()
    return struct.pack(f"<{len(written)}Q", *written)


def _unpacked(packed: bytes) -> Usage:
    return Usage(*struct.unpack(f"<{len(packed) // 8}Q", packed))


class Entry:
    """One stored answer. Everything but `price`, `memo` and `forms` is settled when it is made.

    Times are seconds on the cache's clock. `ttl` is the fresh life (None: for ever),
    `stale_while_revalidate` and `stale_if_error` are windows counted from its end, and `cost` is
    how long the answer took to compute.
    """

    __slots__ = (
        "_usage",
        "billed",
        "cost",
        "endpoint",
        "forms",
        "head",
        "kind",
        "memo",
        "model",
        "payload",
        "price",
        "service",
        "stale_if_error",
        "stale_while_revalidate",
        "stored_at",
        "tags",
        "ttl",
    )

    def __init__(
        self,
        kind: Kind,
        payload: bytes,
        *,
        stored_at: float,
        ttl: float | None,
        stale_while_revalidate: float = 0.0,
        stale_if_error: float = 0.0,
        cost: float = 0.0,
        tags: tuple[str, ...] = (),
        head: bytes | None = None,
        endpoint: str | None = None,
        model: str | None = None,
        billed: str | None = None,
        service: str | None = None,
        usage: Usage | None = None,
    ) -> None:
        self.kind = kind
        self.payload = payload
        self.stored_at = stored_at
        self.ttl = ttl
        self.stale_while_revalidate = stale_while_revalidate
        self.stale_if_error = stale_if_error
        self.cost = cost
        self.tags = tags
        self.head = head
        self.endpoint = endpoint
        self.model = model
        self.billed = billed
        """The model that the answer names, where that is another than was asked for."""
        self.service = service
        """The service tier that the answer names, where it is not the usual one."""
        self._usage = None if usage is None else _packed(usage)  # a third of the tuple
        self.price: float | None = UNPRICED
        """Dollars that the answer was billed (see `Prices.of`). Never leaves this process."""
        self.memo: tuple[Any, ...] | None = None
        """How this process rebuilds the answer fastest (a pickle first). Never leaves it."""
        self.forms: dict[str, Any] | None = None
        """What this process has made of the answer for other ways of asking. Never leaves it."""

    @property
    def expires_at(self) -> float:
        """When the entry is of no use to anyone: end of its fresh life and of its windows."""
        if self.ttl is None:
            return float("inf")
        return self.stored_at + self.ttl + max(self.stale_while_revalidate, self.stale_if_error)

    @property
    def usage(self) -> Usage | None:
        """Tokens that the answer was billed for; None where it did not say."""
        return None if self._usage is None else _unpacked(self._usage)

    @property
    def size(self) -> int:
        """Bytes that the content takes, without the fixed cost of keeping an entry."""
        size = len(self.payload)
        if self.head is not None:
            size += len(self.head)
        if self.memo is not None and type(self.memo[0]) is bytes:
            size += len(self.memo[0])
        if self.forms is not None:
            size += sum(form.size for form in self.forms.values() if form is not None)
        return size

    def age(self, now: float) -> float:
        """Seconds since it was stored; never negative, also when a clock was set back."""
        return max(0.0, now - self.stored_at)

    def __repr__(self) -> str:
        return f"<Entry {self.kind.name} {len(self.payload)} bytes ttl={self.ttl}>"


class ForeignEntry(Entry):
    """An entry that came from outside of this process: what it holds may be anything."""

    __slots__ = ()
