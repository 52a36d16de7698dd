"""The wire form of an entry: versioned, self-describing, checked before anything is believed.

    offset  bytes  what
    0       2      magic, "ap"
    2       1      version of this form, 1
    3       1      flags: 1 = the content is compressed (zlib)
    4       4      CRC-32 of everything after this field, big-endian
    8       4      length of the header, big-endian
    12      n      the header: a JSON object (see `_header`)
    12+n    …      the content: the head (`h` bytes of it), then the payload

Times in the header are seconds on the clock of the machine that keeps the record, so that
machines whose own clocks disagree agree on an entry's age. Nothing is ever unpickled.
"""

from __future__ import annotations

import math
import struct
import zlib
from typing import Any

import orjson

from .._entry import Entry, ForeignEntry, Kind, Usage

MAGIC = b"ap"
VERSION = 1
COMPRESSED = 1
MAX_CONTENT = 64 * 2**20
"""Bytes of content that a record may unpack to."""
MAX_HEADER = 2**16
"""Bytes of a header: tags are the only part of it that can be long."""
MAX_RATIO = 64
"""How much larger than its record content past `SMALL_CONTENT` may be: no bomb fits in."""
SMALL_CONTENT = 2**20

_PREFIX = struct.Struct(">2sBBII")
_CRC_FROM = 8


class BadRecord(ValueError):
    """Bytes that are no record of ours, or no longer."""


def encode(entry: Entry, *, offset: float, compress_over: int | None) -> bytes:
    """The record of an entry; `offset` is the keeper's clock minus ours, in seconds."""
    content = (entry.head or b"") + entry.payload
    header = orjson.dumps(_header(entry, offset, len(content)))
    flags = 0
    if compress_over is not None and len(content) > compress_over and entry.kind != Kind.VECTOR:
        packed = zlib.compress(content, 1)
        if len(packed) < len(content) <= _allowed(len(packed)):
            flags, content = COMPRESSED, packed
    body = struct.pack(">I", len(header)) + header + content
    return MAGIC + bytes((VERSION, flags)) + struct.pack(">I", zlib.crc32(body)) + body


def writable(entry: Entry) -> bool:
    """Is it small enough to be read again, and are its labels Unicode (no lone surrogates)?"""
    texts = (*entry.tags, entry.model or "", entry.billed or "", entry.service or "")
    labels = sum([6 * len(text) + 3 for text in texts])
    content = len(entry.payload) + len(entry.head or b"")
    return content <= MAX_CONTENT and labels < MAX_HEADER // 2 and all(map(_is_unicode, texts))


def _is_unicode(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def decode(record: bytes, *, offset: float) -> Entry:
    """The entry of a record. Raises `BadRecord` for anything that `encode` did not make."""
    try:
        magic, version, flags, crc, length = _PREFIX.unpack_from(record)
    except struct.error:
        raise BadRecord("too short") from None
    start = _PREFIX.size + length
    if magic != MAGIC:
        raise BadRecord("not a record")
    if version != VERSION or flags & ~COMPRESSED:
        raise BadRecord(f"version {version} with flags {flags} is not known here")
    if length > MAX_HEADER or start > len(record):
        raise BadRecord("of another length than it says")
    if zlib.crc32(memoryview(record)[_CRC_FROM:]) != crc:
        raise BadRecord("damaged")
    try:
        header = orjson.loads(record[_PREFIX.size : start])
        content = record[start:]
        size = _whole(header["n"])
        if flags & COMPRESSED:
            content = _unpack(content, size)
        if len(content) != size:
            raise BadRecord("of another length than it says")
        return _entry(header, content, offset)
    except BadRecord:
        raise
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        raise BadRecord(type(error).__name__) from None


def _unpack(content: bytes, size: int) -> bytes:
    """Never more than the record said, and never more than is allowed."""
    if not 0 <= size <= _allowed(len(content)):
        raise BadRecord("too large")
    machine = zlib.decompressobj()
    unpacked = machine.decompress(content, size + 1)
    if not machine.eof:
        raise BadRecord("of another length than it says")
    return unpacked


def _allowed(packed: int) -> int:
    """Bytes that so many packed ones may stand for."""
    return min(MAX_CONTENT, SMALL_CONTENT + MAX_RATIO * packed)


def _header(entry: Entry, offset: float, size: int) -> dict[str, Any]:
    """One-letter names; what is absent, or a duration of zero, is left out."""
    optional: dict[str, Any] = {
        "l": entry.ttl,
        "w": entry.stale_while_revalidate or None,
        "x": entry.stale_if_error or None,
        "c": entry.cost or None,
        "h": None if entry.head is None else len(entry.head),
        "g": entry.tags,
        "e": entry.endpoint,
        "m": entry.model,
        "b": entry.billed,
        "s": entry.service,
        "u": None if (usage := entry.usage) is None else usage.written(),
    }
    given = {name: value for name, value in optional.items() if value is not None and value != ()}
    return {"k": int(entry.kind), "t": entry.stored_at + offset, "n": size, **given}


def _entry(header: dict[str, Any], content: bytes, offset: float) -> Entry:
    """Every part has the type that it should have: a right checksum proves nothing about that."""
    get = header.get
    head, ttl, usage, tags = get("h"), get("l"), get("u"), get("g")
    split = 0 if head is None else _whole(head)
    if split > len(content):
        raise BadRecord("of another length than it says")
    for text in (get("e"), get("m"), get("b"), get("s")):
        if text is not None and type(text) is not str:
            raise TypeError
    return ForeignEntry(
        Kind(header["k"]),
        content[split:] if split else content,
        stored_at=_number(header["t"]) - offset,
        ttl=None if ttl is None else _span(ttl),
        stale_while_revalidate=_span(get("w", 0)),
        stale_if_error=_span(get("x", 0)),
        cost=_span(get("c", 0)),
        tags=tuple(map(_text, tags)) if tags is not None else (),
        head=None if head is None else content[:split],
        endpoint=get("e"),
        model=get("m"),
        billed=get("b"),
        service=get("s"),
        usage=None if usage is None else Usage(*map(_whole, usage)),
    )


def _number(value: object) -> float:
    if (type(value) is not float and type(value) is not int) or not math.isfinite(value):
        raise TypeError
    return value


def _span(value: object) -> float:
    seconds = _number(value)
    if seconds < 0:
        raise ValueError
    return float(seconds)


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise TypeError
    return value


def _text(value: object) -> str:
    if type(value) is not str:
        raise TypeError
    return value
