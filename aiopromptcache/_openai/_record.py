"""HTTP answers as entries, and back: what is kept of a response, and how it is played again."""

from __future__ import annotations

import sys
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


def pack_head(response: Any) -> bytes:
    """Status and headers of a response, without what belongs to its transfer."""
    headers = [
        [name, value]
        for name, value in response.headers.multi_items()
        if name.lower() not in _DROPPED and not name.lower().startswith("x-ratelimit-")
    ]
    return compact(orjson.dumps([response.status_code, headers]))


def unpack_head(entry: Entry) -> tuple[int, list[tuple[str, str]]]:
    """What `pack_head` kept. Raises `ValueError` or `TypeError` for anything else."""
    status, headers = orjson.loads(entry.head or b"[200,[]]")
    if type(status) is not int or not all(type(n) is str is type(v) for n, v in headers):
        raise ValueError("not the head of a response")
    return status, [(name, value) for name, value in headers]


def request_id(entry: Entry) -> str | None:
    """The upstream's id of the request that made the answer."""
    _, headers = unpack_head(entry)
    return next((value for name, value in headers if name.lower() == "x-request-id"), None)


def is_json(entry: Entry) -> bool:
    """True where the SDK reads the body as JSON because its content type says so."""
    try:
        _, headers = unpack_head(entry)
    except (TypeError, ValueError):
        return False
    return says_json(next((value for name, value in headers if name.lower() == _TYPE), None))


_TYPE = "content-type"


def says_json(content_type: str | None) -> bool:
    """As the SDK judges it."""
    return content_type is not None and content_type.split(";")[0].endswith("json")


def replay(entry: Entry, request: Any, *, unread: bool, status: str | None) -> Any:
    """A response of the client's own HTTP library, as if the upstream had just given it.

    `unread` leaves the body to be read by the caller; `status` becomes its Cache-Status header.
    """
    http = library_of(request)
    code, headers = unpack_head(entry)
    body: dict[str, Any] = {"content": entry.payload}
    if unread:
        body = {"stream": _stream_class(http)(_once(entry.payload), _nothing)}
    response = http.Response(code, headers=headers, request=request, **body)
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
            copy.elapsed = response.elapsed

    copy = http.Response(
        response.status_code,
        headers=response.headers.multi_items(),
        request=response.request,
        extensions=response.extensions,
        history=response.history,
        stream=_stream_class(http)(chunks, close),
    )
    copy._decoder = http._decoders.IdentityDecoder()  # the chunks are decoded already
    return copy


def add_cache_status(response: Any, status: str) -> None:
    """Append to the response's Cache-Status, as RFC 9211 says."""
    earlier = response.headers.get("cache-status")
    response.headers["cache-status"] = f"{earlier}, {status}" if earlier else status


def library_of(message: Any) -> ModuleType:
    """The HTTP library (httpx2, or httpx) of a request or response."""
    return sys.modules[type(message).__module__.partition(".")[0]]


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


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
