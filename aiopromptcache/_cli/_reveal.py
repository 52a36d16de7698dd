"""What is in an entry, for `show --reveal`."""

from __future__ import annotations

import base64
import json
from typing import Any

from .._entry import Entry, Kind
from .._values import Misfit, decode


def revealed(entry: Entry) -> dict[str, Any]:
    """`text` for people, and for machines `json`, or `base64` where it is neither JSON nor text."""
    if entry.kind is Kind.BYTES or entry.kind is Kind.VECTOR:
        return _plain(entry.payload)
    if entry.kind is Kind.SSE:
        return _plain(entry.payload)
    try:
        value = decode(entry)
    except Misfit:
        return _plain(entry.payload)
    if entry.kind is Kind.ITEMS:
        value = [_shown(item) for item in value]
    return {"text": json.dumps(value, indent=2, ensure_ascii=False), "json": value}


def _plain(payload: bytes) -> dict[str, Any]:
    try:
        return {"text": payload.decode()}
    except UnicodeDecodeError:
        text = base64.b64encode(payload).decode()
        return {"text": f"base64: {text}", "base64": text}


def _shown(item: Any) -> Any:
    """An item of a stream; bytes are no JSON."""
    return _plain(item) if isinstance(item, bytes) else item
