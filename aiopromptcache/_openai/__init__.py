"""The wrapper of openai's AsyncOpenAI."""

from ._client import wrap
from ._lines import call_of

__all__ = ["call_of", "wrap"]
