"""The wire form: golden records of every version, and bytes that nobody should believe."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiopromptcache import Entry, Kind, Usage
from aiopromptcache.tiers._wire import BadRecord, decode, encode

# Never change these: what a version once wrote is read for ever after.
GOLDEN = {
    "version 1, plain": (
        "617001000dc3af3c000000177b226b223a312c2274223a3130302e302c226e223a377d7b2261223a317d"
    ),
}


def entry(**changes: object) -> Entry:
    """An entry with something in every field."""
    fields: dict[str, object] = {
        "stored_at": 1_000.0,
        "ttl": 60.0,
        "stale_while_revalidate": 5.0,
        "stale_if_error": 6.0,
        "cost": 0.5,
        "tags": ("a", "b"),
        "head": b"[200,[]]",
        "endpoint": "chat.completions",
        "model": "m",
        "usage": Usage(1, 2, 3),
    }
    return Entry(Kind.HTTP, b'{"text":"' + b"word " * 100 + b'"}', **{**fields, **changes})  # type: ignore[arg-type]


FIELDS = [name for name in Entry.__slots__ if name != "memo"]


@pytest.mark.parametrize("compress_over", [None, 1])
@pytest.mark.parametrize(
    "original",
    [
        entry(),
        entry(ttl=None, usage=None, model=None, endpoint=None, tags=()),
        entry(head=b""),
        entry(head=None),
        Entry(Kind.BYTES, b"", stored_at=0, ttl=1),
    ],
)
def test_every_field_survives(original: Entry, compress_over: int | None) -> None:
    read = decode(encode(original, offset=7.0, compress_over=compress_over), offset=7.0)
    for name in FIELDS:
        assert getattr(read, name) == getattr(original, name), name
    assert read.memo is None


def test_golden_records_are_still_read() -> None:
    read = decode(bytes.fromhex(GOLDEN["version 1, plain"]), offset=0)
    assert (read.kind, read.payload, read.stored_at, read.ttl) == (Kind.JSON, b'{"a":1}', 100, None)


def test_golden_records_are_still_written() -> None:
    written = encode(
        Entry(Kind.JSON, b'{"a":1}', stored_at=100.0, ttl=None), offset=0, compress_over=None
    )
    assert written.hex() == GOLDEN["version 1, plain"]


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(BadRecord):
        decode(data, offset=0)


@given(st.data())
def test_a_changed_record_is_refused(data: st.DataObject) -> None:
    record = bytearray(
        encode(entry(), offset=0, compress_over=data.draw(st.sampled_from([1, None])))
    )
    position = data.draw(st.integers(0, len(record) - 1))
    record[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BadRecord):
        decode(bytes(record), offset=0)


@given(st.integers(0, 10_000))
def test_a_truncated_record_is_refused(length: int) -> None:
    record = encode(entry(), offset=0, compress_over=None)
    with pytest.raises(BadRecord):
        decode(record[: length % len(record)], offset=0)


def forged(header: bytes, content: bytes, flags: int = 0, version: int = 1) -> bytes:
    """A record whose checksum is right, whatever else is not."""
    body = struct.pack(">I", len(header)) + header + content
    return b"ap" + bytes((version, flags)) + struct.pack(">I", zlib.crc32(body)) + body


@pytest.mark.parametrize(
    "record",
    [
        forged(b'{"k":1,"t":1,"n":1}', b"1", version=2),
        forged(b'{"k":1,"t":1,"n":1}', b"1", flags=2),
        forged(b'{"k":99,"t":1,"n":1}', b"1"),
        forged(b'{"k":1,"n":1}', b"1"),
        forged(b'{"k":1,"t":"x","n":1}', b"1"),
        forged(b'{"k":1,"t":1,"n":2}', b"1"),
        forged(b'{"k":1,"t":1,"n":1,"h":2}', b"1"),
        forged(b'{"k":1,"t":1,"n":1,"h":-1}', b"1"),
        forged(b'{"k":1,"t":1,"n":1,"g":5}', b"1"),
        forged(b'{"k":1,"t":1,"n":1,"u":[1]}', b"1"),
        forged(b'{"k":1,"t":1,"n":1,"u":[-1,0,0]}', b"1"),
        forged(b"[]", b"1"),
        forged(b"not json", b"1"),
        forged(b'{"k":1,"t":1,"n":9}', b"not zlib", flags=1),
    ],
)
def test_a_forged_record_is_refused(record: bytes) -> None:
    with pytest.raises(BadRecord):
        decode(record, offset=0)


def test_a_decompression_bomb_does_not_go_off() -> None:
    bomb = zlib.compress(bytes(50_000_000), 9)
    with pytest.raises(BadRecord):
        decode(forged(b'{"k":3,"t":1,"n":100}', bomb, flags=1), offset=0)


def test_vectors_are_not_compressed_in_vain() -> None:
    vector = Entry(Kind.VECTOR, bytes(10_000), stored_at=1_000.0, ttl=60.0)
    record = encode(vector, offset=0, compress_over=1)
    assert len(record) > 10_000
    assert decode(record, offset=0).payload == vector.payload
