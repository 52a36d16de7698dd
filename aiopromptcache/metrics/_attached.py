"""The caches that are read, for as long as they live."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

from .._cache import PromptCache
from .._engine import Engine
from .._errors import ConfigurationError


class Attached:
    """Some caches, known by what is inside of them: clients may outlive the `PromptCache`."""

    def __init__(self, caches: tuple[PromptCache, ...]) -> None:
        if not caches:
            raise ConfigurationError("caches=(): expected one PromptCache or more")
        for cache in caches:
            if not isinstance(cache, PromptCache):
                raise ConfigurationError(f"{cache!r}: expected a PromptCache")
        self._engines = [weakref.ref(cache._engine) for cache in caches]

    def __iter__(self) -> Iterator[Engine]:
        for reference in self._engines:
            if (engine := reference()) is not None:
                yield engine

    def clear(self) -> None:
        """None of them any more."""
        self._engines = []


def all_of(parts: list[Attached]) -> list[Engine]:
    """The living caches of several, each once."""
    return list(dict.fromkeys(engine for part in list(parts) for engine in part))
