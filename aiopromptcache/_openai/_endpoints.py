"""What the wrapper knows of each cached endpoint: its models, and the built-in rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from openai import AsyncOpenAI
from openai.types import Completion, CreateEmbeddingResponse, ModerationCreateResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent

from .._entry import Usage
from .._policy import Request

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One cached endpoint."""

    name: str
    path: str
    model: type[Any]
    """What `create` gives without `stream`."""
    resource: Callable[[AsyncOpenAI], Any]
    storable: Callable[[Body], bool]
    validates_fast: bool = True
    """False where unpickling the model beats validating it."""
    event: Any = None
    """What a stream's events are; None where there are no streams."""
    usage_on_demand: bool = False
    """True where a stream says its usage only if `stream_options` ask for it."""


def cacheable(endpoint: Endpoint, params: Mapping[str, Any]) -> bool:
    """The built-in rule: not what has effects, a memory or a world outside of the request."""
    if params.keys().isdisjoint(_SUSPECTS):
        return True
    if any(params.get(name) for name in _STATEFUL) or params.get("web_search_options") is not None:
        return False
    if params.get("audio") is not None or "audio" in (params.get("modalities") or ()):
        return False
    return all(_is_local_tool(tool) for tool in params.get("tools") or ())


_STATEFUL = ("store", "background", "conversation", "previous_response_id")
_SUSPECTS = frozenset({*_STATEFUL, "web_search_options", "audio", "modalities", "tools"})


def _is_local_tool(tool: Any) -> bool:
    """Tools that the caller runs. The others are hosted: the answer depends on their world."""
    kind = tool.get("type") if isinstance(tool, Mapping) else getattr(tool, "type", None)
    return kind in ("function", "custom")


def default_cacheable(request: Request) -> bool:
    """The built-in `Policy.cacheable`, to build one's own upon."""
    return cacheable(BY_NAME[request.endpoint], request.params)


def default_storable(request: Request, body: Body) -> bool:
    """The built-in `Policy.storable`, to build one's own upon."""
    return BY_NAME[request.endpoint].storable(body)


def _choices_storable(body: Body) -> bool:
    choices = body.get("choices")
    if body.get("error") or not isinstance(choices, list) or not choices:
        return False
    return all(isinstance(choice, dict) and _choice_storable(choice) for choice in choices)


def _choice_storable(choice: Body) -> bool:
    message = choice.get("message")
    refused = isinstance(message, dict) and message.get("refusal")
    return choice.get("finish_reason") not in ("length", "content_filter", "error") and not refused


def _response_storable(body: Body) -> bool:
    if body.get("error") or body.get("incomplete_details"):
        return False
    if body.get("status", "completed") != "completed":
        return False
    output = body.get("output")
    return isinstance(output, list) and not any(_refuses(item) for item in output)


def _refuses(item: Any) -> bool:
    content = item.get("content") if isinstance(item, dict) else None
    return isinstance(content, list) and any(
        isinstance(part, dict) and part.get("type") == "refusal" for part in content
    )


def _list_storable(field: str) -> Callable[[Body], bool]:
    return lambda body: (
        bool(isinstance(body.get(field), list) and body[field]) and not body.get("error")
    )


ENDPOINTS = (
    Endpoint(
        "chat.completions",
        "/chat/completions",
        ChatCompletion,
        lambda client: client.chat.completions,
        _choices_storable,
        event=ChatCompletionChunk,
        usage_on_demand=True,
    ),
    Endpoint(
        "responses",
        "/responses",
        Response,
        lambda client: client.responses,
        _response_storable,
        validates_fast=False,
        event=ResponseStreamEvent,
    ),
    Endpoint(
        "embeddings",
        "/embeddings",
        CreateEmbeddingResponse,
        lambda client: client.embeddings,
        _list_storable("data"),
        validates_fast=False,
    ),
    Endpoint(
        "completions",
        "/completions",
        Completion,
        lambda client: client.completions,
        _choices_storable,
        event=Completion,
        usage_on_demand=True,
    ),
    Endpoint(
        "moderations",
        "/moderations",
        ModerationCreateResponse,
        lambda client: client.moderations,
        _list_storable("results"),
    ),
)
BY_PATH = {endpoint.path: endpoint for endpoint in ENDPOINTS}
BY_NAME = {endpoint.name: endpoint for endpoint in ENDPOINTS}


def usage_of(body: Body) -> Usage | None:
    """The tokens that an answer was billed for, under either of the API's namings; None where it
    does not say: what is not known must not look like nothing.
    """
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return None
    asked = usage.get("prompt_tokens", usage.get("input_tokens"))
    if type(asked) is not int:
        return None
    prompt = _count(asked)
    completion = _count(usage.get("completion_tokens", usage.get("output_tokens")))
    total = _count(usage.get("total_tokens")) or prompt + completion
    asked_for = _details(usage, "prompt_tokens_details", "input_tokens_details")
    cached = min(_count(asked_for.get("cached_tokens")), prompt)
    written = min(_count(asked_for.get("cache_write_tokens")), prompt - cached)
    audio = min(_count(asked_for.get("audio_tokens")), prompt)
    answered = _details(usage, "completion_tokens_details", "output_tokens_details")
    spoken = min(_count(answered.get("audio_tokens")), completion)
    return Usage(prompt, completion, total, cached, written, audio, spoken)


def _details(usage: Body, *names: str) -> Body:
    found = next((usage[name] for name in names if name in usage), None)
    return found if isinstance(found, dict) else {}


def billed_as(body: Body, model: str | None) -> str | None:
    """The model that an answer names, where that is another than was asked for."""
    named = body.get("model")
    return named if isinstance(named, str) and 0 < len(named) <= 200 and named != model else None


def service_of(body: Body) -> str | None:
    """The service tier that an answer names, where it is not the usual one."""
    named = body.get("service_tier")
    usual = not isinstance(named, str) or named in ("auto", "default") or len(named) > 40
    return None if usual else named


def _count(value: object) -> int:
    return value if type(value) is int and 0 < value < 2**63 else 0
