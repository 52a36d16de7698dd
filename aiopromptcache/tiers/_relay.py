"""Streams that are still coming, passed on through the server to processes that asked for them.

A stream is known by the token of the lease under which it is made, so that who waits for a lease
never takes an earlier answer for the one that it waits for. Who reads is kept in a sorted set by
the time until which that counts; the log says that somebody came or left, and the set is the truth.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from ._lines import pack
from ._lua import SAY, Call, Script

if TYPE_CHECKING:
    from ._crypt import Cipher
    from ._link import Link
    from ._names import Names

LIFE_SECONDS = 30.0
"""How long a stream outlives the last that was written of it."""
BATCH = 100
"""Records that are read at once."""

_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
"""

# KEYS: readers, lease. ARGV: reader, milliseconds that this counts. Gives the stream, if any, and
# 1 for who is new to it.
WANT = Script(
    _NOW
    + """
local held = redis.call('GET', KEYS[2])
if not held then return false end
local stream = string.match(held, '^(.*%.)w?$')  -- waiters leave a "w" on it
if not stream then return false end
local till, reader = string.format('%.0f', now + ARGV[2]), stream .. ' ' .. ARGV[1]
local new = redis.call('ZADD', KEYS[1], till, reader)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {stream, new}
"""
)

# KEYS: readers. ARGV: stream, a reader that leaves ("" for none). Gives how many are left.
READERS = Script(
    _NOW
    + """
redis.call('ZREM', KEYS[1], ARGV[1] .. ' ' .. ARGV[2])
local count = 0
for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if string.sub(member, 1, #ARGV[1] + 1) == ARGV[1] .. ' ' then count = count + 1 end
end
return count
"""
)

# KEYS: stream. ARGV: record, milliseconds to live, the oldest record to keep ("" for all). Gives
# the record's place.
PUBLISH = Script("""
local place = redis.call('XADD', KEYS[1], '*', 'r', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
if ARGV[3] ~= '' then redis.call('XTRIM', KEYS[1], 'MINID', ARGV[3]) end
return place
""")


class RedisRelay:
    """See `Relay`."""

    def __init__(self, link: Link, names: Names, cipher: Cipher | None) -> None:
        self._link = link
        self._names = names
        self._cipher = cipher

    async def want(self, slot: str, reader: str, seconds: float) -> str | None:
        """See `Relay.want`."""
        keys = [self._names.readers(slot), self._names.places(slot).lease]
        reply = await self._link.run(Call(WANT, keys, [reader, int(seconds * 1_000)]))
        if reply is None:
            return None
        stream, new = reply
        if new:  # each word in the log is one that fills are checked against
            await self._say(b"w", slot)
        return str(stream.decode())

    async def unwant(self, slot: str, stream: str, reader: str) -> None:
        """See `Relay.unwant`."""
        if not await self._count(slot, stream, reader):
            await self._say(b"u", slot)

    async def wanted(self, slot: str, stream: str) -> bool:
        """See `Relay.wanted`."""
        return await self._count(slot, stream, "") > 0

    async def _count(self, slot: str, stream: str, leaver: str) -> int:
        call = Call(READERS, [self._names.readers(slot)], [stream, leaver])
        return int(await self._link.run(call))

    async def _say(self, kind: bytes, slot: str) -> None:
        log = self._names.log(slot.partition(":")[0])
        name, sealed = self._names.places(slot).names[0], self._names.sealed(slot)
        await self._link.run(Call(SAY, [log], [self._link.writer, kind, name, sealed]))

    async def publish(self, slot: str, stream: str, record: bytes, keep: str) -> str:
        """See `Relay.publish`."""
        if self._cipher is not None:
            record = self._cipher.seal(_place(slot, stream), record)
        key = self._names.stream(slot, stream)
        place = await self._link.run(Call(PUBLISH, [key], [record, int(LIFE_SECONDS * 1e3), keep]))
        return str(place.decode())

    async def follow(
        self, slot: str, stream: str, silence: float, timeout: float
    ) -> AsyncIterator[bytes | None]:
        """See `Relay.follow`."""
        key, position = self._names.stream(slot, stream), b"0-0"
        connection = await self._link.connection(key)
        try:
            async with asyncio.timeout(2 * timeout):
                await connection.connect()
            wait = max(1, int(silence * 1e3))
            while True:
                async with asyncio.timeout(silence + timeout):
                    command = ("XREAD", "COUNT", BATCH, "BLOCK", wait, "STREAMS", key, position)
                    await connection.send_packed_command([pack(command)])
                    reply = await connection.read_response(timeout=math.inf)
                if not reply:
                    yield None
                for place, fields in _items(reply):
                    yield self._opened(slot, stream, fields[1])
                    position = place
        finally:
            await connection.disconnect(nowait=True)

    def _opened(self, slot: str, stream: str, record: bytes) -> bytes:
        return record if self._cipher is None else self._cipher.open(_place(slot, stream), record)


def _items(reply: Any) -> list[Any]:
    """Entries of one stream, in either version of the protocol."""
    if not reply:
        return []
    [entries] = reply.values() if isinstance(reply, dict) else [entries for _, entries in reply]
    return list(entries)


def _place(slot: str, stream: str) -> bytes:
    """What a sealed record is bound to."""
    return f"{slot} {stream}".encode("utf-8", "surrogatepass")
