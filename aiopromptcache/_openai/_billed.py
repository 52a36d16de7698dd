"""What a call was billed whose answer is not kept."""

from __future__ import annotations

from typing import Any

from .._ask import Ask
from .._entry import Entry, Kind
from ._endpoints import billed_as, service_of, usage_of
from ._prompts import parse


def billed(ask: Ask, response: Any) -> Entry:
    """The answer without its content. `response` is None where it is the caller's to be read: what
    that says of its usage is not known here.
    """
    body = ({} if response is None else parse(response.content)) or {}
    return Entry(
        Kind.HTTP,
        b"",
        stored_at=0.0,
        ttl=0.0,
        endpoint=ask.endpoint,
        model=ask.model,
        billed=billed_as(body, ask.model),
        service=service_of(body),
        usage=usage_of(body),
    )
