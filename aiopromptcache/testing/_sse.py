"""Server-sent events: a whole body cut into the frames OpenAI streams for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count, zip_longest
from typing import Any, Final

from ._request import pieces
from ._texts import Body

DONE: Final = b"data: [DONE]\n\n"


def encode(value: object) -> bytes:
    """JSON in UTF-8, as OpenAI sends it; escaped where UTF-8 has no form (lone surrogates)."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def frames(endpoint: str, body: Body, request: Body) -> list[bytes]:
    """The frames that carry `body`; the last one is `[DONE]` or the closing event."""
    if endpoint == "responses":
        return [_event(event) for event in _numbered(_response_events(body))]
    with_usage = bool((request.get("stream_options") or {}).get("include_usage"))
    chunks = _chunks(
        body,
        "chat.completion.chunk" if endpoint == "chat/completions" else "text_completion",
        with_usage,
    )
    return [*map(_data, chunks), DONE]


def split_frames(raw: bytes) -> list[bytes]:
    """Raw event-stream bytes, cut after each blank line."""
    parts = [part + b"\n\n" for part in raw.split(b"\n\n")]
    parts[-1] = parts[-1].removesuffix(b"\n\n")
    return [part for part in parts if part]


def error_frame(endpoint: str, error: Body, position: int) -> bytes:
    """An error object in place of frame number `position`."""
    if endpoint != "responses":
        return _data({"error": error})
    fields = {key: error[key] for key in ("code", "message", "param")}
    return _event({"type": "error", **fields, "sequence_number": position})


def _data(value: Body) -> bytes:
    return b"data: " + encode(value) + b"\n\n"


def _event(value: Body) -> bytes:
    return b"event: " + str(value["type"]).encode() + b"\n" + _data(value)


# chat/completions and completions


def _chunks(body: Body, kind: str, with_usage: bool) -> Iterator[Body]:
    """Chunks of every choice in turn, as OpenAI interleaves them, then the usage if asked for."""
    head = {key: value for key, value in body.items() if key not in ("choices", "usage")} | {
        "object": kind
    }
    cut = _chat_choice if kind == "chat.completion.chunk" else _text_choice
    rows = zip_longest(*(cut(choice) for choice in body.get("choices") or ()))
    for choice in (choice for row in rows for choice in row if choice is not None):
        yield {**head, "choices": [choice], **({"usage": None} if with_usage else {})}
    if with_usage:
        yield {**head, "choices": [], "usage": body.get("usage")}


def _chat_choice(choice: Body) -> Iterator[Body]:
    message = choice["message"]
    first = {
        "role": "assistant",
        "content": "" if message.get("content") is not None else None,
        "refusal": None,
    }
    shared = {"index": choice["index"], "logprobs": None}
    for delta in (first, *_deltas(message)):
        yield {**shared, "delta": delta, "finish_reason": None}
    yield {**shared, "delta": {}, "finish_reason": choice.get("finish_reason")}


def _deltas(message: Body) -> Iterator[Body]:
    for key in ("content", "refusal"):
        yield from ({key: piece} for piece in pieces(message.get(key) or ""))
    for index, call in enumerate(message.get("tool_calls") or ()):
        yield from ({"tool_calls": [{"index": index, **part}]} for part in _call_deltas(call))


def _call_deltas(call: Body) -> Iterator[Body]:
    if "function" not in call:
        yield call
        return
    yield {**call, "function": {**call["function"], "arguments": ""}}
    yield from (
        {"function": {"arguments": piece}} for piece in pieces(call["function"]["arguments"])
    )


def _text_choice(choice: Body) -> Iterator[Body]:
    shared = {"index": choice["index"], "logprobs": None}
    for piece in pieces(choice["text"]):
        yield {**shared, "text": piece, "finish_reason": None}
    yield {**shared, "text": "", "finish_reason": choice.get("finish_reason")}


# responses


def _numbered(events: Iterator[Body]) -> Iterator[Body]:
    counter = count()
    return ({**event, "sequence_number": next(counter)} for event in events)


def _response_events(body: Body) -> Iterator[Body]:
    begun = {**body, "status": "in_progress", "output": [], "usage": None}
    begun |= {"completed_at": None, "incomplete_details": None}
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(body.get("output") or ()):
        yield from _item_events(item, index)
    yield {"type": f"response.{body.get('status', 'completed')}", "response": body}


def _item_events(item: Body, index: int) -> Iterator[Body]:
    place = {"output_index": index}
    inner: Iterator[Body] = iter(())
    begun = {**item, "status": "in_progress"}
    if item["type"] == "message":
        begun["content"] = []
        inner = _message_events(item)
    elif item["type"] == "function_call":
        begun["arguments"] = ""
        inner = _text_events("response.function_call_arguments", "arguments", item["arguments"])
    yield {"type": "response.output_item.added", **place, "item": begun}
    for event in inner:
        yield {**event, **place, "item_id": item["id"]}
    yield {"type": "response.output_item.done", **place, "item": item}


def _message_events(item: Body) -> Iterator[Body]:
    for index, part in enumerate(item["content"]):
        place = {"content_index": index}
        key = "refusal" if part["type"] == "refusal" else "text"
        extra: dict[str, Any] = {} if key == "refusal" else {"logprobs": []}
        yield {"type": "response.content_part.added", **place, "part": {**part, key: ""}}
        for event in _text_events(f"response.{part['type']}", key, part[key]):
            yield {**event, **place, **extra}
        yield {"type": "response.content_part.done", **place, "part": part}


def _text_events(kind: str, key: str, text: str) -> Iterator[Body]:
    for piece in pieces(text):
        yield {"type": f"{kind}.delta", "delta": piece}
    yield {"type": f"{kind}.done", key: text}
