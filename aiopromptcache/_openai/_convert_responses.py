"""The events of a stored `Response`, for its items that every stream tells the same way."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

from ._endpoints import Body


def response_events(body: Body) -> list[Body]:
    """The events in order, the last one with the whole response.

    Raises `KeyError` or `TypeError` for a response with anything in it that is not known here.
    """
    numbers = count()
    return [{**event, "sequence_number": next(numbers)} for event in _events(body)]


def _events(body: Body) -> Iterator[Body]:
    if body["object"] != "response" or body["status"] != "completed":
        raise KeyError("status")
    begun = {**body, "status": "in_progress", "output": [], "usage": None}
    if "completed_at" in body:
        begun["completed_at"] = None
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(body["output"]):
        yield from _item(item, index)
    yield {"type": "response.completed", "response": body}


def _item(item: Body, index: int) -> Iterator[Body]:
    empty, inner = _KINDS[item["type"]](item)
    place = {"output_index": index}
    begun = {**item, **empty, **({"status": "in_progress"} if "status" in item else {})}
    yield {"type": "response.output_item.added", **place, "item": begun}
    for event in inner:
        yield {**event, **place, "item_id": item["id"]}
    yield {"type": "response.output_item.done", **place, "item": item}


def _message(item: Body) -> tuple[Body, Iterator[Body]]:
    return {"content": []}, _parts(item["content"])


def _parts(parts: list[Body]) -> Iterator[Body]:
    for index, part in enumerate(parts):
        for event in _part(part):
            yield {**event, "content_index": index}


def _part(part: Body) -> Iterator[Body]:
    name = {"output_text": "text", "refusal": "refusal"}[part["type"]]
    said: dict[str, Any] = {"logprobs": part.get("logprobs") or []} if name == "text" else {}
    empty: Body = {"annotations": []} if part.get("annotations") else {}
    if part.get("logprobs"):
        empty["logprobs"] = []
    yield {"type": "response.content_part.added", "part": {**part, **empty, name: ""}}
    if part[name]:
        yield {"type": f"response.{part['type']}.delta", "delta": part[name], **said}
    for place, annotation in enumerate(part.get("annotations") or ()):
        kind = "response.output_text.annotation.added"
        yield {"type": kind, "annotation_index": place, "annotation": annotation}
    yield {"type": f"response.{part['type']}.done", name: part[name], **said}
    yield {"type": "response.content_part.done", "part": part}


def _function_call(item: Body) -> tuple[Body, Iterator[Body]]:
    kind, text = "response.function_call_arguments", item["arguments"]
    done = {"type": f"{kind}.done", "arguments": text, "name": item["name"]}
    return {"arguments": ""}, iter([{"type": f"{kind}.delta", "delta": text}, done])


def _custom_call(item: Body) -> tuple[Body, Iterator[Body]]:
    kind, text = "response.custom_tool_call_input", item["input"]
    done = {"type": f"{kind}.done", "input": text}
    return {"input": ""}, iter([{"type": f"{kind}.delta", "delta": text}, done])


def _reasoning(item: Body) -> tuple[Body, Iterator[Body]]:
    if item.get("content"):
        raise KeyError("content")
    return {"summary": []}, _summaries(item["summary"])


def _summaries(parts: list[Body]) -> Iterator[Body]:
    for index, part in enumerate(parts):
        if part["type"] != "summary_text":
            raise KeyError(part["type"])
        kind, place = "response.reasoning_summary", {"summary_index": index}
        yield {"type": f"{kind}_part.added", **place, "part": {**part, "text": ""}}
        yield {"type": f"{kind}_text.delta", **place, "delta": part["text"]}
        yield {"type": f"{kind}_text.done", **place, "text": part["text"]}
        yield {"type": f"{kind}_part.done", **place, "part": part}


_KINDS = {
    "message": _message,
    "function_call": _function_call,
    "custom_tool_call": _custom_call,
    "reasoning": _reasoning,
}
