"""What small words say of a question: its time, what must be, what is joined, on what condition.

Models hardly see them: a score says nothing of "did" and "will". What is found is compared only
where both texts say something, or where one is the other and more: a text that leaves such a word
out may well mean the same.
"""

# ruff: noqa: SIM905 (lists of words are read best as words)

from __future__ import annotations

import re
from collections.abc import Iterator

from . import _words as words
from ._text import content, fold, stem, tokens

_FUTURE = re.compile(
    r"\b(?:will|shall|won't|gonna|going to)\b|'ll\b"
    "|将(?![军领士棋])|(?<![社机学晚宴协体约开工大])会(?![议员计场所长])"
)
_PAST = re.compile(
    r"\b(?:did|didn't|was|wasn't|were|weren't|had|hadn't)\b"
    "|曾|已经|了(?![解不])|(?<![不通超经难])过(?![程敏年期滤渡分度于])"
)
_REQUEST = re.compile(r"\b(?:can|could|will|would) (?:you|someone|somebody|anyone|anybody)\b")
_MUST = re.compile(
    r"\bmust\b|\b(?:have|has|had|need|needs|needed) to\b|\brequired\b|必须|必需|一定要|需要"
)
_SHOULD = re.compile(r"\b(?:should|ought)\b|应该|应当")
_MAY = re.compile(
    r"(?<!in )(?<!of )(?<!on )\bmay\b(?! \d)|\b(?:can|could|might|allowed|permitted|able to)\b"
    "|可以|(?<![可功智职性才万])能(?![力源量否])"
)
_ASKS_FOR_ONE = re.compile(
    r"\b(?:how|what|which|where|when|who|whom|why)\b|怎|什么|哪|谁|如何|为何|为什么|多少"
)
_CONDITION = re.compile(
    r"(?<!know )(?<!tell )(?<!see )(?<!check )(?<!find out )\bif\b(?! (?:so|not|any|yes)\b)"
    r"|\b(?:unless|while|whilst|provided|as long as|in case)\b"
    r"|(?<=\w )(?<!know )(?<!tell me )(?<!see )when\b"
    r"|\b(?<!look )(?<!looking )(?<!named )(?:after|before|during|until)(?= \w)"
    "|如果|要是|假如|假设|倘若|除非|只要|的话|期间"
    "|(?<!什么)(?<!有)时候|(?<![目最])[前后](?![面端台任天悔果来代续途列缀门卫])"
)
_ONLY = re.compile(r"\b(?:only|solely|exclusively)\b|只(?=[有能可限许准])|(?<!不)仅")
_NOT_QUITE = re.compile(
    r"\b(?:(former|formerly|ex)|(vice(?!.versa)|deputy))\b"
    "|(前任|前(?=[总夫妻首]|[男女]友))|(副(?=[总市省县校主董部局会院]))"
)
_OPEN = re.compile(r"\b(?:between|difference|differences|differ|vs|versus)\b|区别|差别|不同|之间")
_AND = frozenset("and und et y e 和 与 跟 及 且".split())
_OR = frozenset("or oder ou o 或 还".split())
_SECOND_SIGN = frozenset("者 是 并".split())
"""What follows the first sign of a Chinese word that joins, as in 或者 and 还是."""
_ARTICLES = frozenset("a an the my your his her our their some any either both".split())
_MINUTES = r"(\d+|half|quarter|" + "|".join(words.NUMBERS) + r")(?: minutes?)?"
_CLOCK = re.compile(
    rf"\b{_MINUTES} (past|to|after|before|till) (\d+|noon|midnight|{'|'.join(words.NUMBERS)})\b"
)
_CLOCK_WORDS = {"past": "past", "to": "to", "after": "past", "before": "to", "till": "to"}


def time_in(text: str) -> str | None:
    """Is it about the past or the future? None where it is about neither, or both."""
    folded = _REQUEST.sub(" ", fold(text))
    past, future = _PAST.search(folded), _FUTURE.search(folded)
    return None if bool(past) == bool(future) else "past" if past else "future"


def force_in(text: str) -> str | None:
    """Whether something must, should or may be, where it says just one of these.

    Who asks how something should be done asks how it can be: there "should" says nothing.
    """
    folded = _REQUEST.sub(" ", fold(text))
    kinds = {"must": _MUST, "may": _MAY, "should": _SHOULD}
    found = [kind for kind, pattern in kinds.items() if pattern.search(folded)]
    if len(found) != 1 or (found == ["should"] and _ASKS_FOR_ONE.search(folded)):
        return None
    return found[0]


def instead(asked: str, stored: str) -> bool:
    """Is all the same but for one small word, in whose place is one that excludes it?"""
    one, other = tokens(asked), tokens(stored)
    differ = [pair for pair in zip(one, other, strict=False) if pair[0] != pair[1]]
    if len(one) != len(other) or len(differ) != 1:
        return False
    these, those = (word.removesuffix("n't") for word in differ[0])
    lines = [line for line in words.INSTEAD if these in line and those in line]
    return any(line[these] != line[those] for line in lines)


def only_in(text: str) -> bool:
    """Does it leave out all others?"""
    return _ONLY.search(fold(text)) is not None


def not_quite(text: str) -> set[str]:
    """What makes of a president another person: former, vice."""
    found = _NOT_QUITE.findall(fold(text))
    return {"former" if before or earlier else "vice" for before, _, earlier, _ in found}


def clock_times(text: str) -> list[tuple[str, str, str]]:
    """Minutes past or to an hour."""
    found = _CLOCK.findall(fold(text))
    return [(minutes, _CLOCK_WORDS[word], hour) for minutes, word, hour in found]


def alternatives(text: str) -> tuple[set[frozenset[str]], set[frozenset[str]]]:
    """What "and" joins, and what "or" does: the words before and after it.

    Nothing where things are compared: there people write either.
    """
    if _OPEN.search(fold(text)):
        return set(), set()
    found = list(_joined([word for word in tokens(text) if word not in _ARTICLES]))
    both = {frozenset(pair) for word, *pair in found if word in _AND}
    return both, {frozenset(pair) for word, *pair in found if word in _OR}


def _joined(found: list[str]) -> Iterator[tuple[str, str, str]]:
    for place, word in enumerate(found[1:-1], 1):
        if word not in _AND and word not in _OR:
            continue
        after = place + 1 + (found[place + 1] in _SECOND_SIGN)
        if after < len(found):
            yield word, stem(found[place - 1]), stem(found[after])


def adds_condition(longer: str, shorter: str) -> bool:
    """Does one ask the same as the other, and something more after an "if" or "after"?"""
    shared = set(content(shorter))
    if not shared or not set(content(longer)) > shared:
        return False
    rest, found = _CONDITION.subn(" ", fold(longer))
    return bool(found) and set(content(rest)) > shared and not _CONDITION.search(fold(shorter))
