"""The Redis tier: one round trip for what is asked for at the same moment."""

from __future__ import annotations

import asyncio
import builtins
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .._entry import Entry
from .._errors import ConfigurationError
from .._policy import seconds
from ._base import TierContext
from ._batch import Batcher
from ._crypt import Cipher
from ._wire import BadRecord, decode, encode

BATCH = 1_000
"""Keys that `clear` and `invalidate` handle at once."""
CLOCK_SECONDS = 60.0
"""How often the server's clock is read again."""


class RedisTier:
    """Entries in Redis or Valkey, shared by every process that points there.

    `url_or_client` is a `redis://`, `rediss://` or `unix://` URL, or a `redis.asyncio` `Redis`,
    `RedisCluster` or Sentinel-made client; one that is handed in is left open. `timeout`, in
    seconds, bounds what one operation may add to a call. `max_entries` bounds the namespace, oldest
    out first. Content over `compress_over` bytes is compressed where that helps; None: never.
    `encryption_key` is 32 bytes, or their URL-safe base64 as str; or several, newest first, of
    which the first writes and all read (extra `encryption`).

    Raises `ConfigurationError` for arguments that are not usable, also for a client with
    `decode_responses=True`.
    """

    name = "redis"

    def __init__(
        self,
        url_or_client: Any,
        *,
        prefix: str = "aiopromptcache",
        timeout: float = 0.25,
        max_entries: int | None = None,
        compress_over: int | None = 1_024,
        encryption_key: str | bytes | Sequence[str | bytes] | None = None,
    ) -> None:
        self.timeout = seconds("timeout", timeout)
        if self.timeout == 0:
            raise ConfigurationError("timeout=0: expected more than 0 seconds")
        for name, number in (("max_entries", max_entries), ("compress_over", compress_over)):
            if number is not None and (type(number) is not int or number < 1):
                raise ConfigurationError(f"{name}={number!r}: expected an int above 0, or None")
        if not isinstance(prefix, str) or not prefix:
            raise ConfigurationError(f"prefix={prefix!r}: expected a str that is not empty")
        self._prefix = prefix
        self._max_entries = max_entries
        self._compress_over = compress_over
        self._cipher = None if encryption_key is None else Cipher(encryption_key)
        self._connection = _Connection(url_or_client, self.timeout)
        self._context: TierContext | None = None
        self._reads: Batcher[tuple[str, ...], dict[str, Entry]] = Batcher(self._read)
        self._writes: Batcher[tuple[str, Entry], bool] = Batcher(self._write)
        self._offset: float = 0.0
        self._offset_until = -1.0

    def attach(self, context: TierContext) -> None:
        """See `Tier.attach`."""
        if self._context is not None and context.clock is not self._context.clock:
            raise ConfigurationError("a RedisTier can only be shared by caches with the same clock")
        self._context = context

    async def get(self, slots: Sequence[str]) -> Mapping[str, Entry]:
        """See `Tier.get`. What is asked for at the same moment is one MGET."""
        return await self._reads.do(tuple(slots))

    async def set(self, entries: Mapping[str, Entry]) -> None:
        """See `Tier.set`. What is written at the same moment is one pipeline."""
        await asyncio.gather(*[self._writes.do(item) for item in entries.items()])

    async def delete(self, slots: Sequence[str]) -> builtins.set[str]:
        """See `Tier.delete`."""
        keys = {slot: self._keys(slot) for slot in slots}
        async with self._connection.pipeline() as pipeline:
            for slot in slots:
                for key in keys[slot]:
                    pipeline.unlink(key)
                if self._max_entries is not None:
                    pipeline.zrem(self._index(slot.partition(":")[0]), *keys[slot])
            replies = iter(await pipeline.execute())
        removed = set()
        for slot in slots:
            if sum([next(replies) for _ in keys[slot]]):
                removed.add(slot)
            if self._max_entries is not None:
                next(replies)
        return removed

    async def clear(self, namespace: str) -> int:
        """See `Tier.clear`. Scans in batches; other namespaces are not touched."""
        count = await self._unlink_matching(f"{self._base(namespace)}e:")
        await self._unlink_matching(f"{self._base(namespace)}t:")
        await self._connection.client.unlink(self._index(namespace))
        return count

    async def invalidate(self, namespace: str, tags: Iterable[str]) -> int:
        """See `Tier.invalidate`."""
        count = 0
        for tag in tags:
            members = self._tag_key(namespace, tag)
            while keys := await self._connection.client.zpopmin(members, BATCH):
                count += await self._unlink([key for key, _ in keys])
        return count

    async def aclose(self) -> None:
        """See `Tier.aclose`. Closes the connections of a URL; a client handed in stays open."""
        await self._reads.finish()
        await self._writes.finish()
        await self._connection.aclose()

    # Names

    def _base(self, namespace: str) -> str:
        return f"{self._prefix}:{namespace}:"

    def _index(self, namespace: str) -> str:
        return f"{self._base(namespace)}i"

    def _keys(self, slot: str) -> list[str]:
        """Where a slot may be kept, the place for writing first."""
        namespace, _, key = slot.partition(":")
        base = f"{self._base(namespace)}e:"
        if self._cipher is None:
            return [base + key]
        return [base + hidden for hidden in self._cipher.hide(slot)]

    def _tag_key(self, namespace: str, tag: str) -> str:
        hidden = tag if self._cipher is None else self._cipher.hide(f"{namespace}:{tag}")[0]
        return f"{self._base(namespace)}t:{hidden}"

    # Reading

    async def _read(self, wanted: list[tuple[str, ...]]) -> list[dict[str, Entry]]:
        places = {slot: self._keys(slot) for slots in wanted for slot in slots}
        offset = await self._clock_offset()
        keys = [key for slot in places for key in places[slot]]
        records = dict(zip(keys, await self._connection.mget(keys), strict=True))
        found: dict[str, Entry] = {}
        for slot, slot_keys in places.items():
            for key in slot_keys:
                record = records[key]
                if record is not None and (entry := self._open(slot, record, offset)) is not None:
                    found[slot] = entry
                    break
        return [{slot: found[slot] for slot in slots if slot in found} for slots in wanted]

    def _open(self, slot: str, record: bytes, offset: float) -> Entry | None:
        """The entry of a record; one that is not to be trusted is a miss and an event."""
        try:
            if self._cipher is not None:
                record = self._cipher.open(slot, record)
            entry = decode(record, offset=offset)
        except BadRecord as error:
            if self._context is not None:
                self._context.notify("error", slot, None, error)
            return None
        return entry if entry.expires_at > self._now() else None

    # Writing

    async def _write(self, items: list[tuple[str, Entry]]) -> list[bool]:
        offset = await self._clock_offset()
        entries = {slot: entry for slot, entry in items if entry.expires_at > self._now()}
        victims: list[bytes] = []
        if self._max_entries is not None:
            for namespace in {slot.partition(":")[0] for slot in entries}:
                victims += await self._register(namespace, entries, offset)
        async with self._connection.pipeline() as pipeline:
            for victim in victims:
                pipeline.unlink(victim)
            for slot, entry in entries.items():
                if self._max_entries is None or self._connection.clustered:
                    self._put(pipeline, slot, entry, offset)
                self._put_tags(pipeline, slot, entry, offset)
            if len(pipeline):
                await pipeline.execute()
        return [True] * len(items)

    def _record(self, slot: str, entry: Entry, offset: float) -> tuple[str, bytes, int]:
        """Where an entry goes, in what form, and for how many milliseconds (0: for ever)."""
        record = encode(entry, offset=offset, compress_over=self._compress_over)
        if self._cipher is not None:
            record = self._cipher.seal(slot, record)
        life = 0
        if entry.ttl is not None:
            life = max(1, int((entry.expires_at - self._now()) * 1_000))
        return self._keys(slot)[0], record, life

    def _put(self, pipeline: Any, slot: str, entry: Entry, offset: float) -> None:
        key, record, life = self._record(slot, entry, offset)
        pipeline.set(key, record, px=life or None)

    def _put_tags(self, pipeline: Any, slot: str, entry: Entry, offset: float) -> None:
        namespace = slot.partition(":")[0]
        for tag in entry.tags:
            members = self._tag_key(namespace, tag)
            self._put_tag(pipeline, members, self._keys(slot)[0], entry, offset)

    def _put_tag(self, pipeline: Any, members: str, key: str, entry: Entry, offset: float) -> None:
        """A tag's members expire with their entries, and the tag with the last of them."""
        now = self._now() + offset
        pipeline.zremrangebyscore(members, "-inf", now)
        if entry.ttl is None:
            pipeline.zadd(members, {key: "inf"})
            pipeline.persist(members)
        else:
            pipeline.zadd(members, {key: entry.expires_at + offset})
            pipeline.eval(_KEEP_LONGER, 1, members, int((entry.expires_at - self._now()) * 1_000))

    async def _register(
        self, namespace: str, entries: Mapping[str, Entry], offset: float
    ) -> list[bytes]:
        """Enter keys into the index of ages; gives those that must go.

        One server does all of it at once: stores the entries and removes the oldest. On a cluster
        they are in other places than the index, so the caller does that.
        """
        own = [slot for slot in entries if slot.partition(":")[0] == namespace]
        client, index = self._connection.client, self._index(namespace)
        if self._connection.clustered:
            keys = [self._keys(slot)[0] for slot in own]
            victims: list[bytes] = await client.eval(_REGISTER, 1, index, self._max_entries, *keys)
            return victims
        records = [self._record(slot, entries[slot], offset) for slot in own]
        flat = [part for record in records for part in record]
        await client.eval(_STORE_BOUNDED, 1, index, self._max_entries, *flat)
        return []

    # Helpers

    def _now(self) -> float:
        return self._context.clock() if self._context is not None else 0.0

    async def _clock_offset(self) -> float:
        """The server's clock minus ours. Machines compare ages by the server's clock alone."""
        now = asyncio.get_running_loop().time()
        if now >= self._offset_until:
            whole, micros = await self._connection.server_time()
            self._offset = whole + micros / 1e6 - self._now()
            self._offset_until = now + CLOCK_SECONDS
        return self._offset

    async def _unlink_matching(self, start: str) -> int:
        count, batch = 0, []
        pattern = re.sub(r"([*?\[\]\\^-])", r"\\\1", start) + "*"
        async for key in self._connection.client.scan_iter(match=pattern, count=BATCH):
            batch.append(key)
            if len(batch) >= BATCH:
                count += await self._unlink(batch)
                batch = []
        return count + await self._unlink(batch)

    async def _unlink(self, keys: Sequence[bytes]) -> int:
        if not keys:
            return 0
        async with self._connection.pipeline() as pipeline:
            for key in keys:
                pipeline.unlink(key)
            return sum(await pipeline.execute())


_REGISTER = """
local time = redis.call('TIME')
local score = time[1] * 1000000 + time[2]
for i = 2, #ARGV do
  redis.call('ZADD', KEYS[1], score, ARGV[i])
end
local over = redis.call('ZCARD', KEYS[1]) - tonumber(ARGV[1])
local victims = {}
if over > 0 then
  local popped = redis.call('ZPOPMIN', KEYS[1], over)
  for i = 1, #popped, 2 do victims[#victims + 1] = popped[i] end
end
return victims
"""

_STORE_BOUNDED = """
local time = redis.call('TIME')
local score = time[1] * 1000000 + time[2]
for i = 2, #ARGV, 3 do
  if ARGV[i + 2] == '0' then
    redis.call('SET', ARGV[i], ARGV[i + 1])
  else
    redis.call('SET', ARGV[i], ARGV[i + 1], 'PX', ARGV[i + 2])
  end
  redis.call('ZADD', KEYS[1], score, ARGV[i])
end
local over = redis.call('ZCARD', KEYS[1]) - tonumber(ARGV[1])
if over > 0 then
  local popped = redis.call('ZPOPMIN', KEYS[1], over)
  for i = 1, #popped, 2 do redis.call('UNLINK', popped[i]) end
end
"""

_KEEP_LONGER = """
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
"""


class _Connection:
    """A client: the one handed in, or one for each event loop, made from a URL."""

    def __init__(self, url_or_client: Any, timeout: float) -> None:
        self._url = url_or_client if isinstance(url_or_client, str) else None
        self._timeout = timeout
        self._client: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        if self._url is None:
            self._client = _checked(url_or_client)
        elif not re.match(r"(redis|rediss|unix)://", self._url):
            raise ConfigurationError(
                f"{self._url.partition('://')[0]!r}: expected a redis://, rediss:// or unix:// URL"
            )

    @property
    def client(self) -> Any:
        """The client for the running loop."""
        if self._url is None:
            return self._client
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._client, self._loop = self._make(self._url), loop
        return self._client

    def _make(self, url: str) -> Any:
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import ConnectionError as RedisConnectionError

        # One immediate retry: after a restart each pooled connection fails once. RESP 2: with
        # RESP 3 the retry would not be enough.
        retry = Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))
        return Redis.from_url(
            url,
            socket_timeout=self._timeout,
            socket_connect_timeout=self._timeout,
            retry=retry,
            protocol=2,
        )

    @property
    def clustered(self) -> bool:
        """Are keys in several places?"""
        return hasattr(self.client, "mget_nonatomic")

    def pipeline(self) -> Any:
        """Commands that go in one write."""
        return self.client.pipeline(transaction=False)

    async def mget(self, keys: list[str]) -> list[bytes | None]:
        """Values by key; on a cluster one command for each hash slot."""
        fetch = self.client.mget_nonatomic if self.clustered else self.client.mget
        values: list[bytes | None] = await fetch(keys)
        return values

    async def server_time(self) -> tuple[int, int]:
        """Seconds and microseconds on the server's clock."""
        reply: Any = await self.client.time()
        if isinstance(reply, dict):  # a cluster answers for each node
            reply = next(iter(reply.values()))
        return int(reply[0]), int(reply[1])

    async def aclose(self) -> None:
        if self._url is not None and self._client is not None:
            client, self._client = self._client, None
            if self._loop is asyncio.get_running_loop():
                await client.aclose()
            self._loop = None


def _checked(client: Any) -> Any:
    from redis.asyncio import Redis, RedisCluster

    if not isinstance(client, (Redis, RedisCluster)):
        raise ConfigurationError(
            f"{type(client).__module__}.{type(client).__qualname__}: expected a URL, or a "
            "redis.asyncio Redis or RedisCluster"
        )
    maker: Any = client if isinstance(client, RedisCluster) else client.connection_pool
    encoder = maker.encoder if isinstance(client, RedisCluster) else maker.get_encoder()
    if encoder.decode_responses:
        raise ConfigurationError(
            "a client with decode_responses=True cannot carry bytes: make it without"
        )
    return client
