"""Questions that say the same, and some that do not."""

from __future__ import annotations

import asyncio
from typing import Any
from zlib import crc32

import numpy as np

FIRST = "How does a bicycle stay upright when it moves?"
SECOND = "How does a bicycle stay upright when it is moving?"
THIRD = "how does the bicycle stay upright when it moves"
OTHER = "Which bread is baked without any yeast at all?"


def messages(text: Any) -> list[dict[str, Any]]:
    """One user message."""
    return [{"role": "user", "content": text}]


async def chat(client: Any, text: Any = FIRST, **params: Any) -> Any:
    """A chat completion, read to its end where it is a stream."""
    params = {"model": "m", "messages": messages(text), **params}
    answer = await client.chat.completions.create(**params)
    if params.get("stream"):
        answer.read = [chunk async for chunk in answer]
    return answer


def words(answer: Any) -> str:
    """What was said, of a plain answer or a stream."""
    if hasattr(answer, "read"):
        return "".join(
            choice.delta.content or "" for chunk in answer.read for choice in chunk.choices
        )
    return str(answer.choices[0].message.content)


class Embed:
    """Counts of hashed pairs of characters, as a model of the tests' own."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None

    async def __call__(self, texts: list[str]) -> list[list[float]]:
        self.texts += texts
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return [self.vector(text) for text in texts]

    @staticmethod
    def vector(text: str) -> list[float]:
        """One text's vector."""
        vector = np.zeros(256)
        text = f" {text.lower()} "
        for start in range(len(text) - 1):
            vector[crc32(text[start : start + 2].encode()) % 256] += 1
        return list(map(float, vector))
