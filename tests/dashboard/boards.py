"""What the tests of the dashboard share."""

from __future__ import annotations

from typing import Any

import httpx
from openai import AsyncOpenAI

from aiopromptcache import PromptCache
from aiopromptcache._dashboard._watch import Watch

MODEL = "gpt-4o-mini"


def watch_of(cache: PromptCache) -> Watch:
    """What watches a cache."""
    found = cache._engine.watch
    assert isinstance(found, Watch)
    return found


async def ask(client: AsyncOpenAI, question: str, model: str = MODEL) -> None:
    """One question."""
    await client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}]
    )


async def state(http: httpx.AsyncClient, path: str = "/data.json", **wanted: Any) -> Any:
    """What the page is given."""
    answer = await http.get(path, params=wanted)
    assert answer.status_code == 200
    return answer.json()


async def tell(cache: PromptCache) -> None:
    """Do at once what a process does every five seconds."""
    watch = watch_of(cache)
    watch.begin()
    watch.sample()
    await watch.tell()


def hits(counts: dict[str, float]) -> float:
    """Hits of all tiers."""
    return sum(count for name, count in counts.items() if name.startswith("hits/"))
