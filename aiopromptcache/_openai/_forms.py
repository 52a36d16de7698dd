"""One stored answer in the form that a caller asked for: made once, kept with its entry.

A form is an `Entry` again, of the same age and life, so whatever answers from an entry answers from
a form too. `None` says that this answer would lack something in that form.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable

from .._entry import Entry, Kind
from ._convert import plain_of, stream_of
from ._endpoints import Endpoint
from ._record import has_usage, head_as, is_json
from ._sse import hide_usage, split

_JSON = b"application/json"
_EVENTS = b"text/event-stream; charset=utf-8"


def as_plain(entry: Entry, endpoint: Endpoint) -> Entry | None:
    """The answer as a call without `stream` gets it."""
    if entry.kind is Kind.HTTP:
        return entry
    if entry.kind is not Kind.SSE:
        return None
    return _form(entry, "plain", lambda: _to_plain(entry, endpoint))


def as_stream(entry: Entry, endpoint: Endpoint, *, usage: bool) -> Entry | None:
    """The answer as a call with `stream=True` gets it; `usage`: with include_usage."""
    if entry.kind is Kind.SSE:
        if usage == has_usage(entry) or endpoint.name == "responses":
            return entry
        return None if usage else _form(entry, "hidden", lambda: _hidden(entry))
    if entry.kind is not Kind.HTTP:
        return None
    name = "stream with usage" if usage else "stream"
    return _form(entry, name, lambda: _to_stream(entry, endpoint, usage))


def _form(entry: Entry, name: str, make: Callable[[], Entry | None]) -> Entry | None:
    if entry.forms is None:
        entry.forms = {}
    if name not in entry.forms:
        entry.forms[name] = make()
    form: Entry | None = entry.forms[name]
    return form


def _to_plain(entry: Entry, endpoint: Endpoint) -> Entry | None:
    body = plain_of(endpoint, entry.payload)
    return None if body is None else _like(entry, Kind.HTTP, body, _JSON, usage=False)


def _to_stream(entry: Entry, endpoint: Endpoint, usage: bool) -> Entry | None:
    body = stream_of(endpoint, entry.payload, usage=usage) if is_json(entry) else None
    return None if body is None else _like(entry, Kind.SSE, body, _EVENTS, usage=usage)


def _hidden(entry: Entry) -> Entry:
    body = b"".join(map(hide_usage, split(entry.payload)))
    return _like(entry, Kind.SSE, body, _EVENTS, usage=False)


def _like(entry: Entry, kind: Kind, payload: bytes, content_type: bytes, *, usage: bool) -> Entry:
    return Entry(
        kind,
        payload,
        stored_at=entry.stored_at,
        ttl=entry.ttl,
        stale_while_revalidate=entry.stale_while_revalidate,
        stale_if_error=entry.stale_if_error,
        cost=entry.cost,
        tags=entry.tags,
        head=head_as(entry, content_type, usage=usage),
        endpoint=entry.endpoint,
        model=entry.model,
        billed=entry.billed,
        service=entry.service,
        usage=entry.usage,
    )


class Cuts:
    """Where the events of a recorded stream end, and how each is rebuilt (see `_playback`)."""

    __slots__ = ("ends", "ways")

    def __init__(self, ends: array[int], ways: bytearray) -> None:
        self.ends = ends
        self.ways = ways

    @property
    def size(self) -> int:
        """Bytes that this takes."""
        return len(self.ends) * (self.ends.itemsize + 1)


def cuts_of(entry: Entry) -> Cuts:
    """The cuts of a stream's entry."""
    if entry.forms is None:
        entry.forms = {}
    cuts: Cuts | None = entry.forms.get("cuts")
    if cuts is None:
        cuts = entry.forms["cuts"] = cut(split(entry.payload), bytearray())
    return cuts


def cut(blocks: list[bytes], ways: bytearray) -> Cuts:
    """The cuts of a stream that came as these blocks."""
    ends, place = array("Q"), 0
    for block in blocks:
        place += len(block)
        ends.append(place)
    return Cuts(ends, ways)
