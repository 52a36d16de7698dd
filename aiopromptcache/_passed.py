"""What is passed on of a live stream, record by record, and the wire form of it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from ._entry import Usage

_VERSION = 1
_PREFIX = struct.Struct("<BIQBI")
"""Version, checksum of what follows it, position of the first item, flags, number of items."""
_LENGTH = struct.Struct("<I")
_CHECKED = 5
_HEAD, _END = 1, 2


class Garbled(ValueError):
    """A record that nobody here wrote."""


class End(NamedTuple):
    """How a stream ended."""

    whole: bool
    """Did all of the answer come?"""
    stored: bool = False
    usage: Usage | None = None
    why: str = ""
    """What happened, where it is not whole."""
    shut: bool = False
    """Is the stream too long for anybody to join it?"""
    billed: str | None = None
    service: str | None = None
    """See `Entry`."""


class Record(NamedTuple):
    """A part of a stream: the items from a position on, with what came before and after them."""

    position: int
    items: Sequence[bytes] = ()
    head: bytes | None = None
    end: End | None = None


def pack(record: Record) -> bytes:
    """The bytes of a record."""
    parts = list(record.items)
    flags = 0
    if record.end is not None:
        flags |= _END
        parts.insert(0, _end_bytes(record.end))
    if record.head is not None:
        flags |= _HEAD
        parts.insert(0, record.head)
    body = b"".join([part for item in parts for part in (_LENGTH.pack(len(item)), item)])
    prefix = _PREFIX.pack(_VERSION, 0, record.position, flags, len(record.items))
    checksum = zlib.crc32(body, zlib.crc32(prefix[_CHECKED:]))
    return _PREFIX.pack(_VERSION, checksum, *_PREFIX.unpack(prefix)[2:]) + body


def unpack(data: bytes) -> Record:
    """The record. Raises `Garbled` for anything that `pack` did not make."""
    try:
        version, checksum, position, flags, count = _PREFIX.unpack_from(data)
        if version != _VERSION or checksum != zlib.crc32(data[_CHECKED:]):
            raise Garbled("of another version, or damaged")
        parts = _parts(data)
        head = parts.pop(0) if flags & _HEAD else None
        end = _end(orjson.loads(parts.pop(0))) if flags & _END else None
    except Garbled:
        raise
    except (struct.error, ValueError, TypeError, IndexError) as error:
        raise Garbled(type(error).__name__) from None
    if len(parts) != count:
        raise Garbled("of another length than it says")
    return Record(position, parts, head, end)


def _parts(data: bytes) -> list[bytes]:
    parts, place = [], _PREFIX.size
    while place < len(data):
        (length,) = _LENGTH.unpack_from(data, place)
        place += _LENGTH.size + length
        if place > len(data):
            raise Garbled("cut off")
        parts.append(data[place - length : place])
    return parts


def _end_bytes(end: End) -> bytes:
    usage = None if end.usage is None else end.usage.written()
    named = (end.billed, end.service)
    told = [end.whole, end.stored, usage, end.why, end.shut]
    return orjson.dumps(told if named == (None, None) else [*told, *named])


def _end(fields: Any) -> End:
    whole, stored, usage, why, shut, *named = fields
    billed, service = (name if name is None else str(name) for name in named or (None, None))
    billing = None if usage is None else Usage(*usage)
    return End(bool(whole), bool(stored), billing, str(why), shut, billed, service)
