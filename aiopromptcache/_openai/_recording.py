"""Event streams: recorded while their caller reads them, kept only after a clean end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson

from ._endpoints import Body, Endpoint

MAX_RECORDED = 16 * 2**20
"""Bytes of a stream past which it is still delivered, but not kept."""


class Recorder:
    """Passes a response's bytes on and keeps them; tells the whole body after a clean end.

    The caller reads at its own speed and may leave at any time: nothing is kept then.
    """

    def __init__(
        self, response: Any, on_end: Callable[[bytes], Any], on_close: Callable[[], None]
    ) -> None:
        self._response = response
        self._source: AsyncIterator[bytes] = response.aiter_bytes()
        self._chunks: list[bytes] = []
        self._size = 0
        self._ended = False
        self._on_end = on_end
        self._on_close = on_close

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await self._source.__anext__()
        except StopAsyncIteration:
            await self._end()
            raise
        self._size += len(chunk)
        if self._size <= MAX_RECORDED:
            self._chunks.append(chunk)
        else:
            self._chunks.clear()
        return chunk

    async def _end(self) -> None:
        if not self._ended:
            self._ended = True
            if self._chunks:
                await self._on_end(b"".join(self._chunks))

    async def aclose(self) -> None:
        """Close the upstream response."""
        if b"[DONE]" in b"".join(self._chunks)[-64:]:  # over HTTP/2 the SDK reads no further
            await self._end()
        self._on_close()
        await self._response.aclose()


def accumulate(endpoint: Endpoint, body: bytes) -> Body | None:
    """The plain form of a stream's events; None unless the stream came to its proper end."""
    events, done = _events(body)
    if endpoint.name == "responses":
        return _last_response(events)
    if not done or not events or any(event.get("error") for event in events):
        return None
    try:
        return _completion(events)
    except (AttributeError, KeyError, TypeError):  # events of another shape: passed on, not kept
        return None


def _events(body: bytes) -> tuple[list[Body], bool]:
    """The JSON objects of an event stream, and whether it said that it was done."""
    events: list[Body] = []
    text = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    for block in text.split(b"\n\n"):
        data = b"\n".join(
            line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")
        )
        if data.startswith(b"[DONE]"):
            return events, True
        if data:
            try:
                event = orjson.loads(data)
            except orjson.JSONDecodeError:
                return [], False
            if isinstance(event, dict):
                events.append(event)
    return events, False


def _last_response(events: list[Body]) -> Body | None:
    for event in reversed(events):
        if event.get("type") in ("response.completed", "response.incomplete", "response.failed"):
            response = event.get("response")
            return response if isinstance(response, dict) else None
    return None


def _completion(chunks: list[Body]) -> Body | None:
    """Chunks of a chat or text completion, merged; None if a choice has not finished."""
    body: Body = {}
    choices: dict[int, Body] = {}
    for chunk in chunks:
        for choice in chunk.get("choices") or ():
            merged = choices.setdefault(choice.get("index", 0), {})
            _merge(merged, {k: v for k, v in choice.items() if k != "delta"})
            _merge(merged.setdefault("message", {}), choice.get("delta") or {})
        body.update({k: v for k, v in chunk.items() if k != "choices" and v is not None})
    if not choices or any(choice.get("finish_reason") is None for choice in choices.values()):
        return None
    body["choices"] = [choices[index] for index in sorted(choices)]
    return body


_SETTLED = frozenset({"index", "type", "role", "id", "finish_reason", "name"})


def _merge(whole: Body, delta: Body) -> None:
    """Add a delta: texts grow, lists grow by their items' index, the rest is replaced."""
    for name, value in delta.items():
        old = whole.get(name)
        if old is None or value is None or name in _SETTLED:
            if value is not None or name not in whole:
                whole[name] = _merge_items([], value) if isinstance(value, list) else value
        elif isinstance(old, str) and isinstance(value, str):
            whole[name] = old + value
        elif isinstance(old, dict) and isinstance(value, dict):
            _merge(old, value)
        elif isinstance(old, list) and isinstance(value, list):
            _merge_items(old, value)
        else:
            whole[name] = value


def _merge_items(items: list[Any], deltas: list[Any]) -> list[Any]:
    for delta in deltas:
        position = delta.get("index") if isinstance(delta, dict) else None
        known = next(
            (
                item
                for item in items
                if position is not None and isinstance(item, dict) and item.get("index") == position
            ),
            None,
        )
        if known is None:
            items.append(dict(delta) if isinstance(delta, dict) else delta)
        else:
            _merge(known, delta)
    return items
