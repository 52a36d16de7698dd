"""Lines as requests, and which of them did not come to be warm."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from .._errors import ConfigurationError
from .._tally import current
from ._lines import Line, Lines

if TYPE_CHECKING:
    from openai import AsyncOpenAI


_ITEM = re.compile(r"^warm: item \d+ ")
_NAME = re.compile(r"[\w.\[\]-]{1,80}", re.ASCII)
"""How a code or a parameter is spelt; text that an API puts in their place may quote a prompt."""


class Failure(NamedTuple):
    """A line that is not warm."""

    line: int
    reason: str
    """Says nothing of what was asked."""


UNSTORED = "answered, and not stored: cut off, refused, not cacheable, or the server is out"


class BadLine(ConfigurationError):
    """A line that is no request."""


class Requests:
    """The requests of an input, made as they are asked for."""

    KEPT: ClassVar[int] = 1_000
    """Failures that are remembered."""

    def __init__(self, lines: Lines, client: AsyncOpenAI) -> None:
        self._lines = lines
        self._client = client
        self.failures: list[Failure] = []
        self.failed = 0
        """Lines that are not warm, also those that are not remembered."""
        self.stopped = False

    def stop(self) -> None:
        """Give no more."""
        self.stopped = True
        self._lines.stop()

    async def calls(self) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """For each line a call, which notes a failure and raises it."""
        async for line in self._lines:
            if self.stopped:
                return
            yield self._call(line)

    def _call(self, line: Line) -> Callable[[], Awaitable[None]]:
        async def call() -> None:
            try:
                await self._answer(line)
            except Exception as error:
                self._note(line, self._reason(error))
                raise
            tally = current.get()
            if tally is not None and tally.stale:
                self._note(line, "the upstream failed, and the old answer stays")
            elif tally is not None and (tally.bypassed or tally.paid != tally.stored):
                self._note(line, UNSTORED)

        return call

    def _reason(self, error: Exception) -> str:
        reason = reason_of(error)
        if reason == "APIConnectionError":
            place = self._client.base_url.host or "an empty URL: see --base-url"
            return f"cannot reach the API at {place}"
        return "the API did not answer in time" if reason == "APITimeoutError" else reason

    async def _answer(self, line: Line) -> None:
        from .._openai import call_of

        result = await call_of(self._client, line.number, request_of(line))()
        if hasattr(result, "__aiter__"):
            async for _ in result:  # a stream is stored when it has come to its end
                pass

    def _note(self, line: Line, reason: str) -> None:
        self.failed += 1
        if len(self.failures) < self.KEPT:
            self.failures.append(Failure(line.number, reason))


def request_of(line: Line) -> dict[str, Any]:
    """The object that a line is. Raises `BadLine`."""
    if not line.whole:
        raise BadLine("too long")
    try:
        value = json.loads(line.text)
    except UnicodeDecodeError:
        raise BadLine("not UTF-8") from None
    except (ValueError, RecursionError) as error:
        place = f" (column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise BadLine(f"not JSON{place}") from None
    if not isinstance(value, dict) or not ("messages" in value or "url" in value):
        raise BadLine("no request: expected an object with 'messages', or with 'url' and 'body'")
    if "url" in value and not (type(value["url"]) is str and type(value.get("body")) is dict):
        raise BadLine("no request: expected 'url' to be a string, and 'body' an object")
    return value


def reason_of(error: Exception) -> str:
    """What happened, without what the upstream or the request said: a prompt may be in it."""
    if isinstance(error, BadLine):
        return str(error)
    if isinstance(error, (ConfigurationError, TypeError)):  # of arguments, by their names
        return _ITEM.sub("", str(error).partition("\n")[0])
    words = [type(error).__name__]
    for name in ("status_code", "type", "code", "param"):
        value = getattr(error, name, None)
        if isinstance(value, (str, int)) and _NAME.fullmatch(word := str(value)):
            words += [] if word in words else [word]
    return " ".join(words)
