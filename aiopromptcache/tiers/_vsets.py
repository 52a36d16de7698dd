"""Questions found by their vectors: the vector sets of Redis 8.

Each family of a namespace has a set: `prefix:{namespace}:q:family`. A sorted set beside them,
`prefix:{namespace}:q`, knows of every question when its answer goes, so that their number is
bounded and none stays for long after its answer. What a set names may be gone all the same:
whoever uses it looks the answer up.

Vectors are kept as they are (NOQUANT), so a score means the same here as in a local index. A
question's text is an attribute, sealed where the tier encrypts; vectors are not, as the server has
to compare them.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoPermissionError, RedisError

from ._base import Asked, Family, Neighbour, Unsupported
from ._lua import Call, Script
from ._wire import BadRecord

if TYPE_CHECKING:
    from ._crypt import Cipher
    from ._link import Link
    from ._names import Names

EXPLORED = 100
"""Nodes of its graph that the server looks at. Measured on 37,000 questions (MiniLM, 384 floats):
with 50 it missed the nearest of 5 in 1,000, from 100 on of none; each doubling takes nearly twice
the time."""
UNUSED_SECONDS = 7 * 86_400
"""How long a set is kept that is not used; longer only for answers that live longer."""
LONGEST = 16_384
"""Bytes of an attribute that is read: ours are smaller."""

# KEYS: the book, a set. ARGV: most, milliseconds that an unused set is kept, then of each question
# its name in the book, milliseconds until its answer goes (0: it stays), and 1 if it is new. Gives
# names of those that must go.
SHELVE = Script("""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local most, kept, longest = tonumber(ARGV[1]), tonumber(ARGV[2]), 0
for i = 3, #ARGV, 3 do
  local life = tonumber(ARGV[i + 1])
  local till = string.format('%.0f', now + (life > 0 and life or 1e13))
  if ARGV[i + 2] == '1' then redis.call('ZADD', KEYS[1], till, ARGV[i])
  else redis.call('ZADD', KEYS[1], 'XX', till, ARGV[i]) end
  longest = math.max(longest, life > 0 and life or kept)
end
for _, key in ipairs(KEYS) do
  local left = redis.call('PTTL', key)
  if left == -1 or left >= 0 and left < longest then
    redis.call('PEXPIRE', key, string.format('%.0f', longest))
  end
end
local over = redis.call('ZCARD', KEYS[1]) - most
local past = redis.call('ZCOUNT', KEYS[1], '-inf', string.format('%.0f', now))
local going = math.min(math.max(over, past), 200)
if going <= 0 then return {} end
local victims = redis.call('ZRANGE', KEYS[1], 0, going - 1)
redis.call('ZREM', KEYS[1], unpack(victims))
return victims
""")


class RedisNeighbours:
    """See `Neighbours`."""

    def __init__(self, link: Link, names: Names, cipher: Cipher | None) -> None:
        self._link = link
        self._names = names
        self._cipher = cipher

    async def nearest(
        self, family: Family, vector: bytes, limit: int, least: float
    ) -> Sequence[Neighbour]:
        """See `Neighbours.nearest`."""
        key = self._set(family)
        how = ("WITHSCORES", "COUNT", limit, "EF", EXPLORED)
        [reply] = await self._commands(("VSIM", key, "FP32", vector, *how))
        near = [(name, cosine) for name, cosine in _scored(reply) if cosine >= least]
        if not near:
            return []
        found, strange = await self._read(family, key, near)
        if strange:
            await self._forget(family.namespace, key, strange)
        return found

    async def _read(
        self, family: Family, key: bytes, near: Sequence[tuple[bytes, float]]
    ) -> tuple[list[Neighbour], list[bytes]]:
        """The questions of these names, and those names that have none of ours."""
        # Redis 8.0 cannot give attributes with the search; few searches come so far.
        asks = [("VGETATTR", key, name) for name, _ in near]
        books = [key, self._names.questions(family.namespace)]
        lasts = [("PEXPIRE", book, UNUSED_SECONDS * 1_000, "GT") for book in books]
        replies = await self._commands(*asks, *lasts)
        found, strange = [], []
        for (name, cosine), said in zip(near, replies, strict=False):
            question = self._question(key, name, said)
            if question is None:
                strange.append(name)
            else:
                found.append(Neighbour(*question, cosine))
        return found, strange

    async def add(self, asked: Sequence[Asked], most: int) -> None:
        """See `Neighbours.add`."""
        for family in dict.fromkeys(one.family for one in asked):
            await self._add(family, [one for one in asked if one.family == family], most)

    async def _add(self, family: Family, asked: Sequence[Asked], most: int) -> None:
        key, book = self._set(family), self._names.questions(family.namespace)
        names = [self._names.question(family.namespace, one.key) for one in asked]
        kept = UNUSED_SECONDS * 1_000
        lives = [0 if a.life is None else max(1, math.ceil(a.life * 1_000)) for a in asked]
        # CAS: the server looks for neighbours beside its other work. The expiry is for the case
        # that we end here.
        new = [
            ("VADD", key, "FP32", one.vector, name, "CAS", "NOQUANT", "SETATTR",
             self._attribute(key, name, one))
            for name, one in zip(names, asked, strict=True) if one.vector
        ]  # fmt: skip
        if new:
            await self._commands(*new, ("PEXPIRE", key, max(life or kept for life in lives), "NX"))
        args: list[Any] = [most, kept]
        for name, one, life in zip(names, asked, lives, strict=True):
            args += [self._names.family(family) + b" " + name, life, 1 if one.vector else 0]
        victims = await self._link.run(Call(SHELVE, [book, key], args))
        if victims:
            places = [victim.partition(b" ") for victim in victims]
            await self._commands(*[("VREM", book + b":" + at, name) for at, _, name in places])

    async def remove(self, family: Family, keys: Sequence[str]) -> None:
        """See `Neighbours.remove`."""
        names = [self._names.question(family.namespace, key) for key in keys]
        await self._forget(family.namespace, self._set(family), names)

    async def _forget(self, namespace: str, key: bytes, names: Sequence[bytes]) -> None:
        book = self._names.questions(namespace)
        place = key.removeprefix(book + b":")
        struck = ("ZREM", book, *[place + b" " + name for name in names])
        await self._commands(*[("VREM", key, name) for name in names], struck)

    async def _commands(self, *commands: Sequence[Any]) -> list[Any]:
        try:
            return await self._link.commands(*commands)
        except RedisError as error:
            if isinstance(error, NoPermissionError) or _is_unknown(str(error)):
                raise Unsupported(str(error).partition(",")[0]) from None
            raise

    # What is kept

    def _set(self, family: Family) -> bytes:
        return self._names.questions(family.namespace) + b":" + self._names.family(family)

    def _attribute(self, key: bytes, name: bytes, asked: Asked) -> bytes:
        """The question, as JSON: the server may insist on that."""
        if self._cipher is None:
            return json.dumps({"q": asked.text}).encode()
        sealed = self._cipher.seal(key + b" " + name, json.dumps([asked.key, asked.text]).encode())
        return json.dumps({"s": base64.b64encode(sealed).decode()}).encode()

    def _question(self, key: bytes, name: bytes, attribute: Any) -> tuple[str, str] | None:
        """Key and text; None for what we have not written."""
        if not isinstance(attribute, (bytes, str)) or len(attribute) > LONGEST:
            return None
        try:
            fields = json.loads(attribute)
            if self._cipher is None:
                question = [name.decode("utf-8", "surrogatepass"), fields["q"]]
            else:
                sealed = base64.b64decode(fields["s"], validate=True)
                question = json.loads(self._cipher.open(key + b" " + name, sealed))
            asked, text = question
        except (ValueError, TypeError, KeyError, RecursionError, BadRecord, binascii.Error):
            return None
        return (asked, text) if isinstance(asked, str) and isinstance(text, str) else None


def _is_unknown(words: str) -> bool:
    """Does the server not know a command, or a cluster's client that it does?"""
    return "unknown command" in words.lower() or "exist in Redis commands" in words


def _scored(reply: Any) -> list[tuple[bytes, float]]:
    """Names and cosines, in either version of the protocol. The server scores from 0 to 1."""
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    return [(name, 2 * float(score) - 1) for name, score in pairs]
