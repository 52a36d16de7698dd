"""What the apps of these tests do."""

from __future__ import annotations

from typing import Any

from openai import AsyncOpenAI

MODEL = "gpt-4o-mini"


def arguments(question: str) -> dict[str, Any]:
    """Of `chat.completions.create`."""
    return {"model": MODEL, "messages": [{"role": "user", "content": question}]}


async def answer(client: AsyncOpenAI, question: str) -> str:
    """One call."""
    completion = await client.chat.completions.create(**arguments(question))
    return completion.choices[0].message.content or ""
