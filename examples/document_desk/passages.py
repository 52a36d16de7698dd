"""A document in passages, and which of them a question is about."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

LONGEST = 800
"""Characters of a passage."""
WHOLE = 1_500
"""Characters up to which a document is sent whole."""
CHOSEN = 3
"""Passages that are sent of a longer one."""

# Possessive, and only from where a row of stops begins: linear in whatever is uploaded.
_SENTENCE = re.compile(
    r".+?(?:(?<![.!?])[.!?]++[\"')\]]*+(?=\s|$)|(?<![。！？])[。！？]++|$)", re.DOTALL
)
_WORD = re.compile(r"[぀-ヿ㐀-鿿가-힣]|[^\W_぀-ヿ㐀-鿿가-힣]+")
_IDLE = frozenset(
    _WORD.findall(
        """
        a about an and are as at be by can could do does for from has have how i if in is it its me
        my of on or our please should tell that the their there this to was we what when where which
        who why will with would you your
        """
    )
)


def split(text: str) -> list[str]:
    """Passages of at most `LONGEST` characters: paragraphs, the long ones cut after sentences.

    A heading stays with what follows it.
    """
    made: list[str] = []
    heading = ""
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        block = f"{heading}{paragraph.strip()}"
        heading = ""
        if _is_heading(paragraph) and len(block) < LONGEST // 2:
            heading = f"{block}\n"
        else:
            made.extend(_cut(block))
    return [*made, heading.strip()] if heading else made


def sentences(text: str) -> list[str]:
    """The sentences of a text, and its lines that are none."""
    return [found for line in text.splitlines() for found in _sentences_of_line(line)]


def words(text: str) -> frozenset[str]:
    """What a text is compared by: its words in the singular, without those that say little."""
    found = _WORD.findall(text.casefold())
    return frozenset(_singular(word) for word in found if word not in _IDLE)


def index(texts: Iterable[str]) -> list[str]:
    """The words of each text as one str, with a space before and after each: quick to search."""
    return [f" {' '.join(sorted(words(text)))} " for text in texts]


def choose(passages: Sequence[str], indexed: Sequence[str], question: str) -> list[int]:
    """The places of those that share most with the question, in the document's order.

    `indexed` is what `index` makes of the passages.

    All of a short document; the beginning of one that shares no word with the question. Order is
    the document's and not that of the scores: the same passages then make the same prompt, and one
    prompt is what similar questions need to share an answer.
    """
    if sum(map(len, passages)) <= WHOLE:
        return list(range(len(passages)))
    scores = shared(indexed, question)
    best = sorted(range(len(passages)), key=lambda place: (-scores[place], place))[:CHOSEN]
    return sorted(place for place in best if scores[place]) or list(range(CHOSEN))


def shared(indexed: Sequence[str], question: str) -> list[float]:
    """For each text the worth of the words it shares with the question: the rarer, the more."""
    asked = sorted(words(question))
    found = [[word for word in asked if f" {word} " in text] for text in indexed]
    spread = Counter(word for those in found for word in those)
    return [sum(1 / spread[word] for word in those) for those in found]


def _is_heading(paragraph: str) -> bool:
    line = paragraph.strip()
    return "\n" not in line and len(line) <= 80 and line[-1:] not in (".", "!", "?", "。")


def _sentences_of_line(line: str) -> Iterable[str]:
    return filter(None, (part.strip() for part in _SENTENCE.findall(line)))


def _cut(block: str) -> list[str]:
    if len(block) <= LONGEST:
        return [block]
    made = [""]
    for piece in (part for found in _SENTENCE.findall(block) for part in _bounded(found)):
        if made[-1] and len(made[-1]) + len(piece) > LONGEST:
            made.append("")
        made[-1] += piece
    return [part for part in map(str.strip, made) if part]


def _bounded(piece: str) -> list[str]:
    return [piece[at : at + LONGEST] for at in range(0, len(piece), LONGEST)]


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
