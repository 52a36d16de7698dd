"""Streamed calls: what each consumer reads, and what is kept when the upstream has said all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, get_origin

from openai import AsyncStream

from .._engine import COMING, Answer, Loaded
from .._entry import Entry, Kind
from .._status import CacheStatus, LiveStatus
from .._streams import Live, Reader
from ._binding import Binding, Call
from ._forms import cut, cuts_of
from ._live import Blocks, Head, Reply, read_upstream
from ._playback import Source, Tape
from ._record import add_cache_status, played, with_stream
from ._sse import accumulate


class Played(NamedTuple):
    """What one consumer's stream is made of."""

    source: Source
    ways: bytearray
    status: Any
    make_response: Callable[[Source], Any]


def play(binding: Binding, call: Call, answer: Answer, request: Callable[[], Any]) -> Played:
    """A stored answer, or one that is still coming, for one consumer; `request` makes its own."""
    if answer.entry is COMING:
        return _play_live(call, answer.extra, answer.status, request)
    entry = binding.form(call, answer.entry)
    assert entry is not None  # it was accepted
    cuts = cuts_of(entry)
    source = Tape(entry.payload, cuts.ends)

    def make(source: Source) -> Any:
        return _response(entry, request(), source, answer.status)

    return Played(source, cuts.ways, answer.status, make)


def _play_live(
    call: Call, reader: Reader, status: LiveStatus, request: Callable[[], Any]
) -> Played:
    head: Head = reader.head
    hide = head.usage and not call.usage and call.endpoint.usage_on_demand
    if hide:
        reader.view = head.hide

    def make(source: Source) -> Any:
        if not reader.leader or head.reply is None:
            entry = Entry(Kind.SSE, b"", stored_at=0.0, ttl=None, head=head.packed)
            return _response(entry, request(), source, status.arguments)
        reply = head.reply.response
        response = with_stream(reply, Blocks(source, reply.request), source.aclose)
        add_cache_status(response, str(CacheStatus(*status.arguments)))
        return response

    return Played(reader, head.ways_hidden if hide else head.ways, status, make)


def _response(entry: Entry, request: Any, source: Source, status: Any) -> Any:
    text = str(CacheStatus(*status))
    return played(entry, request, Blocks(source, request), source.aclose, text)


def plays_as(binding: Binding, call: Call, cast_to: Any, stream_cls: Any) -> bool:
    """Is what the caller asked for the SDK's own stream of the endpoint's own events?"""
    return (
        binding.plays
        and cast_to is call.endpoint.model
        and get_origin(stream_cls) is AsyncStream
        and stream_cls.__args__ == (call.endpoint.event,)
    )


async def keep(
    binding: Binding, call: Call, live: Live, reply: Reply, *, usage: bool, began: float
) -> Loaded:
    """Read the upstream into a live stream; what came is stored only after a proper end."""
    head = Head(reply, usage=usage)
    live.open(head)
    await read_upstream(live, reply.response, call.endpoint)
    body = b"" if live.overflowed else b"".join(live.items)
    parsed = accumulate(call.endpoint, body)
    entry = binding.entry(call, Kind.SSE, reply.response, body, parsed, usage=usage)
    if not live.overflowed:
        entry.forms = {"cuts": cut(live.items, head.ways)}
    storable = binding.storable(call, reply.response, parsed)
    return Loaded(entry, storable and not _poorer(binding, call, entry, began))


def _poorer(binding: Binding, call: Call, entry: Entry, began: float) -> bool:
    """Was a plain answer, which serves everyone, stored while this stream, which does not, came?"""
    if call.policy.no_cache or entry.usage is not None:
        return False
    other = binding.engine.peek(call.slot, call.policy)
    return other is not None and other.kind is Kind.HTTP and other.stored_at >= began
