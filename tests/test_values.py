"""Values come back equal and of the same type, or are refused by name."""

from __future__ import annotations

import dataclasses
import enum
import math
from typing import Any, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from aiopromptcache import Entry
from aiopromptcache._values import Misfit, decode, decode_as, encode


def stored(value: object) -> Entry:
    """The entry of a value."""
    kind, payload = encode(value)
    return Entry(kind, payload, stored_at=0, ttl=None)


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same types all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) or repr(one) == repr(other) == "nan"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON | st.binary())
def test_any_value_comes_back_the_same(value: Any) -> None:
    assert same(decode(stored(value)), value)


@pytest.mark.parametrize(
    "value", [2**63, 2**64, -(2**63) - 1, 10**400, math.inf, -0.0, "\ud800", {"\udfff": [1]}]
)
def test_what_json_libraries_disagree_on_comes_back_the_same(value: Any) -> None:
    assert same(decode(stored(value)), value)


class Color(enum.StrEnum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int


class Model(BaseModel):
    x: int
    name: str = "n"


class Typed(TypedDict):
    x: int


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ((1, 2), r"value is of type tuple"),
        ({"a": [0, {1}]}, r"value\['a'\]\[1\] is of type set"),
        ({"a": {1: 2}}, r"value\['a'\] has the key 1 of type int"),
        ([b"x"], r"value\[0\] is of type bytes"),
        (Color.RED, "Color"),
        (Point(1), "Point"),
        ([Model(x=1)], r"value\[0\] is of type Model"),
        (object(), "object"),
    ],
)
def test_what_json_would_change_is_refused_by_name(value: Any, part: str) -> None:
    with pytest.raises(TypeError, match=part):
        encode(value)


def test_a_value_that_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(TypeError, match="itself"):
        encode(value)


def test_models_are_read_with_type() -> None:
    assert decode_as(stored(Model(x=1)), Model) == Model(x=1)
    assert decode(stored(Model(x=1))) == {"x": 1, "name": "n"}
    assert decode_as(stored({"x": 1}), Point) == Point(1)
    assert decode_as(stored({"x": 1}), Typed) == {"x": 1}
    assert decode_as(stored([1]), list[int]) == [1]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (1, str),
        (True, int),
        (1, bool),
        (1, float),
        ("x", bytes),
        (b"x", str),
        ({"x": "no"}, Model),
        ({}, Point),
        (["a"], list[int]),
    ],
)
def test_a_value_that_does_not_fit_is_a_misfit(value: Any, kind: Any) -> None:
    with pytest.raises(Misfit):
        decode_as(stored(value), kind)


def test_an_int_that_python_does_not_write_is_refused_as_such() -> None:
    with pytest.raises(TypeError, match=r"value has an int that cannot be written: .*digits"):
        encode({"a": [10**5_000]})
