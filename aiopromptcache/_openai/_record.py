"""HTTP answers as entries, and back: what is kept of a response, and how it is played again."""

from __future__ import annotations

import sys
import weakref
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from functools import lru_cache
from types import ModuleType
from typing import Any

import orjson

from .._entry import Entry
from .._values import compact

# Headers that describe one transfer or one account's state at its time, not the answer.
_DROPPED = frozenset(
    {
        "alt-svc",
        "connection",
        "content-encoding",
        "content-length",
        "keep-alive",
        "set-cookie",
        "strict-transport-security",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


_PIECE = 2**16
"""Bytes that one who reads a body as it comes gets at a time, as from a connection."""


def pack_head(response: Any, *, usage: bool = False) -> bytes:
    """Status and headers of a response, without what belongs to its transfer.

    `usage`: the upstream was asked to put the usage into this stream.
    """
    headers = [
        [name, value]
        for name, value in response.headers.multi_items()  # names in lower case
        if name not in _DROPPED and not name.startswith("x-ratelimit-")
    ]
    head = [response.status_code, headers, *([{"usage": True}] if usage else [])]
    return compact(orjson.dumps(head))


def unpack_head(entry: Entry) -> tuple[int, list[tuple[str, str]]]:
    """The status and headers that `pack_head` kept.

    Raises `ValueError` or `TypeError` for anything else.
    """
    status, headers, *_ = orjson.loads(entry.head or b"[200,[]]")
    if type(status) is not int or not all(type(n) is str is type(v) for n, v in headers):
        raise ValueError("not the head of a response")
    return status, [(name, value) for name, value in headers]


def has_usage(entry: Entry) -> bool:
    """Was the upstream asked to put the usage into this stream?"""
    return entry.head is not None and entry.head.endswith(b',{"usage":true}]')


def head_as(entry: Entry, content_type: bytes, *, usage: bool) -> bytes:
    """The head of an answer in its other form."""
    status, headers, *_ = orjson.loads(entry.head or b"[200,[]]")
    rest = [[name, value] for name, value in headers if name.lower() != "content-type"]
    kind = ["content-type", content_type.decode()]
    return orjson.dumps([status, [kind, *rest], *([{"usage": True}] if usage else [])])


def request_id(entry: Entry) -> str | None:
    """The upstream's id of the request that made the answer."""
    _, headers = unpack_head(entry)
    return next((value for name, value in headers if name.lower() == "x-request-id"), None)


def is_head(entry: Entry) -> bool:
    """Is the head of an entry that of a response?"""
    try:
        unpack_head(entry)
    except (TypeError, ValueError):
        return False
    return True


def is_json(entry: Entry) -> bool:
    """True where the SDK reads the body as JSON because its content type says so."""
    try:
        _, headers = unpack_head(entry)
    except (TypeError, ValueError):
        return False
    return says_json(next((value for name, value in headers if name.lower() == _TYPE), None))


_TYPE = "content-type"


_MARKED = bytes(
    ord("1" if byte in b"0123456789" else "." if byte in b"." else " ") for byte in range(256)
)
_LONG_INTEGER = b" " + b"1" * 19


def has_long_integer(body: bytes) -> bool:
    """May JSON hold an integer past 64 bits? Our JSON reader makes a float of it, the SDK's does
    not. Digits after a point do not count. (A regular expression takes six times as long.)
    """
    return _LONG_INTEGER in body.translate(_MARKED)


def says_json(content_type: str | None) -> bool:
    """As the SDK judges it."""
    return content_type is not None and content_type.split(";")[0].endswith("json")


def replay(entry: Entry, request: Any, *, unread: bool, status: str | None) -> Any:
    """A response of the client's own HTTP library, as if the upstream had just given it.

    `unread` leaves the body to be read by the caller; `status` becomes its Cache-Status header.
    """
    if unread:
        return played(entry, request, _once(entry.payload), _nothing, status)
    code, headers = unpack_head(entry)
    http = library_of(request)
    response = http.Response(code, headers=headers, request=request, content=entry.payload)
    return _ready(response, status)


def played(
    entry: Entry, request: Any, chunks: AsyncIterator[bytes], aclose: Any, status: str | None
) -> Any:
    """The same, its body given by `chunks`; closing it calls `aclose`."""
    code, headers = unpack_head(entry)
    http = library_of(request)
    stream = _stream_class(http)(chunks, aclose)
    return _ready(http.Response(code, headers=headers, request=request, stream=stream), status)


def _ready(response: Any, status: str | None) -> Any:
    response.elapsed = timedelta(0)
    if status is not None:
        add_cache_status(response, status)
    return response


def reopened(response: Any, body: bytes) -> Any:
    """The same response with its body unread again."""
    return with_stream(response, _once(body), _nothing)


def with_stream(response: Any, chunks: AsyncIterator[bytes], aclose: Any) -> Any:
    """The same response, its (decoded) body given by `chunks`; closing it calls `aclose`."""
    http = library_of(response)

    async def close() -> None:
        await aclose()
        with suppress(RuntimeError):  # it was never read to its end, nor closed
            if (whole := held()) is not None:
                whole.elapsed = response.elapsed

    copy = http.Response(
        response.status_code,
        headers=response.headers.multi_items(),
        request=response.request,
        extensions=response.extensions,
        history=response.history,
        stream=_stream_class(http)(chunks, close),
    )
    copy._decoder = http._decoders.IdentityDecoder()  # the chunks are decoded already
    held = weakref.ref(copy)  # no circle: a stream that is dropped ends at once
    return copy


def add_cache_status(response: Any, status: str) -> None:
    """Append to the response's Cache-Status, as RFC 9211 says."""
    earlier = response.headers.get("cache-status")
    response.headers["cache-status"] = f"{earlier}, {status}" if earlier else status


def library_of(message: Any) -> ModuleType:
    """The HTTP library (httpx2, or httpx) of a request or response."""
    return sys.modules[type(message).__module__.partition(".")[0]]


async def _once(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), _PIECE):
        yield body[start : start + _PIECE]


async def _nothing() -> None:
    return None


@lru_cache
def _stream_class(http: ModuleType) -> Any:
    class Stream(http.AsyncByteStream):  # type: ignore[misc, name-defined]  # either library's
        """Gives chunks once; iterating again goes on where it stopped."""

        def __init__(self, chunks: AsyncIterator[bytes], aclose: Any) -> None:
            self._chunks = chunks
            self._aclose = aclose

        def __aiter__(self) -> AsyncIterator[bytes]:
            return self

        async def __anext__(self) -> bytes:
            return await self._chunks.__anext__()

        async def aclose(self) -> None:
            await self._aclose()

    return Stream
