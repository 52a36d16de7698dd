"""What "similar" means: a score for two texts, a threshold, guards, and a budget of errors."""

from __future__ import annotations

import abc
import functools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, cast

import numpy
import numpy.typing
from rapidfuzz import fuzz

from .._errors import ConfigurationError
from .._policy import fraction
from ._guards import DEFAULT_GUARDS, Guard
from ._text import content, tokens
from ._threads import Called

Vectors = numpy.typing.NDArray[numpy.float32]
"""(n, d): n texts, one row of d numbers each."""
Embed = Callable[[list[str]], Any]
"""Gets n texts; gives n vectors of the same length, or an awaitable of them."""
Verify = Callable[[str, str, Any], bool | Awaitable[bool]]
Judge = Callable[[str, Any, Any], bool | Awaitable[bool]]


class Matcher(abc.ABC):
    """What the two kinds of similarity have in common. See `LexicalSimilarity`."""

    def __init__(
        self,
        threshold: float,
        *,
        guards: Iterable[Guard] = DEFAULT_GUARDS,
        verify: Verify | None = None,
        shadow: float = 0.0,
        judge: Judge | None = None,
        max_error: float | None = None,
        confidence: float = 0.95,
        max_entries: int = 100_000,
        store_similar: bool = False,
    ) -> None:
        self.threshold = fraction("threshold", threshold)
        self.guards = tuple(guards)
        for guard in self.guards:
            if not callable(guard):
                raise ConfigurationError(f"guards: {guard!r} is not callable")
        for name, value in (("verify", verify), ("judge", judge)):
            if value is not None and not callable(value):
                raise ConfigurationError(f"{name}={value!r}: expected a callable or None")
        self.verify = verify
        self.verified = None if verify is None else Called(verify)
        self.shadow = fraction("shadow", shadow)
        self.judge = judge
        self.judged = None if judge is None else Called(judge)
        if self.shadow and judge is None:
            raise ConfigurationError(f"shadow={shadow!r}: a shadow check needs a judge=")
        self.max_error = None if max_error is None else open_fraction("max_error", max_error)
        self.confidence = open_fraction("confidence", confidence)
        if type(max_entries) is not int or max_entries < 1:
            raise ConfigurationError(f"max_entries={max_entries!r}: expected an int, 1 or more")
        self.max_entries = max_entries
        self.store_similar = bool(store_similar)

    @abc.abstractmethod
    async def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The score of each pair of texts, 0 to 1, without a look at the guards."""


class LexicalSimilarity(Matcher):
    """Similarity of the words themselves: no model, no call.

    The score of two texts, 0 to 1, is RapidFuzz's ratio (twice the longest common subsequence over
    both lengths) of their words, once in their order and once sorted with only those that say
    something. Width, case, punctuation and white space do not count.

    - `threshold`: the score, 0 to 1, from which on a stored question counts as the one asked.
    - `guards`: what must not differ beyond the score; `(*DEFAULT_GUARDS, mine)` adds one.
    - `verify(asked, stored, answer)`, plain or async, has the last word before a hit is served;
      `answer` is the answer's JSON body. A plain one, and a plain `judge`, runs in a worker thread,
      which is left behind if it hangs.
    - `shadow`: the share, 0 to 1, of similar hits after which the upstream is asked as well, in the
      background; `judge(question, served, fresh)`, plain or async, says whether both answers agree.
    - `max_error` and `confidence`: the budget, wrong hits over all hits, that is kept in service by
      tightening the threshold as false hits are found; see `calibrate` for where it begins.
    - `max_entries`: questions that are remembered, the newest.
    - `store_similar`: store a similar hit for the new question too, for the rest of its life.

    Raises `ConfigurationError` for a value out of range.
    """

    def __init__(self, threshold: float = 0.9, **options: Any) -> None:
        super().__init__(threshold, **options)

    scorer = staticmethod(fuzz.ratio)
    """Compares two texts that are prepared: 0 to 100."""

    @staticmethod
    def prepare(text: str) -> str:
        """What is kept of a text to compare it by: its words in their order, and sorted."""
        words = content(text) or tuple(tokens(text))
        return " ".join([*sorted(words), "/", *tokens(text)])

    def score(self, one: str, other: str) -> float:
        """The score, 0 to 1, of two texts."""
        return self.scorer(self.prepare(one), self.prepare(other)) / 100

    async def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """See `Matcher.scores`."""
        return [self.score(one, other) for one, other in pairs]


class SemanticSimilarity(Matcher):
    """Similarity of what texts mean, by the vectors that a model makes of them.

    `embed`, plain or async, gets a list of texts and gives a vector for each: an array or list of
    shape (n, d). A plain one runs in a worker thread, which is left behind if it hangs. The score
    is the cosine of two vectors; below 0 counts as 0.

    `model` names what makes the vectors. Processes that share a Redis tier whose server has vector
    sets (Redis 8) match each other's questions where their models have the same name; without one
    it is the qualified name of `embed`. Change it with the model.

    The other options are those of `LexicalSimilarity`.
    """

    def __init__(
        self, embed: Embed, threshold: float, *, model: str | None = None, **options: Any
    ) -> None:
        super().__init__(threshold, **options)
        if not callable(embed):
            raise ConfigurationError(f"embed={embed!r}: expected a callable")
        if model is not None and (not isinstance(model, str) or not model):
            raise ConfigurationError(f"model={model!r}: expected a str that is not empty, or None")
        self.model = _name_of(embed) if model is None else model
        self.embed = embed
        self._embedded = Called(embed)

    async def vectors(self, texts: Sequence[str]) -> Vectors:
        """What `embed` gives for so many texts, (n, d), each row of length 1.

        `ValueError` where that is something else, and what `embed` raises.
        """
        given = list(texts)
        return normalized(await self._embedded(given), len(given))

    def refine(self, asked: str, stored: str, cosine: float) -> float:
        """The score of two texts whose vectors have this cosine."""
        return min(1.0, max(0.0, cosine))

    async def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """See `Matcher.scores`."""
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        if not texts:
            return []
        made = [await self.vectors(texts[at : at + 1_000]) for at in range(0, len(texts), 1_000)]
        rows = dict(zip(texts, numpy.concatenate(made), strict=True))
        return [self.refine(a, b, float(rows[a] @ rows[b])) for a, b in pairs]


def _name_of(embed: Embed) -> str:
    """The qualified name of a callable, or of its class: the same in every process."""
    inner: Any = embed
    while isinstance(inner, functools.partial):
        inner = inner.func
    if not hasattr(inner, "__qualname__"):
        inner = type(inner)
    return f"{getattr(inner, '__module__', None)}.{inner.__qualname__}"


def normalized(made: Any, count: int) -> Vectors:
    """Vectors as rows of length 1; `ValueError` for what are no vectors of so many texts."""
    array = numpy.asarray(made, dtype=numpy.float32)
    if array.ndim != 2 or array.shape[0] != count or not array.shape[1]:
        raise ValueError(
            f"embed gave an array of shape {array.shape} for {count} texts; "
            f"expected ({count}, d): one vector for each"
        )
    lengths = numpy.linalg.norm(array, axis=1, keepdims=True)
    if not numpy.isfinite(lengths).all() or not (lengths > 0).all():
        raise ValueError("embed gave a vector that is zero, infinite or not a number")
    return cast(Vectors, array / lengths)


def open_fraction(name: str, value: object) -> float:
    """A number above 0 and below 1; `ConfigurationError` otherwise."""
    number = fraction(name, value)
    if not 0 < number < 1:
        raise ConfigurationError(f"{name}={value!r}: expected a number above 0 and below 1")
    return number
