"""The protocol of a tier, small enough for a third party to write one (S3, SQLite, …)."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from .._entry import Entry

Notice = Literal["evict", "expire", "error", "breaker"]


@dataclass(frozen=True, slots=True)
class TierContext:
    """What a cache gives to each of its tiers.

    `namespace` is the part of a slot before its first ":". `notify(kind, slot, entry, error)`
    tells the cache what happened inside the tier; it never raises.
    """

    namespace: str
    clock: Callable[[], float]
    notify: Callable[[Notice, str | None, Entry | None, BaseException | None], Any]


@runtime_checkable
class Tier(Protocol):
    """A place that keeps entries by slot; a slot is "namespace:key".

    Any method may raise: a fault is then a miss, an event and a log line, and never reaches the
    caller. Methods must not return entries past `expires_at`, though they need not look.
    """

    name: str
    """Short label for statuses and metrics."""

    def attach(self, context: TierContext) -> None:
        """Called once by each cache that uses the tier, before anything else."""
        ...

    async def get(self, slots: Sequence[str]) -> Mapping[str, Entry]:
        """The entries that are there, by slot."""
        ...

    async def set(self, entries: Mapping[str, Entry]) -> None:
        """Store entries, replacing what was there."""
        ...

    async def delete(self, slots: Sequence[str]) -> builtins.set[str]:
        """Remove slots; gives those that were there."""
        ...

    async def clear(self, namespace: str) -> int:
        """Remove one namespace; gives how many entries were there."""
        ...

    async def invalidate(self, namespace: str, tags: Iterable[str]) -> int:
        """Remove what carries any of the tags; gives how many entries that were."""
        ...

    async def aclose(self) -> None:
        """Release what the tier made itself."""
        ...


@runtime_checkable
class LocalTier(Tier, Protocol):
    """A tier in this process, which answers without awaiting: hits then cost microseconds."""

    def peek(self, slot: str) -> Entry | None:
        """The entry, if it is there; counts as a use of it."""
        ...

    def put(self, slot: str, entry: Entry) -> bool:
        """Store one entry; False where it is larger than the whole tier."""
        ...


class Listed(NamedTuple):
    """One record that a tier keeps."""

    slot: str | None
    """None where it cannot be told: sealed with another key, or no record of ours."""
    entry: Entry | None
    """None where the record cannot be read. It may have expired just now."""
    size: int
    """Bytes that the record takes in the tier, as it is kept there."""


@runtime_checkable
class ListedTier(Tier, Protocol):
    """A tier that can say what it holds. A cache does without it; the command line needs it."""

    def entries(self, namespace: str) -> AsyncIterator[Sequence[Listed]]:
        """All records of a namespace, in batches and no order, never all in memory."""
        ...


@runtime_checkable
class HeldTier(Protocol):
    """A tier that knows at once how much it holds, for the metrics."""

    def held(self) -> tuple[int, int]:
        """Entries and bytes. Called from any thread: changes nothing."""
        ...


class Held(NamedTuple):
    """How much of a namespace a tier holds."""

    entries: int
    bytes: int
    exact: bool = True
    """False for an estimate from a sample."""


@runtime_checkable
class MeasuredTier(Tier, Protocol):
    """A tier that can find out how much it holds, at a cost that does not grow with it."""

    async def measure(self, namespace: str) -> Held | None:
        """About how much it holds of a namespace; None where it cannot tell."""
        ...


# Tiers that several processes share, and through which they act as one.


class Refused(Exception):
    """The tier answered, and takes no writes for now (full, or read-only). Reads may go on."""


class Lease(NamedTuple):
    """The right to fill one slot, until it runs out or something overtakes it.

    `since` is a position in the tier's news: a fill is refused if any later news overtakes it.
    An empty `token` stands for no right but that: the fill is judged by the news alone.
    """

    slot: str
    token: str
    since: str


GIVEN = "given"
"""The token of what a caller gave while the tier was out. Where others' news overtook it, neither
it nor what is there stays: which of them is newer, nobody can tell."""


class Claim(NamedTuple):
    """The answer to a claim: the entry, or a lease, or for how long another process has one."""

    entry: Entry | None = None
    mark: bytes = b""
    """Which record the entry is; a claim `past` it does not give it again."""
    lease: Lease | None = None
    wait: float = 0.0
    """Seconds until the other's lease runs out, unless it is renewed."""


class News(NamedTuple):
    """What another process did, or this one.

    Kinds: "stored" (a lease was filled), "dropped" (set by a caller, or deleted), "released" (a
    lease given back unfilled), "unstorable" (the same, and what comes of others will not be stored
    either), "tag" and "clear" (invalidated), "listening" (the news come in from `position` on;
    `lost` says that some before it may have been missed), "wanted" and "unwanted" (somebody came to
    follow the stream that is being read for a slot, or the last one left; see `Relay`).
    """

    kind: Literal[
        "stored",
        "dropped",
        "released",
        "unstorable",
        "tag",
        "clear",
        "listening",
        "wanted",
        "unwanted",
    ]
    position: str
    name: str = ""
    """The slot, or the tag."""
    own: bool = False
    """Did this process do it?"""
    lost: bool = False


@runtime_checkable
class SharedTier(Tier, Protocol):
    """A tier through which processes share flights, and keep their local tiers true."""

    lease: float
    """Seconds that a lease lasts without being renewed."""

    async def claim(
        self, slots: Sequence[str], *, past: bytes = b"", take: bool = False
    ) -> Sequence[Claim]:
        """For each slot the entry, unless it is the one marked `past`; or the lease; or a wait.

        `take` asks for no entry, and takes the lease away from whoever has it.
        """
        ...

    async def fill(self, entries: Sequence[tuple[Entry, Lease]]) -> Sequence[bool | None]:
        """Store what leases were taken for; False where something overtook one.

        None for what the tier cannot keep: then the lease is free, and the slot empty.
        """
        ...

    async def release(self, leases: Sequence[Lease], *, shareable: bool = True) -> None:
        """Give leases back unfilled; not `shareable`: others need not wait for one another."""
        ...

    async def renew(self, leases: Sequence[Lease]) -> None:
        """Let leases last anew."""
        ...

    async def listen(
        self, namespace: str, since: str, told: Callable[[News], Awaitable[None]]
    ) -> None:
        """Tell the news of a namespace after the position `since`, until the connection is lost.

        Raises whatever ended it.
        """
        ...


class Relay(Protocol):
    """How a shared tier passes on streams that are still coming.

    A stream is known by the token of the lease under which it is made.
    """

    async def want(self, slot: str, reader: str, seconds: float) -> str | None:
        """Be a reader of the stream under the slot's lease for so long; None where there is no
        lease. The news say so of a new one.
        """
        ...

    async def unwant(self, slot: str, stream: str, reader: str) -> None:
        """Be a reader no more; the news say when nobody is left."""
        ...

    async def wanted(self, slot: str, stream: str) -> bool:
        """Does anybody read it?"""
        ...

    async def publish(self, slot: str, stream: str, record: bytes, keep: str) -> str:
        """Add a record, and let go of those before the place `keep` ("": of none); gives its place.

        What nobody adds to for some time is gone.
        """
        ...

    def follow(
        self, slot: str, stream: str, silence: float, timeout: float
    ) -> AsyncIterator[bytes | None]:
        """The records from the first that is kept on, as they come, and None for each silence of
        so many seconds. Raises what ends it; `timeout` is how late the tier may be.
        """
        ...


@runtime_checkable
class RelayTier(SharedTier, Protocol):
    """A shared tier that can pass on streams."""

    @property
    def relay(self) -> Relay:
        """What does it."""
        ...


class Told(NamedTuple):
    """What one process has said of itself."""

    process: str
    age: float
    """Seconds ago, by the tier's own clock."""
    text: bytes


class Reports(Protocol):
    """Where the processes of a namespace say how they are, for dashboards and tools."""

    async def tell(self, namespace: str, process: str, text: bytes) -> None:
        """Say something in place of what the process said before.

        It is forgotten after a minute of silence. A tier may refuse more than a bounded number of
        processes, and texts of more than 64 KiB.
        """
        ...

    async def told(self, namespace: str) -> Sequence[Told]:
        """What all have said last."""
        ...


@runtime_checkable
class ReportingTier(Tier, Protocol):
    """A tier through which processes can tell each other how they are. A cache does without it."""

    @property
    def reports(self) -> Reports:
        """What does it."""
        ...


# Questions that are found by what they mean, whoever stored their answers.


class Unsupported(Exception):
    """The tier cannot do this at all, or is not allowed to."""


class Family(NamedTuple):
    """Questions that are compared with each other: equal but for their text."""

    namespace: str
    space: str
    """Which vectors can be compared: one model's, of one length."""
    name: str


class Asked(NamedTuple):
    """A question whose answer is stored."""

    family: Family
    key: str
    text: str
    vector: bytes
    """float32, the least significant byte first, of length 1. Empty where a question that is there
    is to stay for longer, and nothing else."""
    life: float | None
    """Seconds until the answer is gone; None: it stays."""


class Neighbour(NamedTuple):
    """A question near another one, by the cosine of their vectors."""

    key: str
    text: str
    cosine: float


class Neighbours(Protocol):
    """How a shared tier finds questions by their vectors. Where it cannot, `Unsupported`."""

    async def nearest(
        self, family: Family, vector: bytes, limit: int, least: float
    ) -> Sequence[Neighbour]:
        """At most `limit` of the family that have the cosine `least`, the nearest first.

        Some may be missing, and the answers of some may be gone.
        """
        ...

    async def add(self, asked: Sequence[Asked], most: int) -> None:
        """Keep questions; of each namespace `most`, those that go first out first."""
        ...

    async def remove(self, family: Family, keys: Sequence[str]) -> None:
        """Forget questions."""
        ...


@runtime_checkable
class NeighbourTier(SharedTier, Protocol):
    """A shared tier that finds questions by their vectors."""

    @property
    def neighbours(self) -> Neighbours:
        """What does it."""
        ...
