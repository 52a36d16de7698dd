"""Policies: what is checked, whether a policy is made or derived from another."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import pytest

from aiopromptcache import ConfigurationError, Policy
from aiopromptcache._policy import POLICY_FIELDS

PLAIN = Policy()
BAD: dict[str, Any] = {
    "ttl": -1,
    "stale_while_revalidate": None,
    "stale_if_error": float("inf"),
    "refresh_ahead": "1",
    "jitter": 1.5,
    "max_age": True,
    "max_stale": float("nan"),
    "no_cache": 1,
    "no_store": None,
    "only_if_cached": "yes",
    "partition": None,
    "tags": "one",
    "normalize": 1,
    "similarity": 2,
    "stream_usage": 0,
    "cacheable": "all",
    "storable": {},
}
GOOD: dict[str, tuple[Any, Any]] = {
    "ttl": (None, None),
    "stale_while_revalidate": (timedelta(minutes=1), 60.0),
    "max_age": (timedelta(hours=1), 3600.0),
    "max_stale": (5, 5.0),
    "no_cache": (True, True),
    "partition": ("p", "p"),
    "tags": (["a", "b"], ("a", "b")),
    "similarity": (None, None),
    "storable": (bool, bool),
}


@pytest.mark.parametrize("name", POLICY_FIELDS)
def test_a_value_out_of_range_is_refused_where_a_policy_is_made_and_where_it_is_changed(
    name: str,
) -> None:
    change = {name: BAD[name]}
    with pytest.raises(ConfigurationError, match=name):
        Policy(**change)
    with pytest.raises(ConfigurationError, match=name):
        PLAIN.merged(**change)


@pytest.mark.parametrize("name", GOOD)
def test_a_changed_policy_is_as_one_that_is_made(name: str) -> None:
    given, kept = GOOD[name]
    changed = PLAIN.merged(**{name: given})
    assert changed == dataclasses.replace(PLAIN, **{name: given})
    assert getattr(changed, name) == kept
    assert Policy() == PLAIN


def test_what_was_changed_before_stays() -> None:
    assert PLAIN.merged(ttl=1, tags=("a",)).merged(no_store=True) == Policy(
        ttl=1, tags=("a",), no_store=True
    )


def test_an_unknown_field_is_named() -> None:
    with pytest.raises(ConfigurationError, match="'time_to_live'"):
        PLAIN.merged(time_to_live=1)
