"""`with_raw_response` answered from memory: the HTTP parts are made only if they are looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from openai import AsyncOpenAI, NotGiven
from openai._legacy_response import LegacyAPIResponse
from openai._models import FinalRequestOptions

from .._ask import Answer
from .._entry import Entry
from .._status import CacheStatus, mark
from ._endpoints import Body, Endpoint
from ._rebuild import decode_vectors
from ._record import replay


class RawHit(LegacyAPIResponse[Any]):
    """The SDK's raw response with its parsed object ready."""

    def __init__(
        self,
        client: AsyncOpenAI,
        endpoint: Endpoint,
        answer: Answer,
        built: Any,
        body: Body,
        headers: Mapping[str, Any] | None,
        query: Mapping[str, Any] | None,
        *,
        vectors: bool,
        entry: Callable[[], Entry] | None = None,
    ) -> None:
        # Not the SDK's own __init__: it wants the response and options that are made on demand.
        self._client = client
        self._cast_to = endpoint.model
        self._stream = False
        self._stream_cls = None
        self._parsed_by_type = {endpoint.model: built}
        self.retries_taken = 0
        self._answer = answer
        self._sent = (endpoint, body, headers, query)
        self._vectors = vectors
        self._entry = entry
        mark(self, answer.status)

    @cached_property
    def _options(self) -> FinalRequestOptions:  # type: ignore[override]  # an attribute there
        options = options_of(*self._sent)
        options.post_parser = self._after_parsing
        return options

    def _after_parsing(self, parsed: Any) -> Any:
        if self._vectors:
            decode_vectors(parsed)
        return mark(parsed, self._answer.status)

    @cached_property
    def http_response(self) -> Any:  # type: ignore[override]  # an attribute there
        request = request_of(self._client, self._options)
        status = str(CacheStatus(*self._answer.status))
        entry = self._answer.entry if self._entry is None else self._entry()
        return replay(entry, request, unread=False, status=status)


def options_of(
    endpoint: Endpoint,
    body: Body,
    headers: Mapping[str, Any] | None,
    query: Mapping[str, Any] | None,
) -> FinalRequestOptions:
    """The SDK's options of a call that did not come that far."""
    return FinalRequestOptions.construct(
        method="post",
        url=endpoint.path,
        json_data=body,
        headers=dict(headers or {}),
        params=dict(query or {}),
    )


def request_of(client: Any, options: FinalRequestOptions) -> Any:
    """The request as the SDK would have sent it, for an answer that was never asked for."""
    try:
        return client._build_request(options, retries_taken=0)
    except Exception:  # without credentials the SDK builds none, and an answer at hand needs none
        given = {} if isinstance(options.headers, NotGiven) else options.headers
        copy = options.model_copy()
        copy.headers = {**given, **_PLACEHOLDERS}
        request = client._build_request(copy, retries_taken=0)
        for name in _PLACEHOLDERS:
            del request.headers[name]
        return request


_PLACEHOLDERS = {"Authorization": "none", "api-key": "none"}
