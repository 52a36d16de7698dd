"""What the local server is told to do instead of answering: fail, break off, wait."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

BEFORE_ANSWER: Final = (
    -1
)  # the gate that stands before the first byte; gate k stands before frame k

_TYPES: Final[Mapping[int, tuple[str, str | None]]] = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", None),
    429: ("requests", "rate_limit_exceeded"),
}


@dataclass(frozen=True, slots=True)
class Failure:
    """Answer with an error status."""

    status: int
    body: dict[str, Any] | bytes
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Reset:
    """Reset the connection."""


@dataclass(frozen=True, slots=True)
class Truncation:
    """Stop a stream after some frames."""

    after: int
    clean: bool


@dataclass(frozen=True, slots=True)
class StreamError:
    """Send an error object after some frames of a stream, and stop."""

    after: int
    error: dict[str, Any]


Fault: TypeAlias = Failure | Reset | Truncation | StreamError


def error_object(status: int, message: str, code: str | None = None) -> dict[str, Any]:
    """OpenAI's error object, without the `{"error": ...}` around it."""
    kind, usual = _TYPES.get(
        status, ("server_error" if status >= 500 else "invalid_request_error", None)
    )
    return {"message": message, "type": kind, "param": None, "code": code or usual}


class Faults:
    """Faults in the order they were asked for, each for so many requests."""

    def __init__(self) -> None:
        self._queue: deque[tuple[Fault, int]] = deque()

    def add(self, fault: Fault, times: int) -> None:
        if times < 1:
            raise ValueError(f"times must be at least 1, not {times!r}")
        self._queue.append((fault, times))

    def take(self, *, stream: bool) -> Fault | None:
        """The next fault that a request of this kind can suffer."""
        for index, (fault, left) in enumerate(self._queue):
            if stream or isinstance(fault, Failure | Reset):
                if left > 1:
                    self._queue[index] = (fault, left - 1)
                else:
                    del self._queue[index]
                return fault
        return None

    def clear(self) -> None:
        self._queue.clear()


class Gate:
    """Places where answers wait until they are released."""

    def __init__(self) -> None:
        self._closed: set[int] = set()
        self._released = asyncio.Event()

    def close(self, place: int) -> None:
        self._closed.add(place)

    def open(self) -> None:
        """Let all who wait pass, even if a gate is closed again at once."""
        self._closed.clear()
        self._released.set()
        self._released = asyncio.Event()

    async def wait(self, place: int) -> None:
        if place in self._closed:
            await self._released.wait()
