"""Only the last user text may differ: everything else that is asked separates."""

from __future__ import annotations

from typing import Any

import pytest
from similar_calls import FIRST, SECOND, chat, messages

from aiopromptcache import cache_status
from aiopromptcache._ask import LONGEST_QUESTION
from aiopromptcache._openai import _prompts
from aiopromptcache._openai._endpoints import BY_NAME
from aiopromptcache.testing import OpenAIServer

pytestmark = pytest.mark.anyio

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="


def system(words: str) -> dict[str, Any]:
    return {"role": "system", "content": words}


def turns(said: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": said}]


def with_image(text: str, url: str = PIXEL) -> Any:
    return [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}]


APART: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "model": ({}, {"model": "other"}),
    "temperature": ({"temperature": 0}, {"temperature": 0.1}),
    "temperature left out": ({}, {"temperature": 1}),
    "seed": ({"seed": 1}, {"seed": 2}),
    "large seed": ({"seed": 2**70}, {"seed": 2**70 + 1}),
    "tools": ({}, {"tools": [TOOL]}),
    "tool_choice": ({"tools": [TOOL]}, {"tools": [TOOL], "tool_choice": "required"}),
    "response_format": ({}, {"response_format": {"type": "json_object"}}),
    "user": ({"user": "a"}, {"user": "b"}),
    "extra_headers": ({}, {"extra_headers": {"X-Route": "b"}}),
    "extra_query": ({}, {"extra_query": {"v": "2"}}),
    "extra_body": ({}, {"extra_body": {"top_k": 3}}),
    "system prompt": (
        {"before": [system("Be brief.")]},
        {"before": [system("Be brief!")]},
    ),
    "a system prompt more": ({}, {"before": [system("Be brief.")]}),
    "earlier turns": ({"before": turns("Hello")}, {"before": turns("Hello.")}),
    "no earlier turns": ({}, {"before": turns("Hello")}),
    "name": ({}, {"message": {"name": "Eve"}}),
    "image": ({"form": with_image}, {"form": lambda text: with_image(text, PIXEL + "A")}),
    "image or none": ({}, {"form": with_image}),
    "after": ({}, {"after": [system("Answer in French.")]}),
    "role": ({}, {"message": {"role": "developer"}}),
    "two texts": ({}, {"form": lambda text: [{"type": "text", "text": text}] * 2}),
}


async def ask(client: Any, text: str, given: dict[str, Any]) -> Any:
    given = dict(given)
    before, after = given.pop("before", []), given.pop("after", [])
    [last] = messages(given.pop("form", lambda text: text)(text))
    last.update(given.pop("message", {}))
    return await chat(client, messages=[*before, last, *after], **given)


@pytest.mark.parametrize("name", APART)
async def test_all_else_separates(server: OpenAIServer, make: Any, lexical: Any, name: str) -> None:
    _, client = make(lexical())
    first, second = APART[name]
    await ask(client, FIRST, first)
    await ask(client, SECOND, second)
    assert server.calls == 2


TOGETHER = [
    {},
    {"tools": [TOOL], "temperature": 0.3},
    {"before": [system("Be brief."), *turns("Hello")]},
    {"form": with_image},
    {"extra_headers": {"X-Route": "b"}},
]


@pytest.mark.parametrize("given", TOGETHER)
async def test_with_all_else_equal_it_is_a_hit(
    server: OpenAIServer, make: Any, lexical: Any, given: dict[str, Any]
) -> None:
    _, client = make(lexical())
    await ask(client, FIRST, given)
    status = cache_status(await ask(client, SECOND, given))
    assert status is not None
    assert status.similarity
    assert server.calls == 1


async def test_partitions_separate(server: OpenAIServer, make: Any, matcher: Any) -> None:
    cache, client = make(matcher())
    for partition, text in [("a", FIRST), ("b", SECOND), ("", SECOND)]:
        with cache.control(partition=partition):
            assert not cache_status(await chat(client, text)).hit  # type: ignore[union-attr]
    with cache.control(partition="a"):
        assert cache_status(await chat(client, SECOND)).similarity  # type: ignore[union-attr]
    assert server.calls == 3


async def test_clients_of_other_places_separate(
    server: OpenAIServer, make: Any, lexical: Any
) -> None:
    _, client = make(lexical())
    await chat(client)
    await chat(client.with_options(organization="another"), SECOND)
    assert server.calls == 2


async def test_endpoints_separate(server: OpenAIServer, make: Any, lexical: Any) -> None:
    _, client = make(lexical())
    await client.responses.create(model="m", input=FIRST)
    await client.completions.create(model="m", prompt=SECOND)
    await chat(client, SECOND)
    assert server.calls == 3


async def test_what_the_caller_changes_while_it_waits_changes_no_family(
    server: OpenAIServer, make: Any, semantic: Any, embed: Any
) -> None:
    cache, client = make(semantic())
    asked = messages(FIRST)
    embed_text = type(embed).__call__

    async def changing(self: Any, texts: list[str]) -> Any:
        asked[0]["content"] = "changed"
        return await embed_text(self, texts)

    type(embed).__call__ = changing  # type: ignore[method-assign]
    try:
        await client.chat.completions.create(model="m", messages=asked)
    finally:
        type(embed).__call__ = embed_text  # type: ignore[method-assign]
    assert embed.texts == [FIRST]
    with cache.control(only_if_cached=True):
        assert cache_status(await chat(client, SECOND)).similarity  # type: ignore[union-attr]


NOTHING: list[tuple[str, bytes]] = [
    ("chat.completions", b'{"messages": []}'),
    ("chat.completions", b'{"messages": "text"}'),
    ("chat.completions", b'{"messages": ["text"]}'),
    ("chat.completions", b'{"messages": [{"role": "user"}]}'),
    ("chat.completions", b'{"messages": [{"role": "user", "content": " "}]}'),
    ("chat.completions", b'{"messages": [{"role": "user", "content": [{"type": "text"}]}]}'),
    ("chat.completions", b'{"messages": [{"role": "tool", "content": "text"}]}'),
    ("responses", b'{"input": [{"type": "function_call_output", "role": "user"}]}'),
    ("responses", b'{"input": ""}'),
    ("completions", b'{"prompt": ["a", "b"]}'),
    ("completions", b'{"prompt": [1, 2]}'),
    ("completions", b"[]"),
    ("embeddings", b'{"input": "text"}'),
]


@pytest.mark.parametrize(("endpoint", "text"), NOTHING)
def test_where_no_text_stands_for_itself_there_is_no_family(endpoint: str, text: bytes) -> None:
    assert _prompts.split(BY_NAME[endpoint], b"", text) is None


async def test_a_text_that_is_no_mere_question_is_matched_exactly_or_not(
    server: OpenAIServer, make: Any, lexical: Any
) -> None:
    _, client = make(lexical(guards=()))
    for length, calls in ((LONGEST_QUESTION, 1), (LONGEST_QUESTION + 1, 3)):
        long = "a" * (length - 1)
        await chat(client, long + "b")
        await chat(client, long + "c")
        assert server.calls == calls
