"""Passages, and which of them a question is about."""

from __future__ import annotations

import time

import pytest
from document_desk.documents import MAX_BYTES
from document_desk.passages import CHOSEN, LONGEST, WHOLE, choose, index, sentences, split, words
from document_desk.prompt import UNKNOWN, cited, messages, stand_in
from hypothesis import example, given
from hypothesis import strategies as st

from aiopromptcache.testing import RecordedRequest


@given(st.text(alphabet="ab cé猫。.!?\n#", max_size=3_000))
@example("# One\n\n# Two\n\n# Three")
@example("x" * 2_000)
@example("Yes. " * 1_000)
def test_nothing_is_lost_and_nothing_too_long(text: str) -> None:
    parts = split(text)
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert all(0 < len(part) <= LONGEST for part in parts if text.strip())


@pytest.mark.parametrize(
    "text", ["." * MAX_BYTES + "x", ".'" * 100_000, "。" * 60_000, "a\n" * 100_000, "? " * 100_000]
)
def test_a_hostile_text_takes_no_time(text: str) -> None:
    began = time.process_time()
    parts = split(text)
    sentences(text)
    index(parts)
    assert time.process_time() - began < 2


def test_a_heading_stays_with_what_follows() -> None:
    assert split("# A\n\nOne.\n\nTwo.\n\n## B\n\nThree.") == ["# A\nOne.", "Two.", "## B\nThree."]


def test_sentences() -> None:
    assert sentences('At 9.30 a.m. it opens. "Really?" Yes!\nA line\n猫在家。狗不在。') == [
        *("At 9.30 a.m.", "it opens.", '"Really?"', "Yes!", "A line", "猫在家。", "狗不在。")
    ]


def test_words() -> None:
    assert words("What are the CATS' dogs called? 猫吃鱼") == {"cat", "dog", "called", *"猫吃鱼"}


def test_a_short_document_is_sent_whole() -> None:
    parts = ["cat", "x" * (WHOLE - 3)]
    assert choose(parts, index(parts), "Where is the cat?") == [0, 1]


def test_a_long_one_by_what_it_shares_in_its_own_order() -> None:
    filler = "Nothing is here. " * 20
    parts = [f"{filler}{said}" for said in ("cat", "", "telescope cat", "cat", "cat dog", "")]
    chosen = choose(parts, index(parts), "Where does the dog keep the cat's telescope?")
    assert chosen == [0, 2, 4]
    assert chosen == choose(parts, index(parts), "The cat, the dog, the telescope!")
    assert choose(parts, index(parts), "unicorns?") == list(range(CHOSEN))


def request(question: str, *passages: str) -> RecordedRequest:
    """A request as the model gets it."""
    numbered = dict(enumerate(passages, 1))
    body = {"messages": messages("a.txt", numbered, question)}
    return RecordedRequest("/v1/chat/completions", "chat/completions", body, {}, {}, False, 1)


def test_the_stand_in_answers_from_the_passages_alone() -> None:
    given = ("The cat eats at noon. It sleeps.", "猫在中午吃饭。狗在早上叫。")
    assert stand_in(request("When does the cat eat?", *given)) == "The cat eats at noon. [1]"
    assert stand_in(request("狗什么时候叫？", *given)) == "狗在早上叫。 [2]"
    assert stand_in(request("Who passed the document?", *given)) == UNKNOWN
    assert cited("As [2] and [10] say.") == {2, 10}


def test_a_request_without_passages() -> None:
    bare = RecordedRequest("/v1/models", "models", {}, {}, {}, False, 1)
    assert stand_in(bare) == UNKNOWN
