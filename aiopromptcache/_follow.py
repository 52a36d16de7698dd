"""Following a live stream that another process reads from the upstream."""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import aclosing, suppress
from typing import Any, Protocol

from ._entry import Entry, Kind
from ._errors import StreamBroken
from ._passed import End, Record, unpack
from ._streams import Live
from .tiers._base import RelayTier
from .tiers._guard import Guard

logger = logging.getLogger("aiopromptcache")

INTEREST = 2
"""For how many leases a reader counts that has not said anew that it is there."""


class Unsuitable(Exception):
    """A stream lacks something that this caller needs: it goes upstream alone."""


class Form(Protocol):
    """What a kind of streams has besides its items."""

    kind: Kind

    def pack(self, head: Any) -> bytes:
        """What came before the first item, as bytes."""
        ...

    def unpack(self, packed: bytes) -> Any:
        """It again, in another process. Raises `Unsuitable`."""
        ...


class Follower:
    """One flight's way to a stream that another process may be reading.

    It fills the flight's own live stream, and nothing before the first item has come: until then
    the flight may still go another way.
    """

    def __init__(self, tier: RelayTier, guard: Guard, slot: str, live: Live, form: Form) -> None:
        self.stream: str | None = None
        """Which stream it follows, or would."""
        self.end: End | None = None
        self._tier = tier
        self._guard = guard
        self._slot = slot
        self._live = live
        self._form = form
        self._head: bytes | None = None
        self._reader = secrets.token_hex(8)
        self._reading: asyncio.Task[None] | None = None
        self._broken: str | None = None
        self._alone = False
        self._woken = asyncio.Event()

    async def wait(self, woken: asyncio.Event, seconds: float) -> bool:
        """Wait for news, or for the end of what comes. See `Wait`.

        Raises `StreamBroken` where it breaks off after its first item.
        """
        if self.end is not None or self._alone:
            return True
        self._woken = woken
        await self._join()
        if not self._live.borrowed:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await woken.wait()
        if not self._live.borrowed:
            return self._alone
        await self.rest()
        return self.end is None or not self.end.stored  # what is stored has all that belongs to it

    async def rest(self) -> None:
        """Wait for all that comes, where this flight's readers have been given its beginning.

        Its items may come while the flight looks elsewhere: from then on nothing else will do.
        Raises `StreamBroken` where it breaks off.
        """
        if self._live.borrowed and self._reading is not None:
            await self._reading
            if self._broken is not None:
                raise StreamBroken(self._broken)

    async def _join(self) -> None:
        """Follow what is read under the lease as it is now."""
        try:
            stream = None if self._live.borrowed else await self._want()
        except Exception as error:
            logger.debug("no live stream can be followed: %r", error)
            return
        if stream is None or stream == self.stream or self._live.borrowed:
            return
        self.stop()
        self.stream, self._head, self._broken = stream, None, None
        self._reading = asyncio.create_task(self._read(stream), name="aiopromptcache following")

    async def _want(self) -> str | None:
        if self._guard.open:
            return None
        async with asyncio.timeout(self._guard.timeout):
            life = INTEREST * self._tier.lease
            return await self._tier.relay.want(self._slot, self._reader, life)

    async def _read(self, stream: str) -> None:
        """Until its end; what goes wrong is remembered for whoever waits."""
        try:
            await self._follow(stream)
        except Unsuitable:
            self._alone = True
        except Exception as error:
            logger.debug("a live stream is no longer followed: %r", error)
            self._broken = f"the stream of another process broke off: {_words(error)}"
        self._woken.set()

    async def _follow(self, stream: str) -> None:
        relay, lease = self._tier.relay, self._tier.lease
        loop = asyncio.get_running_loop()
        said = heard = loop.time()
        records: Any = relay.follow(self._slot, stream, lease / 2, self._guard.timeout)
        async with aclosing(records):
            async for data in records:
                now = loop.time()
                if data is not None:
                    heard = now
                    await self._take(unpack(data))
                    if self.end is not None:
                        return
                elif self._live.borrowed and now - heard > lease:
                    raise TimeoutError("it is silent, so that process has died or is cut off")
                if now - said > lease / 2:
                    said = now
                    await self._want()

    async def _take(self, record: Record) -> None:
        live, end = self._live, record.end
        if end is not None and end.shut:
            raise Unsuitable
        if record.head is not None and self._head is None:
            self._head = record.head
        if record.position > live.end or (record.items and self._head is None):
            if live.borrowed:
                raise StreamBroken("a part of it is missing")
            raise Unsuitable
        if (record.items or (end is not None and end.whole)) and not live.borrowed:
            self._open()
        for item in record.items[live.end - record.position :]:
            live.append(item)
        if live.size > live.limit:
            await live.room()
        if end is not None and not end.whole:
            raise StreamBroken(end.why)
        if end is not None:
            live.complete, self.end = True, end

    def _open(self) -> None:
        """From here on this flight gives what the other process reads, and nothing else."""
        head = self._form.unpack(self._head or b"")
        self._live.borrowed = True
        self._live.open(head)
        self._woken.set()

    def entry(self, stored_at: float, **fields: Any) -> Entry:
        """What came, where it was not stored."""
        assert self.end is not None
        payload = b"" if self._live.overflowed else b"".join(self._live.items)
        return Entry(
            self._form.kind,
            payload,
            stored_at=stored_at,
            ttl=None,
            head=self._head or None,
            billed=self.end.billed,
            service=self.end.service,
            usage=self.end.usage,
            **fields,
        )

    def stop(self) -> None:
        """Follow nothing any more."""
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    async def unwant(self) -> None:
        """Say that it was left."""
        try:
            async with asyncio.timeout(self._guard.timeout):
                await self._tier.relay.unwant(self._slot, self.stream or "", self._reader)
        except Exception as error:  # then it counts for a while longer
            logger.debug("a stream was left without a word: %r", error)


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
