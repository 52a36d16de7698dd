"""What must not differ between two questions, however alike they are.

A guard gets both texts and gives the reason to refuse the match, without quoting them, or None.
Each looks for one thing in which near-identical questions differ and their answers too. They need
no model, and know English, Chinese and a little of other languages.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from . import _words as words
from ._alike import is_kin, spelled_out
from ._clauses import (
    adds_condition,
    alternatives,
    clock_times,
    force_in,
    instead,
    not_quite,
    only_in,
    time_in,
)
from ._text import (
    bare,
    code_in,
    content,
    exchanged,
    indents_in,
    measured_in,
    names_in,
    negations_in,
    numbers_in,
    quotes_in,
    signs_in,
    stem,
    swapped,
    terms_in,
    tokens,
    turned,
    units_in,
    without_marks,
)

logger = logging.getLogger("aiopromptcache")

Guard = Callable[[str, str], str | None]
"""Gets the question asked and the question stored; gives the reason to refuse, or None."""


def refusal(guards: Iterable[Guard], asked: str, stored: str) -> str | None:
    """The first guard's reason against a match, or None. A guard that raises is one, too."""
    for guard in guards:
        try:
            reason = guard(asked, stored)
        except Exception as error:
            name = getattr(guard, "__name__", type(guard).__name__)
            logger.debug("the guard %s failed", name, exc_info=error)
            return f"the guard {name} failed"
        if reason is not None:
            return reason
    return None


def numbers(asked: str, stored: str) -> str | None:
    """Numbers: digits, percentages, dates and times, and such as are written out."""
    one, other = numbers_in(asked), numbers_in(stored)
    rest = [Counter({**found.certain, "1": 0}) for found in (one, other)]
    # "one" may be no number at all, so it may be left out.
    more = other.certain["1"] - one.certain["1"]
    if rest[0] == rest[1] and -other.perhaps <= more <= one.perhaps:
        return None
    return "numbers differ"


def units(asked: str, stored: str) -> str | None:
    """Units of measure and currencies, and which of them it is that is given a number of."""
    one, other = units_in(asked), units_in(stored)
    if one == other:
        turned_round = len(one) > 1 and measured_in(asked) != measured_in(stored)
        return "units differ" if turned_round else None
    measured = bool(numbers_in(asked).certain or numbers_in(stored).certain)
    return "units differ" if measured or (one - other and other - one) else None


def negation(asked: str, stored: str) -> str | None:
    """Words that turn a statement round: not, never, without, 不, 没 and the like."""
    if negations_in(asked) != negations_in(stored):
        return "negation differs"
    one, other = set(tokens(asked)), set(tokens(stored))
    for these, those in ((one, other), (other, one)):
        for word in these - those:
            if any(bare(word, prefix) in those for prefix in words.TURNING):
                return "negation differs"
    return None


def small_words(asked: str, stored: str) -> str | None:
    """What small words turn: did and will, is and was, must and may, and and or, only, all and
    most, my and your, from and to, former, past six and to six.
    """
    if {time_in(asked), time_in(stored)} == {"past", "future"}:
        return "the time differs"
    force = {force_in(asked), force_in(stored)}
    if len(force) == 2 and None not in force:
        return "what must or may be differs"
    (both, either), (stored_both, stored_either) = alternatives(asked), alternatives(stored)
    if both & stored_either or either & stored_both:
        return "and and or differ"
    if only_in(asked) != only_in(stored):
        return "whether it is the only one differs"
    if not_quite(asked) != not_quite(stored) or instead(asked, stored):
        return "a small word differs"
    return None if clock_times(asked) == clock_times(stored) else "the time differs"


def conditions(asked: str, stored: str) -> str | None:
    """A condition that one adds to the other: if, unless, after, 如果, 期间 and the like."""
    if adds_condition(asked, stored) or adds_condition(stored, asked):
        return "a condition differs"
    return None


def quoted_text(asked: str, stored: str) -> str | None:
    """What stands in quotation marks."""
    return _contained(quotes_in, asked, stored, "quoted text differs")


def code(asked: str, stored: str) -> str | None:
    """Code, identifiers, paths, addresses, options, versions, and how lines are indented."""
    if indents_in(asked) != indents_in(stored):
        return "indentation differs"
    return _contained(code_in, asked, stored, "code or identifiers differ")


def signs(asked: str, stored: str) -> str | None:
    """Signs that no word shows: operators, a minus, brackets, pictures."""
    return "signs differ" if signs_in(asked) != signs_in(stored) else None


def names(asked: str, stored: str) -> str | None:
    """Names and abbreviations, as far as capital letters tell."""
    here, there = tokens(asked), tokens(stored)
    named = names_in(asked), names_in(stored)
    short = {
        *_short(named[0], there),
        *_short(named[1], here),
    }
    for names_of, others, words_of in (
        (named[0], named[1], set(there)),
        (named[1], named[0], set(here)),
    ):
        known = words_of - words.ALSO_WORDS | others
        if any(name not in short and not _is_there(name, known) for name in names_of):
            return "names differ"
    return None


def _short(named: Iterable[str], text: Sequence[str]) -> set[str]:
    """The names that a text spells out, and what it does so with."""
    return spelled_out((name for name in named if len(name) <= 6 and name.isalnum()), text)


def _is_there(name: str, there: set[str]) -> bool:
    forms = {name, name.rstrip("s"), name + "s", words.SHORT.get(name, name)}
    if not there.isdisjoint(forms) or any(words.SHORT.get(word) == name for word in there):
        return True
    parts = tokens(name)
    if len(parts) > 1 and there.issuperset(part for part in parts if not part[0].isdigit()):
        return True  # CO2, GPT-4: their numbers have a guard
    return any(is_kin(name, word) for word in there)


def exclusive_terms(asked: str, stored: str) -> str | None:
    """Opposites, and terms of which one excludes the other: buy and sell, Monday and Friday."""
    one, other = terms_in(asked), terms_in(stored)
    for group, found in one.items():
        if group in other and found != other[group]:
            return "opposite or exclusive terms differ"
    these, those = set(tokens(asked)), set(tokens(stored))
    if _begin_oppositely(these - those, those) or _begin_oppositely(those - these, these):
        return "opposite or exclusive terms differ"
    return None


def _begin_oppositely(some: set[str], others: set[str]) -> bool:
    """Is one the same as another but for its beginning, as hyper and hypo?"""
    return any(
        opposite + rest in others
        for word in some
        for prefix, opposite in words.OPPOSITE_PREFIXES
        if (rest := bare(word, prefix)) is not None
    )


def direction(asked: str, stored: str) -> str | None:
    """The same things in another order, where order has a meaning: from A to B, A than B, A's B."""
    one, other = tokens(asked), tokens(stored)
    same = one != other and Counter(one) == Counter(other)
    if (same and not words.DIRECTED.isdisjoint(one)) or turned(asked, stored):
        return "the order of the same words differs"
    bare_of = [[word for word in found if word not in words.FILLING] for found in (one, other)]
    if exchanged(one, other) or ("between" not in one and exchanged(*bare_of)):
        return "the order of the same words differs"
    return None


def question_words(asked: str, stored: str) -> str | None:
    """What is asked for: who, when, where, why, how many, how long, 谁, 何时, 哪里 and the like."""
    one, rest = _asked_for(asked)
    other, stored_rest = _asked_for(stored)
    if one == other:
        return None
    if (one and other) or rest == stored_rest:
        return "what is asked for differs"
    asks, whether = (asked, stored) if one else (stored, asked)
    if words.WHAT.match(_spaced(asks)) and words.WHETHER.match(_spaced(whether)):
        said, stored_said = ({*map(stem, some)} - words.STOPWORDS for some in (rest, stored_rest))
        return "what is asked for differs" if said == stored_said else None
    return None


def _spaced(text: str) -> str:
    return " ".join(tokens(text)) + " "


def _asked_for(text: str) -> tuple[frozenset[str], list[str]]:
    """All that is asked for, and the other words but those that mostly go with it.

    A form that was seen is cut out, as "how much" of "how much time".
    """
    spaced, found = f" {_spaced(text)}", set()
    for form, kind in _FORMS:
        if form in spaced:
            spaced = spaced.replace(form, " ")
            found.add(kind)
    return frozenset(found), [word for word in spaced.split() if word not in words.ASKING]


_FORMS = [
    (f" {' '.join(tokens(form))} ", kind)
    for kind, forms in words.ASKED_FOR.items()
    for form in forms
]


def minimal_pairs(asked: str, stored: str) -> str | None:
    """Questions that are the same but for one thing, of a word or two, in another's place.

    Scores are highest just there, and it is mostly the thing that is asked about. Where there are
    only small words, as in "who am I", it is one of them.
    """
    one, other = tokens(asked), tokens(stored)
    small = not content(asked) and not content(stored) and len(one) == len(other)
    if (small and Counter(one) != Counter(other)) or 0 < swapped(asked, stored) <= 2:
        return "one thing is another"
    return None


DEFAULT_GUARDS: tuple[Guard, ...] = (
    numbers,
    units,
    negation,
    small_words,
    conditions,
    quoted_text,
    code,
    signs,
    exclusive_terms,
    direction,
    question_words,
    names,
    minimal_pairs,
)
"""All of the above, cheapest to explain first."""


def _contained(find: Callable[[str], set[str]], asked: str, stored: str, reason: str) -> str | None:
    """What one text marks must stand in the other, marked or not."""
    for one, other in ((asked, stored), (stored, asked)):
        there = without_marks(other)
        if any(without_marks(item) not in there for item in find(one)):
            return reason
    return None
