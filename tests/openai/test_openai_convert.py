"""Completions and chunks that nobody thought of: both ways give everything, or nothing."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from openai._models import construct_type
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai_calls import CHAT_BODY, COMPLETION_BODY, RESPONSE_BODY

from aiopromptcache._openai._convert import plain_of, stream_of
from aiopromptcache._openai._endpoints import BY_NAME
from aiopromptcache._openai._sse import chunks_of, hide_usage, split

CHAT = BY_NAME["chat.completions"]
TEXTS = BY_NAME["completions"]
RESPONSES = BY_NAME["responses"]

relaxed = settings(
    max_examples=150, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)

TEXT = st.text(max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
TOKEN = st.fixed_dictionaries(
    {
        "token": TEXT,
        "logprob": st.floats(-9, 0),
        "bytes": st.none() | st.lists(st.integers(0, 255), max_size=2),
        "top_logprobs": st.just([]),
    }
)
LOGPROBS = st.none() | st.fixed_dictionaries(
    {"content": st.none() | st.lists(TOKEN, min_size=1, max_size=3), "refusal": st.none()}
)
CALL = st.fixed_dictionaries(
    {
        "id": st.text("abc", min_size=1, max_size=4),
        "type": st.just("function"),
        "function": st.fixed_dictionaries(
            {"name": st.text("fgh", min_size=1, max_size=4), "arguments": TEXT}
        ),
    }
)
SAID = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": st.text(min_size=1, max_size=12)},
    optional={"refusal": st.none(), "reasoning_content": st.text(min_size=1, max_size=12)},
)
CALLED = st.fixed_dictionaries(
    {
        "role": st.just("assistant"),
        "content": st.none(),
        "tool_calls": st.lists(CALL, min_size=1, max_size=3),
    },
    optional={"refusal": st.none()},
)
REFUSED = st.fixed_dictionaries(
    {
        "role": st.just("assistant"),
        "content": st.none(),
        "refusal": st.text(min_size=1, max_size=12),
    }
)
CHOICE = st.fixed_dictionaries(
    {
        "message": SAID | CALLED | REFUSED,
        "logprobs": LOGPROBS,
        "finish_reason": st.sampled_from(["stop", "tool_calls", "length"]),
    },
    optional={"stop_reason": JSON},
)
USAGE = st.fixed_dictionaries(
    {name: st.integers(0, 99) for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
)
COMPLETION = st.fixed_dictionaries(
    {
        "id": TEXT.filter(bool),
        "object": st.just("chat.completion"),
        "created": st.integers(1, 2**70),
        "model": TEXT.filter(bool),
        "choices": st.lists(CHOICE, min_size=1, max_size=3),
        "usage": USAGE,
    },
    optional={"system_fingerprint": TEXT, "service_tier": st.just("default"), "provider": JSON},
).map(lambda body: {**body, "choices": [{"index": i, **c} for i, c in enumerate(body["choices"])]})


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


def accumulated(stream: bytes) -> dict[str, Any]:
    """What the SDK's own accumulator makes of a stream, without what only it adds."""
    state: ChatCompletionStreamState[Any] = ChatCompletionStreamState()
    chunks = chunks_of(stream)
    assert chunks is not None
    for chunk in chunks:
        built: Any = construct_type(type_=ChatCompletionChunk, value=copy.deepcopy(chunk))
        state.handle_chunk(built)
    whole = state.current_completion_snapshot.model_dump()
    for choice in whole["choices"]:
        choice["message"].pop("parsed", None)
        for call in choice["message"].get("tool_calls") or ():
            call.pop("index", None)
            call["function"].pop("parsed_arguments", None)
    return whole


def constructed(body: Any) -> dict[str, Any]:
    built: Any = construct_type(type_=ChatCompletion, value=body)
    dump: dict[str, Any] = built.model_dump()
    return dump


@relaxed
@given(body=COMPLETION)
@example(body=CHAT_BODY)
def test_a_completion_becomes_chunks_that_add_up_to_it(body: dict[str, Any]) -> None:
    stream = stream_of(CHAT, dumped(body), usage=True)
    assert stream is not None
    assert accumulated(stream) == constructed(body)
    plain = plain_of(CHAT, stream)
    assert plain is not None
    assert json.loads(plain) == body
    bare = stream_of(CHAT, dumped(body), usage=False)
    assert bare is not None
    assert bare == b"".join(map(hide_usage, split(stream)))
    assert plain_of(CHAT, bare) is None, "a stream without usage is no plain answer"


# From chunks


def cut(text: str, dice: random.Random) -> list[str]:
    """A text in pieces, one of them perhaps empty."""
    places = sorted(dice.randint(0, len(text)) for _ in range(dice.randint(0, 3)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


def pieces(choice: dict[str, Any], dice: random.Random) -> list[dict[str, Any]]:
    """The chunks of one choice, as an upstream may send them."""
    message, index = choice["message"], choice["index"]
    spoken = "content" in message and message["content"] is not None
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": "" if spoken else None}]
    if "refusal" in message and dice.random() < 0.5:
        deltas[0]["refusal"] = None
    for name in ("reasoning_content", "content", "refusal"):
        deltas += [{name: piece} for piece in cut(message.get(name) or "", dice) if piece]
    for place, call in enumerate(message.get("tool_calls") or ()):
        first, *rest = cut(call["function"]["arguments"], dice)
        begun = {**call, "function": {**call["function"], "arguments": first}}
        deltas.append({"tool_calls": [{"index": place, **begun}]})
        deltas += [
            {"tool_calls": [{"index": place, "function": {"arguments": piece}}]} for piece in rest
        ]
    told: list[dict[str, Any]] = [
        {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        for delta in deltas
    ]
    told.append({"index": index, "delta": {}, "finish_reason": choice["finish_reason"]})
    if "stop_reason" in choice:
        told[-1]["stop_reason"] = choice["stop_reason"]
    if choice["logprobs"]:
        tokens = choice["logprobs"]["content"]
        half = dice.randint(0, len(tokens or ()))
        parts = [tokens[:half], tokens[half:]] if tokens else [None]
        for part, piece in zip(parts, told[-len(parts) :], strict=True):
            piece["logprobs"] = {**choice["logprobs"], "content": part}
    return told


def streamed(body: dict[str, Any], dice: random.Random) -> list[dict[str, Any]]:
    """The chunks of a whole completion, its choices mixed."""
    head = {k: v for k, v in body.items() if k not in ("choices", "usage")}
    head["object"] = "chat.completion.chunk"
    rows = [pieces(choice, dice) for choice in body["choices"]]
    chunks = []
    while any(rows):
        row = dice.choice([row for row in rows if row])
        chunks.append({**head, "choices": [row.pop(0)], "usage": None})
    return [*chunks, {**head, "choices": [], "usage": body["usage"]}]


def events(chunks: list[Any]) -> bytes:
    return b"".join(b"data: " + dumped(c) + b"\n\n" for c in chunks) + b"data: [DONE]\n\n"


def settled(body: dict[str, Any]) -> dict[str, Any]:
    """Without what a stream cannot say: a field that is null, or not there at all."""
    body = copy.deepcopy(body)
    for choice in body["choices"]:
        choice["message"] = {k: v for k, v in choice["message"].items() if v is not None}
        if choice.get("stop_reason") is None:
            choice.pop("stop_reason", None)
    return body


@relaxed
@given(body=COMPLETION, seed=st.integers())
def test_the_chunks_of_a_completion_become_it_again(body: dict[str, Any], seed: int) -> None:
    plain = plain_of(CHAT, events(streamed(body, random.Random(seed))))
    assert plain is not None
    assert settled(json.loads(plain)) == settled(body)


KNOWN = {"index", "delta", "message", "role", "content", "refusal", "reasoning", "id", "text"}
PLACE = st.sampled_from(["chunk", "choice", "delta"])


@relaxed
@given(
    body=COMPLETION,
    seed=st.integers(),
    number=st.integers(0, 60),
    place=PLACE,
    name=st.text(min_size=1, max_size=5).filter(lambda name: name not in KNOWN),
    odd=JSON,
    times=st.integers(1, 2),
)
def test_odd_fields_are_kept_or_there_is_no_plain_form(
    body: dict[str, Any], seed: int, number: int, place: str, name: str, odd: Any, times: int
) -> None:
    chunks = streamed(body, random.Random(seed))
    said = [chunk for chunk in chunks if chunk["choices"]]
    picked = [said[(number + again) % len(said)] for again in range(times)]
    for chunk in picked:
        choice = chunk["choices"][0]
        {"chunk": chunk, "choice": choice, "delta": choice["delta"]}[place][name] = odd
    plain = plain_of(CHAT, events(chunks))
    if plain is None:
        assert times > 1, "what is said once has its place"
        return
    whole = json.loads(plain)
    for index in {chunk["choices"][0]["index"] for chunk in picked}:
        choice = whole["choices"][index]
        holder = {"chunk": whole, "choice": choice, "delta": choice["message"]}[place]
        assert dumped(holder.get(name)) == dumped(odd)
        if place != "chunk":
            holder.pop(name, None)
    whole.pop(name, None)
    assert settled(whole) == settled(body)


BROKEN: dict[str, Any] = {
    "no [DONE]": lambda chunks: events(chunks).removesuffix(b"data: [DONE]\n\n"),
    "no finish": lambda chunks: events(
        [c for c in chunks if not c["choices"] or not c["choices"][0]["finish_reason"]]
    ),
    "no usage": lambda chunks: events(chunks[:-1]),
    "an error": lambda chunks: events([*chunks, {"error": {"message": "no"}}]),
    "no JSON": lambda chunks: (
        events(chunks[:1]).removesuffix(b"data: [DONE]\n\n")
        + b"data: busy\n\n"
        + events(chunks[1:])
    ),
    "another id": lambda chunks: events([*chunks[:-1], {**chunks[-1], "id": "another"}]),
    "another model": lambda chunks: events([*chunks[:-1], {**chunks[-1], "model": "another"}]),
    "a field that differs": lambda chunks: events(
        [{**chunk, "cost": number} for number, chunk in enumerate(chunks)]
    ),
    "null choices": lambda chunks: events([{**chunks[0], "choices": None}, *chunks]),
    "an index that is text": lambda chunks: events(
        [{**chunks[0], "choices": [{"index": "0", "delta": {}}]}, *chunks]
    ),
    "pieces of what is not known": lambda chunks: events(
        [{**chunks[0], "choices": [{"index": 0, "delta": {"odd": part}}]} for part in "ab"] + chunks
    ),
    "a call without an id": lambda chunks: events(
        [
            {
                **chunks[0],
                "choices": [
                    {
                        "index": 0,
                        "delta": {
                            "tool_calls": [
                                {"index": 0, "function": {"name": "f", "arguments": "{}"}}
                            ]
                        },
                    }
                ],
            },
            *chunks,
        ]
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_not_certainly_whole_has_no_plain_form(name: str) -> None:
    body = {
        **CHAT_BODY,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Rome"},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
    }
    chunks = streamed(body, random.Random(1))
    assert plain_of(CHAT, events(chunks)) is not None
    assert plain_of(CHAT, BROKEN[name](chunks)) is None


def changed(**fields: Any) -> dict[str, Any]:
    return {**CHAT_BODY, **fields}


CHOICE_0: dict[str, Any] = CHAT_BODY["choices"][0]
ODD_COMPLETIONS: dict[str, dict[str, Any]] = {
    "an error": changed(error={"message": "no"}),
    "no choices": changed(choices=[]),
    "null choices": changed(choices=None),
    "another object": changed(object="list"),
    "an index of its own": changed(choices=[{**CHOICE_0, "index": 2}]),
    "no index": changed(choices=[{k: v for k, v in CHOICE_0.items() if k != "index"}]),
    "no message": changed(choices=[{**CHOICE_0, "message": None}]),
    "a call with an index": changed(
        choices=[
            {
                **CHOICE_0,
                "message": {
                    "role": "assistant",
                    "tool_calls": [{"index": 4, "id": "1", "type": "function"}],
                },
            }
        ]
    ),
}


@pytest.mark.parametrize("name", ODD_COMPLETIONS)
@pytest.mark.parametrize("usage", [True, False])
def test_odd_completions_have_no_chunks(name: str, usage: bool) -> None:
    assert stream_of(CHAT, dumped(ODD_COMPLETIONS[name]), usage=usage) is None


def test_a_completion_without_usage_is_no_stream_that_says_it() -> None:
    body = dumped(changed(usage=None))
    assert stream_of(CHAT, body, usage=True) is None
    assert stream_of(CHAT, body, usage=False) is not None


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"<html>", b"{}", b'{"choices": 1}'])
@pytest.mark.parametrize("endpoint", [CHAT, TEXTS, RESPONSES], ids=lambda e: e.name)
def test_what_is_no_answer_has_no_other_form(endpoint: Any, body: bytes) -> None:
    assert stream_of(endpoint, body, usage=False) is None
    assert plain_of(endpoint, body) is None


# The other endpoints

TEXT_LOGPROBS = st.none() | st.fixed_dictionaries(
    {
        "tokens": st.lists(TEXT, min_size=1, max_size=3),
        "token_logprobs": st.lists(st.floats(-9, 0), min_size=1, max_size=3),
        "text_offset": st.lists(st.integers(0, 9), min_size=1, max_size=3),
        "top_logprobs": st.none(),
    }
)
TEXT_CHOICE = st.fixed_dictionaries(
    {"text": TEXT, "logprobs": TEXT_LOGPROBS, "finish_reason": st.just("stop")}
)


@relaxed
@given(choices=st.lists(TEXT_CHOICE, min_size=1, max_size=3), seed=st.integers())
def test_text_completions_go_both_ways(choices: list[dict[str, Any]], seed: int) -> None:
    choices = [{"index": index, **choice} for index, choice in enumerate(choices)]
    body = {**COMPLETION_BODY, "choices": choices}
    stream = stream_of(TEXTS, dumped(body), usage=True)
    assert stream is not None
    plain = plain_of(TEXTS, stream)
    assert plain is not None
    assert json.loads(plain) == body
    head = {k: v for k, v in body.items() if k not in ("choices", "usage")}
    dice = random.Random(seed)
    chunks: list[Any] = []
    for choice in choices:
        *first, last = cut(choice["text"], dice)
        begun = {**choice, "logprobs": None, "finish_reason": None}
        chunks += [{**head, "choices": [{**begun, "text": piece}]} for piece in first]
        chunks.append({**head, "choices": [{**choice, "text": last}]})
    plain = plain_of(TEXTS, events([*chunks, {**head, "choices": [], "usage": body["usage"]}]))
    assert plain is not None
    assert json.loads(plain) == body


PART = st.fixed_dictionaries(
    {"type": st.just("output_text"), "text": TEXT, "annotations": st.just([])},
    optional={"logprobs": st.just([]) | st.lists(TOKEN, max_size=2)},
)
ITEM = (
    st.fixed_dictionaries(
        {
            "type": st.just("message"),
            "role": st.just("assistant"),
            "status": st.just("completed"),
            "content": st.lists(PART, max_size=2),
        }
    )
    | st.fixed_dictionaries(
        {
            "type": st.just("function_call"),
            "call_id": TEXT,
            "name": TEXT,
            "arguments": TEXT,
            "status": st.just("completed"),
        }
    )
    | st.fixed_dictionaries(
        {
            "type": st.just("reasoning"),
            "summary": st.lists(
                st.fixed_dictionaries({"type": st.just("summary_text"), "text": TEXT}), max_size=2
            ),
        },
        optional={"encrypted_content": st.none() | TEXT},
    )
    | st.fixed_dictionaries({"type": st.just("custom_tool_call"), "name": TEXT, "input": TEXT})
)


@relaxed
@given(items=st.lists(ITEM, max_size=3), extra=JSON)
def test_responses_go_both_ways_and_their_deltas_add_up(
    items: list[dict[str, Any]], extra: Any
) -> None:
    output = [{"id": f"item_{index}", **item} for index, item in enumerate(items)]
    body = {**RESPONSE_BODY, "output": output, "odd": extra}
    stream = stream_of(RESPONSES, dumped(body), usage=False)
    assert stream is not None
    plain = plain_of(RESPONSES, stream)
    assert plain is not None
    assert json.loads(plain) == body
    told = [json.loads(block.partition(b"data: ")[2]) for block in split(stream)]
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    for index, item in enumerate(output):
        deltas = "".join(
            event["delta"]
            for event in told
            if event["type"].endswith(".delta") and event["output_index"] == index
        )
        parts = [*item.get("content", ()), *item.get("summary", ())]
        whole = "".join(part["text"] for part in parts)
        assert deltas == whole + item.get("arguments", "") + item.get("input", "")


@pytest.mark.parametrize(
    "change",
    [
        {"status": "incomplete"},
        {"object": "list"},
        {"output": None},
        {"output": [{"type": "web_search_call", "id": "1"}]},
        {"output": [{"type": "message", "id": "1", "content": [{"type": "image"}]}]},
        {"output": [{"type": "reasoning", "id": "1", "summary": [], "content": [{}]}]},
        {"output": [{"type": "reasoning", "id": "1", "summary": [{"type": "new"}]}]},
        {"output": [{"type": "function_call", "name": "f", "arguments": ""}]},
    ],
    ids=str,
)
def test_a_response_of_unknown_parts_has_no_events(change: dict[str, Any]) -> None:
    assert stream_of(RESPONSES, dumped({**RESPONSE_BODY, **change}), usage=False) is None


@relaxed
@given(parts=st.lists(st.binary(max_size=9) | st.sampled_from([b"\n\n", b"\r\n\r\n", b"\n"])))
def test_blocks_joined_are_the_bytes_again_however_they_came(parts: list[bytes]) -> None:
    from aiopromptcache._openai._sse import Splitter

    splitter = Splitter()
    blocks = [block for part in parts for block in splitter.feed(part)]
    rest = splitter.flush()
    assert b"".join([*blocks, rest]) == b"".join(parts)
    assert [*blocks, *([rest] if rest else [])] == split(b"".join(parts))
