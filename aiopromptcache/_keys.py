"""From a request to a digest that is the same in every process and on every Python."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import BaseModel

KEY_VERSION = b"1"
"""Changes whenever equal requests would get another digest than before."""


class Unkeyable(TypeError):
    """A request cannot be written as JSON, so it has no key. The message names the reason."""


def canonical(value: object) -> bytes:
    """JSON with sorted keys: equal for equal requests, and for no others.

    A pydantic model counts as the JSON that it would be sent as. Raises `Unkeyable` for what is
    not JSON, without having consumed any iterator. NaN and infinities are refused too.
    """
    try:
        text = orjson.dumps(value, default=plain_json, option=_OPTIONS)
    except orjson.JSONEncodeError as error:
        if isinstance(error.__cause__, Unkeyable):
            raise error.__cause__ from None
        return _canonical_slow(value)
    if b"null" in text:
        _refuse_nan(value)
    return text


_OPTIONS = orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME


def plain_json(value: object) -> object:
    """What a pydantic object is sent as; `Unkeyable` for everything else that is not JSON."""
    if isinstance(value, BaseModel):
        return value.model_dump(
            mode="json",
            by_alias=True,
            exclude_unset=True,
            exclude=getattr(value, "__api_exclude__", None),
        )
    raise Unkeyable(f"{type(value).__qualname__} is not JSON")


def _canonical_slow(value: object) -> bytes:
    """For what orjson refuses though it is JSON: integers past 64 bits, keys that are numbers."""
    try:
        text = json.dumps(value, default=plain_json, allow_nan=False, ensure_ascii=False)
        # A second pass: keys that were numbers are sorted as the strings they became.
        plain = json.loads(text)
        return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    except Unkeyable:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        raise Unkeyable(f"{type(error).__name__}: {error}") from None


def _refuse_nan(value: object) -> None:
    """orjson writes NaN as null, so two requests would share a key."""
    rest = [value]
    while rest:
        item = rest.pop()
        if isinstance(item, float):
            if not math.isfinite(item):
                raise Unkeyable(f"{item} is not JSON")
        elif isinstance(item, dict):
            rest.extend(item.values())
        elif isinstance(item, (list, tuple)):
            rest.extend(item)
        elif isinstance(item, BaseModel):
            rest.append(plain_json(item))


def digest(prefix: bytes, text: bytes) -> str:
    """Hex digest (64 characters) of a canonical text under a prefix of fixed length."""
    return hashlib.sha256(prefix + text).hexdigest()


def prefix(*parts: object) -> bytes:
    """32 bytes that stand for everything which scopes a key but is not in the request's body."""
    return hashlib.sha256(KEY_VERSION + canonical(parts)).digest()


_FREE = prefix("key")


def request_key(request: Mapping[str, Any]) -> str:
    """The digest of any JSON-able request; `TypeError` where it is not JSON-able."""
    return digest(_FREE, canonical(request))
