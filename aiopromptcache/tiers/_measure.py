"""How much of a namespace a server holds, at a cost that does not grow with it.

Some thousand names are looked through. Where the database has more, these stand for all: a server
walks through its keys in the order of their hashes, so any stretch of them is a fair sample. Where
an index is kept, some of its entries stand for all of them. MEMORY USAGE tells how much room an
entry takes, and does not count as a use of it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NamedTuple

from redis.exceptions import ResponseError

from ._base import Held
from ._lua import Call, Script

if TYPE_CHECKING:
    from ._link import Link
    from ._names import Names

logger = logging.getLogger("aiopromptcache")

STEP = 500
"""Names that are looked at in one script, which takes the server half a millisecond."""
MOST = 4_000
"""Names that are looked at in all; a database that has no more is counted exactly."""
ENOUGH = 400
"""Entries that are a good sample."""
FEW = 16
"""Of a sample that has fewer entries nothing can be said."""

# ARGV: what names begin with, cursor, how many. Gives the next cursor, how many names were seen,
# entries among them, their bytes, and the names in the database.
SAMPLE = Script("""
local reply = redis.call('SCAN', ARGV[2], 'COUNT', ARGV[3])
local found, bytes = 0, 0
for _, name in ipairs(reply[2]) do
  if string.sub(name, 1, #ARGV[1]) == ARGV[1] then
    local used = redis.call('MEMORY', 'USAGE', name)
    if used then found, bytes = found + 1, bytes + used end
  end
end
return {reply[1], #reply[2], found, bytes, redis.call('DBSIZE')}
""")

# KEYS: index. ARGV: how many. Gives how many it has, how many were looked at, entries that are
# there, and their bytes.
SAMPLE_INDEX = Script("""
local members = redis.call('ZRANDMEMBER', KEYS[1], ARGV[1])
local found, bytes = 0, 0
for _, name in ipairs(members) do
  local used = redis.call('MEMORY', 'USAGE', name)
  if used then found, bytes = found + 1, bytes + used end
end
return {redis.call('ZCARD', KEYS[1]), #members, found, bytes}
""")


class _Sample(NamedTuple):
    """What was seen of so many names."""

    names: int
    seen: int
    found: int
    bytes: int
    whole: bool
    """Was every name seen?"""

    def scaled(self, number: int) -> float:
        """What all have, if they are like those that were seen."""
        return number if self.whole or not self.seen else number * self.names / self.seen


class RedisMeasure:
    """See `MeasuredTier`."""

    def __init__(self, link: Link, names: Names, max_entries: int | None, timeout: float) -> None:
        self._link = link
        self._names = names
        self._indexed = max_entries is not None
        self._timeout = timeout

    async def held(self, namespace: str) -> Held | None:
        """See `MeasuredTier.measure`. A server that may not be asked is no fault of the tier."""
        try:
            if self._indexed and not self._link.clustered:
                return _held([await self._of_index(namespace)])
            prefix = self._names.entry_prefix(namespace)
            masters = await self._link.masters()
            return _held(await asyncio.gather(*[self._of_names(prefix, on) for on in masters]))
        except ResponseError as error:
            logger.debug("the server does not say what it holds: %s", error)
            return None

    async def _of_index(self, namespace: str) -> _Sample:
        """What has expired stays in the index until it makes room: some of it is looked for."""
        index = self._names.index(namespace)
        names, seen, found, size = await self._link.run(Call(SAMPLE_INDEX, [index], [ENOUGH]))
        return _Sample(names, seen, found, size, whole=seen >= names)

    async def _of_names(self, prefix: bytes, on: object) -> _Sample:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._timeout / 2  # a slow server is no fault, and must not be one
        cursor, seen, found, size = b"0", 0, 0, 0
        while True:
            step = Call(SAMPLE, [], [prefix, cursor, STEP])
            cursor, *more, names = await self._link.run(step, on=on)
            seen, found, size = seen + more[0], found + more[1], size + more[2]
            enough = seen >= MOST or (found >= ENOUGH and names > MOST)
            if cursor == b"0" or enough or loop.time() >= until:
                return _Sample(names, seen, found, size, whole=cursor == b"0")


def _held(samples: list[_Sample]) -> Held | None:
    """All masters together; None where too little was seen."""
    found = sum(sample.found for sample in samples)
    exact = all(sample.whole for sample in samples)
    if not exact and found < FEW:
        return None
    entries = sum(sample.scaled(sample.found) for sample in samples)
    size = sum(sample.scaled(sample.bytes) for sample in samples)
    return Held(round(entries), round(size), exact)
