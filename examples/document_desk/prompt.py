"""What the model is asked, and a stand-in for the model that answers from just that."""

from __future__ import annotations

import re
from typing import Any

from aiopromptcache.testing import RecordedRequest

from .passages import index, sentences, shared

_RULES = (
    "Answer from the numbered passages of the document {name!r} alone, in one or two sentences,"
    " and name the passage that says so, like [2]. If none does, say that."
)
_PASSAGE = re.compile(r"^\[(\d+)\]\n(.*?)(?=^\[\d+\]\n|\Z)", re.DOTALL | re.MULTILINE)
_CITED = re.compile(r"\[(\d+)\]")
UNKNOWN = "The passages do not say."


def messages(name: str, passages: dict[int, str], question: str) -> list[Any]:
    """The request's messages. `passages` by the number they are cited by.

    The question is alone in the last message: only there may similar questions differ.
    """
    numbered = "\n\n".join(f"[{number}]\n{text}" for number, text in passages.items())
    return [
        {"role": "system", "content": f"{_RULES.format(name=name)}\n\n{numbered}"},
        {"role": "user", "content": question},
    ]


def cited(answer: str) -> set[int]:
    """The numbers of the passages that an answer names."""
    return {int(number) for number in _CITED.findall(answer)}


def stand_in(request: RecordedRequest) -> str:
    """For the local model server: the sentence that shares most with the question."""
    given = next((m for m in request.body.get("messages", ()) if m["role"] == "system"), None)
    found = _PASSAGE.findall(given["content"]) if given else []
    lines = [(number, said) for number, text in found for said in sentences(text)]
    scores = shared(index(said for _, said in lines), request.prompt)
    best = max(range(len(lines)), key=scores.__getitem__, default=None)
    if best is None or not scores[best]:
        return UNKNOWN
    number, said = lines[best]
    return f"{said} [{number}]"
