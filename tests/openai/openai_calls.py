"""Every form of every cached call, fixed answers for them, and what makes two results equal."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from openai import AsyncOpenAI
from openai.types import Completion, CreateEmbeddingResponse, ModerationCreateResponse
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from pydantic import BaseModel

from aiopromptcache.testing import RecordedRequest

MODEL = "gpt-test"


class City(BaseModel):
    """What structured outputs ask for here."""

    name: str
    days: int


def user(text: str) -> list[Any]:
    """The messages of a chat."""
    return [{"role": "user", "content": text}]


CHAT: dict[str, Any] = {"model": MODEL, "messages": user("Where to?")}
RESPONSE: dict[str, Any] = {"model": MODEL, "input": "Where to?"}
EMBEDDING: dict[str, Any] = {"model": MODEL, "input": ["one", "two"]}
COMPLETION: dict[str, Any] = {"model": MODEL, "prompt": "Where to?"}
MODERATION: dict[str, Any] = {"model": MODEL, "input": "Where to?"}
TEXT = json.dumps({"name": "Rome", "days": 2})

# Answers

VECTORS = [[0.5, -0.25, 0.125], [1.0, 0.0, -0.5]]
USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
CHAT_BODY: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1_700_000_000,
    "model": MODEL,
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": TEXT, "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": USAGE,
}
RESPONSE_BODY: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1_700_000_000,
    "status": "completed",
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "metadata": {},
    "model": MODEL,
    "output": [
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": TEXT, "annotations": []}],
        }
    ],
    "parallel_tool_calls": True,
    "temperature": 1.0,
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "usage": {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 12,
    },
}
COMPLETION_BODY: dict[str, Any] = {
    "id": "cmpl-1",
    "object": "text_completion",
    "created": 1_700_000_000,
    "model": MODEL,
    "choices": [{"index": 0, "text": "To Rome.", "logprobs": None, "finish_reason": "stop"}],
    "usage": USAGE,
}
MODERATION_BODY: dict[str, Any] = {
    "id": "modr-1",
    "model": MODEL,
    "results": [
        {
            "flagged": False,
            "categories": {"hate": False, "self-harm": False},
            "category_scores": {"hate": 0.25, "self-harm": 0.0},
            "category_applied_input_types": {"hate": ["text"], "self-harm": ["text"]},
        }
    ],
}


def embedding_body(encoding: str | None) -> dict[str, Any]:
    """Vectors as they were asked for."""
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _packed(vector, encoding)}
            for index, vector in enumerate(VECTORS)
        ],
        "model": MODEL,
        "usage": {"prompt_tokens": 2, "total_tokens": 2},
    }


def _packed(vector: list[float], encoding: str | None) -> Any:
    if encoding != "base64":
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def fixed(request: RecordedRequest) -> dict[str, Any] | None:
    """`OpenAIServer.answer`: the same bytes whenever a request is made."""
    if request.endpoint == "embeddings":
        return embedding_body(request.body.get("encoding_format"))
    return _BODIES.get(request.endpoint)


_BODIES = {
    "chat/completions": CHAT_BODY,
    "responses": RESPONSE_BODY,
    "completions": COMPLETION_BODY,
    "moderations": MODERATION_BODY,
}

# Forms

Form = Callable[[Any], Awaitable[Any]]
"""One way to make a call; gives what came of it, as objects and lists of them."""


def _create(where: str, method: str = "create", **params: Any) -> Form:
    async def form(client: Any) -> Any:
        result = await getattr(_at(client, where), method)(**params)
        return [item async for item in result] if params.get("stream") else result

    return form


def _raw(where: str, method: str = "create", **params: Any) -> Form:
    async def form(client: Any) -> Any:
        raw = await getattr(_at(client, where).with_raw_response, method)(**params)
        parsed = raw.parse()
        if params.get("stream"):
            return [item async for item in parsed]
        assert raw.parse() is parsed
        return [parsed, raw.text, raw.content, raw.status_code, raw.headers["content-type"]]

    return form


def _streamed(where: str, read: str = "parse", method: str = "create", **params: Any) -> Form:
    async def form(client: Any) -> Any:
        call = getattr(_at(client, where).with_streaming_response, method)(**params)
        async with call as response:
            if read == "iter_lines":
                return [line async for line in response.iter_lines()]
            result = await getattr(response, read)()
            return [item async for item in result] if params.get("stream") else result

    return form


def _helper(where: str, **params: Any) -> Form:
    async def form(client: Any) -> Any:
        async with _at(client, where).stream(**params) as stream:
            events = [event async for event in stream]
            last = "get_final_response" if "responses" in where else "get_final_completion"
            return [*events, await getattr(stream, last)()]

    return form


def _post(path: str, body: Any, cast_to: Any) -> Form:
    async def form(client: Any) -> Any:
        result = await client.post(path, body=body, cast_to=cast_to)
        return result.content if isinstance(result, httpx2.Response) else result

    return form


def _copied(name: str, form: Form) -> Form:
    return lambda client: form(getattr(client, name)(timeout=9))


def _at(client: Any, where: str) -> Any:
    for name in where.split("."):
        client = getattr(client, name)
    return client


def _forms_of(where: str, params: dict[str, Any], path: str, model: Any) -> dict[str, Form]:
    """What every endpoint can do."""
    return {
        "create": _create(where, **params),
        "raw": _raw(where, **params),
        "streaming_response": _streamed(where, **params),
        "streaming_response.json": _streamed(where, "json", **params),
        "post": _post(path, params, model),
        "post as dict": _post(path, params, object),
        "post as str": _post(path, params, str),
        "post as response": _post(path, params, httpx2.Response),
        "with_options": _copied("with_options", _create(where, **params)),
        "copy": _copied("copy", _raw(where, **params)),
    }


def _streams_of(where: str, params: dict[str, Any]) -> dict[str, Form]:
    streamed = {**params, "stream": True}
    return {
        "stream=True": _create(where, **streamed),
        "raw stream=True": _raw(where, **streamed),
        "streaming_response stream=True": _streamed(where, **streamed),
        "streaming_response lines": _streamed(where, "iter_lines", **streamed),
        "copy stream=True": _copied("copy", _create(where, **streamed)),
    }


_CHAT = "chat.completions"
_PARSED_CHAT = {**CHAT, "response_format": City}
_PARSED_RESPONSE = {**RESPONSE, "text_format": City}
_FLOATS = {**EMBEDDING, "encoding_format": "float"}
_PACKED = {**EMBEDDING, "encoding_format": "base64"}
_USAGE_TOO = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}

_NAMED: dict[str, dict[str, Form]] = {
    "chat": {
        **_forms_of(_CHAT, CHAT, "/chat/completions", ChatCompletion),
        **_streams_of(_CHAT, CHAT),
        "parse": _create(_CHAT, "parse", **_PARSED_CHAT),
        "raw parse": _raw(_CHAT, "parse", **_PARSED_CHAT),
        "streaming_response parse": _streamed(_CHAT, "parse", "parse", **_PARSED_CHAT),
        ".stream()": _helper(_CHAT, **CHAT),
        ".stream() of a class": _helper(_CHAT, **_PARSED_CHAT),
        "stream with usage": _create(_CHAT, **_USAGE_TOO),
        "beta": _create(f"beta.{_CHAT}", **CHAT),
        "beta parse": _create(f"beta.{_CHAT}", "parse", **_PARSED_CHAT),
        "beta .stream()": _helper(f"beta.{_CHAT}", **_PARSED_CHAT),
    },
    "responses": {
        **_forms_of("responses", RESPONSE, "/responses", Response),
        **_streams_of("responses", RESPONSE),
        "parse": _create("responses", "parse", **_PARSED_RESPONSE),
        "raw parse": _raw("responses", "parse", **_PARSED_RESPONSE),
        ".stream()": _helper("responses", **RESPONSE),
        ".stream() of a class": _helper("responses", **_PARSED_RESPONSE),
        "beta": _create("beta.responses", **RESPONSE),
        "beta raw": _raw("beta.responses", **RESPONSE),
        "beta stream=True": _create("beta.responses", **RESPONSE, stream=True),
    },
    "embeddings": {
        **_forms_of("embeddings", EMBEDDING, "/embeddings", CreateEmbeddingResponse),
        "floats": _create("embeddings", **_FLOATS),
        "raw floats": _raw("embeddings", **_FLOATS),
        "base64": _create("embeddings", **_PACKED),
    },
    "completions": {
        **_forms_of("completions", COMPLETION, "/completions", Completion),
        **_streams_of("completions", COMPLETION),
    },
    "moderations": _forms_of("moderations", MODERATION, "/moderations", ModerationCreateResponse),
}
FORMS: dict[str, Form] = {
    f"{endpoint} {name}": form for endpoint, forms in _NAMED.items() for name, form in forms.items()
}
PLAIN = [f"{endpoint} create" for endpoint in _NAMED]
"""The names of the plain form of each endpoint."""

# Equality


def same(one: Any, other: Any) -> bool:
    """Equal in value, type, fields set and order of every part, in dump and request id."""
    if type(one) is not type(other):
        return False
    if isinstance(one, BaseModel):
        return (
            same(_fields(one), _fields(other))
            and same(one.__pydantic_extra__, other.__pydantic_extra__)
            and one.__pydantic_fields_set__ == other.__pydantic_fields_set__
        )
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other) if isinstance(one, float) else bool(one == other)


def _fields(model: BaseModel) -> dict[str, Any]:
    return {name: value for name, value in vars(model).items() if not name.startswith("_")}


def parts(value: Any) -> list[int]:
    """The identity of every mutable part."""
    found: list[int] = []
    rest = [value]
    while rest:
        item = rest.pop()
        if isinstance(item, BaseModel):
            rest += [vars(item), item.__pydantic_extra__]
        elif isinstance(item, dict):
            rest += item.values()
        elif isinstance(item, list):
            rest += item
        else:
            continue
        found.append(id(item))
    return found


# Upstreams in memory, for what no well-behaved server sends


class Upstream:
    """An in-memory upstream: the next answers are `status`, `headers` and `body`."""

    def __init__(self, body: bytes = b"", content_type: str | None = "application/json") -> None:
        self.body = body
        self.events: bytes | None = None
        """Instead, where a stream is asked for."""
        self.status = 200
        self.headers: dict[str, str] = {"x-request-id": "req_upstream"}
        if content_type is not None:
            self.headers["content-type"] = content_type
        self.extensions: dict[str, Any] = {}
        self.piece: int | None = None
        """Bytes of events that come at once; None: all."""
        self.requests: list[httpx2.Request] = []
        self.cancelled = 0
        self.steps = 1
        """Turns of the event loop that an answer takes."""
        self.open = asyncio.Event()
        self.open.set()

    @property
    def calls(self) -> int:
        """Requests received."""
        return len(self.requests)

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        try:
            for _ in range(self.steps):
                await asyncio.sleep(0)
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        body, headers = self.body, self.headers
        if self.events is not None and json.loads(request.content).get("stream"):
            body, headers = self.events, {**headers, "content-type": "text/event-stream"}
            if self.piece is not None:
                parts = _cut(body, self.piece)
                return httpx2.Response(
                    200, headers=headers, content=parts, extensions=self.extensions
                )
        return httpx2.Response(
            self.status, headers=headers, content=body, extensions=self.extensions
        )

    @asynccontextmanager
    async def client(
        self, kind: type[AsyncOpenAI] = AsyncOpenAI, **options: Any
    ) -> AsyncIterator[AsyncOpenAI]:
        """A client that is answered by this object."""
        http = httpx2.AsyncClient(transport=httpx2.MockTransport(self))
        place = {"api_key": "test", "base_url": "http://upstream/v1", "max_retries": 0}
        async with kind(**{**place, "http_client": http, **options}) as client:
            yield client


async def _cut(body: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


async def outcome(call: Awaitable[Any]) -> Any:
    """What a call gives, or what it raises, in comparable form."""
    try:
        return await call
    except Exception as error:
        return type(error), str(error)


async def gather(*calls: Coroutine[Any, Any, Any]) -> list[Any]:
    """The outcomes of concurrent calls; exceptions as they are."""
    return await asyncio.gather(*calls, return_exceptions=True)
