"""Requests as data: arguments of a chat completion, or lines of an OpenAI batch file."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Any

from openai import AsyncOpenAI

from .._errors import ConfigurationError
from .._warm import bad_item
from ._endpoints import BY_NAME, BY_PATH, Endpoint


def call_of(
    client: AsyncOpenAI, position: int, item: Mapping[str, Any]
) -> Callable[[], Awaitable[Any]]:
    """The call that a request stands for. `ConfigurationError` names what is wrong with it."""
    if "url" not in item and "messages" in item:
        return lambda: client.chat.completions.create(**item)
    if not isinstance(item.get("body"), Mapping) or not isinstance(item.get("url"), str):
        raise bad_item(position, item)
    path = "/" + item["url"].removeprefix("/v1").strip("/")
    endpoint = BY_PATH.get(path)
    if endpoint is None or str(item.get("method", "POST")).upper() != "POST":
        allowed = ", ".join(f"/v1{path}" for path in BY_PATH)
        raise ConfigurationError(
            f"warm: item {position} asks for {item.get('method', 'POST')} {item['url']!r}; "
            f"allowed: POST to {allowed}"
        )
    create = endpoint.resource(client).create
    return lambda: create(**_arguments(endpoint, create, item["body"]))


def _arguments(endpoint: Endpoint, create: Any, body: Mapping[str, Any]) -> dict[str, Any]:
    """A body as arguments; what the SDK has no argument for is sent all the same."""
    plain = inspect.unwrap(create)
    known = _parameters(endpoint.name, getattr(plain, "__func__", plain))
    extra = {name: value for name, value in body.items() if name not in known}
    given = {name: value for name, value in body.items() if name in known}
    return {**given, "extra_body": extra} if extra else given


@lru_cache(maxsize=len(BY_NAME) * 4)
def _parameters(name: str, create: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(create).parameters) - {"self"}
