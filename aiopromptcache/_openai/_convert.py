"""One answer in its other form: a whole stream as the plain answer, a plain answer as a stream.

Both ways give everything or None: what is not certain to be whole is asked of the upstream.
"""

from __future__ import annotations

import copy
import json
from typing import Any

from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from ._convert_responses import response_events
from ._endpoints import Body, Endpoint
from ._sse import DONE, chunks_of, read_event, split, write_event

_DONE = b"data: " + DONE + b"\n\n"


class Uncertain(Exception):
    """The other form might lack something."""


# From a stream


def plain_of(endpoint: Endpoint, body: bytes) -> bytes | None:
    """The plain answer that a stream's events carry; None unless it is all there, usage too."""
    try:
        if endpoint.name == "responses":
            return _completed_response(body)
        chunks = chunks_of(body)
        if not chunks:
            return None
        return _dump(_merged(chunks, chat=endpoint.name == "chat.completions"))
    except (Uncertain, AttributeError, KeyError, TypeError, ValueError):
        return None


def _dump(value: Body) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def _completed_response(body: bytes) -> bytes | None:
    for block in reversed(split(body)):
        event = read_event(block)
        value = json.loads(event.data) if event and event.data and event.data != DONE else None
        if isinstance(value, dict) and value.get("type") == "response.completed":
            return _dump(value["response"]) if isinstance(value.get("response"), dict) else None
    return None


def _merged(chunks: list[Body], *, chat: bool) -> Body:
    top = _Fields(_last={"usage"})
    choices: dict[int, _Choice] = {}
    for chunk in chunks:
        picked = chunk["choices"]
        if picked or chunk.get("object"):  # a filter's own event has no name and no id
            top.add({k: v for k, v in chunk.items() if k not in ("choices", "obfuscation")})
        else:
            top.add({k: v for k, v in chunk.items() if v and k != "choices"})
        for choice in picked:
            if type(choice["index"]) is not int:
                raise Uncertain
            choices.setdefault(choice["index"], _Choice(chat)).add(choice)
    body = top.values
    if not isinstance(body.get("usage"), dict) or not choices or "object" not in body:
        raise Uncertain
    body["object"] = "chat.completion" if chat else "text_completion"
    body["choices"] = [choices[index].whole() for index in sorted(choices)]
    return body


class _Fields:
    """Fields that are said once, or again and again the same."""

    def __init__(self, *, _last: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        self.values: Body = {}
        self._last = _last

    def add(self, fields: Body) -> None:
        for name, value in fields.items():
            old = self.values.get(name)
            if old is None or name in self._last:
                if value is not None or name not in self.values:
                    self.values[name] = value
            elif value is not None and not _alike(value, old):
                raise Uncertain


class _Choice:
    """One choice, from its pieces."""

    def __init__(self, chat: bool) -> None:
        self._chat = chat
        self._fields = _Fields()
        self._texts: dict[str, list[str]] = {}
        self._once: Body = {}
        self._order: dict[str, None] = {}
        self._calls: dict[int, Body] = {}
        self._logprobs: Body | None = None
        self._finished = False

    def add(self, choice: Body) -> None:
        apart = ("delta", "logprobs", "text", "message")
        self._fields.add({k: v for k, v in choice.items() if k not in apart})
        if "message" in choice:
            raise Uncertain
        if choice.get("logprobs") is not None:
            self._logprobs = _extended(self._logprobs, choice["logprobs"])
        if not self._chat:
            self._text("text", choice["text"])
            return
        for name, value in (choice.get("delta") or {}).items():
            self._order.setdefault(name)
            if name == "tool_calls":
                for call in value or ():
                    self._call(call)
            elif name in _TEXTS:
                self._text(name, value)
            else:
                self._other(name, value)

    def _text(self, name: str, value: Any) -> None:
        if value is None:
            return
        if type(value) is not str:
            raise Uncertain
        self._texts.setdefault(name, []).append(value)

    def _other(self, name: str, value: Any) -> None:
        """What is not known to come in pieces may come only once."""
        old = self._once.get(name)
        if old is None or (name == "role" and value in (old, None, "")):
            self._once[name] = value if old is None else old
        elif value is not None:
            raise Uncertain

    def _call(self, delta: Body) -> None:
        index = delta["index"]
        if type(index) is not int:
            raise Uncertain
        known = self._calls.setdefault(index, {})
        for name, value in delta.items():
            if name == "index":
                continue
            old = known.get(name)
            if name in ("function", "custom") and isinstance(value, dict):
                known[name] = _grown(old or {}, value)
            elif old is None:
                known[name] = value
            elif value not in (None, "", old):
                raise Uncertain

    def whole(self) -> Body:
        fields = self._fields.values
        if fields.get("finish_reason") is None:
            raise Uncertain
        body: Body = {"index": fields["index"]}
        if self._chat:
            body["message"] = self._message()
        else:
            body["text"] = "".join(self._texts.get("text", ()))
        body["logprobs"] = self._logprobs
        return {**body, **fields}

    def _message(self) -> Body:
        message: Body = {"role": "assistant", "content": None}
        for name in self._order:
            if name in self._texts:
                text = "".join(self._texts[name])
                # The first chunk says "" where text may follow.
                silent = self._calls or any(self._texts.get("refusal", ()))
                message[name] = text or (None if silent else "")
            elif name == "tool_calls":
                if self._calls:
                    message[name] = [self._whole_call(index) for index in sorted(self._calls)]
            else:
                message[name] = self._once.get(name)
        return message

    def _whole_call(self, index: int) -> Body:
        call = self._calls[index]
        if not call.get("id") or not ("function" in call or "custom" in call):
            raise Uncertain
        kind = "function" if "function" in call else "custom"
        if kind == "function" and type(call["function"].get("arguments")) is not str:
            raise Uncertain
        return {**call, "type": call.get("type") or kind}


_TEXTS = frozenset({"content", "refusal", "reasoning_content", "reasoning"})
_GROWING = frozenset({"arguments", "input"})


def _grown(whole: Body, delta: Body) -> Body:
    """A function's name is said once; its arguments grow."""
    for name, value in delta.items():
        old = whole.get(name)
        if old is None:
            whole[name] = value
        elif name in _GROWING and isinstance(value, str):
            whole[name] = old + value
        elif value not in (None, "", old):
            raise Uncertain
    return whole


def _extended(whole: Body | None, more: Body) -> Body:
    """Log probabilities are lists that grow."""
    whole = {} if whole is None else whole
    for name, value in more.items():
        old = whole.get(name)
        if old is None:
            whole[name] = list(value) if isinstance(value, list) else value
        elif isinstance(old, list) and isinstance(value, list):
            old.extend(value)
        elif value is not None and value != old:
            raise Uncertain
    return whole


def _alike(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


# From a plain answer


def stream_of(endpoint: Endpoint, body: bytes, *, usage: bool) -> bytes | None:
    """The events of a plain answer, with `usage` as who asked for it gets it; None if not whole."""
    try:
        value = json.loads(body)
        if not isinstance(value, dict) or value.get("error"):
            return None
        if endpoint.name == "responses":
            events = response_events(value)
            return b"".join(write_event(event, event["type"].encode()) for event in events)
        if usage and not isinstance(value.get("usage"), dict):
            return None
        chat = endpoint.name == "chat.completions"
        chunks = _chat_chunks(value) if chat else _text_chunks(value)
        if chat and not _accumulates(chunks, value):
            return None
        written = [write_event(chunk) for chunk in _with_usage(chunks, value, usage)]
        return b"".join([*written, _DONE])
    except Exception:  # an odd body has no other form
        return None


def _with_usage(chunks: list[Body], value: Body, usage: bool) -> list[Body]:
    if not usage:
        return chunks
    last = {**chunks[0], "choices": [], "usage": value["usage"]}
    return [*({**chunk, "usage": None} for chunk in chunks), last]


def _chat_chunks(value: Body) -> list[Body]:
    head = {k: v for k, v in value.items() if k not in ("choices", "usage")}
    head["object"] = "chat.completion.chunk"
    if not value["choices"] or value["object"] != "chat.completion":
        raise Uncertain
    pieces = [
        piece
        for place, choice in enumerate(value["choices"])
        for piece in _chat_pieces(place, choice)
    ]
    return [{**head, "choices": [piece]} for piece in pieces]


def _chat_pieces(place: int, choice: Body) -> list[Body]:
    """One choice: who speaks, what is said, how it ended."""
    if choice["index"] != place or "delta" in choice:
        raise Uncertain
    apart = ("message", "finish_reason", "logprobs")
    extra = {k: v for k, v in choice.items() if k not in apart}
    none = {"logprobs": None} if "logprobs" in choice else {}
    role, delta = {"role": choice["message"]["role"]}, _delta(choice["message"])
    end = {"index": place, "delta": {}, **none, "finish_reason": choice["finish_reason"]}
    if choice.get("logprobs") is None:
        return [{**extra, "delta": {**role, **delta}, **none, "finish_reason": None}, end]
    # The SDK's accumulator counts a choice's log probabilities twice if its first chunk has any.
    first = {**extra, "delta": role, **none, "finish_reason": None}
    said = {"index": place, "delta": delta, "logprobs": choice["logprobs"], "finish_reason": None}
    return [first, said, end]


def _delta(message: Body) -> Body:
    delta = {name: value for name, value in message.items() if name != "role"}
    if message.get("tool_calls"):
        calls = message["tool_calls"]
        if any("index" in call for call in calls):
            raise Uncertain
        delta["tool_calls"] = [{"index": index, **call} for index, call in enumerate(calls)]
    return delta


def _text_chunks(value: Body) -> list[Body]:
    head = {k: v for k, v in value.items() if k not in ("choices", "usage")}
    if not value["choices"] or value["object"] != "text_completion":
        raise Uncertain
    return [{**head, "choices": [choice]} for choice in value["choices"]]


def _accumulates(chunks: list[Body], value: Body) -> bool:
    """Do the chunks, with the SDK's own accumulator, become the completion again?"""
    state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    for chunk in _with_usage(chunks, value, isinstance(value.get("usage"), dict)):
        state.handle_chunk(_construct(ChatCompletionChunk, copy.deepcopy(chunk)))
    whole = _without_additions(state.current_completion_snapshot.model_dump())
    reference = _construct(ChatCompletion, value).model_dump()
    return _serialized(whole) == _serialized(reference)


def _construct(kind: Any, value: Body) -> Any:
    from openai._models import construct_type

    built = construct_type(type_=kind, value=value)
    if not isinstance(built, BaseModel):
        raise Uncertain
    return built


def _without_additions(whole: Body) -> Body:
    """What an accumulated completion has besides: places of calls, parsed contents."""
    for choice in whole["choices"]:
        message = choice["message"]
        message.pop("parsed", None)
        for call in message.get("tool_calls") or ():
            call.pop("index", None)
            (call.get("function") or {}).pop("parsed_arguments", None)
    return whole


def _serialized(value: Body) -> str:
    return json.dumps(value, sort_keys=True, default=repr)
