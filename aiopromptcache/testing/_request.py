"""What the local server saw of one request, and how it reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

STREAMING: Final = frozenset({"chat/completions", "completions", "responses"})
_LAYOUTS: Final = re.compile(r"/(?:openai/deployments/[^/]+|openai/v1|openai|v1)/(.+)")
_PIECES: Final = re.compile(r"\s*\S+|\s+")


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """One request as it arrived at an `OpenAIServer`.

    Attributes:
        path: The URL's path, such as `/v1/chat/completions`.
        endpoint: The path below `/v1`, `/openai/v1`, `/openai` or
            `/openai/deployments/{name}`, such as `chat/completions`; the whole
            path where it has none of these layouts.
        body: The JSON object sent; `{}` if there was none.
        headers: Header values by lower-case name; the last one wins.
        query: Query parameters; the last one wins.
        stream: Whether a stream of server-sent events was asked for.
        number: 1, 2, 3 ... in order of arrival at this server; never repeated, not
            even after `OpenAIServer.reset`. The response's `x-request-id` is
            `req_{number}`.
    """

    path: str
    endpoint: str
    body: dict[str, Any]
    headers: Mapping[str, str]
    query: Mapping[str, str]
    stream: bool
    number: int

    @property
    def prompt(self) -> str:
        """The text of the last user message (of the last item if there is none)."""
        items = next(
            (self.body[key] for key in ("messages", "input", "prompt") if key in self.body), ""
        )
        if not isinstance(items, list):
            return text_of(items)
        users = [item for item in items if isinstance(item, Mapping) and item.get("role") == "user"]
        return text_of((users or items or [""])[-1])


def endpoint_of(path: str) -> str:
    """The part of `path` that names the API, under each layout OpenAI and Azure use."""
    found = _LAYOUTS.fullmatch(path)
    return found[1] if found else path


def text_of(value: object) -> str:
    """All text in a prompt, a message, a list of content parts, or a list of these."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return text_of(value.get("content", value.get("text")))
    if isinstance(value, list):
        return " ".join(filter(None, map(text_of, value)))
    return "" if value is None else str(value)


def pieces(text: str) -> list[str]:
    """`text` cut before each word's white space; joined they are `text` again.

    The server's unit of everything: a chunk carries one piece, and a piece is a token.
    """
    return _PIECES.findall(text)
