"""Words that are the same in another form: misspelled, inflected, abbreviated, or synonyms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rapidfuzz.distance import OSA, JaroWinkler

from . import _words as words

_ALIKE = 0.75
_INFLECTED = 3
"""Letters that inflection changes at the end of a word, at most."""


def alike(these: Sequence[str], those: Sequence[str]) -> bool:
    """Do the words of two questions that stand in each other's place mean the same?"""
    if stands_for(these, those) or stands_for(those, these):
        return True
    if len(these) == len(those):
        return all(map(_is_form, these, those))
    return JaroWinkler.normalized_similarity(" ".join(these), " ".join(those)) > _ALIKE


def _is_form(one: str, other: str) -> bool:
    """Is one word a synonym of the other, or no more than its spelling or inflection?"""
    if any(one in group and other in group for group in words.SYNONYMS):
        return True
    if one in words.UNITS and words.UNITS[one] == words.UNITS.get(other):
        return True
    if JaroWinkler.normalized_similarity(one, other) <= _ALIKE:
        return False
    start, shorter = common(one, other), min(len(one), len(other))
    if max(len(one), len(other)) - start <= _INFLECTED and (start >= 4 or start == shorter):
        return True
    return shorter > 4 and OSA.distance(one, other) <= (2 if shorter > 8 else 1)


def common(one: Sequence[str], other: Sequence[str]) -> int:
    """How many items both begin with."""
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def stands_for(short: Sequence[str], spelled: Sequence[str]) -> bool:
    """Is the one an abbreviation of the other: wwii of world war ii, usa of united states?"""
    if len(short) != 1 or len(spelled) < 2 or not short[0].isalpha():
        return False
    counted = [word for word in spelled if word not in words.LEFT_OUT]
    return spelled_out(short, spelled) == {short[0], *counted}


def spelled_out(shorts: Iterable[str], text: Sequence[str]) -> set[str]:
    """Those abbreviations that a text spells out, and the words that do so."""
    counted = [word for word in text if word not in words.LEFT_OUT]
    initials, there = "".join(word[0] for word in counted), set(counted)
    found: set[str] = set()
    for short in shorts:
        for form in {short, words.SHORT.get(short, short)}:
            if len(form) < 3 and form not in words.TWO_LETTERS:
                continue
            if (start := initials.find(form)) >= 0:
                found |= {short, *counted[start : start + len(form)]}
            for cut in range(2, len(form)):  # the last word whole: ii, 2
                whole = form[cut:] in there and (cut < len(form) - 1 or form[cut].isdigit())
                if whole and initials.find(form[:cut]) >= 0:
                    found |= _ending_whole(short, form, cut, counted, initials)
    return found


def _ending_whole(short: str, form: str, cut: int, counted: list[str], initials: str) -> set[str]:
    for end, word in enumerate(counted):
        if word == form[cut:] and end >= cut and initials[end - cut : end] == form[:cut]:
            return {short, *counted[end - cut : end + 1]}
    return set()


def is_kin(one: str, other: str) -> bool:
    """Are two names one, as India and Indian, Turkey and Turkish? Not Austria and Australia."""
    start = common(one, other)
    if start < 4:
        return False
    ends = {one[start:], other[start:]}
    return ends <= words.ENDINGS if "" not in ends else ends - {""} <= words.NATIONS
