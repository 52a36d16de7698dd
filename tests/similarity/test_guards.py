"""What must not differ between two questions, in English, Chinese and others."""

from __future__ import annotations

import logging
import time

import pytest
from question_pairs import DIFFERENT, SAME

from aiopromptcache import similarity
from aiopromptcache.similarity import DEFAULT_GUARDS
from aiopromptcache.similarity._guards import refusal
from aiopromptcache.similarity._text import numbers_in, units_in


@pytest.mark.parametrize(("asked", "stored"), DIFFERENT)
def test_what_only_looks_alike_is_refused(asked: str, stored: str) -> None:
    assert refusal(DEFAULT_GUARDS, asked, stored)
    assert refusal(DEFAULT_GUARDS, stored, asked)


@pytest.mark.parametrize(("asked", "stored"), SAME)
def test_the_same_in_other_words_passes(asked: str, stored: str) -> None:
    assert refusal(DEFAULT_GUARDS, asked, stored) is None
    assert refusal(DEFAULT_GUARDS, stored, asked) is None


@pytest.mark.parametrize("text", sorted({text for pair in DIFFERENT + SAME for text in pair}))
def test_a_text_never_differs_from_itself(text: str) -> None:
    assert refusal(DEFAULT_GUARDS, text, text) is None


@pytest.mark.parametrize(
    ("guard", "asked", "stored"),
    [
        ("numbers", "room 12", "room 13"),
        ("units", "5 kg", "5 pounds"),
        ("negation", "it works", "it does not work"),
        ("small_words", "did it rain?", "will it rain?"),
        ("small_words", "you must go", "you may go"),
        ("small_words", "tea or milk now", "tea and milk now"),
        ("small_words", "only adults", "adults"),
        ("small_words", "at ten past six", "at ten to six"),
        ("conditions", "can I swim?", "can I swim if it rains?"),
        ("quoted_text", "who said 'yes'?", "who said 'no'?"),
        ("code", "call a_b", "call a_c"),
        ("code", "fix:\nif a:\n  b\n  c", "fix:\nif a:\n  b\nc"),
        ("signs", "is a < b", "is a > b"),
        ("exclusive_terms", "buy it", "sell it"),
        ("exclusive_terms", "prepare for a trial", "prepare for a trail"),
        ("direction", "from here to there", "from there to here"),
        ("question_words", "when is it?", "where is it?"),
        ("names", "ask Anna", "ask Berta"),
        ("minimal_pairs", "boil eggs", "boil rice"),
    ],
)
def test_each_guard_gives_its_reason_and_quotes_nothing(
    guard: str, asked: str, stored: str
) -> None:
    reason = getattr(similarity, guard)(asked, stored)
    assert reason
    assert "differ" in reason or "another" in reason
    assert not {"Anna", "Berta", "eggs", "kg", "'yes'?", "a_b", "12"} & set(reason.split())


def test_a_guard_that_fails_refuses_and_logs_no_text(caplog: pytest.LogCaptureFixture) -> None:
    def broken(asked: str, stored: str) -> str | None:
        raise ValueError("no")

    caplog.set_level(logging.INFO, "aiopromptcache")
    assert refusal((broken,), "a", "b") == "the guard broken failed"
    assert not caplog.records


@pytest.mark.parametrize("text", ["", " ", "?", "\ud800", "a" * 100_000, "((((", "'" * 50, "。"])
def test_odd_texts_are_no_trouble(text: str) -> None:
    assert refusal(DEFAULT_GUARDS, text, text) is None
    refusal(DEFAULT_GUARDS, text, "What is it?")


def test_many_that_may_be_a_number_take_no_time() -> None:
    ones, began = "一个" * 490, time.process_time()
    assert similarity.numbers(ones + "7", ones + "8") == "numbers differ"
    assert similarity.numbers(ones, "一个") is None
    assert similarity.numbers("1 a", "一 b 一") is None
    assert similarity.numbers("1 and 1", "一 b") == "numbers differ"
    assert time.process_time() - began < 0.2


@pytest.mark.parametrize(
    ("text", "numbers", "perhaps"),
    [
        ("1,000 and 2.50", {"1000": 1, "2.5": 1}, 0),
        ("twenty one", {"21": 1}, 0),
        ("two hundred thousand", {"200000": 1}, 0),
        ("5k 3m", {"5000": 1, "3000000": 1}, 0),
        ("二百三十五", {"235": 1}, 0),
        ("两万五千", {"25000": 1}, 0),
        ("3万", {"30000": 1}, 0),
        ("十二", {"12": 1}, 0),
        ("２０２４年", {"2024": 1}, 0),
        ("one of them", {}, 1),
        ("一个", {}, 1),
        ("百度 万一 十分", {}, 0),
    ],
)
def test_numbers_have_one_form(text: str, numbers: dict[str, int], perhaps: int) -> None:
    assert numbers_in(text) == (numbers, perhaps)


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("5 kg", {"kg"}),
        ("5公斤", {"kg"}),
        ("how many miles", {"mile"}),
        ("wait a second", set()),
        ("10 seconds", {"second"}),
        ("$5", {"usd"}),
        ("小米手机", set()),
        ("5米", {"m"}),
    ],
)
def test_units_have_one_name(text: str, units: set[str]) -> None:
    assert units_in(text) == units
