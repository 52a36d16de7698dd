"""Questions that say the same, and some that do not."""

from __future__ import annotations

from typing import Any

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
