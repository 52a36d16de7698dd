"""The JSON bodies that OpenAI's endpoints answer with, made from the request alone."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias

from ._request import RecordedRequest, pieces, text_of
from ._texts import Body, Options, answer_text, forced_call, prompt_tokens

EPOCH: Final = 1_700_000_000  # `created` of the call before the first, in seconds since 1970
MODEL: Final = "gpt-test"


def build(request: RecordedRequest, options: Options) -> Body | None:
    """The default answer to `request`, or None if nothing answers at its endpoint.

    Raises:
        TypeError: `options.text` is given for an endpoint that has no text.
    """
    if builder := _TEXTUAL.get(request.endpoint):
        return builder(request, options)
    if options.text is not None:
        raise TypeError(
            f"an answer of type str needs an endpoint that returns text, not {request.endpoint!r}"
        )
    other = _OTHERS.get(request.endpoint)
    return other(request, options) if other else None


def _usage(prompt: int, completion: int) -> Body:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0, "cache_write_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


# chat/completions


def chat(request: RecordedRequest, options: Options) -> Body:
    """A `chat.completion` of `n` choices."""
    messages = [_message(request, options, index) for index in range(request.body.get("n") or 1)]
    reason = options.finish_reason or _natural_finish(request, messages[0])
    return {
        "id": f"chatcmpl-{request.number}",
        "object": "chat.completion",
        "created": EPOCH + request.number,
        "model": request.body.get("model", MODEL),
        "choices": [
            {"index": index, "message": message, "logprobs": None, "finish_reason": reason}
            for index, message in enumerate(messages)
        ],
        "usage": _usage(prompt_tokens(request.body), sum(map(_message_tokens, messages))),
        "service_tier": "default",
        "system_fingerprint": "fp_local",
    }


def _message(request: RecordedRequest, options: Options, index: int) -> Body:
    message: Body = {"role": "assistant", "content": None, "refusal": None, "annotations": []}
    if options.refusal is not None:
        return message | {"refusal": options.refusal}
    call = forced_call(request, index) if options.text is None else None
    if call is None:
        return message | {"content": answer_text(request, options, index)}
    function = {"name": call[0], "arguments": call[1]}
    return message | {
        "tool_calls": [
            {"id": f"call_{request.number}_{index}", "type": "function", "function": function}
        ]
    }


def _natural_finish(request: RecordedRequest, message: Body) -> str:
    """OpenAI says `stop`, not `tool_calls`, where the caller named the function."""
    return (
        "tool_calls"
        if "tool_calls" in message and request.body["tool_choice"] == "required"
        else "stop"
    )


def _message_tokens(message: Body) -> int:
    arguments = (call["function"]["arguments"] for call in message.get("tool_calls", ()))
    return len(pieces("".join(filter(None, (message["content"], message["refusal"], *arguments)))))


# completions


def completions(request: RecordedRequest, options: Options) -> Body:
    """A legacy `text_completion`: `n` choices for each prompt."""
    count = request.body.get("n") or 1
    prompts = [text_of(item) for item in _items(request.body.get("prompt", ""))]
    texts = [
        answer_text(request, options, index, prompts[index // count])
        for index in range(len(prompts) * count)
    ]
    return {
        "id": f"cmpl-{request.number}",
        "object": "text_completion",
        "created": EPOCH + request.number,
        "model": request.body.get("model", MODEL),
        "choices": [
            {
                "index": index,
                "text": text,
                "logprobs": None,
                "finish_reason": options.finish_reason or "stop",
            }
            for index, text in enumerate(texts)
        ],
        "usage": _usage(prompt_tokens(request.body), sum(len(pieces(text)) for text in texts)),
        "system_fingerprint": "fp_local",
    }


def _items(value: object) -> list[Any]:
    """A string, or a list of token numbers, is one item; any other list is several."""
    if not isinstance(value, list):
        return [value]
    return [value] if value and all(isinstance(item, int) for item in value) else value


# responses

_ECHOED_FIELDS: Final[Body] = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
_INCOMPLETE: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}


def response(request: RecordedRequest, options: Options) -> Body:
    """A `response` of one message or one function call."""
    item, tokens = _output(request, options)
    prompt = prompt_tokens(request.body)
    reason = _INCOMPLETE.get(options.finish_reason or "")
    echoed = {key: request.body.get(key, default) for key, default in _ECHOED_FIELDS.items()}
    return {
        "id": f"resp_{request.number}",
        "object": "response",
        "created_at": EPOCH + request.number,
        "completed_at": None if reason else EPOCH + request.number,
        "status": "incomplete" if reason else "completed",
        "error": None,
        "incomplete_details": {"reason": reason} if reason else None,
        "model": request.body.get("model", MODEL),
        "output": [item | {"status": "incomplete" if reason else "completed"}],
        "service_tier": "default",
        "tools": [_echoed_tool(tool) for tool in request.body.get("tools") or []],
        "usage": {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + tokens,
        },
        **echoed,
    }


def _echoed_tool(tool: Body) -> Body:
    defaults = (
        {"description": None, "strict": True, "parameters": None}
        if tool.get("type") == "function"
        else {}
    )
    return {**defaults, **tool}


def _output(request: RecordedRequest, options: Options) -> tuple[Body, int]:
    """The only item of the output, and its number of tokens."""
    call = forced_call(request) if options.text is None and options.refusal is None else None
    if call is not None:
        item: Body = {
            "id": f"fc_{request.number}",
            "type": "function_call",
            "call_id": f"call_{request.number}",
        }
        return item | {"name": call[0], "arguments": call[1]}, len(pieces(call[1]))
    if options.refusal is not None:
        text = options.refusal
        part: Body = {"type": "refusal", "refusal": text}
    else:
        text = answer_text(request, options)
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    item = {
        "id": f"msg_{request.number}",
        "type": "message",
        "role": "assistant",
        "content": [part],
    }
    return item, len(pieces(text))


# embeddings


def embeddings(request: RecordedRequest, options: Options) -> Body:
    """A `list` of one embedding per input item, as floats or as base64."""
    items = _items(request.body.get("input", ""))
    size = request.body.get("dimensions") or options.embedding_dimensions
    packed = request.body.get("encoding_format") == "base64"
    tokens = sum(len(item) if isinstance(item, list) else len(pieces(str(item))) for item in items)
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _embedding(item, size, packed)}
            for index, item in enumerate(items)
        ],
        "model": request.body.get("model", MODEL),
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def unit_vector(item: object, size: int) -> tuple[float, ...]:
    """`size` numbers of Euclidean length 1, made from `item` alone, exact in float32."""
    raw = hashlib.shake_256(json.dumps(item).encode()).digest(4 * size)
    centred = [number - 2**31 + 0.5 for number in struct.unpack(f"<{size}I", raw)]
    length = math.hypot(*centred)
    layout = f"<{size}f"
    return struct.unpack(layout, struct.pack(layout, *(number / length for number in centred)))


def _embedding(item: object, size: int, packed: bool) -> list[float] | str:
    vector = unit_vector(item, size)
    return base64.b64encode(struct.pack(f"<{size}f", *vector)).decode() if packed else list(vector)


# moderations and models

_WITH_IMAGES: Final = (
    *("self-harm", "self-harm/instructions", "self-harm/intent"),
    *("sexual", "violence", "violence/graphic"),
)
_TEXT_ONLY: Final = (
    *("harassment", "harassment/threatening", "hate", "hate/threatening"),
    *("illicit", "illicit/violent", "sexual/minors"),
)


def moderations(request: RecordedRequest, options: Options) -> Body:
    """A verdict per input item, nothing flagged; a list of content parts is one item."""
    del options
    items = _items(request.body.get("input", ""))
    if any(isinstance(item, Mapping) for item in items):
        items = [items]
    return {
        "id": f"modr-{request.number}",
        "model": request.body.get("model", "omni-moderation-latest"),
        "results": [_verdict(item) for item in items],
    }


def _verdict(item: object) -> Body:
    images = isinstance(item, list) and any(part.get("type") == "image_url" for part in item)
    names = (*_WITH_IMAGES, *_TEXT_ONLY)
    return {
        "flagged": False,
        "categories": dict.fromkeys(names, False),
        "category_scores": dict(zip(names, _scores(item, len(names)), strict=True)),
        "category_applied_input_types": {
            name: ["text", "image"] if images and name in _WITH_IMAGES else ["text"]
            for name in names
        },
    }


def _scores(item: object, count: int) -> Iterator[float]:
    raw = hashlib.shake_256(json.dumps(item).encode()).digest(count)
    return (byte / 100_000 for byte in raw)


def models() -> Body:
    """The `list` of the one model there is."""
    model = {"id": MODEL, "object": "model", "created": EPOCH, "owned_by": "aiopromptcache"}
    return {"object": "list", "data": [model]}


_Builder: TypeAlias = Callable[[RecordedRequest, Options], Body]
_TEXTUAL: Final[Mapping[str, _Builder]] = {
    "chat/completions": chat,
    "completions": completions,
    "responses": response,
}
_OTHERS: Final[Mapping[str, _Builder]] = {"embeddings": embeddings, "moderations": moderations}
