"""What of a request may be in other words, and what was answered."""

from __future__ import annotations

import json
from typing import Any

import orjson

from .._ask import LONGEST_QUESTION
from .._entry import Entry, Kind
from .._keys import canonical, digest
from ._endpoints import Body, Endpoint
from ._sse import accumulate

_FAMILY = b"similar"
_LAST = {"chat.completions": "messages", "responses": "input"}
_TEXT_TYPES = ("text", "input_text")


def split(endpoint: Endpoint, prefix: bytes, text: bytes) -> tuple[str, str] | None:
    """The family of a hashed request, a digest of all but its last user text, and that text.

    None where the request does not end with a user's message of exactly one text, of at most
    `LONGEST_QUESTION` characters. Images and all else beside it belong to the family.
    """
    params: Any = json.loads(text)  # integers past 64 bits stay what they are
    asked = _take_text(endpoint.name, params) if isinstance(params, dict) else None
    if asked is None or not asked.strip() or len(asked) > LONGEST_QUESTION:
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


def body_of(endpoint: Endpoint, entry: Entry) -> Body | None:
    """A stored answer's JSON body, as `verify` and `judge` get it; that of a stream as well."""
    return accumulate(endpoint, entry.payload) if entry.kind is Kind.SSE else parse(entry.payload)


def parse(body: bytes) -> Body | None:
    """A body as a JSON object; None where it is none."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return parsed if isinstance(parsed, dict) else None


ENDPOINTS = frozenset({"chat.completions", "responses", "completions"})
"""Those with a text that may be in other words."""
