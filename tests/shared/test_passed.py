"""Records of a stream that is passed on: there and back, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiopromptcache import Usage
from aiopromptcache._passed import End, Garbled, Record, pack, unpack

counts = st.integers(0, 2**53)
ends = st.builds(
    End,
    st.booleans(),
    st.booleans(),
    st.none() | st.builds(Usage, *[counts] * len(Usage._fields)),
    st.text(),
    st.booleans(),
    st.none() | st.text(),
    st.none() | st.text(),
)
records = st.builds(
    Record,
    st.integers(0, 2**64 - 1),
    st.lists(st.binary(max_size=50), max_size=10),
    st.none() | st.binary(max_size=50),
    st.none() | ends,
)


@given(records)
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    assert unpack(pack(record)) == record


@given(records, st.data())
def test_a_damaged_record_is_none(record: Record, data: st.DataObject) -> None:
    packed = bytearray(pack(record))
    place = data.draw(st.integers(0, len(packed) - 1))
    packed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Garbled):
        unpack(bytes(packed))


@given(records, st.data())
def test_a_part_of_a_record_is_none(record: Record, data: st.DataObject) -> None:
    packed = pack(record)
    with pytest.raises(Garbled):
        unpack(packed[: data.draw(st.integers(0, len(packed) - 1))])


@given(st.binary())
def test_garbage_is_none(data: bytes) -> None:
    with pytest.raises(Garbled):
        unpack(data)


def test_the_first_version_is_read_for_ever() -> None:
    record = Record(3, [b"one", b""], b"[200,[]]", End(True, True, Usage(1, 2, 3)))
    golden = bytes.fromhex(
        "010d559de303000000000000000302000000080000005b3230302c5b5d5d1c0000005b747275652c"
        "747275652c5b312c322c335d2c22222c66616c73655d030000006f6e6500000000"
    )
    assert pack(record) == golden
    assert unpack(golden) == record
