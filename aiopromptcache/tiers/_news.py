"""Listening to a namespace's log on the server: who changed what."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from ._base import News
from ._lines import pack
from ._lua import HELLO, LOG_LIFE
from ._names import Names
from ._wire import BadRecord

BEAT_SECONDS = 2.0
"""How long the server may be silent before it is asked whether the log is still there."""
BUSY_SECONDS = 3_600.0
"""How often it is asked where the news never stop: it must not run out."""
BATCH = 1_000

_KINDS: dict[bytes, Any] = {
    b"s": "stored",
    b"d": "dropped",
    b"r": "released",
    b"n": "unstorable",
    b"w": "wanted",
    b"u": "unwanted",
    b"t": "tag",
    b"c": "clear",
}


async def listen(
    connection: Any,
    log: bytes,
    names: Names,
    writer: str,
    since: str,
    timeout: float,
    told: Callable[[News], Awaitable[None]],
    timed: Callable[[int, int], None],
) -> None:
    """Read the log until the connection is lost, or stays silent for too long.

    `timed` is told the server's clock, in seconds and microseconds, as soon as it is there.
    """
    try:
        async with asyncio.timeout(2 * timeout):
            await connection.connect()
            start, lost, *time = await _ask(connection, "EVAL", HELLO.text, 1, log, writer, since)
        timed(int(time[0]), int(time[1]))
        position = start.decode()
        await told(News("listening", position, lost=bool(lost)))
        loop = asyncio.get_running_loop()
        asked = loop.time()
        while True:
            wait = int(BEAT_SECONDS * 1_000)
            command = ("XREAD", "COUNT", BATCH, "BLOCK", wait, "STREAMS", log, position)
            async with asyncio.timeout(BEAT_SECONDS + timeout):
                reply = await _ask(connection, *command)
            if not reply or loop.time() > asked + BUSY_SECONDS:
                await _beat(connection, log, timeout)
                asked = loop.time()
            for item, fields in _items(reply):
                position = item.decode()
                if fields[1] == b"h":
                    raise ConnectionError("the log was lost, and made anew")
                if (news := _news(position, fields, names, writer)) is not None:
                    await told(news)
    finally:
        await connection.disconnect(nowait=True)


async def _beat(connection: Any, log: bytes, timeout: float) -> None:
    """Keep a log alive that nobody writes to. Raises `ConnectionError` where it is gone."""
    async with asyncio.timeout(timeout):
        if not await _ask(connection, "PEXPIRE", log, LOG_LIFE):
            raise ConnectionError("the log is gone: the server was emptied, or was out of room")


async def _ask(connection: Any, *command: Any) -> Any:
    await connection.send_packed_command([pack(command)])
    return await connection.read_response(timeout=math.inf)


def _items(reply: Any) -> Iterator[tuple[bytes, list[bytes]]]:
    """Entries of one stream, in either version of the protocol."""
    if not reply:
        return
    [entries] = reply.values() if isinstance(reply, dict) else [entries for _, entries in reply]
    yield from entries


def _news(position: str, fields: list[bytes], names: Names, writer: str) -> News | None:
    _, kind, _, _, _, sealed, _, who = fields
    if kind not in _KINDS:
        return None
    own = who.decode() == writer
    try:
        return News(_KINDS[kind], position, names.unsealed(sealed), own)
    except BadRecord:
        if kind in (b"w", b"u"):  # who has another secret cannot follow us
            return None
        # Said with a secret that we do not have: it may be about anything.
        return News("clear", position, own=own) if sealed else News(_KINDS[kind], position, own=own)
