"""What the processes of a namespace say of themselves, kept on the server for a minute.

A hash holds the texts by process, a sorted set the times by the server's clock. What a server says
against these commands alone (a user who may not run them, a key of another type) concerns nobody
but those who look: it is no fault of the tier.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

from ._base import Told
from ._lua import Call, Script
from ._wire import BadRecord

if TYPE_CHECKING:
    from ._crypt import Cipher
    from ._link import Link
    from ._names import Names

logger = logging.getLogger("aiopromptcache")

SILENCE_SECONDS = 60.0
"""How long a process that says nothing more is listened to."""
PROCESSES = 64
"""Of more than so many processes the ones that were silent longest are forgotten."""
MAX_TEXT = 64 * 1_024
"""Bytes of one process's text."""

# KEYS: texts, times. ARGV[1]: milliseconds that a text counts.
_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function forget(gone)
  if #gone == 0 then return end
  redis.call('HDEL', KEYS[1], unpack(gone))
  redis.call('ZREM', KEYS[2], unpack(gone))
end
"""

# ARGV: milliseconds, processes at most, process, text.
TELL = Script(
    _NOW
    + """
redis.call('HSET', KEYS[1], ARGV[3], ARGV[4])
redis.call('ZADD', KEYS[2], string.format('%.0f', now), ARGV[3])
local silent = string.format('%.0f', now - ARGV[1])
forget(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', silent, 'LIMIT', 0, 1000))
forget(redis.call('ZRANGE', KEYS[2], 0, -1 - ARGV[2]))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[1])
"""
)

# ARGV: milliseconds, processes at most, bytes of a text at most. Gives process, age, text, process…
TOLD = Script(
    _NOW
    + """
local since = string.format('%.0f', now - ARGV[1])
local found = {}
local live = redis.call(
  'ZREVRANGEBYSCORE', KEYS[2], '+inf', since, 'WITHSCORES', 'LIMIT', 0, ARGV[2])
for at = 1, #live, 2 do
  if redis.call('HSTRLEN', KEYS[1], live[at]) <= tonumber(ARGV[3]) then
    local text = redis.call('HGET', KEYS[1], live[at])
    if text then
      table.insert(found, live[at])
      table.insert(found, math.max(0, now - live[at + 1]))
      table.insert(found, text)
    end
  end
end
return found
"""
)


class RedisReports:
    """See `Reports`."""

    def __init__(self, link: Link, names: Names, cipher: Cipher | None) -> None:
        self._link = link
        self._names = names
        self._cipher = cipher

    async def tell(self, namespace: str, process: str, text: bytes) -> None:
        """See `Reports.tell`."""
        if self._cipher is not None:
            text = self._cipher.seal(_place(namespace, process), text)
        if len(text) <= MAX_TEXT:
            await self._run(TELL, namespace, PROCESSES, process, text)

    async def told(self, namespace: str) -> Sequence[Told]:
        """See `Reports.told`. What cannot be opened is left out."""
        reply = await self._run(TOLD, namespace, PROCESSES, MAX_TEXT)
        found = []
        for process, age, text in zip(*[iter(reply or ())] * 3, strict=True):
            told = self._opened(namespace, process, age, text)
            if told is not None:
                found.append(told)
        return found

    async def _run(self, script: Script, namespace: str, *args: Any) -> Any:
        life = int(SILENCE_SECONDS * 1_000)
        try:
            return await self._link.run(Call(script, self._names.reports(namespace), [life, *args]))
        except ResponseError as error:
            logger.debug("the server takes no reports: %s", error)
            return None

    def _opened(self, namespace: str, process: bytes, age: int, text: bytes) -> Told | None:
        try:
            name = process.decode("ascii")
            if self._cipher is not None:
                text = self._cipher.open(_place(namespace, name), text)
        except (UnicodeDecodeError, BadRecord):
            return None
        return Told(name, age / 1_000, text)


def _place(namespace: str, process: str) -> bytes:
    """What a sealed text is bound to; no slot has a space before its ":"."""
    return f"{namespace} report {process}".encode("utf-8", "surrogatepass")
