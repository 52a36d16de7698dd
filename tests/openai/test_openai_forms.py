"""Every form of every endpoint: the second time no HTTP call, and the bare SDK's result."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from openai import AsyncAzureOpenAI, AsyncOpenAI
from openai_calls import CHAT, CHAT_BODY, FORMS, PLAIN, Upstream, fixed, parts, same
from pydantic import BaseModel

from aiopromptcache import PromptCache, cache_status
from aiopromptcache.testing import OpenAIServer, RecordedRequest

pytestmark = pytest.mark.anyio


def identifiers(result: Any) -> list[Any]:
    items = result if isinstance(result, list) else [result]
    return [getattr(item, "_request_id", "none") for item in items]


@pytest.mark.parametrize("name", FORMS)
async def test_the_second_call_costs_no_request_and_gives_what_the_bare_sdk_gives(
    server: OpenAIServer, bare: AsyncOpenAI, client: AsyncOpenAI, name: str
) -> None:
    server.answer = fixed
    form = FORMS[name]
    reference = await form(bare)
    server.reset()
    first = await form(client)
    second = await form(client)
    third = await form(client)
    assert server.calls == 1
    for result in (first, second, third):
        assert same(result, reference)
        assert identifiers(result) == [
            "req_2" if mark == "req_1" else mark for mark in identifiers(reference)
        ]
    owned = [set(parts(result)) for result in (first, second, third)]
    assert len(set.union(*owned)) == sum(map(len, owned)), "a part belongs to two callers"


class House(AsyncOpenAI):
    """A user's own client."""

    greeting = "hello"


class Tenant(AsyncOpenAI):
    """A user's own client, whose headers are made anew for each request."""

    tenant = "a"

    @property
    def default_headers(self) -> dict[str, Any]:
        return {**super().default_headers, "X-Tenant": self.tenant}


KINDS = [AsyncOpenAI, AsyncAzureOpenAI, House, Tenant]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*PLAIN, "chat parse", "chat .stream()", "responses raw"])
async def test_clients_of_every_class_are_answered_from_memory(
    server: OpenAIServer,
    connect: Callable[..., AsyncOpenAI],
    cache: PromptCache,
    kind: type[AsyncOpenAI],
    name: str,
) -> None:
    server.answer = fixed
    given = connect(kind)
    wrapped = cache.wrap(given)
    reference = await FORMS[name](given)
    first = await FORMS[name](wrapped)
    second = await FORMS[name](wrapped)
    assert server.calls == 2
    assert same(first, reference)
    assert same(second, reference)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_wrapped_client_is_one_of_its_own_class_and_the_given_one_stays_bare(
    server: OpenAIServer,
    connect: Callable[..., AsyncOpenAI],
    cache: PromptCache,
    kind: type[AsyncOpenAI],
) -> None:
    given = connect(kind)
    wrapped = cache.wrap(given)
    assert isinstance(wrapped, kind)
    assert type(wrapped).__name__ == kind.__name__
    assert type(given) is kind
    for derived in (wrapped.copy(), wrapped.with_options(timeout=3)):
        assert isinstance(derived, kind)
        assert cache_status(await derived.chat.completions.create(**CHAT)) is not None
    assert cache_status(await given.chat.completions.create(**CHAT)) is None
    await given.chat.completions.create(**CHAT)
    assert server.calls == 3


async def test_headers_made_anew_for_each_request_count(
    server: OpenAIServer, connect: Callable[..., AsyncOpenAI], cache: PromptCache
) -> None:
    client = cache.wrap(connect(Tenant))
    mine = await client.chat.completions.create(**CHAT)
    client.tenant = "b"
    theirs = await client.chat.completions.create(**CHAT)
    client.tenant = "a"
    again = await client.chat.completions.create(**CHAT)
    assert server.calls == 2
    assert mine.id == again.id != theirs.id


class Routed(AsyncOpenAI):
    """A user's own client, which adds to what is sent."""

    tenant = "a"

    async def post(self, path: str, *, body: Any = None, **options: Any) -> Any:
        return await super().post(path, body={**body, "user": self.tenant}, **options)


class Requesting(AsyncOpenAI):
    """The same, one step later."""

    tenant = "a"

    async def request(self, cast_to: Any, options: Any, **kinds: Any) -> Any:
        options = options.model_copy()
        options.json_data = {**options.json_data, "user": self.tenant}
        return await super().request(cast_to, options, **kinds)


@pytest.mark.parametrize("name", ["chat create", "chat raw", "chat stream=True", "responses parse"])
@pytest.mark.parametrize("kind", [Routed, Requesting])
async def test_what_a_subclass_adds_to_the_body_counts(
    server: OpenAIServer,
    connect: Callable[..., AsyncOpenAI],
    cache: PromptCache,
    kind: Any,
    name: str,
) -> None:
    server.answer = fixed
    client = cache.wrap(connect(kind))
    await FORMS[name](client)
    client.tenant = "b"
    await FORMS[name](client)
    assert [request.body["user"] for request in server.requests] == ["a", "b"]


class Moved(AsyncOpenAI):
    """A user's own client, which finds its server anew for each request."""

    place = "one"

    @property
    def base_url(self) -> httpx2.URL:
        return httpx2.URL(f"http://{self.place}/v1/")

    @base_url.setter
    def base_url(self, url: httpx2.URL | str) -> None:
        raise AttributeError("chosen for each request")


async def test_a_base_url_chosen_for_each_request_counts(cache: PromptCache) -> None:
    upstream = Upstream(json.dumps(CHAT_BODY).encode())
    async with upstream.client(Moved) as plain:
        client = cache.wrap(plain)
        for place in ("one", "two", "one"):
            client.place = place
            await client.chat.completions.create(**CHAT)
    assert [request.url.host for request in upstream.requests] == ["one", "two"]


@pytest.mark.parametrize("name", PLAIN)
async def test_create_keeps_its_signature(
    client: AsyncOpenAI, bare: AsyncOpenAI, name: str
) -> None:
    endpoint = name.split(maxsplit=1)[0]
    plain, cached = (
        (c.chat.completions if endpoint == "chat" else getattr(c, endpoint)).create
        for c in (bare, client)
    )
    assert inspect.signature(cached) == inspect.signature(plain)
    assert cached.__name__ == plain.__name__
    assert cached.__doc__ == plain.__doc__
    unwrapped = inspect.unwrap(plain)
    assert inspect.iscoroutinefunction(unwrapped)
    assert inspect.iscoroutinefunction(inspect.unwrap(cached))
    assert inspect.iscoroutinefunction(cached) or not inspect.iscoroutinefunction(plain)


@pytest.mark.parametrize("name", ["chat create", "chat raw", "embeddings create"])
async def test_an_answer_changed_by_its_owner_changes_no_other(
    server: OpenAIServer, client: AsyncOpenAI, name: str
) -> None:
    server.answer = fixed

    async def ask() -> Any:
        result = await FORMS[name](client)
        return result[0] if isinstance(result, list) else result

    def spoil(answer: BaseModel) -> None:
        for value in list(vars(answer).values()):
            if isinstance(value, list):
                value.clear()
        answer.model = "spoilt"  # type: ignore[attr-defined]
        answer.__dict__["_raw_response"] = object()

    untouched = (await ask()).model_dump()
    for _ in range(3):
        answer = await ask()
        assert answer.model_dump() == untouched
        assert not hasattr(answer, "_raw_response")
        spoil(answer)
    assert server.calls == 1


async def test_all_forms_of_one_request_share_one_answer(
    server: OpenAIServer, client: AsyncOpenAI
) -> None:
    server.answer = fixed
    names = ["create", "raw", "streaming_response", "post", "with_options", "copy", "beta"]
    for name in names:
        await FORMS[f"chat {name}"](client)
    names = ["stream=True", "raw stream=True", "streaming_response lines", "stream with usage"]
    for name in [*names, ".stream()", "beta"]:
        await FORMS[f"chat {name}"](client)
    assert server.calls == 1


async def test_other_endpoints_pass_through_untouched(
    server: OpenAIServer, client: AsyncOpenAI
) -> None:
    def answer(request: RecordedRequest) -> dict[str, Any] | None:
        return {"id": f"file-{request.number}"} if request.endpoint == "batches" else None

    server.answer = answer
    for _ in range(2):
        models = await client.models.list()
        assert [model.id for model in models.data] == ["gpt-test"]
        assert cache_status(models) is None
        batch = await client.batches.create(
            completion_window="24h", endpoint="/v1/responses", input_file_id="file"
        )
        assert cache_status(batch) is None
    assert server.calls == 4


async def test_an_answer_from_memory_is_as_another_clients(
    server: OpenAIServer, connect: Callable[..., AsyncOpenAI], cache: PromptCache
) -> None:
    one, two = cache.wrap(connect()), cache.wrap(connect(api_key="another"))
    first = await one.chat.completions.create(**CHAT)
    second = await two.chat.completions.create(**CHAT)
    assert server.calls == 1
    assert same(first, second)
