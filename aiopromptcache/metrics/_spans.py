"""Spans for what takes time: callers that wait, and upstream calls."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import perf_counter
from types import TracebackType
from typing import Any, Self

from opentelemetry import context as contexts
from opentelemetry.trace import (
    Link,
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    get_current_span,
    set_span_in_context,
)

from .._ask import COMING, Answer, Ask, Landed
from .._entry import Entry, total
from .._flights import Flight
from .._refresh import http_status
from .._stats import OWN, told_name
from .._status import CacheStatus, LiveStatus, outcome_of
from ._instruments import Instruments

OPERATIONS = {
    "chat.completions": "chat",
    "responses": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
    "moderations": "moderation",  # no word of the conventions, which allow others
}
"""`gen_ai.operation.name` by endpoint."""
MODEL = "gen_ai.request.model"
HITS = "aiopromptcache.hits"
"""Of somebody else's span: answers from memory that it got."""
PROVIDER = "openai"
"""What the client speaks, which is all that is known of who answers."""


class Spans:
    """The observer of one cache."""

    def __init__(self, tracer: Tracer, namespace: str, instruments: Instruments) -> None:
        self.tracer = tracer
        self.instruments = instruments
        self.namespace = namespace

    def hit(self) -> None:
        """See `Observer.hit`. An attribute, because an event costs as much as two hits."""
        span = get_current_span()
        if span.is_recording():
            known = getattr(span, "attributes", None) or {}
            span.set_attribute(HITS, known.get(HITS, 0) + 1)

    def waiting(self, ask: Ask) -> WaitingSpan:
        """See `Observer.waiting`."""
        endpoint = ask.endpoint or OWN
        attributes = {
            "aiopromptcache.namespace": self.namespace,
            "aiopromptcache.endpoint": endpoint,
        }
        if ask.model is not None:
            attributes[MODEL] = told_name(ask.model)
        return WaitingSpan(
            self.tracer.start_span(f"aiopromptcache {endpoint}", attributes=attributes)
        )

    def calling(self, ask: Ask, flight: Flight[Any] | None) -> CallingSpan:
        """See `Observer.calling`."""
        attributes = self._described(ask)
        operation = attributes.get("gen_ai.operation.name")
        name, kind = "aiopromptcache load", SpanKind.INTERNAL
        if operation is not None:
            name, kind = f"{operation} {attributes.get(MODEL, '')}".rstrip(), SpanKind.CLIENT
        cause = get_current_span().get_span_context()
        alone = ask.background
        span = self.tracer.start_span(
            name,
            context=contexts.Context() if alone else None,
            kind=kind,
            attributes={"aiopromptcache.namespace": self.namespace, **attributes},
            links=[Link(cause)] if alone and cause.is_valid else None,
        )
        if flight is not None and span.get_span_context().is_valid:
            flight.trace = span.get_span_context()
        return CallingSpan(span, attributes, self.instruments)

    def _described(self, ask: Ask) -> dict[str, str]:
        if ask.endpoint is None:
            return {}
        described = {
            "gen_ai.operation.name": OPERATIONS.get(ask.endpoint, ask.endpoint),
            "gen_ai.provider.name": PROVIDER,
        }
        if ask.model is not None:
            described[MODEL] = told_name(ask.model)
        return described


class _Current:
    """A span that is the current one inside of a `with`, and says how that failed."""

    def __init__(self, span: Span) -> None:
        self.span = span
        self.error: str | None = None
        self._token: Any = None

    def __enter__(self) -> Self:
        self._token = contexts.attach(set_span_in_context(self.span))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        contexts.detach(self._token)
        if error is not None:
            self.failed(error)
        self.left()

    def failed(self, error: BaseException) -> None:
        """What it is a span of has ended with an error."""
        self.error = _name_of(error)
        self.span.set_attribute("error.type", self.error)
        self.span.set_status(Status(StatusCode.ERROR))

    def left(self) -> None:
        """The `with` has ended."""
        self.span.end()


class WaitingSpan(_Current):
    """See `Waiting`. For a stream it lasts until its reader leaves."""

    def __init__(self, span: Span) -> None:
        super().__init__(span)
        self._followed: list[Flight[Any]] = []
        self._reads = False

    def follows(self, flight: Flight[Any]) -> None:
        """See `Waiting.follows`."""
        self._followed.append(flight)

    def answered(self, answer: Answer | None) -> None:
        """See `Waiting.answered`."""
        self.span.set_attribute(
            "aiopromptcache.outcome", outcome_of(None if answer is None else answer.status)
        )
        if answer is None:
            return
        if answer.entry is not COMING:
            self._describe(answer.status)
            return
        reader, status = answer.extra, answer.status
        self._reads, told = True, reader.on_end

        def ended(landed: Landed | None, whole: bool) -> None:
            told(landed, whole)
            self._describe(status)
            if whole and landed is None and reader.failure is not None:
                self.failed(reader.failure)
            self._end()

        reader.on_end = ended

    def _describe(self, status: Any) -> None:
        told = CacheStatus(*(status.arguments if isinstance(status, LiveStatus) else status))
        for name in ("tier", "ttl", "similarity"):
            if (value := getattr(told, name)) is not None:
                self.span.set_attribute(f"aiopromptcache.{name}", value)

    def left(self) -> None:
        """The caller has its answer, or what it reads it from."""
        if not self._reads or self.error is not None:
            self._end()

    def _end(self) -> None:
        for flight in self._followed:
            if flight.trace is not None:
                self.span.add_link(flight.trace)
        self.span.end()


class CallingSpan(_Current):
    """See `Calling`."""

    def __init__(self, span: Span, attributes: dict[str, str], instruments: Instruments) -> None:
        super().__init__(span)
        self._attributes = dict(attributes)
        if MODEL in attributes:
            self._attributes[MODEL] = instruments.model(attributes[MODEL])
        self._instruments = instruments
        self._started = perf_counter()

    def brought(self, entries: Sequence[Entry], took: float) -> None:
        """See `Calling.brought`."""
        if not entries or not self._attributes:
            return
        model = entries[0].billed or entries[0].model
        if model is not None:
            name = told_name(model)
            self._attributes["gen_ai.response.model"] = self._instruments.model(name)
            self.span.set_attribute("gen_ai.response.model", name)
        usage = total(entry.usage for entry in entries)
        if usage is None:
            return
        self.span.set_attribute("gen_ai.usage.input_tokens", usage.prompt)
        self.span.set_attribute("gen_ai.usage.output_tokens", usage.completion)
        if usage.cached:
            self.span.set_attribute("gen_ai.usage.cache_read.input_tokens", usage.cached)
        self._count("input", usage.prompt)
        self._count("output", usage.completion)

    def _count(self, kind: str, tokens: int) -> None:
        if tokens:
            attributes = {**self._attributes, "gen_ai.token.type": kind}
            self._instruments.tokens.record(tokens, attributes)

    def left(self) -> None:
        """It has ended, well or not."""
        self.span.end()
        if self._attributes:
            failed = {} if self.error is None else {"error.type": self.error}
            seconds = perf_counter() - self._started
            self._instruments.operation.record(seconds, {**self._attributes, **failed})


def _name_of(error: BaseException) -> str:
    """What failed, without its message, which may quote a prompt."""
    if isinstance(error, asyncio.CancelledError):
        return "cancelled"
    status = http_status(error) if isinstance(error, Exception) else None
    return type(error).__qualname__ if status is None else str(status)
