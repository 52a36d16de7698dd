"""Similar hits: the answer to the same question in other words. See `PromptCache(similarity=…)`.

Install with `aiopromptcache[similarity]`.
"""

from ._calibrate import Calibration, calibrate
from ._guards import (
    DEFAULT_GUARDS,
    Guard,
    code,
    conditions,
    direction,
    exclusive_terms,
    minimal_pairs,
    names,
    negation,
    numbers,
    question_words,
    quoted_text,
    signs,
    small_words,
    units,
)
from ._matchers import LexicalSimilarity, SemanticSimilarity

__all__ = [
    "DEFAULT_GUARDS",
    "Calibration",
    "Guard",
    "LexicalSimilarity",
    "SemanticSimilarity",
    "calibrate",
    "code",
    "conditions",
    "direction",
    "exclusive_terms",
    "minimal_pairs",
    "names",
    "negation",
    "numbers",
    "question_words",
    "quoted_text",
    "signs",
    "small_words",
    "units",
]
