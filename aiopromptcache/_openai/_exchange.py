"""How the complete layer asks upstream: through the client's own `request`, for the response.

That `request` may be another's: tracing libraries put theirs in its place, on the client's class or
on one client. They are given what the SDK would give them, and the response is taken on its way.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from openai import NotGiven
from openai._base_client import AsyncAPIClient

from ._live import Reply

_SDK_REQUEST = AsyncAPIClient.request


class Foreign(Exception):
    """The `request` that somebody put there has an answer of its own: `args[0]`."""


class Exchange:
    """As `cast_to`: the SDK does all of its work up to the response, and that becomes `reply`."""

    __slots__ = ("_seen", "reply")

    def __init__(self, seen: Any) -> None:
        self._seen = seen
        """What another's `request` is to get; None where there is none."""
        self.reply: Reply | None = None

    async def process(self, plain: Callable[..., Any], **parts: Any) -> Any:
        """Take the response; `plain` is the client's own `_process_response`."""
        options = parts["options"]
        self.reply = Reply(parts["response"], options, parts.get("retries_taken", 0))
        if self._seen is None:
            return self.reply
        options = options.model_copy()
        options.post_parser = NotGiven()  # for each caller by itself
        return await plain(cast_to=self._seen, **{**parts, "options": options})


async def ask(upstream: Callable[..., Any], cast_to: Any, *arguments: Any, **options: Any) -> Reply:
    """The upstream's response. Raises what `upstream` raises, and `Foreign`."""
    replaced = getattr(upstream, "__func__", None) is not _SDK_REQUEST
    exchange = Exchange(cast_to if replaced else None)
    result = await upstream(exchange, *arguments, **options)
    if exchange.reply is None:
        raise Foreign(result)
    return exchange.reply


async def processed(plain: Callable[..., Any], *, cast_to: Any, **parts: Any) -> Any:
    """`_process_response`, for an `Exchange` as for anything else."""
    if isinstance(cast_to, Exchange):
        return await cast_to.process(plain, **parts)
    return await plain(cast_to=cast_to, **parts)


def adopt(client: Any, state: dict[str, Any]) -> dict[str, Any]:
    """The state of a client, whose own `request`, where somebody has put one on it, is `upstream`.

    Such a `request` calls the client that it was made for, which has to know an `Exchange`, too.
    """
    state = dict(state)
    taught = state.get("_process_response")
    if isinstance(taught, functools.partial) and taught.func is processed:
        del state["_process_response"]
    if "request" not in state:
        return state
    state["_upstream"] = state.pop("request")
    if "_process_response" not in state:
        client._process_response = functools.partial(processed, client._process_response)
    return state
