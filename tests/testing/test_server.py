"""The local OpenAI server, driven by the real SDK over real sockets."""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import math
import struct
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncAzureOpenAI, AsyncOpenAI
from openai.types import Completion, CreateEmbeddingResponse, ModerationCreateResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, Field, TypeAdapter

from aiopromptcache.testing._request import RecordedRequest
from aiopromptcache.testing._schema import example
from aiopromptcache.testing._server import OpenAIServer

pytestmark = pytest.mark.anyio

MODEL = "gpt-test"
EVENT: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
WEATHER = {
    "name": "get_weather",
    "description": "Weather at a place.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 2}},
        "required": ["city", "days"],
    },
}


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[tuple[OpenAIServer, AsyncOpenAI]]:
    async with OpenAIServer(**options) as server:
        yield server, server.client()


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


async def ask(client: AsyncOpenAI, text: str = "two plus two?", **more: Any) -> ChatCompletion:
    answer: ChatCompletion = await client.chat.completions.create(
        model=MODEL, messages=user(text), **more
    )
    return answer


async def ask_stream(client: AsyncOpenAI, text: str = "two plus two?", **more: Any) -> Any:
    return await client.chat.completions.create(
        model=MODEL, messages=user(text), stream=True, **more
    )


async def post(server: OpenAIServer, path: str, **request: Any) -> httpx2.Response:
    async with httpx2.AsyncClient() as http:
        return await http.post(server.base_url + path, **request)


def frames(raw: str) -> list[dict[str, str]]:
    """Each event as its fields."""
    events = [event for event in raw.split("\n\n") if event]
    return [dict(line.split(": ", 1) for line in event.split("\n")) for event in events]


def text_of(chunks: list[ChatCompletionChunk], index: int = 0) -> str:
    deltas = (choice for chunk in chunks for choice in chunk.choices if choice.index == index)
    return "".join(choice.delta.content or "" for choice in deltas)


# Whole bodies


async def test_chat_answers_depend_on_the_request_alone_but_show_their_call() -> None:
    async with running() as (server, client):
        first, again, other = await ask(client), await ask(client), await ask(client, "else?")
        assert first.choices == again.choices
        assert first.usage == again.usage
        assert first.choices[0].message.content != other.choices[0].message.content
        assert "two plus two?" in (first.choices[0].message.content or "")
        assert len({first.id, again.id, other.id}) == 3
        assert len({first.created, again.created, other.created}) == 3
        assert [first._request_id, again._request_id] == ["req_1", "req_2"]
        assert server.calls == server.completed == server.calls_for("chat/completions") == 3


async def test_answers_carry_the_headers_openai_sends() -> None:
    async with running() as (_, client):
        raw = await client.chat.completions.with_raw_response.create(
            model=MODEL, messages=user("hi")
        )
        assert raw.headers["x-request-id"] == "req_1"
        assert raw.headers["content-type"] == "application/json"
        assert raw.headers["openai-processing-ms"] == "1"
        assert raw.headers["x-ratelimit-remaining-requests"] == "9999"


async def test_choices_differ_and_usage_counts_words() -> None:
    async with running() as (_, client):
        answer = await ask(client, "one two three", n=3)
        texts = [choice.message.content or "" for choice in answer.choices]
        assert len(set(texts)) == 3
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == 3
        assert answer.usage.completion_tokens == sum(len(text.split()) for text in texts)


@pytest.mark.parametrize(
    ("path", "body", "model"),
    [
        ("/chat/completions", {"messages": user("hi"), "n": 2}, ChatCompletion),
        ("/completions", {"prompt": ["a", "b"], "n": 2}, Completion),
        ("/embeddings", {"input": "hi"}, CreateEmbeddingResponse),
        ("/moderations", {"input": ["a", "b"]}, ModerationCreateResponse),
        (
            "/responses",
            {"input": "hi", "tools": [{"type": "function", "name": "f"}], "instructions": "Be."},
            Response,
        ),
        (
            "/responses",
            {
                "input": user("hi"),
                "tools": [{"type": "function", **WEATHER}],
                "tool_choice": "required",
            },
            Response,
        ),
    ],
)
async def test_bodies_pass_strict_validation(path: str, body: Any, model: type[BaseModel]) -> None:
    async with running() as (server, _):
        reply = await post(server, path, json={"model": MODEL, **body})
        assert reply.status_code == 200
        model.model_rebuild()
        model.model_validate_json(reply.content, strict=True)


@pytest.mark.parametrize(
    ("choice", "reason"),
    [("required", "tool_calls"), ({"type": "function", "function": {"name": "other"}}, "stop")],
)
async def test_a_forced_tool_is_called_whole_and_streamed(choice: Any, reason: str) -> None:
    functions = [WEATHER, {"name": "other", "parameters": WEATHER["parameters"]}]
    asked: Any = {
        "tools": [{"type": "function", "function": function} for function in functions],
        "tool_choice": choice,
    }
    async with running() as (_, client):
        answer = (await ask(client, **asked)).choices[0]
        call: Any = (answer.message.tool_calls or [])[0]
        assert answer.finish_reason == reason
        assert answer.message.content is None
        assert call.function.name == ("get_weather" if choice == "required" else "other")
        assert json.loads(call.function.arguments)["days"] == 2
        async with client.chat.completions.stream(
            model=MODEL, messages=user("two plus two?"), **asked
        ) as stream:
            streamed: Any = (await stream.get_final_completion()).choices[0]
        assert streamed.message.tool_calls[0].function.arguments == call.function.arguments
        assert streamed.finish_reason == reason


async def test_tools_that_are_not_forced_are_not_called() -> None:
    async with running() as (_, client):
        answer = await ask(client, tools=[{"type": "function", "function": WEATHER}])
        assert answer.choices[0].message.tool_calls is None
        assert answer.choices[0].message.content


async def test_refusal_and_finish_reason() -> None:
    async with running(refusal="I can't help.", finish_reason="content_filter") as (_, client):
        whole = (await ask(client)).choices[0]
        assert (whole.message.refusal, whole.message.content) == ("I can't help.", None)
        assert whole.finish_reason == "content_filter"
        async with client.chat.completions.stream(model=MODEL, messages=user("hi")) as stream:
            kinds = [event.type async for event in stream]
        assert "refusal.done" in kinds
        response = await client.responses.create(model=MODEL, input="hi")
        assert response.status == "incomplete"
        assert response.incomplete_details is not None
        assert response.incomplete_details.reason == "content_filter"


# Structured output


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Leaf(BaseModel):
    ratio: float
    flag: bool
    colour: Colour


class Tree(BaseModel):
    name: str = Field(min_length=12, max_length=14)
    age: int = Field(ge=18, lt=20)
    leaf: Leaf
    leaves: list[Leaf]
    note: str | None
    children: list[Tree]
    parent: Tree | None


async def test_parse_gets_an_object_valid_for_the_schema() -> None:
    async with running() as (_, client):
        completion = await client.chat.completions.parse(
            model=MODEL, messages=user("a leaf"), response_format=Leaf
        )
        assert completion.choices[0].message.parsed == Leaf(ratio=1.5, flag=True, colour=Colour.RED)
        response = await client.responses.parse(model=MODEL, input="a tree", text_format=Tree)
        assert response.output_parsed is not None
        assert response.output_parsed.age in (18, 19)
        async with client.chat.completions.stream(
            model=MODEL, messages=user("a leaf"), response_format=Leaf
        ) as stream:
            final = await stream.get_final_completion()
        assert final.choices[0].message.parsed == completion.choices[0].message.parsed


async def test_json_mode_gets_an_object() -> None:
    async with running() as (_, client):
        answer = await ask(client, response_format={"type": "json_object"})
        assert json.loads(answer.choices[0].message.content or "")["answer"].startswith("Answer")


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"enum": ["b", "a"]}, "b"),
        ({"const": None}, None),
        ({"type": ["null", "string"], "maxLength": 2}, "wo"),
        ({"type": "integer", "exclusiveMinimum": 3, "multipleOf": 5}, 5),
        ({"type": "integer", "exclusiveMaximum": 0}, -1),
        ({"type": "number", "minimum": 1, "exclusiveMaximum": 2}, 1.5),
        ({"type": "number", "maximum": 0}, -1.0),
        ({"type": "string", "format": "date"}, "2024-01-02"),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [True, True]),
        ({"type": "array", "items": {"type": "null"}, "maxItems": 0}, []),
        (
            {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}]},
            [1, "word"],
        ),
        (
            {
                "allOf": [{"$ref": "#/$defs/a~1b"}, {"properties": {"y": {"type": "null"}}}],
                "$defs": {"a/b": {"type": "object", "properties": {"x": {"type": "integer"}}}},
            },
            {"x": 1, "y": None},
        ),
        ({"oneOf": [{"type": "null"}, {"type": "integer"}]}, 1),
    ],
)
async def test_schema_examples(schema: Any, value: Any) -> None:
    assert example(schema, "word") == value


# Chat streams


async def test_a_stream_says_what_the_whole_answer_says() -> None:
    async with running() as (_, client):
        whole = await ask(client, n=2)
        chunks = [chunk async for chunk in await ask_stream(client, n=2)]
        for choice in whole.choices:
            assert text_of(chunks, choice.index) == choice.message.content
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-1].choices[0].finish_reason == "stop"
        assert {chunk.id for chunk in chunks} == {"chatcmpl-2"}


@pytest.mark.parametrize("include_usage", [True, False])
async def test_the_wire_form_of_a_chat_stream(include_usage: bool) -> None:
    body = {
        "model": MODEL,
        "messages": user("hi there"),
        "stream": True,
        "stream_options": {"include_usage": include_usage},
    }
    async with running() as (server, _):
        reply = await post(server, "/chat/completions", json=body)
        assert reply.headers["content-type"].startswith("text/event-stream")
        assert reply.headers["x-request-id"] == "req_1"
        *data, done = [event["data"] for event in frames(reply.text)]
        assert done == "[DONE]"
        chunks = [ChatCompletionChunk.model_validate_json(item, strict=True) for item in data]
        words = [len(chunk.choices[0].delta.content or "") > 0 for chunk in chunks if chunk.choices]
        assert words == [False, True, True, True, True, False]
        assert all(("usage" in json.loads(item)) is include_usage for item in data)
        assert [chunk.usage is not None for chunk in chunks[:-1]] == [False] * (len(chunks) - 1)
        assert (chunks[-1].usage is not None, chunks[-1].choices == []) == (include_usage,) * 2


async def test_utf8_travels_unescaped() -> None:
    async with running(answer=lambda _: "grüße 🌍") as (server, client):
        chunks = [chunk async for chunk in await ask_stream(client)]
        assert text_of(chunks) == "grüße 🌍"
        reply = await post(server, "/chat/completions", json={"messages": []})
        assert "grüße 🌍".encode() in reply.content


async def test_a_lone_surrogate_is_answered() -> None:
    async with running() as (server, _):
        sent = b'{"messages": [{"role": "user", "content": "\\ud800"}]}'
        headers = {"content-type": "application/json"}
        reply = await post(server, "/chat/completions", content=sent, headers=headers)
        assert reply.status_code == 200
        assert b"\\ud800" in reply.content


# Responses


async def test_responses_whole_and_streamed_agree() -> None:
    async with running() as (server, client):
        whole = await client.responses.create(model=MODEL, input="hello you")
        assert "hello you" in whole.output_text
        assert whole.id == "resp_1"
        async with client.responses.stream(model=MODEL, input="hello you") as stream:
            final = await stream.get_final_response()
        assert final.output_text == whole.output_text
        assert final.usage == whole.usage
        assert server.calls_for("responses") == 2


@pytest.mark.parametrize("reason", [None, "length"])
async def test_the_wire_form_of_a_response_stream(reason: str | None) -> None:
    async with running(finish_reason=reason, answer=lambda _: "so be it") as (server, _):
        body = {"model": MODEL, "input": "hi", "stream": True}
        events = frames((await post(server, "/responses", json=body)).text)
        parsed = [EVENT.validate_json(event["data"], strict=True) for event in events]
        assert [event["event"] for event in events] == [event.type for event in parsed]
        assert [json.loads(event["data"])["sequence_number"] for event in events] == list(range(11))
        assert [event.type for event in parsed] == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            *["response.output_text.delta"] * 3,
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.incomplete" if reason else "response.completed",
        ]


@pytest.mark.parametrize("name", [None, "get_weather"])
async def test_responses_call_forced_functions(name: str | None) -> None:
    asked: Any = {
        "model": MODEL,
        "input": "hi",
        "tools": [{"type": "function", "strict": True, **WEATHER}],
        "tool_choice": {"type": "function", "name": name} if name else "required",
    }
    async with running() as (_, client):
        whole: Any = (await client.responses.create(**asked)).output[0]
        assert (whole.type, whole.name) == ("function_call", "get_weather")
        async with client.responses.stream(**asked) as stream:
            kinds = [event.type async for event in stream]
            final: Any = (await stream.get_final_response()).output[0]
        assert final.arguments == whole.arguments
        assert "response.function_call_arguments.done" in kinds


async def test_responses_refuse_in_a_stream() -> None:
    async with running(refusal="I will not.") as (_, client):
        stream = await client.responses.create(model=MODEL, input="hi", stream=True)
        events = [event async for event in stream]
        deltas = [event.delta for event in events if event.type == "response.refusal.delta"]
        assert "".join(deltas) == "I will not."


# The other endpoints


async def test_embeddings_are_the_same_numbers_in_every_encoding() -> None:
    async with running(embedding_dimensions=8) as (_, client):
        default = await client.embeddings.create(model=MODEL, input=["a", "b"])
        floats = await client.embeddings.create(model=MODEL, input="a", encoding_format="float")
        packed = await client.embeddings.create(model=MODEL, input="a", encoding_format="base64")
        tokens = await client.embeddings.create(model=MODEL, input=[[1, 2], [3]], dimensions=5)
        first, second = (item.embedding for item in default.data)
        assert floats.data[0].embedding == first != second
        raw: Any = packed.data[0].embedding
        assert list(struct.unpack("<8f", base64.b64decode(raw))) == first
        assert math.isclose(math.hypot(*first), 1, rel_tol=1e-6)
        assert [len(item.embedding) for item in tokens.data] == [5, 5]
        assert tokens.usage.total_tokens == 3
        one = await client.embeddings.create(model="other", input=[1, 2], dimensions=5)
        assert [item.embedding for item in one.data] == [tokens.data[0].embedding]


async def test_completions_whole_and_streamed_agree() -> None:
    async with running() as (_, client):
        whole = await client.completions.create(model=MODEL, prompt=["ab", "cd"], n=2)
        assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
        assert "cd" in whole.choices[2].text
        stream = await client.completions.create(
            model=MODEL,
            prompt=["ab", "cd"],
            n=2,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
        texts = ["", "", "", ""]
        for chunk in chunks:
            for choice in chunk.choices:
                texts[choice.index] += choice.text
        assert texts == [choice.text for choice in whole.choices]
        assert chunks[-1].usage == whole.usage


async def test_moderations_give_a_verdict_per_item() -> None:
    async with running() as (_, client):
        answer = await client.moderations.create(input=["a", "b"])
        assert [result.flagged for result in answer.results] == [False, False]
        image: Any = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
        parts = await client.moderations.create(input=[{"type": "text", "text": "a"}, image])
        assert len(parts.results) == 1
        assert parts.results[0].category_applied_input_types.violence == ["text", "image"]


async def test_models_and_unknown_paths() -> None:
    async with running() as (server, client):
        assert [model.id async for model in client.models.list()] == [MODEL]
        with pytest.raises(openai.NotFoundError, match=r"Invalid URL \(POST /v1/nowhere\)"):
            await client.post("/nowhere", cast_to=object, body={})
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve("resp_1")
        assert server.calls_for("models") == 1


async def test_azure_layouts() -> None:
    async with (
        OpenAIServer() as server,
        AsyncAzureOpenAI(
            azure_endpoint=server.origin,
            api_key="test",
            api_version="2024-10-21",
            max_retries=0,
        ) as client,
    ):
        assert (await ask(client)).choices[0].message.content
        assert (await client.responses.create(model=MODEL, input="hi")).output_text
        assert [request.endpoint for request in server.requests] == [
            "chat/completions",
            "responses",
        ]
        first = server.requests[0]
        assert first.path == f"/openai/deployments/{MODEL}/chat/completions"
        assert first.query == {"api-version": "2024-10-21"}
        assert first.headers["api-key"] == "test"


@pytest.mark.parametrize("sent", [b"{", b"[]", b'"x"', b"\xff"])
async def test_an_unreadable_body_is_a_400(sent: bytes) -> None:
    async with running() as (server, _):
        headers = {"content-type": "application/json"}
        reply = await post(server, "/chat/completions", content=sent, headers=headers)
        assert reply.status_code == 400
        assert reply.json()["error"]["type"] == "invalid_request_error"


# Answers of the user's own


async def test_an_answer_may_be_text_a_body_bytes_or_none() -> None:
    given: list[Any] = ["text", {"id": "mine", "choices": []}, b'{"odd": 1}', None]
    async with running(answer=lambda request: given[request.number - 1]) as (server, client):
        assert (await ask(client)).choices[0].message.content == "text"
        assert (await ask(client)).id == "mine"
        assert (await ask(client)).model_dump()["odd"] == 1
        assert (await ask(client)).id == "chatcmpl-4"
        assert server.requests[0].prompt == "two plus two?"


async def test_an_answer_sees_the_request() -> None:
    seen: list[RecordedRequest] = []
    async with running(answer=seen.append) as (server, client):
        await ask(client, extra_headers={"X-Mine": "1"}, extra_query={"q": "2"})
        assert seen == server.requests
        assert seen[0].headers["x-mine"] == "1"
        assert seen[0].query == {"q": "2"}
        assert seen[0].body["model"] == MODEL
        assert (seen[0].stream, seen[0].path) == (False, "/v1/chat/completions")


async def test_bytes_answer_a_stream_as_events_or_as_json() -> None:
    odd = b'data: {"id":"x","choices":[]}\n\n: comment\n\ndata: [DONE]\n\n'
    async with running(answer=lambda _: odd) as (server, client):
        assert [chunk.id async for chunk in await ask_stream(client)] == ["x"]
        server.answer = lambda _: b"{}"
        reply = await post(server, "/chat/completions", json={"stream": True, "messages": []})
        assert (reply.headers["content-type"], reply.content) == ("application/json", b"{}")


async def test_a_body_is_cut_into_chunks_for_a_stream() -> None:
    async with running() as (server, client):
        body = (await ask(client, "x y")).model_dump()
        server.answer = lambda _: body
        chunks = [chunk async for chunk in await ask_stream(client)]
        assert text_of(chunks) == body["choices"][0]["message"]["content"]


async def test_an_answer_that_cannot_be_is_a_500_that_says_why() -> None:
    async with running(answer=lambda _: 1 / 0) as (server, client):
        with pytest.raises(openai.InternalServerError, match="ZeroDivisionError"):
            await ask(client)
        server.answer = lambda _: "text"
        with pytest.raises(openai.InternalServerError, match="embeddings"):
            await client.embeddings.create(model=MODEL, input="x")


# Holding, counting, waiting


async def test_held_answers_wait_for_release() -> None:
    async with running() as (server, client):
        server.hold()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(client, str(index))) for index in range(3)]
            await server.wait_active(3)
            assert (server.calls, server.completed, server.peak) == (3, 0, 3)
            server.release()
            server.hold()
        assert all(task.result().choices for task in tasks)
        await server.wait_idle()
        assert (server.active, server.completed, server.peak) == (0, 3, 3)


@pytest.mark.parametrize("chunks", [0, 1, 3])
async def test_streams_wait_after_so_many_chunks(chunks: int) -> None:
    async with running() as (server, client):
        server.hold_after(chunks=chunks)
        stream = await ask_stream(client)
        read = [await anext(stream) for _ in range(chunks)]
        assert server.active == 1
        server.release()
        assert len(read + [chunk async for chunk in stream]) == 7
        assert server.completed == 1


async def test_a_client_that_leaves_a_held_answer_is_noticed() -> None:
    async with running() as (server, client):
        server.hold()
        tasks = [asyncio.create_task(ask(client)) for _ in range(3)]
        await server.wait_active(3)
        for count, task in enumerate(tasks, 1):
            task.cancel()
            await server.wait_disconnects(count)
            assert server.active == 3 - count
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (server.disconnects, server.completed, server.cut) == (3, 0, 0)


async def test_a_client_that_leaves_a_stream_is_noticed() -> None:
    async with running() as (server, client):
        server.hold_after(chunks=2)
        stream = await ask_stream(client)
        await anext(stream)
        await stream.close()
        await server.wait_disconnects(1)
        assert server.active == 0
        server.release()
        slow = OpenAIServer(chunk_delay=60)
        async with slow, await ask_stream(slow.client()) as stream:
            await anext(stream)
            await stream.close()
            await slow.wait_disconnects(1)


async def test_a_client_that_read_it_all_did_not_leave() -> None:
    async with running() as (server, client):
        for _ in range(50):
            async with await ask_stream(client) as stream:
                async for _ in stream:
                    pass
        assert (server.completed, server.disconnects, server.active) == (50, 0, 0)


async def test_reset_forgets_but_does_not_lose_count_of_what_is_active() -> None:
    async with running() as (server, client):
        await ask(client)
        server.hold()
        server.fail(times=5)
        held = asyncio.create_task(ask(client))
        await server.wait_active(1)
        server.reset()
        with pytest.raises(openai.InternalServerError):
            await held
        await server.wait_idle()
        assert (server.calls, server.completed, server.requests) == (0, 0, [])
        assert (await ask(client)).id == "chatcmpl-3"
        assert (server.calls, server.completed, server.peak) == (1, 1, 1)


@pytest.mark.parametrize("kind", ["active", "calls", "disconnects"])
async def test_waiting_in_vain_says_what_was_there(kind: str) -> None:
    async with running() as (server, _):
        wait: Callable[..., Coroutine[Any, Any, None]] = getattr(server, f"wait_{kind}")
        with pytest.raises(TimeoutError, match=rf"no 1 {kind} within 0 s: 0 calls, 0 active"):
            await wait(1, timeout=0)
        await wait(0)


async def test_latency_comes_before_the_answer_and_chunk_delay_between_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("aiopromptcache.testing._server._pause", pause)
    async with running(latency=9.0, chunk_delay=5.0) as (_, client):
        chunks = [chunk async for chunk in await ask_stream(client)]
        assert pauses == [9.0, 0.0, *[5.0] * len(chunks)]  # the last one before [DONE]
        await ask(client)
        assert pauses[-1] == 9.0


# Faults


async def test_failures_come_in_order_and_end() -> None:
    async with running() as (server, client):
        server.fail(429, times=2, headers={"retry-after": "7"}, code="insufficient_quota")
        server.fail(body={"error": {"message": "mine"}})
        server.fail(502, body=b"<html>", headers={"Content-Type": "text/html"})
        for _ in range(2):
            with pytest.raises(openai.RateLimitError) as limited:
                await ask(client)
            assert limited.value.response.headers["retry-after"] == "7"
            assert limited.value.code == "insufficient_quota"
        with pytest.raises(openai.InternalServerError, match="mine") as failed:
            await ask_stream(client)
        assert (failed.value.status_code, failed.value.request_id) == (500, "req_3")
        with pytest.raises(openai.InternalServerError) as odd:
            await ask(client)
        assert (odd.value.response.text, odd.value.status_code) == ("<html>", 502)
        assert odd.value.response.headers.get_list("content-type") == ["text/html"]
        assert (await ask(client)).choices
        assert server.completed == 5


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
async def test_failures_look_like_openai_s(status: int) -> None:
    async with running() as (server, _):
        server.fail(status)
        reply = await post(server, "/chat/completions", json={})
        assert reply.status_code == status
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


async def test_the_sdk_retries_through_failures() -> None:
    async with OpenAIServer() as server:
        server.fail(503, headers={"retry-after-ms": "1"})
        assert (await ask(server.client(max_retries=1))).id == "chatcmpl-2"


async def test_a_reset_connection() -> None:
    async with running() as (server, client):
        server.fail_connection(times=2)
        for _ in range(2):
            with pytest.raises(openai.APIConnectionError):
                await ask(client)
        assert (await ask(client)).choices
        await server.wait_idle()
        assert (server.cut, server.disconnects, server.completed) == (2, 0, 1)


@pytest.mark.parametrize("after", [0, 2, 99])
async def test_a_stream_that_breaks_off(after: int) -> None:
    async with running() as (server, client):
        server.truncate_stream(after=after)
        await ask(client)  # not a stream: does not take the fault
        stream = await ask_stream(client)
        for _ in range(min(after, 7)):
            await anext(stream)
        with pytest.raises(openai.APIConnectionError):
            await anext(stream)
        await server.wait_idle()
        assert (server.cut, server.disconnects, server.completed) == (1, 0, 1)


async def test_a_stream_that_ends_cleanly_but_too_early() -> None:
    async with running() as (server, client):
        server.truncate_stream(after=2, clean=True)
        assert len([chunk async for chunk in await ask_stream(client)]) == 2
        server.truncate_stream(after=99, clean=True)
        stream = await client.responses.create(model=MODEL, input="hi", stream=True)
        kinds = [event.type async for event in stream]
        assert kinds[-1] == "response.output_item.done"
        await server.wait_idle()
        assert (server.cut, server.disconnects) == (2, 0)


async def test_an_error_within_a_stream() -> None:
    async with running() as (server, client):
        server.error_in_stream(after=2, times=2, code="overloaded")
        stream = await ask_stream(client)
        assert [await anext(stream) for _ in range(2)]
        with pytest.raises(openai.APIError, match="fail within the stream") as failed:
            await anext(stream)
        assert failed.value.code == "overloaded"
        events = [
            event
            async for event in await client.responses.create(model=MODEL, input="hi", stream=True)
        ]
        assert [event.type for event in events][1:] == ["response.in_progress", "error"]
        assert events[-1].sequence_number == 2


@pytest.mark.parametrize(
    "wrong",
    [
        lambda server: server.fail(200),
        lambda server: server.fail(times=0),
        lambda server: server.fail_connection(times=-1),
        lambda server: server.truncate_stream(after=-1),
        lambda server: server.error_in_stream(after=-1),
        lambda server: server.hold_after(chunks=-1),
    ],
)
async def test_numbers_out_of_range_are_named(wrong: Callable[[OpenAIServer], None]) -> None:
    with pytest.raises(ValueError, match=r"must be .*, not -?\d+"):
        wrong(OpenAIServer())


# Life


async def test_a_stopped_server_says_so_and_starts_again() -> None:
    server = OpenAIServer()
    for use in (lambda: server.base_url, server.client):
        with pytest.raises(RuntimeError, match="not running"):
            use()
    await server.aclose()
    for count in (1, 2):
        assert await server.start() is server
        with pytest.raises(RuntimeError, match="running already"):
            await server.start()
        assert (await ask(server.client())).id == f"chatcmpl-{count}"
        assert f"{server.origin}: {count} calls, 0 active" in repr(server)
        await server.aclose()
    assert repr(server).startswith("<OpenAIServer stopped: 2 calls")


async def test_it_stops_at_once_whatever_it_is_doing_and_leaves_nothing() -> None:
    before = asyncio.all_tasks()
    loop = asyncio.get_running_loop()
    async with running(chunk_delay=60) as (server, client):
        await ask(client)  # leaves an idle connection
        stream = await ask_stream(client)
        await anext(stream)
        server.hold()
        held = [asyncio.create_task(ask(client)) for _ in range(20)]
        await server.wait_active(21)
        start = loop.time()
    assert loop.time() - start < 0.9  # a handler that had to be waited for would take a second
    results = await asyncio.gather(*held, return_exceptions=True)
    assert {type(result) for result in results} == {openai.APIConnectionError}
    assert client.is_closed()
    assert (server.active, server.cut, server.disconnects) == (0, 21, 0)
    assert asyncio.all_tasks() == before


async def test_it_stops_when_its_user_is_cancelled() -> None:
    async def use(started: asyncio.Event) -> None:
        async with running() as (server, client):
            server.hold()
            started.set()
            await ask(client)

    before, started = asyncio.all_tasks(), asyncio.Event()
    task = asyncio.create_task(use(started))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == before


async def test_a_hold_does_not_outlive_the_server() -> None:
    server = OpenAIServer()
    for _ in range(2):
        async with server:
            server.hold()
            held = asyncio.create_task(ask(server.client()))
            await server.wait_active(1)
        with pytest.raises(openai.APIConnectionError):
            await held
    async with server:
        assert (await ask(server.client())).id == "chatcmpl-3"


async def test_a_header_that_cannot_be_sent_ends_the_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running() as (server, client):
        server.fail(headers={"x-odd": "a\r\nb: c"})
        with pytest.raises(openai.APIError):
            await ask(client)
        await server.wait_idle()
        assert server.calls == server.completed + server.cut == 1


async def test_without_aiohttp_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.delitem(sys.modules, OpenAIServer.__module__)
    with pytest.raises(ImportError, match=r"pip install aiopromptcache\[testing\]"):
        importlib.import_module(OpenAIServer.__module__)


async def test_client_arguments_win() -> None:
    async with OpenAIServer() as server:
        client = server.client(api_key="mine", max_retries=4, organization="org")
        assert (client.api_key, client.max_retries) == ("mine", 4)
        await ask(client)
        assert server.requests[0].headers["authorization"] == "Bearer mine"
        assert server.requests[0].headers["openai-organization"] == "org"


async def test_hundreds_at_once() -> None:
    async with running() as (server, client):
        server.hold()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(client, str(index))) for index in range(300)]
            await server.wait_active(300)
            server.release()
        assert len({task.result().id for task in tasks}) == 300
        assert (server.peak, server.completed) == (300, 300)
