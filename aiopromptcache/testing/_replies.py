"""What to send for a request, decided without sending it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

from . import _bodies, _sse
from ._request import RecordedRequest
from ._scenario import Failure, Fault, Reset, StreamError, Truncation, error_object
from ._texts import Body, Options

Answer: TypeAlias = Callable[[RecordedRequest], "str | dict[str, Any] | bytes | None"]

_REQUESTS_PER_MINUTE: Final = 10_000


@dataclass(frozen=True, slots=True)
class Whole:
    """An answer sent in one go."""

    payload: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer sent frame by frame.

    Attributes:
        frames: Events in their wire form.
        cut: Whether these are not all the frames there should be.
        close: Whether the connection closes after them, amid the body.
    """

    frames: list[bytes]
    cut: bool = False
    close: bool = False


Reply: TypeAlias = Whole | Stream | Reset


def decide(
    method: str,
    request: RecordedRequest,
    fault: Fault | None,
    answer: Answer | None,
    options: Options,
) -> Reply:
    """The reply to a readable request."""
    if isinstance(fault, Reset):
        return fault
    if isinstance(fault, Failure):
        body = fault.body
        return Whole(
            body if isinstance(body, bytes) else _sse.encode(body), fault.status, fault.headers
        )
    try:
        reply = _answer(method, request, answer, options)
    except Exception as error:  # the caller's function or an odd body: a test must see why
        return error_reply(500, f"no answer could be made: {error!r}")
    return _break(reply, fault, request.endpoint) if fault and isinstance(reply, Stream) else reply


def error_reply(status: int, message: str) -> Whole:
    """An error as OpenAI words it."""
    return Whole(_sse.encode({"error": error_object(status, message)}), status)


def usual_headers(number: int) -> dict[str, str]:
    """The headers that OpenAI sends with everything."""
    return {
        "x-request-id": f"req_{number}",
        "openai-processing-ms": "1",
        "openai-version": "2020-10-01",
        "x-ratelimit-limit-requests": str(_REQUESTS_PER_MINUTE),
        "x-ratelimit-remaining-requests": str(-number % _REQUESTS_PER_MINUTE),
    }


def _answer(
    method: str, request: RecordedRequest, answer: Answer | None, options: Options
) -> Whole | Stream:
    given = answer(request) if answer else None
    if isinstance(given, bytes):
        return _raw(given, request)
    body = given if isinstance(given, dict) else _default(method, request, given, options)
    if body is None:
        return error_reply(404, f"Invalid URL ({method} {request.path})")
    if request.stream:
        return Stream(_sse.frames(request.endpoint, body, request.body))
    return Whole(_sse.encode(body))


def _default(
    method: str, request: RecordedRequest, text: str | None, options: Options
) -> Body | None:
    if method == "GET":
        return _bodies.models() if request.endpoint == "models" else None
    return _bodies.build(request, replace(options, text=text)) if method == "POST" else None


def _raw(given: bytes, request: RecordedRequest) -> Whole | Stream:
    if request.stream and given.startswith((b"data:", b"event:", b":")):
        return Stream(_sse.split_frames(given))
    return Whole(given)


def _break(stream: Stream, fault: Fault, endpoint: str) -> Stream:
    """`stream` with a fault of streams in it, at the latest in place of its last frame."""
    whole = len(stream.frames) - 1
    match fault:
        case Truncation(after, clean):
            return Stream(stream.frames[: min(after, whole)], cut=True, close=not clean)
        case StreamError(after, error):
            kept = stream.frames[: min(after, whole)]
            return Stream([*kept, _sse.error_frame(endpoint, error, len(kept))])
        case _:
            return stream
