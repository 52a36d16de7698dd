"""The SDK's stream over events at hand: each is rebuilt the fastest way that gives the same object.

The first consumer that comes to an event builds it as the SDK does, and once more with the
validator of the object's class. Where both are the very same (values, types, fields set, order),
later consumers take the validator, which costs a twentieth. From the first event on that is not
quite ordinary (an error, broken JSON, several lines of data), and for whatever the source raises,
the SDK's own iterator reads the rest.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

from openai import APIConnectionError, APITimeoutError, AsyncStream
from openai._models import construct_type
from pydantic import BaseModel

from .._errors import StreamBroken
from .._flights import OutOfPatience
from ._rebuild import same
from ._sse import DONE, read_event


class Source(Protocol):
    """Events by position, each a block of bytes: a `Reader`, or a `Tape`."""

    closed: bool

    @property
    def position(self) -> int: ...
    def take(self) -> bytes | None: ...
    def back(self) -> None: ...
    async def next(self) -> bytes: ...
    async def aclose(self) -> None: ...


class Tape:
    """A recorded stream, read once by one consumer."""

    __slots__ = ("_ends", "_payload", "_start", "closed", "position")

    def __init__(self, payload: bytes, ends: Any) -> None:
        self._payload = payload
        self._ends = ends
        self.position = 0
        self.closed = False

    def take(self) -> bytes | None:
        """The next event; None after the last."""
        place, ends = self.position, self._ends
        if place >= len(ends) or self.closed:
            return None
        self.position = place + 1
        return self._payload[ends[place - 1] if place else 0 : ends[place]]

    def back(self) -> None:
        """Let the event that was taken just now be the next again."""
        self.position -= 1

    async def next(self) -> bytes:
        """The next event. Raises `StopAsyncIteration`, or `StreamBroken` once it is closed."""
        item = self.take()
        if item is not None:
            return item
        if self.closed:
            raise StreamBroken("the stream was closed")
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Give nothing any more."""
        self.closed = True


UNKNOWN, CONSTRUCT, SKIP, END, ODD = range(5)
_FIRST_KIND = 8

_kinds: dict[type, int] = {}
_validators: list[Any] = [None] * _FIRST_KIND
"""By the way that stands for a class of events: what validates it."""


def _way_of(kind: type[BaseModel]) -> int:
    way = _kinds.get(kind)
    if way is None:
        if len(_validators) > 255:
            return CONSTRUCT
        way = _kinds[kind] = len(_validators)
        kind.model_rebuild()  # the SDK defers building its validators
        _validators.append(kind.__pydantic_validator__)
    return way


def _data_start(block: bytes) -> int:
    return 5 if block.startswith(b"data:") else block.index(b"\ndata:") + 6


class Playback(AsyncStream[Any]):
    """An `AsyncStream` whose events are at hand, and whose `response` is made if it is looked at.

    `ways` is shared by all that read the same events; None where they are built as the SDK does.
    """

    def __init__(
        self,
        source: Source,
        ways: bytearray | None,
        cast_to: Any,
        client: Any,
        make_response: Callable[[Source], Any],
        options: Any = None,
    ) -> None:
        # Not the SDK's own __init__: it wants the response, and begins to iterate.
        self._source = source
        self._ways = ways
        self._cast_to = cast_to
        self._client = client
        self._options = options
        self._make_response = make_response
        self._response: Any = None
        self._rest: AsyncIterator[Any] | None = None
        self._over = False
        if ways is None:
            self._go_on_as_the_sdk_does()

    @property
    def response(self) -> Any:  # type: ignore[override]  # an attribute there
        """The HTTP response, its body what is still unread here."""
        if self._response is None:
            self._response = self._make_response(self._source)
            if self._over or self._source.closed:
                self._response.is_closed = True
        return self._response

    @property
    def _iterator(self) -> Any:  # type: ignore[override]
        return self

    def __aiter__(self) -> Any:  # the SDK's is a generator over what `__anext__` gives
        return self

    async def __anext__(self) -> Any:
        if self._rest is not None:
            return await self._rest.__anext__()
        if self._over:
            raise StopAsyncIteration
        source, ways = self._source, self._ways
        assert ways is not None
        try:
            while True:
                place = source.position
                block = source.take()
                if block is None:
                    block = await source.next()
                way = ways[place] if place < len(ways) else UNKNOWN
                if way >= _FIRST_KIND:
                    return _validators[way].validate_json(block[_data_start(block) :])
                way, built = self._build(block, place, way)
                if way == END:
                    await self._finish()
                elif way == ODD:
                    source.back()
                    break
                elif way != SKIP:
                    return built
        except StopAsyncIteration:
            await self._end()
            raise
        except StreamBroken as broken:
            if source.closed and source.position:
                self._over = True
                raise APIConnectionError(request=self.response.request) from broken
            if not source.closed:
                await self._end()
                raise APIConnectionError(
                    message=f"Connection error: {broken}", request=self.response.request
                ) from broken
        except OutOfPatience as error:
            await self._end()
            raise APITimeoutError(request=self.response.request) from error
        except asyncio.CancelledError:  # closes the SDK's stream, too
            await self._end()
            raise
        except Exception:  # it comes again, where the SDK makes an error of its own of it
            pass
        return await self._go_on_as_the_sdk_does().__anext__()

    def _go_on_as_the_sdk_does(self) -> AsyncIterator[Any]:
        self._decoder = self._client._make_sse_decoder()
        self._rest = self.__stream__()
        return self._rest

    def _build(self, block: bytes, place: int, way: int) -> tuple[int, Any]:
        if way in (SKIP, END, ODD):
            return way, None
        learnt, built = self._construct(block, learn=way == UNKNOWN)
        if way == UNKNOWN and self._ways is not None:
            if place >= len(self._ways):
                self._ways.extend(bytes(place + 1 - len(self._ways)))
            self._ways[place] = learnt
        return min(learnt, _FIRST_KIND), built

    def _construct(self, block: bytes, *, learn: bool) -> tuple[int, Any]:
        """How an event is rebuilt, and the object, made as the SDK does."""
        if not block.strip():
            return SKIP, None
        event = read_event(block)
        if event is None or event.name.startswith(b"thread."):
            return ODD, None
        if event.data is None:
            return SKIP, None
        if event.data.startswith(DONE):
            return END, None
        try:
            value = json.loads(event.data.decode())
        except ValueError:
            return ODD, None
        if not isinstance(value, dict) or value.get("error"):
            return ODD, None
        built = construct_type(type_=self._cast_to, value=value)
        return (_learn(block, event.data, built) if learn else CONSTRUCT), built

    async def _finish(self) -> None:
        """All was said; what comes after it is for those who read bytes."""
        try:
            while True:
                await self._source.next()
        except Exception:
            raise StopAsyncIteration from None

    async def _end(self) -> None:
        self._over = True
        await self.close()

    async def close(self) -> None:
        """Let go of the stream. Nobody else who reads the same events notices."""
        await self._source.aclose()
        if self._response is not None:
            await self._response.aclose()


def _learn(block: bytes, data: bytes, built: Any) -> int:
    """The fastest way that makes the same object of an event."""
    if not isinstance(built, BaseModel) or block[_data_start(block) :].strip() != data.strip():
        return CONSTRUCT
    way = _way_of(type(built))
    try:
        fast = way != CONSTRUCT and same(_validators[way].validate_json(data), built)
    except ValueError:
        return CONSTRUCT
    return way if fast else CONSTRUCT
