"""The wrapper around openai's AsyncOpenAI."""

from ._client import wrap

__all__ = ["wrap"]
