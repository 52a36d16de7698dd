"""The text that answers a request: an echo, JSON for a schema, or a function's arguments."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from ._request import RecordedRequest, pieces, text_of
from ._schema import example

Body: TypeAlias = dict[str, Any]

_ECHOED: Final = 40  # words of the prompt that an answer repeats
_HOW_NOT_WHAT: Final = frozenset({"stream", "stream_options", "encoding_format"})
_PROMPTS: Final = ("instructions", "messages", "input", "prompt")


@dataclass(frozen=True, slots=True)
class Options:
    """What shapes an answer besides its request; see `OpenAIServer`."""

    embedding_dimensions: int = 256
    finish_reason: str | None = None
    refusal: str | None = None
    text: str | None = None


def digest(request: RecordedRequest) -> str:
    """Eight hex digits that change with the endpoint and with anything asked for."""
    asked = {key: value for key, value in request.body.items() if key not in _HOW_NOT_WHAT}
    canonical = json.dumps([request.endpoint, asked], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


def answer_text(
    request: RecordedRequest, options: Options, choice: int = 0, prompt: str | None = None
) -> str:
    """The text of one choice: given, JSON in the format asked for, or an echo of the prompt."""
    if options.text is not None:
        return options.text
    seed = digest(request) if choice == 0 else f"{digest(request)}-{choice}"
    echo = "".join(pieces(request.prompt if prompt is None else prompt)[:_ECHOED])
    text = f"Answer {seed}: {echo}".rstrip()
    wanted = _format(request.body)
    if wanted.get("type") == "json_schema":
        return json.dumps(example(wanted.get("json_schema", wanted).get("schema") or {}, seed))
    return json.dumps({"answer": text}) if wanted.get("type") == "json_object" else text


def _format(body: Body) -> Mapping[str, Any]:
    found = body.get("response_format") or (body.get("text") or {}).get("format")
    return found if isinstance(found, Mapping) else {}


def forced_call(request: RecordedRequest, choice: int = 0) -> tuple[str, str] | None:
    """Name and JSON arguments of the function that must be called, if one must."""
    tools = [
        tool.get("function", tool)
        for tool in request.body.get("tools") or []
        if tool.get("type") == "function"
    ]
    wanted = request.body.get("tool_choice")
    if isinstance(wanted, Mapping):
        name = wanted.get("function", wanted).get("name")
        tools = [tool for tool in tools if tool["name"] == name]
    elif wanted != "required":
        return None
    if not tools:
        return None
    arguments = example(
        tools[0].get("parameters") or {"type": "object"}, f"{digest(request)}-{choice}"
    )
    return tools[0]["name"], json.dumps(arguments)


def prompt_tokens(body: Body) -> int:
    """The words in everything the model would read."""
    return sum(len(pieces(text_of(body.get(key)))) for key in _PROMPTS)
