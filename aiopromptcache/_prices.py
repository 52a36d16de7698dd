"""Money: what an answer was billed, from its usage and a table of prices."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any

from cachetools import LRUCache

from ._entry import UNPRICED, Entry, Usage
from ._errors import ConfigurationError

MODELS = 1_000
"""Models whose prices are kept at hand."""
LOOK_AGAIN = 3600.0
"""Seconds after which a model's price is looked up anew: some change by the hour, or by the day."""

FREE = ("omni-moderation", "text-moderation")
"""Names of models that bill no tokens, and do not say so."""

Rate = Callable[[Usage], float | None]


@dataclass(frozen=True, slots=True)
class Price:
    """What a model of one's own costs, in US dollars per million tokens.

    `cached_input` is for those prompt tokens that the provider had in a cache of its own,
    `cache_write` for those that it put there; None means that they cost as much as others. So do
    those of sound.
    `ConfigurationError` for what is no price.
    """

    input: float
    output: float = 0.0
    cached_input: float | None = None
    cache_write: float | None = None

    def __post_init__(self) -> None:
        for name in ("input", "output", "cached_input", "cache_write"):
            value = getattr(self, name)
            if not _is_price(value) and (not name.startswith("cache") or value is not None):
                raise ConfigurationError(
                    f"{name}={value!r}: expected US dollars per million tokens, 0 or more"
                )

    def of(self, usage: Usage) -> float:
        """Dollars for this usage."""
        fresh, cached, written = _parts(usage)
        cached_input = self.input if self.cached_input is None else self.cached_input
        cache_write = self.input if self.cache_write is None else self.cache_write
        prompt = fresh * self.input + cached * cached_input + written * cache_write
        return (prompt + usage.completion * self.output) / 1e6


def _parts(usage: Usage) -> tuple[int, int, int]:
    """The prompt's tokens: those of no cache, those out of one, those into one."""
    cached = min(usage.cached, usage.prompt)
    written = min(usage.cache_write, usage.prompt - cached)
    return usage.prompt - cached - written, cached, written


def _is_price(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value < float("inf")


class Prices:
    """The user's own prices by model, and those of genai-prices where that is installed."""

    def __init__(self, own: Mapping[str, Price]) -> None:
        if not isinstance(own, Mapping):
            raise ConfigurationError(f"prices={own!r}: expected a dict of Price by model")
        for model, price in own.items():
            if not isinstance(model, str) or not isinstance(price, Price):
                raise ConfigurationError(f"prices: {model!r}: {price!r}: expected a str: a Price")
        self._own = dict(own)
        self._rates: LRUCache[tuple[str, str | None], tuple[Rate | None, float]] = LRUCache(MODELS)
        self._library = _library()
        self.known = bool(own) or self._library is not None
        """Is there any table of prices?"""

    def of(self, entry: Entry) -> float | None:
        """Dollars that an answer was billed; None where its usage or its model's price is unknown.

        The name in the answer counts before the one that was asked for, which may be an alias.
        """
        price = entry.price
        if price is UNPRICED:
            price = entry.price = self._price(entry)
        return price

    def _price(self, entry: Entry) -> float | None:
        usage = entry.usage
        names = [name for name in (entry.billed, entry.model) if name]
        if usage is None:
            return 0.0 if any(name.startswith(FREE) for name in names) else None
        for name in names:
            if (own := self._own.get(name)) is not None:
                return own.of(usage)
        for name in names:
            if (rate := self._rate(name, entry.service)) is not None:
                return rate(usage)
        return None

    def _rate(self, model: str, service: str | None) -> Rate | None:
        if self._library is None:
            return None
        now = time.monotonic()
        rate, until = self._rates.get((model, service), (None, 0.0))
        if now >= until:
            rate = _rate_of(self._library, model, service)
            self._rates[model, service] = rate, now + LOOK_AGAIN
        return rate


@cache
def _library() -> Any:
    """genai-prices, with its table loaded; None where it is not installed."""
    try:
        import genai_prices
    except ImportError:
        return None
    _look_up(genai_prices, "gpt-4o", Usage(0, 0, 0))
    return genai_prices


def _look_up(library: Any, model: str, usage: Usage, service: str | None = None) -> Any:
    """The library's calculation. It finds the provider by the model; some are told only by
    OpenAI's own names.
    """
    _, cached, written = _parts(usage)
    billed: dict[str, int] = {
        "input_tokens": usage.prompt,
        "output_tokens": usage.completion,
        "cache_read_tokens": cached,
        "cache_write_tokens": written,
        "input_audio_tokens": usage.audio,
        "output_audio_tokens": usage.spoken,
    }
    given = library.Usage(**{name: count for name, count in billed.items() if count})
    context = {} if service is None else {"price_context": {"service_tier": service}}
    for provider in (None, "openai"):
        try:
            return library.calc_price(given, model, provider_id=provider, **context)
        except LookupError:
            continue
    return None


def _rate_of(library: Any, model: str, service: str | None) -> Rate | None:
    """How a model is billed: by four numbers, or call by call where a number depends on the
    call's size, or there is sound in the call.
    """
    try:
        found = _look_up(library, model, Usage(1, 0, 1), service)
    except Exception:  # a table that is newer than what we know of it
        return None
    if found is None:
        return None
    price = found.model_price
    names = ("input", "output", "cache_read", "cache_write")
    parts = [getattr(price, f"{part}_mtok", None) for part in names]
    if parts[0] is None and parts[1] is None:
        return None  # it is sold by the hour, or the page, or nobody knows

    def by_call(usage: Usage) -> float | None:
        try:
            found = _look_up(library, model, usage, service)
        except Exception:
            return None
        return None if found is None else float(found.total_price)

    if not all(part is None or isinstance(part, Decimal) for part in parts):
        return by_call
    fresh, out, cached, written = (None if part is None else float(part) for part in parts)
    text = Price(fresh or 0.0, out or 0.0, cached, written).of
    return lambda usage: by_call(usage) if usage.audio or usage.spoken else text(usage)
