"""The caller's own values: to bytes and back, equal and of the same type, or a clear refusal."""

from __future__ import annotations

import json
import math
import struct
import sys
import typing
from functools import lru_cache
from typing import Any

import orjson
import typing_extensions
from pydantic import BaseModel, TypeAdapter

from ._entry import Entry, Kind

_SCALARS = frozenset({str, int, float, bool, type(None)})
_UNIVERSAL_INT = range(-(2**63), 2**64)


class Misfit(Exception):
    """A stored value does not fit the type that was asked for: a miss."""


def encode(value: object) -> tuple[Kind, bytes]:
    """The stored form of a value.

    JSON values (None, bool, int, float, str, list, dict with str keys) and bytes come back equal
    and of the same type. A pydantic model becomes its JSON. Anything else is a `TypeError` that
    names the offending part.
    """
    if type(value) is bytes:
        return Kind.BYTES, value
    if isinstance(value, BaseModel):
        return Kind.JSON, value.model_dump_json(by_alias=True).encode()
    try:
        universal = type(value) is str or _check(value, "value")
    except RecursionError:
        raise TypeError("value is nested too deeply, or contains itself") from None
    if universal:
        try:
            return Kind.JSON, compact(orjson.dumps(value))
        except orjson.JSONEncodeError:  # a lone surrogate, or nested past orjson's limit
            pass
    try:
        return Kind.LOOSE_JSON, json.dumps(value, separators=(",", ":")).encode()
    except RecursionError:
        raise TypeError("value is nested too deeply, or contains itself") from None
    except ValueError as error:  # Python writes no int of so many digits
        raise TypeError(f"value has an int that cannot be written: {error}") from None


def _check(value: Any, where: str) -> bool:
    """Refuse what JSON would change; tell whether every JSON reader agrees on the numbers."""
    kind = type(value)
    if kind in _SCALARS:
        if kind is float:
            return math.isfinite(value)
        return kind is not int or value in _UNIVERSAL_INT
    if kind is list:
        checks = [_check(item, f"{where}[{i}]") for i, item in enumerate(value)]
        return all(checks)
    if kind is dict:
        for key in value:
            if type(key) is not str:
                raise TypeError(
                    f"{where} has the key {key!r} of type {kind_name(key)}; allowed: str"
                )
        checks = [_check(item, f"{where}[{key!r}]") for key, item in value.items()]
        return all(checks)
    raise TypeError(
        f"{where} is of type {kind_name(value)}; allowed: None, bool, int, float, str, list, "
        "dict with str keys, and as a whole bytes or a pydantic model"
    )


def compact(data: bytes) -> bytes:
    """An exact copy: orjson hands out the shrunk rest of a buffer 8 times as large as a text,
    and what it shrank by stays unusable for as long as the bytes are kept."""
    return bytes(memoryview(data))


def kind_name(value: object) -> str:
    """The name of a value's type, for messages."""
    return type(value).__qualname__


def encode_as(value: object, kind: Any) -> tuple[Kind, bytes]:
    """Like `encode`; what only `kind` knows how to write (a dataclass, a date) is written so."""
    try:
        return encode(value)
    except TypeError as refusal:
        if kind is None or kind in _PLAIN:
            raise
        try:
            return Kind.JSON, _adapter(kind).dump_json(value, by_alias=True)
        except Exception:  # nor does the type know how to write it
            raise refusal from None


def decode(entry: Entry) -> Any:
    """A value of the caller's own; a stored HTTP answer gives its JSON body.

    Raises `Misfit` where the stored bytes are not what their kind says, or are no value by
    themselves.
    """
    kind = entry.kind
    if kind is Kind.VECTOR:
        raise Misfit
    try:
        if kind is Kind.JSON or kind is Kind.HTTP:
            return orjson.loads(entry.payload)
        if kind is Kind.LOOSE_JSON:
            return json.loads(entry.payload)
        if kind is Kind.ITEMS:
            return [decode_item(item) for item in split_items(entry.payload)]
    except ValueError:
        raise Misfit from None
    return entry.payload


# Items of a stream: the kind (1 byte), the length of the payload (4), the payload

_ITEM = struct.Struct(">BI")
_ITEM_KINDS = (Kind.JSON, Kind.LOOSE_JSON, Kind.BYTES)


def encode_item(value: object) -> bytes:
    """One item as it is kept; `TypeError` as `encode`."""
    kind, payload = encode(value)
    return _ITEM.pack(kind, len(payload)) + payload


def decode_item(item: bytes) -> Any:
    """A value of the caller's own."""
    kind, payload = item[0], item[_ITEM.size :]
    if kind == Kind.JSON:
        return orjson.loads(payload)
    return json.loads(payload) if kind == Kind.LOOSE_JSON else payload


def split_items(payload: bytes) -> list[bytes]:
    """The items of a stored stream. Raises `ValueError` for what is none."""
    items, place = [], 0
    while place < len(payload):
        try:
            kind, length = _ITEM.unpack_from(payload, place)
        except struct.error:
            raise ValueError("cut off") from None
        end = place + _ITEM.size + length
        if end > len(payload) or kind not in _ITEM_KINDS:
            raise ValueError("no item")
        items.append(payload[place:end])
        place = end
    return items


def decode_as(entry: Entry, kind: Any) -> Any:
    """The value, validated into `kind`. Raises `Misfit` where it does not fit."""
    if kind is None:
        return decode(entry)
    if kind in _PLAIN:
        value = decode(entry)
        if type(value) is not kind:
            raise Misfit
        return value
    try:
        if entry.kind is Kind.JSON or entry.kind is Kind.HTTP:
            return _adapter(kind).validate_json(entry.payload)
        return _adapter(kind).validate_python(decode(entry))
    except ValueError:  # pydantic's ValidationError is one
        raise Misfit from None


_PLAIN = (str, bytes, int, float, bool, list, dict, type(None))


def _adapter(kind: Any) -> TypeAdapter[Any]:
    try:
        return _cached_adapter(kind)
    except TypeError:  # a type that cannot be hashed
        return TypeAdapter(kind)


@lru_cache(maxsize=512)
def _cached_adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(_modern(kind))


def _modern(kind: Any) -> Any:
    """Before Python 3.12 pydantic takes only the TypedDict of typing_extensions."""
    if sys.version_info >= (3, 12) or not typing.is_typeddict(kind):
        return kind
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {
        name: (typing.Required if name in kind.__required_keys__ else typing.NotRequired)[
            _modern(hint)
        ]
        for name, hint in hints.items()
    }
    make: Any = typing_extensions.TypedDict  # type checkers want its fields spelled out
    return make(kind.__name__, fields)


def readable_as(kind: Any) -> bool:
    """Is this a type that values can be validated into?"""
    try:
        return kind in _PLAIN or _adapter(kind) is not None
    except Exception:  # pydantic has many words for no
        return False
