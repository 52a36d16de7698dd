"""Similar hits with a real model, offline: `pip install wordllama`, then run this.

With a file of labelled pairs (JSON lines with the fields a, b and same, gzipped or not) it first
finds the threshold that keeps wrong hits to 20%.

    python examples/similar.py [pairs.jsonl]
"""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import sys
from pathlib import Path
from typing import Any

import wordllama  # type: ignore[import-untyped]

from aiopromptcache import PromptCache, cache_status
from aiopromptcache.similarity import SemanticSimilarity, calibrate
from aiopromptcache.testing import OpenAIServer

QUESTIONS = [
    "How do I reset my password?",
    "How can I reset my password?",
    "I forgot to ask: how do I reset my password, please?",
    "How do I reset my router?",
    "How do I not reset my password?",
]


def load_model() -> Any:
    """The weights come with the package: nothing is fetched."""
    logging.getLogger().setLevel(logging.WARNING)  # the package makes every library talk
    folder = Path(wordllama.__file__).parent
    return wordllama.WordLlama.load(cache_dir=folder, disable_download=True)


def pairs_of(path: Path) -> list[dict[str, Any]]:
    """Labelled pairs from a file."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        return [json.loads(line) for line in lines]


async def main() -> None:
    """Ask five questions; show which of them were answered by the answer to another."""
    matcher = SemanticSimilarity(load_model().embed, threshold=0.9)
    if len(sys.argv) > 1:
        found = await asyncio.to_thread(
            calibrate, pairs_of(Path(sys.argv[1])), matcher, max_error=0.2
        )
        print(found)
        matcher.threshold = found.threshold or matcher.threshold
    async with OpenAIServer() as server, PromptCache(similarity=matcher) as cache:
        client = cache.wrap(server.client())
        for question in QUESTIONS:
            answer = await client.chat.completions.create(
                model="gpt-4o-mini", messages=[{"role": "user", "content": question}]
            )
            status = cache_status(answer)
            assert status is not None
            how = f"similar, {status.similarity:.3f}" if status.similarity else "asked upstream"
            print(f"{question:<55} {how}")
        print(f"{server.calls} calls for {len(QUESTIONS)} questions")


if __name__ == "__main__":
    asyncio.run(main())
