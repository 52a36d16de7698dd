"""Everything that scopes a request's key besides its body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openai import AsyncOpenAI, NotGiven, Omit

from .._keys import prefix

_IGNORED_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "api-key",
        "authorization",
        "b3",
        "baggage",
        "cache-control",
        "connection",
        "content-length",
        "content-type",
        "idempotency-key",
        "proxy-authorization",
        "request-id",
        "sentry-trace",
        "traceparent",
        "tracestate",
        "uber-trace-id",
        "user-agent",
        "x-amzn-trace-id",
        "x-client-request-id",
        "x-cloud-trace-context",
        "x-correlation-id",
        "x-request-id",
    }
)
_IGNORED_PREFIXES = ("x-stainless-", "x-b3-", "x-datadog-")
_UNSET = (Omit, NotGiven)


class Scope:
    """The part of a client that counts in its keys, hashed once and again when it changes."""

    def __init__(self, client: AsyncOpenAI) -> None:
        self._client = client
        self._state: tuple[Any, ...] | None = None
        self._prefixes: dict[tuple[str, str], bytes] = {}
        # A subclass may compute these anew for each request.
        self._dynamic = any(
            not defined_by_sdk(type(client), name)
            for name in ("base_url", "default_headers", "default_query")
        )

    def prefix(
        self,
        path: str,
        partition: str,
        headers: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> bytes:
        """32 bytes for the client, the path, the partition and what the call adds to them.

        Raises `Unkeyable` for query parameters that are not JSON.
        """
        counted = _counted(headers) if headers else None
        if counted or query or self._dynamic:
            return self._hash(path, partition, counted or {}, query or {})
        client = self._client
        state = (
            client._base_url,
            client.organization,
            client.project,
            client._custom_query,
            client._custom_headers,
        )
        if state != self._state:
            self._state = (*state[:3], dict(client._custom_query), dict(client._custom_headers))
            self._prefixes = {}
        found = self._prefixes.get((path, partition))
        if found is None:
            if len(self._prefixes) > 1_000:
                self._prefixes.clear()
            found = self._prefixes[path, partition] = self._hash(path, partition, {}, {})
        return found

    def _hash(
        self, path: str, partition: str, headers: Mapping[str, Any], query: Mapping[str, Any]
    ) -> bytes:
        client = self._client
        own = client.default_headers if self._dynamic else client._custom_headers
        return prefix(
            "openai",
            path,
            partition,
            str(client.base_url),
            client.organization,
            client.project,
            client._strict_response_validation,
            {**_counted(own), **headers},
            _given({**client.default_query, **query}),
        )


def _counted(headers: Mapping[str, Any]) -> dict[str, Any]:
    """The headers that may choose a route or a beta; None where one is taken away."""
    lower = {name.lower(): value for name, value in headers.items()}
    return {
        name: None if isinstance(value, _UNSET) else str(value)
        for name, value in lower.items()
        if name not in _IGNORED_HEADERS and not name.startswith(_IGNORED_PREFIXES)
    }


def _given(query: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if not isinstance(value, _UNSET)}


def defined_by_sdk(kind: type, name: str) -> bool:
    """Is this attribute of a client's class the SDK's own?"""
    owner = next(base for base in kind.__mro__ if name in vars(base))
    return owner.__module__.partition(".")[0] in ("openai", "aiopromptcache")
