"""What is kept of HTTP answers."""

from __future__ import annotations

import json

import pytest

from aiopromptcache._openai._record import has_long_integer


@pytest.mark.parametrize("number", [2**64, -(2**64), 10**18, 1e30, 10**400])
@pytest.mark.parametrize("spaces", [None, 2])
def test_integers_past_64_bits_are_seen(number: float, spaces: int | None) -> None:
    for body in ({"created": number}, [0.5, number], {"a": [{"b": number}]}):
        text = json.dumps(body, indent=spaces).encode()
        assert has_long_integer(text) == isinstance(number, int)


@pytest.mark.parametrize("value", [10**18 - 1, 0.1234567890123456789, 1e-7, "no number", -1.5e300])
def test_what_both_json_readers_read_alike_is_not(value: object) -> None:
    assert not has_long_integer(json.dumps({"value": value}).encode())


def test_digits_after_a_point_do_not_count() -> None:
    assert not has_long_integer(b'{"embedding":[-0.00012345678901234567890,1.5]}')
