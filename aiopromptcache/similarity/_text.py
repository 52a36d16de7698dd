"""What the guards and the lexical score see in a text."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from . import _words as words

try:
    from ._alike import alike, common
except ImportError as error:  # pragma: no cover
    raise ImportError(
        "aiopromptcache.similarity needs more: pip install 'aiopromptcache[similarity]'"
    ) from error

CJK = (
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af"
    "\u0e01-\u0e4e\u0e80-\u0ece\u0edc-\u0edf\u1000-\u103f\u1050-\u108f\u1780-\u17d3"
)
"""Scripts without spaces between words, and Korean: each character is a token. The second line is
of those that spell: Thai, Lao, Burmese, Khmer."""
_MARKS = "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0963\u0971-\u0dff"
"""Marks within words, as vowels of Hindi: letters to readers, not to regular
expressions."""
_LETTERS = rf"[^\W\d_{CJK}](?:[^\W\d_{CJK}]|(?!\d)[{_MARKS}])*"
_TOKEN = re.compile(rf"[{CJK}]|{_LETTERS}(?:['][^\W\d_{CJK}]+)*|\d+(?:[.,:/]\d+)*")
_IS_CJK = re.compile(f"[{CJK}]")
_APOSTROPHES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "`": "'"})
_REMEMBERED = 4_096


@lru_cache(_REMEMBERED)
def fold(text: str) -> str:
    """One form for what is written in several: width, case, apostrophes, white space."""
    folded = unicodedata.normalize("NFKC", text).casefold().translate(_APOSTROPHES)
    return " ".join(folded.split())


@lru_cache(_REMEMBERED)
def tokens(text: str) -> list[str]:
    """Words and numbers in their order, possessives bare; CJK by character. Do not change it."""
    found: list[str] = _TOKEN.findall(fold(text))
    return [word.removesuffix("'s") for word in found]


def without_marks(text: str) -> str:
    """The text with nothing but words and what holds identifiers together."""
    return re.sub(rf"[^\w.+#@/\\:{CJK}-]+", " ", fold(text)).strip(" .:")


@lru_cache(_REMEMBERED)
def content(text: str) -> tuple[str, ...]:
    """What is asked about: stems of the words that say something."""
    return tuple(stem(word) for word in tokens(text) if word not in words.STOPWORDS)


def stem(word: str) -> str:
    """A word without the endings of English inflection."""
    for ending in ("ing", "ies", "ied", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            return word[: -len(ending)]
    return word


# Numbers and units


class Numbers(NamedTuple):
    """The numbers of a text, and how many words there may be a 1 or none."""

    certain: Counter[str]
    perhaps: int


_ARABIC = re.compile(r"\d+(?:[.,:/-]\d+)*\s?(?:st|nd|rd|th|k|m|bn)?\b|\d+(?:[.,:/]\d+)*")
_TIMES = {"k": 1_000, "m": 1_000_000, "bn": 1_000_000_000}
_HAN = re.compile("[〇零一二两三四五六七八九十百千万亿]+")


def numbers_in(text: str) -> Numbers:
    """All numbers, each in one form."""
    folded = fold(text)
    found = Counter(_arabic(folded))
    perhaps = 0
    for number in [*_written(tokens(text)), *_han(folded)]:
        if number == "1":
            perhaps += 1
        else:
            found[number] += 1
    return Numbers(found, perhaps)


def _arabic(folded: str) -> Iterator[str]:
    for match in _ARABIC.finditer(folded):
        number = match[0].replace(" ", "")
        digits = number.rstrip("stndrhkmb")
        suffix = number[len(digits) :]
        if re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?", digits):
            digits = digits.replace(",", "")
        factor = words.CHINESE_UNITS.get(folded[match.end() : match.end() + 1], 1)
        factor *= _TIMES.get(suffix, 1)
        if re.fullmatch(r"\d+(\.\d+)?", digits):
            yield f"{float(digits) * factor:.12g}" + (suffix if suffix not in _TIMES else "")
        else:
            yield digits + suffix


def _written(found: list[str]) -> Iterator[str]:
    """English number words, joined: twenty one, two hundred, five million."""
    total: int | None = None
    for word in [*found, ""]:
        value = words.NUMBERS.get(word)
        if value is not None and value.isdigit():
            number = int(value)
            if total is not None and number >= 100:
                total *= number
            else:
                total = number + (total or 0)
            continue
        if total is not None:
            yield str(total)
            total = None
        if value is not None:
            yield value


def _han(folded: str) -> Iterator[str]:
    for match in _HAN.finditer(folded.replace("十分", "").replace("万一", "").replace("千万", "")):
        digits = [words.CHINESE_DIGITS.get(character) for character in match[0]]
        if all(digits):
            yield str(int("".join(filter(None, digits))))
        elif any(digits) or "十" in match[0]:
            yield str(_han_value(match[0]))


def _han_value(text: str) -> int:
    whole = part = digit = 0
    for character in text:
        if character in words.CHINESE_DIGITS:
            digit = int(words.CHINESE_DIGITS[character])
        elif (unit := words.CHINESE_UNITS[character]) < 10_000:
            part += (digit or 1) * unit
            digit = 0
        else:
            whole += (part + digit or 1) * unit
            part = digit = 0
    return whole + part + digit


_NEED_A_NUMBER = frozenset(
    ["second", "min", "mins", "sec", "foot", "feet", "pound", "mile", "yard", "yen", "cent"]
)
_HAN_UNITS = "|".join(sorted((u for u in words.UNITS if not u.isascii()), key=len, reverse=True))
_HAN_UNIT = re.compile(f"[\\d几多少一二两三四五六七八九十百千万亿半]\\s?({_HAN_UNITS})")
_HAN_MEASURED = re.compile(f"[\\d一二两三四五六七八九十百千万亿半]\\s?({_HAN_UNITS})")
_UNIT = re.compile(r"(\d\s?)?([a-z]+|[$€£₹%])")
_MONEY = re.compile(r"([$€£₹])\s?\d|\d\s?([$€£₹])")


def units_in(text: str) -> set[str]:
    """The units of measure, each by one name."""
    folded = fold(text)
    found = {words.UNITS[unit] for unit in _HAN_UNIT.findall(folded)}
    for number, unit in _UNIT.findall(folded):
        needs = len(unit) <= 2 and unit.isalpha()
        if unit in words.UNITS and (number or not (needs or unit in _NEED_A_NUMBER)):
            found.add(words.UNITS[unit])
    return found


def measured_in(text: str) -> set[str]:
    """Those units that follow a number: of 5 km in miles, km."""
    found = tokens(text)
    spelled = {
        words.UNITS[unit]
        for number, unit in pairwise(found)
        if unit in words.UNITS and (number[0].isdigit() or number in words.NUMBERS)
    }
    signs = ["".join(pair) for pair in _MONEY.findall(fold(text))]
    signs += _HAN_MEASURED.findall(fold(text))
    return spelled | {words.UNITS[sign] for sign in signs}


# Negation, marks, names


_OR_NOT = re.compile(r"\bor not\b(?=[\s?.!,]*$)")
"""What a question may end with and mean the same."""


def negations_in(text: str) -> int:
    """How many words turn the text round."""
    packed = _OR_NOT.sub("", fold(text))
    count = sum(word in words.NEGATIONS or word.endswith("n't") for word in tokens(packed))
    for harmless in words.NO_NEGATIONS:
        packed = packed.replace(harmless, " ")
    packed = re.sub(rf"([{CJK}]{{1,3}})[不没]\1", r"\1", packed)  # "is it or is it not": a question
    return count + sum(packed.count(sign) for sign in words.NEGATING_SIGNS)


def bare(word: str, prefix: str) -> str | None:
    """A word without a prefix that turns it round; None where it has none."""
    return word[len(prefix) :] if word.startswith(prefix) and len(word) - len(prefix) > 3 else None


_QUOTES = re.compile(
    '"([^"]+)"|“([^”]+)”|«([^»]+)»|「([^」]+)」|『([^』]+)』|《([^》]+)》'
    "|(?<!\\w)['‘]([^'’]+)['’](?!\\w)"
)
_CODE = re.compile(
    r"""```.+?``` | `[^`]+` | https?://\S+ | (?<![\w.+-])[\w.+-]+@[\w-]+\.[\w.]+
      | (?<!\w)(?:[A-Za-z]:\\|/|\./|~/)[\w./\\-]{2,} | (?<!\w)--?[a-zA-Z][\w-]*
      | (?<!\w)(?: [^\W_]+(?:_\w+)+ | \w+\(\) | [A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+
        | [a-z]+[A-Z]\w* | [A-Z][a-z]+[A-Z]\w* | [#@]\w+ | [A-Za-z]+(?:\+\+|\#)
        | v?\d+\.\d+[\w.]* )""",
    re.VERBOSE | re.DOTALL,
)


def quotes_in(text: str) -> set[str]:
    """What stands in quotation marks."""
    return {"".join(groups) for groups in _QUOTES.findall(text)}


def code_in(text: str) -> set[str]:
    """Code, identifiers, paths, addresses, options, versions."""
    return {item.strip("`").rstrip(".,;:?!)") for item in _CODE.findall(text)}


def indents_in(text: str) -> list[str]:
    """What each line begins with, where one is indented: there white space may say something."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    indents = [line[: len(line) - len(line.lstrip())] for line in lines]
    return indents if any(indents) else []


_SIGNS = re.compile(r"(?<![\w)])[-−](?=\d)|!(?==)|&(?=&)|(?<=&)&|[*^\\[\]{}]")


def signs_in(text: str) -> list[str]:
    """Signs that words do not show, in their order: operators, a minus, brackets, pictures.

    Currencies, per cent and degrees are units.
    """
    folded = fold(text)
    found = [(match.start(), match[0]) for match in _SIGNS.finditer(folded)]
    found += [
        (place, sign)
        for place, sign in enumerate(folded)
        if not sign.isalnum() and sign not in "°®©" and unicodedata.category(sign) in ("Sm", "So")
    ]
    return [sign for _, sign in sorted(found)]


_WORD = re.compile(r"[A-Za-zÀ-ɏͰ-ϿЀ-ӿ][\w'’&-]*")


def names_in(text: str) -> set[str]:
    """Folded words with a capital letter within a sentence, and abbreviations.

    None where nearly all words have one: then it tells nothing.
    """
    found, lower, upper = set(), 0, 0
    for match in _WORD.finditer(text):
        word = match[0]
        capital = word[0].isupper()
        lower, upper = lower + (not capital), upper + capital
        first = not re.search(r"[^\s.?!:\"'(“]", text[: match.start()][-2:] or " ")
        short = len(word) > 1 and word.isupper()
        if short or (capital and not first):
            found.add(fold(word).removesuffix("'s"))
    plain = lower > upper or upper <= 2
    shouted = found & words.ALSO_WORDS if plain else set()
    return {name for name in found if name not in words.STOPWORDS} | shouted if plain else set()


def terms_in(text: str) -> dict[int, set[int]]:
    """Terms that exclude others: which group, and which of its members."""
    spaced, packed = " " + " ".join(tokens(text)) + " ", fold(text)
    found: dict[int, set[int]] = {}
    for word in tokens(text):
        for group, member in _TERMS.get(word, ()):
            found.setdefault(group, set()).add(member)
    for form, places in _OTHER_TERMS.items():
        if form in (spaced if form.isascii() else packed):
            for group, member in places:
                found.setdefault(group, set()).add(member)
    return found


def _terms() -> tuple[dict[str, list[tuple[int, int]]], dict[str, list[tuple[int, int]]]]:
    single: dict[str, list[tuple[int, int]]] = {}
    other: dict[str, list[tuple[int, int]]] = {}
    for group, members in enumerate(words.GROUPS):
        for member, forms in enumerate(members):
            for form in forms:
                alone = form.isascii() and " " not in form
                key = form if alone or not form.isascii() else f" {form} "
                (single if alone else other).setdefault(key, []).append((group, member))
    return single, other


_TERMS, _OTHER_TERMS = _terms()


# Order and minimal pairs


def turned(one_text: str, other_text: str) -> bool:
    """Does one thing stand before a "to" or "than" in one text, and behind it in the other?"""
    other = _sides(other_text)
    return any((behind, word, before) in other for before, word, behind in _sides(one_text))


_OWNED = re.compile(r"(?<!\w)(\w+)'s (\w+)")


@lru_cache(_REMEMBERED)
def _sides(text: str) -> frozenset[tuple[str, str, str]]:
    """Each such word, after what stands before it and before what stands behind it."""
    found = [word for word in tokens(text) if word not in words.FILLING]
    sides = [(owner, "'s", owned) for owner, owned in _OWNED.findall(fold(text))]
    for place, word in enumerate(found[1:-1]):
        before, behind = found[place], found[place + 2]
        if word in words.BETWEEN and words.STOPWORDS.isdisjoint((before, behind)):
            sides.append((stem(before), word, stem(behind)))
    return frozenset(side for side in sides if side[0] != side[2])


def exchanged(one: Sequence[str], other: Sequence[str]) -> bool:
    """Have two things changed places around something that is not "and" or "or"?

    Alice pays Bob, Bob pays Alice. What merely moves (how do cats, cats how do) has not.
    """
    if one == other or len(one) != len(other) or Counter(one) != Counter(other):
        return False
    start = common(one, other)
    end = min(len(one) - start, common(one[::-1], other[::-1]))
    these, those = one[start : len(one) - end], other[start : len(other) - end]
    head = _overlap(these, those)
    tail = _overlap(those, these)
    middle = these[head : len(these) - tail]
    if not head or not tail or head + tail >= len(these) or middle != those[tail:-head]:
        return False
    sides = (these[:head], these[len(these) - tail :])
    says = all(any(word not in words.STOPWORDS for word in side) for side in sides)
    return says and not words.JOINED.issuperset(middle)


def _overlap(one: Sequence[str], other: Sequence[str]) -> int:
    """How many words one begins and the other ends with."""
    longest = range(len(one) - 1, 0, -1)
    return next((n for n in longest if list(one[:n]) == list(other[-n:])), 0)


# Minimal pairs


def swapped(one_text: str, other_text: str) -> int:
    """How many words stand in the place of others, where all else that says something is the same.

    0 where the texts are no such pair. Four characters of a script without spaces are two words,
    of one that spells up to ten.
    Numbers, negations and mere order have guards of their own.
    """
    one, other = _plain(_one_word(one_text)), _plain(_one_word(other_text))
    start = common(one, other)
    rest = min(len(one), len(other)) - start
    end = min(rest, common(one[::-1], other[::-1]))
    these, those = one[start : len(one) - end], other[start : len(other) - end]
    if not these or not those:
        return int(len(these) + len(those) == 1 and _is_spelled((*these, *those)[0]))
    if Counter(these) == Counter(those) or alike(these, those):
        return 0
    if not start + end and not _framed(tokens(one_text), tokens(other_text)):
        return 0
    return max(_length(these), _length(those))


def _framed(one: Sequence[str], other: Sequence[str]) -> bool:
    """Do these differ in a word or two amid small words that are the same: what is A, what is B?"""
    around = common(one, other) + common(one[::-1], other[::-1])
    return around > 1 and max(len(one), len(other)) - around <= 2


def _one_word(text: str) -> str:
    """The text with one of several Chinese words that mean the same."""
    for word, other in words.CHINESE_SYNONYMS.items():
        text = text.replace(word, other)
    return text


def _plain(text: str) -> tuple[str, ...]:
    return tuple(
        word
        for word in content(text)
        if not (
            word[0].isdigit()
            or word in words.NUMBERS
            or _HAN.fullmatch(word)
            or word in words.NEGATIONS
            or word.endswith("n't")
        )
    )


def _length(found: tuple[str, ...]) -> int:
    signs = [token for token in found if _IS_CJK.match(token)]
    spelled = sum(map(_is_spelled, signs))
    return len(found) - len(signs) + (len(signs) - spelled + 1) // 2 + (spelled + 4) // 5


def _is_spelled(token: str) -> bool:
    """Is it a letter of Thai or its like, where one letter is less than a word?"""
    return "\u0e01" <= token <= "\u17d3"
