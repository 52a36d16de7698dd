"""Event streams as bytes: cut into their events, and the plain form of a whole one."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

import orjson

from ._endpoints import Body, Endpoint

_END = re.compile(rb"\r?\n\r?\n|\r\r")
_MAX_EVENT = 2**20
"""Bytes without an end of an event that are held back; past that they are passed on in parts."""

DONE = b"[DONE]"


class Splitter:
    """Cuts bytes, as they come, after each event. The blocks joined are the bytes again."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The events that are whole now."""
        seen = max(0, len(self._rest) - 3)  # an end may be cut, too
        text = self._rest + data
        blocks, start = [], 0
        for end in _END.finditer(text, seen):
            blocks.append(text[start : end.end()])
            start = end.end()
        self._rest = text[start:]
        if len(self._rest) > _MAX_EVENT:
            blocks.append(self.flush())
        return blocks

    def flush(self) -> bytes:
        """What is left when nothing more comes."""
        rest, self._rest = self._rest, b""
        return rest


def split(body: bytes) -> list[bytes]:
    """A whole body, cut after each event."""
    splitter = Splitter()
    blocks = splitter.feed(body)
    rest = splitter.flush()
    return [*blocks, rest] if rest else blocks


class Event(NamedTuple):
    """One event: its name ("" where it has none) and data (None: only comments)."""

    name: bytes
    data: bytes | None


def is_stream(body: bytes) -> bool:
    """Are these events as an upstream sends them, each with a JSON object?"""
    try:
        data = [event.data for block in split(body) if (event := read_event(block)) is not None]
        texts = [text for text in data if text and not text.startswith(DONE)]
        return bool(texts) and all(isinstance(orjson.loads(text), dict) for text in texts)
    except ValueError:
        return False


def read_event(block: bytes) -> Event | None:
    """A block as an event of one line of data; None for what only a whole decoder can read."""
    name, data = b"", None
    text = block.replace(b"\r\n", b"\n")
    for line in text.split(b"\n"):
        if line.startswith(b"data:") and data is None:
            data = line[5:].removeprefix(b" ")
        elif line.startswith(b"event:") and not name:
            name = line[6:].removeprefix(b" ")
        elif line and not line.startswith(b":"):
            return None
    if b"\r" in text or not text.endswith(b"\n\n") or (name and data is None):
        return None
    return Event(name, data)


def write_event(value: Body, name: bytes = b"") -> bytes:
    """The block of an event."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # a lone surrogate
        text = json.dumps(value, separators=(",", ":")).encode()
    return (b"event: " + name + b"\n" if name else b"") + b"data: " + text + b"\n\n"


# The end of a stream

_TERMINAL = ("response.completed", "response.incomplete", "response.failed")
_TERMINAL_MARKS = tuple(kind.encode() for kind in _TERMINAL)


def is_last(endpoint: Endpoint, block: bytes) -> bool:
    """Does nothing of the answer come after this event?"""
    if endpoint.name != "responses":
        return (
            DONE in block[:64]
            and (event := read_event(block)) is not None
            and (event.data or b"").startswith(DONE)
        )
    if not any(mark in block for mark in _TERMINAL_MARKS):
        return False
    event = read_event(block)
    value = None if event is None or event.data is None else _object(event.data)
    return value is not None and value.get("type") in _TERMINAL


def hide_usage(block: bytes) -> bytes:
    """The event as who did not ask for usage gets it; nothing for the one that is only usage."""
    if b'"usage"' not in block:
        return block
    event = read_event(block)
    value = None if event is None or event.data is None else _exact(event.data)
    if event is None or not isinstance(value, dict) or "usage" not in value:
        return block
    if value["usage"] is not None:
        return b"" if value.get("choices") == [] else block
    del value["usage"]
    return write_event(value, event.name)


def _exact(data: bytes) -> Any:
    """JSON as the SDK reads it; None where it is none."""
    try:
        return json.loads(data)
    except ValueError:
        return None


def _object(data: bytes) -> Body | None:
    value = _exact(data)
    return value if isinstance(value, dict) else None


def chunks_of(body: bytes) -> list[Body] | None:
    """The JSON objects of a stream that ended properly, exactly; None for any other."""
    chunks: list[Body] = []
    for block in split(body):
        event = read_event(block)
        if event is None:
            return None
        if event.data is None:
            continue
        if event.data.startswith(DONE):
            return chunks
        value = _object(event.data)
        if value is None or value.get("error"):
            return None
        chunks.append(value)
    return None


# The plain form, as a policy gets to see it: of any stream that came to its end


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
