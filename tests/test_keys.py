"""Keys: equal for equal requests, different for all others, the same everywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from aiopromptcache import PromptCache

REQUEST: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": "Hi"}],
    "temperature": 0.5,
}


def key(**request: Any) -> str:
    """A key of a cache of its own."""
    return PromptCache().key(**request)


def test_a_key_is_a_hex_digest_that_never_changes() -> None:
    assert key(**REQUEST) == ("03107a3efedd34db1ff3c6d3c1565f32dbe5f6fd28fa076592624ae2b5a0651f")
    assert key(logit_bias={50256: -100, 7: 1}) == key(logit_bias={"7": 1, "50256": -100})


def test_a_key_is_the_same_in_every_process() -> None:
    code = f"from aiopromptcache import PromptCache; print(PromptCache().key(**{REQUEST!r}))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert printed == {key(**REQUEST)}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON))
def test_the_order_of_keys_does_not_count(request: dict[str, Any]) -> None:
    turned = dict(reversed(request.items()))
    assert key(body=request) == key(body=turned)


DIFFERENT: list[Any] = [
    None, False, True, 0, 1, 1.0, 0.5, "", "0", "null", [], [None], {}, {"a": None}, {"a": 1},
    [[1], 2], [1, [2]], "a", "A", " a", 2**64, 2**64 + 1, float(2**53), "\u00e9", "e\u0301",
]  # fmt: skip


def test_different_requests_have_different_keys() -> None:
    assert len({key(value=value) for value in DIFFERENT}) == len(DIFFERENT)


class Message(BaseModel):
    role: str
    content: str
    name: str | None = None


def test_a_model_counts_as_what_it_is_sent_as() -> None:
    model = Message(role="user", content="Hi")
    assert key(messages=[model]) == key(messages=[{"role": "user", "content": "Hi"}])
    assert key(messages=(model,)) == key(messages=[model])


@pytest.mark.parametrize(
    "value",
    [float("nan"), [float("inf")], {"a": None, "b": [float("-inf")]}, object(), {1, 2}, b"x"],
    ids=type,
)
def test_what_is_no_json_has_no_key(value: Any) -> None:
    with pytest.raises(TypeError):
        key(value=value)


def test_an_iterator_is_refused_and_not_consumed() -> None:
    iterator = iter([1, 2])
    with pytest.raises(TypeError):
        key(value=[iterator])
    assert list(iterator) == [1, 2]


def test_a_value_that_contains_itself_has_no_key() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(TypeError):
        key(value=value)
