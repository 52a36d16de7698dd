"""The Redis tier: one round trip for what is asked for at the same moment."""

from __future__ import annotations

import asyncio
import builtins
import itertools
import math
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from .._entry import Entry
from .._errors import ConfigurationError
from .._policy import seconds
from ._base import GIVEN, Claim, Held, Lease, Listed, News, TierContext
from ._batch import Batcher
from ._crypt import Cipher
from ._listing import listing
from ._lua import (
    BOOK,
    CLAIM,
    DROP,
    FILL,
    RELEASE,
    RENEW,
    STANDS,
    Call,
)
from ._names import Names, Places
from ._sweep import BATCH, Sweeper
from ._wire import MAX_CONTENT, BadRecord, decode, encode, writable

_HASH_TAGGED = re.compile(r"[^{}]*(\{[^{}]+\}[^{}]*)?")
"""On a cluster what stands in the first braces says where a key is: all keys or none have them."""
CLOCK_SECONDS = 60.0
"""How often the server's clock is read again."""
MARK = 24
"""Bytes at the start of a record that tell it from any other: its checksum is among them."""
LEASE_SHARE = 0.9
"""Of the lease's seconds, what the server counts: the rest is for those who wait to notice."""


class _Write(NamedTuple):
    entry: Entry
    lease: Lease
    """With neither token nor position for what is stored whatever came before."""
    unconditional: bool = False


class RedisTier:
    """Entries in Redis or Valkey, shared by every process that points there.

    `url_or_client` is a `redis://`, `rediss://` or `unix://` URL, or a `redis.asyncio` `Redis`,
    `RedisCluster` or Sentinel-made client; one that is handed in is left open. `timeout`, in
    seconds, bounds what Redis may add to a call. `lease` is for how many seconds a process that
    died keeps others from asking upstream in its place. `max_entries` bounds the namespace, oldest
    out first. Content over `compress_over` bytes is compressed where that helps; None: never.
    `encryption_key` is 32 bytes, or their URL-safe base64 as str; or several, newest first, of
    which the first writes and all read (extra `encryption`).

    Raises `ConfigurationError` for arguments that are not usable, also for a client with
    `decode_responses=True`.
    """

    name = "redis"
    bulk_timeout = 60.0
    """Seconds that `clear`, `invalidate` and a `delete` of many keys may take; each of their steps
    has the `timeout`."""

    def __init__(
        self,
        url_or_client: Any,
        *,
        prefix: str = "aiopromptcache",
        timeout: float = 0.25,
        lease: float = 5.0,
        max_entries: int | None = None,
        compress_over: int | None = 1_024,
        encryption_key: str | bytes | Sequence[str | bytes] | None = None,
    ) -> None:
        from ._link import Link  # takes redis along, for those who use it only
        from ._measure import RedisMeasure
        from ._relay import RedisRelay
        from ._reports import RedisReports
        from ._vsets import RedisNeighbours

        self.timeout = _more_than_zero("timeout", timeout)
        self.lease = _more_than_zero("lease", lease)
        for name, number in (("max_entries", max_entries), ("compress_over", compress_over)):
            if number is not None and (type(number) is not int or number < 1):
                raise ConfigurationError(f"{name}={number!r}: expected an int above 0, or None")
        if not isinstance(prefix, str) or not prefix:
            raise ConfigurationError(f"prefix={prefix!r}: expected a str that is not empty")
        if not _HASH_TAGGED.fullmatch(prefix):
            raise ConfigurationError(
                f"prefix={prefix!r}: braces are a cluster's hash tag; allowed is one, not empty"
            )
        self._max_entries = max_entries or 0
        self._compress_over = compress_over
        self._cipher = None if encryption_key is None else Cipher(encryption_key)
        self._names = Names(prefix, self._cipher)
        self._link = Link(url_or_client, self.timeout)
        self._context: TierContext | None = None
        self._attached: list[str] = []
        self._tokens = itertools.count()
        self.relay = RedisRelay(self._link, self._names, self._cipher)
        """Passes on streams that are still coming; see `RelayTier`."""
        self.reports = RedisReports(self._link, self._names, self._cipher)
        """Where processes say how they are; see `ReportingTier`."""
        self.neighbours = RedisNeighbours(self._link, self._names, self._cipher)
        """Finds questions by their vectors, on servers that can; see `NeighbourTier`."""
        self._measure = RedisMeasure(self._link, self._names, max_entries, self.timeout)
        self._sweeper = Sweeper(self._link, self._names, self.timeout)
        self._writes: Batcher[_Write, bool] = Batcher(self._write, self.timeout)
        self._drops: Batcher[str, bool] = Batcher(self._drop, self.timeout)
        self._offset: float = 0.0
        self._offset_until = -math.inf

    def attach(self, context: TierContext) -> None:
        """See `Tier.attach`."""
        if self._context is not None and context.clock is not self._context.clock:
            raise ConfigurationError("a RedisTier can only be shared by caches with the same clock")
        self._context = context
        self._attached.append(context.namespace)

    async def get(self, slots: Sequence[str]) -> Mapping[str, Entry]:
        """See `Tier.get`. One MGET for all."""
        places = {slot: self._names.places(slot).entries for slot in slots}
        keys = [key for slot in places for key in places[slot]]
        if not keys:
            return {}
        offset = await self._clock_offset()
        records = dict(zip(keys, await self._link.mget(keys), strict=True))
        found: dict[str, Entry] = {}
        for slot, slot_keys in places.items():
            for key in slot_keys:
                record = records[key]
                if record is not None and (entry := self._open(slot, record, offset)) is not None:
                    found[slot] = entry
                    break
        return found

    async def set(self, entries: Mapping[str, Entry]) -> None:
        """See `Tier.set`. What is written at the same moment is one pipeline."""
        writes = [_Write(entry, Lease(slot, "", ""), True) for slot, entry in entries.items()]
        await asyncio.gather(*[self._store(write) for write in writes])

    async def delete(self, slots: Sequence[str]) -> builtins.set[str]:
        """See `Tier.delete`."""
        removed: builtins.set[str] = set()
        for at in range(0, len(slots), BATCH):
            some = slots[at : at + BATCH]
            there = await asyncio.gather(*[self._drops.do(slot) for slot in some])
            removed.update(slot for slot, was in zip(some, there, strict=True) if was)
        return removed

    async def clear(self, namespace: str) -> int:
        """See `Tier.clear`. Scans in batches; other namespaces are not touched."""
        return await self._sweeper.clear(namespace)

    async def invalidate(self, namespace: str, tags: Iterable[str]) -> int:
        """See `Tier.invalidate`. Works in batches; says so to all when nothing is left."""
        return await self._sweeper.invalidate(namespace, tags)

    async def entries(self, namespace: str) -> AsyncGenerator[Sequence[Listed]]:
        """See `ListedTier`. SCAN in batches, on a cluster over all masters; each has the `timeout`.

        What is written or goes meanwhile may be listed or not, and now and then something twice.
        """
        async with asyncio.timeout(self.timeout):
            offset = await self._clock_offset()
        found = listing(self._link, self._names, self._cipher, namespace, self.timeout)
        async for batch in found:
            yield [self._listed(slot, record, offset) for slot, record in batch]

    async def measure(self, namespace: str) -> Held | None:
        """See `MeasuredTier`. Exact for a few thousand keys, else an estimate from a sample."""
        return await self._measure.held(namespace)

    async def aclose(self) -> None:
        """See `Tier.aclose`. Closes the connections of a URL; a client handed in stays open."""
        for batcher in (self._writes, self._drops):
            await batcher.finish()
        await self._link.aclose()

    # Acting as one with other processes

    async def claim(
        self, slots: Sequence[str], *, past: bytes = b"", take: bool = False
    ) -> Sequence[Claim]:
        """See `SharedTier.claim`. One script for all."""
        if self._cipher is not None and self._cipher.rotating and not (past or take):
            return await self._claim_rotating(slots)
        return await self._claim_all(slots, past, take, await self._clock_offset())

    async def _claim_rotating(self, slots: Sequence[str]) -> Sequence[Claim]:
        """Records under older keys are looked for first; on a cluster they are elsewhere."""
        known = await self.get(slots)
        wanted = [slot for slot in slots if slot not in known]
        claims = await self._claim_all(wanted, b"", False, await self._clock_offset())
        by_slot = dict(zip(wanted, claims, strict=True))
        return [by_slot[s] if s in by_slot else Claim(known[s], b"older") for s in slots]

    async def fill(self, entries: Sequence[tuple[Entry, Lease]]) -> Sequence[bool | None]:
        """See `SharedTier.fill`."""
        return await asyncio.gather(*[self._store(_Write(*filled)) for filled in entries])

    async def release(self, leases: Sequence[Lease], *, shareable: bool = True) -> None:
        """See `SharedTier.release`."""
        kind = b"r" if shareable else b"n"
        calls: list[Call] = []
        said: list[tuple[str, bytes, bytes]] = []
        for lease in leases:
            namespace, places = lease.slot.partition(":")[0], self._names.places(lease.slot)
            name, sealed = places.names[0], self._names.sealed(lease.slot)
            log = [] if self._link.clustered else [self._names.log(namespace)]
            args = [lease.token, name, sealed, self._link.writer, kind]
            calls.append(Call(RELEASE, [places.lease, *log], args))
            said.append((namespace, name, sealed))
        for waited, (namespace, *news) in zip(await self._link.run_all(calls), said, strict=True):
            if waited and self._link.clustered:
                await self._sweeper.say(namespace, kind, *news)

    async def renew(self, leases: Sequence[Lease]) -> None:
        """See `SharedTier.renew`."""
        life = self._lease_life()
        await self._link.run_all(
            [
                Call(RENEW, [self._names.places(lease.slot).lease], [lease.token, life])
                for lease in leases
            ]
        )

    async def listen(
        self, namespace: str, since: str, told: Callable[[News], Awaitable[None]]
    ) -> None:
        """See `SharedTier.listen`."""
        from ._news import listen

        log = self._names.log(namespace)
        connection = await self._link.connection(log)
        own = self._aside(namespace)
        await listen(connection, log, self._names, own, since, self.timeout, told, self._timed)

    def _aside(self, namespace: str) -> str:
        """Whose news are none: ours, unless caches share us. What one does is news to the other."""
        return self._link.writer if self._attached.count(namespace) == 1 else ""

    def _lease_life(self) -> int:
        return max(1, int(self.lease * LEASE_SHARE * 1_000))

    # Reading

    def _open(self, slot: str, record: bytes, offset: float) -> Entry | None:
        """The entry of a record; one that is not to be trusted is a miss and an event."""
        try:
            entry = self._decoded(slot, record, offset)
        except BadRecord as error:
            if self._context is not None:
                self._context.notify("error", slot, None, error)
            return None
        return entry if entry.expires_at > self._now() else None

    def _decoded(self, slot: str, record: bytes, offset: float) -> Entry:
        if self._cipher is not None:
            record = self._cipher.open_record(slot, record)
        return decode(record, offset=offset)

    def _listed(self, slot: str | None, record: bytes, offset: float) -> Listed:
        try:
            entry = None if slot is None else self._decoded(slot, record, offset)
        except BadRecord:
            entry = None
        return Listed(slot, entry, len(record))

    async def _claim_all(
        self, slots: Sequence[str], past: bytes, take: bool, offset: float
    ) -> list[Claim]:
        if not slots:
            return []
        namespace = slots[0].partition(":")[0]
        log = self._names.log(namespace)
        if not self._link.clustered:
            return await self._claim_together([log], slots, past, take, offset)
        # The position is read first: no later news may be missed.
        last = await self._link.command("XREVRANGE", log, "+", "-", "COUNT", 1)
        since = _position(last[0][0]) if last else "0-0"
        each = [self._claim_together([], [slot], past, take, offset) for slot in slots]
        claims = [claim for [claim] in await asyncio.gather(*each)]
        return [c._replace(lease=c.lease and c.lease._replace(since=since)) for c in claims]

    async def _claim_together(
        self, log: list[bytes], slots: Sequence[str], past: bytes, take: bool, offset: float
    ) -> list[Claim]:
        """One script for slots of one namespace."""
        keys = list(log)
        token = f"{self._link.writer}.{next(self._tokens):x}."
        for slot in slots:
            places = self._names.places(slot)
            keys += [places.entry, places.lease]
        args = [self._lease_life(), len(log), token, past, int(take)]
        reply = await self._link.run(Call(CLAIM, keys, args))
        replies = [reply] if len(slots) == 1 else reply
        return [
            self._claimed(slot, token, reply, offset)
            for slot, reply in zip(slots, replies, strict=True)
        ]

    def _claimed(self, slot: str, token: str, reply: Any, offset: float) -> Claim:
        if isinstance(reply, bytes):
            return Claim(self._open(slot, reply, offset), reply[:MARK])
        wait, *position = reply
        if position:
            return Claim(lease=Lease(slot, token, _position(position[0])))
        return Claim(wait=max(0.0, wait / 1_000))

    # Writing

    async def _store(self, write: _Write) -> bool | None:
        """None for what would not be read again: the slot is emptied, as it has a newer value."""
        if self._writable(write):
            return await self._writes.do(write)
        await self._drops.do(write.lease.slot)
        return None

    async def _write(self, writes: list[_Write]) -> list[bool]:
        offset = await self._clock_offset()
        live = [write for write in writes if write.entry.expires_at > self._now()]
        if self._link.clustered:
            stand = await asyncio.gather(*[self._stands(write) for write in live])
            live = [write for write, stands in zip(live, stand, strict=True) if stands]
        calls = [self._fill_call(write, offset) for write in live]
        replies = await self._link.run_all(calls)
        if self._link.clustered:
            replies = await asyncio.gather(
                *[self._book(w, c, r) for w, c, r in zip(live, calls, replies, strict=True)]
            )
        stored = {id(write): bool(reply) for write, reply in zip(live, replies, strict=True)}
        if self._cipher is not None and self._cipher.rotating:
            slots = [write.lease.slot for write in live if stored[id(write)]]
            # They would be back when the newer ones are over.
            await self._link.unlink([k for s in slots for k in self._names.places(s).older])
        return [stored.get(id(write), False) for write in writes]

    def _writable(self, write: _Write) -> bool:
        """Can it be read again?"""
        fits = writable(write.entry)
        if not fits and self._context is not None:
            error = ValueError(
                f"more than {MAX_CONTENT} bytes, many tags, or text that is no Unicode in one, "
                "are not kept in Redis"
            )
            self._context.notify("error", write.lease.slot, None, error)
        return fits

    def _fill_call(self, write: _Write, offset: float) -> Call:
        entry, (slot, token, since), unconditional = write
        namespace, places = slot.partition(":")[0], self._names.places(slot)
        record = encode(entry, offset=offset, compress_over=self._compress_over)
        if self._cipher is not None:
            record = self._cipher.seal_record(slot, record)
        keys = [places.entry, places.lease]
        if not self._link.clustered:
            keys += self._book_keys(namespace, entry)
        mode = "set" if unconditional else "given" if token == GIVEN else "fill"
        token = self._aside(namespace) if token == GIVEN else token
        news = [places.names[0], self._names.sealed(slot), self._link.writer]
        args = [mode, token, since, record, self._life(entry), *news, self._max_entries]
        older = () if self._link.clustered else places.older
        args += [len(older), *older]
        return Call(FILL, keys, [*args, *self._log_names(namespace, places, entry)])

    def _book_keys(self, namespace: str, entry: Entry) -> list[bytes]:
        sets = [self._names.tag_sets(namespace, tag)[0] for tag in entry.tags]
        return [self._names.log(namespace), self._names.index(namespace), *sets]

    def _log_names(self, namespace: str, places: Places, entry: Entry) -> list[bytes]:
        tags = [name for tag in entry.tags for name in self._names.tag_names(namespace, tag)]
        return [*places.names, *[b"t" + name for name in tags]]

    def _life(self, entry: Entry) -> int:
        """Milliseconds that the server keeps an entry; 0: for ever."""
        if entry.ttl is None:
            return 0
        return max(1, math.ceil((entry.expires_at - self._now()) * 1_000))

    async def _stands(self, write: _Write) -> bool:
        """On a cluster: may this be stored? `_book` asks again, but what no lease protects would
        be there until then, and in the place of something newer. What may be is told before.
        """
        entry, (slot, token, since), unconditional = write
        namespace, places = slot.partition(":")[0], self._names.places(slot)
        if unconditional:
            await self._sweeper.say(namespace, b"d", places.names[0], self._names.sealed(slot))
            return True
        if token not in ("", GIVEN):
            return True
        but = self._aside(namespace) if token == GIVEN else ""
        names = self._log_names(namespace, places, entry)
        log = self._names.log(namespace)
        stands = bool(await self._link.run(Call(STANDS, [log], [since, but, *names])))
        if not stands and (token == GIVEN or await self._is_there(slot, entry)):
            await self._void(slot)
        return stands

    async def _is_there(self, slot: str, entry: Entry) -> bool:
        """Was the first half of an earlier try to store this all that happened?"""
        found = (await self.get([slot])).get(slot)
        if found is None:
            return False
        one = found.payload == entry.payload
        return one and math.isclose(found.stored_at, entry.stored_at, abs_tol=1.0)

    async def _void(self, slot: str) -> None:
        """On a cluster: nobody's value is there any more, and who has read it must not keep it."""
        places = self._names.places(slot)
        await self._link.unlink([places.entry])
        news = places.names[0], self._names.sealed(slot)
        await self._sweeper.say(slot.partition(":")[0], b"d", *news)

    async def _book(self, write: _Write, call: Call, reply: int) -> bool:
        """On a cluster: the log, the index and the tags are elsewhere than the entry."""
        if not reply:
            return False
        entry, (slot, token, since), unconditional = write
        namespace, places = slot.partition(":")[0], self._names.places(slot)
        older = await self._link.unlink(places.older)
        kind = "d" if unconditional else "s" if reply == 2 or older else ""
        args = [places.entry, self._life(entry), self._max_entries, kind, *call.args[5:8]]
        names = self._log_names(namespace, places, entry)
        since = "" if unconditional else since
        but = self._aside(namespace) if token == GIVEN else ""
        victims = await self._link.run(
            Call(BOOK, self._book_keys(namespace, entry), [*args, since, but, *names])
        )
        if victims is None:
            await self._void(slot)
            return False
        await self._link.unlink(victims)
        return True

    async def _drop(self, slots: list[str]) -> list[bool]:
        places = {slot: self._names.places(slot) for slot in slots}
        if self._link.clustered:
            return list(await asyncio.gather(*[self._drop_one(*item) for item in places.items()]))
        counts: dict[str, int] = {}
        for namespace in dict.fromkeys(slot.partition(":")[0] for slot in slots):
            own = {slot: at for slot, at in places.items() if slot.startswith(namespace + ":")}
            keys = [self._names.log(namespace), self._names.index(namespace)]
            args: list[Any] = [1 + len(next(iter(own.values())).older), self._link.writer]
            for slot, at in own.items():
                keys += [at.lease, *at.entries]
                args += [at.names[0], self._names.sealed(slot)]
            counts.update(zip(own, await self._link.run(Call(DROP, keys, args)), strict=True))
        return [counts[slot] > 0 for slot in slots]

    async def _drop_one(self, slot: str, places: Places) -> bool:
        # Said first, as in `clear`: a fill between the steps would see nothing in the log.
        namespace = slot.partition(":")[0]
        await self._sweeper.say(namespace, b"d", places.names[0], self._names.sealed(slot))
        await self._link.unlink([places.lease])
        count = await self._link.unlink(places.entries)
        await self._link.command("ZREM", self._names.index(namespace), *places.entries)
        await self._sweeper.say(namespace, b"d", places.names[0], self._names.sealed(slot))
        return count > 0

    # Clocks

    def _now(self) -> float:
        return self._context.clock() if self._context is not None else 0.0

    async def _clock_offset(self) -> float:
        """The server's clock minus ours. Machines compare ages by the server's clock alone."""
        now = asyncio.get_running_loop().time()
        if now >= self._offset_until:
            self._timed(*await self._link.server_time())
        return self._offset

    def _timed(self, whole: int, micros: int) -> None:
        self._offset = whole + micros / 1e6 - self._now()
        self._offset_until = asyncio.get_running_loop().time() + CLOCK_SECONDS


def _more_than_zero(name: str, value: object) -> float:
    duration = seconds(name, value)
    if duration == 0:
        raise ConfigurationError(f"{name}=0: expected more than 0 seconds")
    return duration


def _position(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
