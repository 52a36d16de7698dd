"""A few connections of our own to one server, made as its client makes them.

They spare each command the client's pool and its retries, which cost as much as the command: a
command is written as bytes that are ready, and read. Whatever goes wrong closes the connection.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

_LOST = (OSError, RedisConnectionError, AttributeError)
"""From Python 3.12 on, writing to a transport that was closed meanwhile is an AttributeError."""
AT_ONCE = 8
"""Connections at most; whoever comes later waits."""


class Lines:
    """Sends commands and gives their replies, in order. Belongs to one event loop."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._free: list[Any] = []
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def exchange(self, *commands: Sequence[Any]) -> list[Any]:
        """Replies of the server; an error of one command is its reply, not raised.

        Raises what the connection raised. A connection that was idle may be dead without knowing,
        after a restart of the server; then the commands are sent once more, over a new one.
        """
        packed = b"".join([pack(command) for command in commands])
        async with self._turns:
            line = self._free.pop() if self._free else self._make()
            idle = line.is_connected
            try:
                replies = await _exchange(line, packed, len(commands))
            except _LOST:
                await line.disconnect(nowait=True)
                if not idle:
                    raise
                await self._drop_idle()
                replies = await self._exchange_anew(packed, len(commands))
            except BaseException:
                await line.disconnect(nowait=True)
                raise
            else:
                self._free.append(line)
            return replies

    async def _exchange_anew(self, packed: bytes, count: int) -> list[Any]:
        line = self._make()
        try:
            replies = await _exchange(line, packed, count)
        except BaseException:
            await line.disconnect(nowait=True)
            raise
        self._free.append(line)
        return replies

    async def _drop_idle(self) -> None:
        """What one idle connection has gone through, the others have too."""
        idle, self._free = self._free, []
        for line in idle:
            await line.disconnect(nowait=True)

    async def aclose(self) -> None:
        """Close what is idle."""
        idle, self._free = self._free, []
        for line in idle:
            await line.disconnect()


async def _exchange(line: Any, packed: bytes, count: int) -> list[Any]:
    if not line.is_connected:
        await line.connect()  # a Sentinel-made one finds its server only so
    await line.send_packed_command([packed])
    replies: list[Any] = []
    for _ in range(count):
        try:
            # `inf`: deadlines are the business of whoever asks.
            replies.append(await line.read_response(timeout=math.inf))
        except ResponseError as error:
            replies.append(error)
    return replies


def pack(command: Sequence[Any]) -> bytes:
    """One command on the wire."""
    parts = [b"*%d\r\n" % len(command)]
    for part in command:
        text = part if type(part) is bytes else str(part).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(text), text))
    return b"".join(parts)
