"""A local server, and caches that give similar hits, of texts and of vectors."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from openai import AsyncOpenAI
from similar_calls import Embed

from aiopromptcache import CacheEvent, PromptCache
from aiopromptcache.similarity import LexicalSimilarity, SemanticSimilarity
from aiopromptcache.testing import OpenAIServer, VirtualClock

Ask = Callable[..., Awaitable[Any]]


@pytest.fixture(autouse=True)
def quick_collection() -> None:
    """Every test ends with a full collection: let it pass over what was there before."""
    gc.freeze()


@pytest.fixture
async def server() -> AsyncIterator[OpenAIServer]:
    """The local server."""
    async with OpenAIServer() as server:
        yield server


@pytest.fixture
def embed() -> Embed:
    """What the semantic matcher embeds with."""
    return Embed()


@pytest.fixture
def events() -> list[CacheEvent]:
    """What the caches told."""
    return []


@pytest.fixture
async def make(
    server: OpenAIServer, clock: VirtualClock, events: list[CacheEvent]
) -> AsyncIterator[Callable[..., tuple[PromptCache, AsyncOpenAI]]]:
    """Makes caches with a matcher, and a client of each; closes them in the end."""
    made: list[tuple[PromptCache, AsyncOpenAI]] = []

    def make(
        matcher: Any, *tiers: Any, hooks: Any = None, **options: Any
    ) -> tuple[PromptCache, AsyncOpenAI]:
        cache = PromptCache(
            *tiers,
            similarity=matcher,
            clock=clock,
            hooks=[events.append] if hooks is None else hooks,
            **options,
        )
        bare = server.client()
        made.append((cache, bare))
        return cache, cache.wrap(bare)

    yield make
    for cache, client in made:
        await cache.aclose()
        await client.close()


MATCHERS = {
    "text": lambda embed, **options: LexicalSimilarity(**{"threshold": 0.8, **options}),
    "vectors": lambda embed, **options: SemanticSimilarity(
        embed=embed, **{"threshold": 0.8, **options}
    ),
}


@pytest.fixture(params=MATCHERS)
def matcher(request: pytest.FixtureRequest, embed: Embed) -> Callable[..., Any]:
    """Makes a matcher of either kind."""
    return lambda **options: MATCHERS[request.param](embed, **options)


@pytest.fixture
def semantic(embed: Embed) -> Callable[..., Any]:
    """Makes a matcher that embeds."""
    return lambda **options: MATCHERS["vectors"](embed, **options)


@pytest.fixture
def lexical() -> Callable[..., Any]:
    """Makes a matcher of texts."""
    return lambda **options: MATCHERS["text"](None, **options)
