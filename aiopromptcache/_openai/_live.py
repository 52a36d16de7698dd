"""An upstream's event stream as a live stream: read by one task, given to everyone who asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from typing import Any, NamedTuple

from openai import APIStatusError
from openai._models import FinalRequestOptions

from .._entry import Entry, Kind
from .._errors import StreamBroken
from .._flights import OutOfPatience
from .._follow import Unsuitable
from .._streams import Live
from ._endpoints import Endpoint
from ._playback import Source
from ._record import has_usage, is_head, library_of, pack_head
from ._sse import Splitter, hide_usage, is_last

_DRAIN_SECONDS = 0.1
"""How long a body may go on after the answer in it has ended; the SDK waits as long."""


class Reply(NamedTuple):
    """What the SDK had in hand when the upstream had answered."""

    response: Any
    options: FinalRequestOptions
    retries_taken: int


class Head:
    """What is known of a live stream before its first event."""

    __slots__ = ("_hidden", "_last", "_packed", "reply", "usage", "ways", "ways_hidden")

    def __init__(self, reply: Reply | None, *, usage: bool, packed: bytes | None = None) -> None:
        self.reply = reply
        """None where another process has it."""
        self._packed = packed
        self.usage = usage
        """Was the upstream asked to put the usage into it?"""
        self.ways = bytearray()
        """How its events are rebuilt, as far as any consumer has come (see `_playback`)."""
        self.ways_hidden = bytearray()
        """The same for those who did not ask for usage."""
        self._last = -1
        self._hidden = b""

    @property
    def packed(self) -> bytes:
        """The upstream's status and headers, as they are kept."""
        if self._packed is None:
            assert self.reply is not None
            self._packed = pack_head(self.reply.response, usage=self.usage)
        return self._packed

    def hide(self, place: int, block: bytes) -> bytes:
        """One event, for a consumer who did not ask for usage. Most ask for the same one."""
        if place != self._last:
            self._last, self._hidden = place, hide_usage(block)
        return self._hidden


class EventForm:
    """How an event stream is passed on to other processes; `usage`: is it to say its usage?"""

    kind = Kind.SSE

    def __init__(self, *, usage: bool) -> None:
        self._usage = usage

    def pack(self, head: Head) -> bytes:
        """See `Form.pack`."""
        return head.packed

    def unpack(self, packed: bytes) -> Head:
        """See `Form.unpack`."""
        entry = Entry(Kind.SSE, b"", stored_at=0.0, ttl=None, head=packed)
        usage = has_usage(entry)
        if not packed or not is_head(entry) or (self._usage and not usage):
            raise Unsuitable
        return Head(None, usage=usage, packed=packed)


async def read_upstream(live: Live, response: Any, endpoint: Endpoint) -> None:
    """Fill a live stream with a response's events, as fast as they come; closes the response.

    `Live.complete` is set with the event that ends the answer. Raises what reading raises.
    """
    await asyncio.sleep(0)  # those who waited for the stream get it before its first event
    splitter = Splitter()
    try:
        async with aclosing(response.aiter_bytes()) as source:
            await _read(live, splitter, source, endpoint)
            if live.complete:
                await _drain(live, splitter, source, endpoint)
    except Exception:
        _flush(live, splitter)
        raise
    finally:
        await response.aclose()
    _flush(live, splitter)


async def _read(
    live: Live, splitter: Splitter, source: AsyncIterator[bytes], endpoint: Endpoint
) -> None:
    async for data in source:
        for block in splitter.feed(data):
            live.complete = live.complete or is_last(endpoint, block)
            live.append(block)
        if live.size > live.limit:
            await live.room()
        if live.complete:
            return


async def _drain(
    live: Live, splitter: Splitter, source: AsyncIterator[bytes], endpoint: Endpoint
) -> None:
    """What follows the end: mostly nothing but the end of the body."""
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                async for data in source:
                    for block in splitter.feed(data):
                        live.append(block)
    except Exception:
        if endpoint.name == "responses":  # there the SDK reads on, and tells
            raise


def _flush(live: Live, splitter: Splitter) -> None:
    if rest := splitter.flush():
        live.append(rest)


class Blocks:
    """A source of events as the body of an HTTP response."""

    def __init__(self, source: Source, request: Any) -> None:
        self._source = source
        self._request = request

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        http = library_of(self._request)
        try:
            while not (block := await self._source.next()):
                pass
        except StreamBroken as broken:  # for the SDK, a connection that was lost
            raise http.ReadError(str(broken), request=self._request) from broken
        except OutOfPatience as error:
            await self._source.aclose()
            raise http.ReadTimeout("", request=self._request) from error
        return block


def refuses_stream_options(error: APIStatusError) -> bool:
    """Does this answer say that the server knows no `stream_options`?"""
    return error.status_code in (400, 422) and "stream_options" in error.response.text
