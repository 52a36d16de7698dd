"""What of a request may be in other words, and what an answer says."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from .._entry import Entry, Kind
from .._keys import canonical, digest
from ._endpoints import Body, Endpoint
from ._sse import accumulate

_FAMILY = b"similar"
_LAST = {"chat.completions": "messages", "responses": "input"}
_TEXT_TYPES = ("text", "input_text")


def split(endpoint: Endpoint, prefix: bytes, text: bytes) -> tuple[str, str] | None:
    """The family of a hashed request, a digest of all but its last user text, and that text.

    None where the request does not end with a user's message of exactly one text. Images and all
    else beside it belong to the family.
    """
    params: Any = json.loads(text)  # integers past 64 bits stay what they are
    asked = _take_text(endpoint.name, params) if isinstance(params, dict) else None
    if asked is None or not asked.strip():
        return None
    return digest(prefix, _FAMILY + canonical(params)), asked


def _take_text(name: str, params: Body) -> str | None:
    """Take the text out of the request; None where there is none that stands for itself."""
    if name == "completions":
        return _pop_text(params, "prompt")
    field = _LAST.get(name)
    if field is None:
        return None
    whole = params.get(field)
    if isinstance(whole, str):
        return _pop_text(params, field) if name == "responses" else None
    if not isinstance(whole, list) or not whole or not isinstance(whole[-1], dict):
        return None
    message = whole[-1]
    if message.get("role") != "user" or message.get("type", "message") != "message":
        return None
    return _text_of(message)


def _text_of(message: Body) -> str | None:
    content = message.get("content")
    if isinstance(content, str):
        return _pop_text(message, "content")
    if not isinstance(content, list):
        return None
    texts = [part for part in content if isinstance(part, dict) and part.get("type") in _TEXT_TYPES]
    return _pop_text(texts[0], "text") if len(texts) == 1 else None


def _pop_text(place: Body, name: str) -> str | None:
    value = place.get(name)
    if not isinstance(value, str):
        return None
    del place[name]
    return value


def said(endpoint: Endpoint, entry: Entry) -> str:
    """An answer's text, as `verify` and `judge` get it; tool calls and all else as JSON."""
    if entry.kind is Kind.SSE:
        body = accumulate(endpoint, entry.payload)
    else:
        body = json.loads(entry.payload)
    if not isinstance(body, dict):
        return ""
    return _OF.get(endpoint.name, _raw)(body)


def _chat(body: Body) -> str:
    parts = []
    for choice in body.get("choices") or ():
        message = choice.get("message") or {}
        text, calls = message.get("content"), message.get("tool_calls")
        parts += [text] if isinstance(text, str) and text else []
        parts += [json.dumps([call.get("function", call) for call in calls])] if calls else []
    return "\n".join(parts)


def _completion(body: Body) -> str:
    return "\n".join(str(choice.get("text", "")) for choice in body.get("choices") or ())


def _response(body: Body) -> str:
    parts = []
    for item in body.get("output") or ():
        if item.get("type") == "message":
            parts += [str(part.get("text", "")) for part in item.get("content") or ()]
        elif item.get("type") != "reasoning":
            parts.append(json.dumps(item))
    return "\n".join(parts)


def _raw(body: Body) -> str:
    return json.dumps(body)


_OF: dict[str, Callable[[Body], str]] = {
    "chat.completions": _chat,
    "completions": _completion,
    "responses": _response,
}
ENDPOINTS = frozenset(_OF)
"""Those with a text that may be in other words."""
