"""The wrapped client: a subclass of the client's own class with two layers over one cache.

The complete layer is `request`, through which every form of every call goes. The fast layer
(`_fast`) is each resource's own `create`.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from openai import APIStatusError, APITimeoutError, AsyncOpenAI, BaseModel, NotGiven
from openai._models import FinalRequestOptions

from .._ask import COMING, Answer, Ask, Loaded
from .._batches import Fetched
from .._engine import Engine
from .._entry import Kind
from .._errors import ConfigurationError, NotCached
from .._flights import OutOfPatience
from .._policy import Policy, Request
from .._status import CacheStatus, LiveStatus, mark
from .._streams import Live
from ._billed import billed
from ._binding import RAW_HEADER, Binding, Call, given, snapshot, without_directives
from ._embeddings import Assembled, Gathering, Items, Whole, split
from ._endpoints import BY_PATH, ENDPOINTS, Endpoint
from ._exchange import Foreign, adopt, ask, processed
from ._fast import fast_create
from ._live import Reply, refuses_stream_options
from ._playback import Playback
from ._prompts import parse
from ._raw import request_of
from ._record import add_cache_status, has_long_integer, pack_head, reopened, replay
from ._scope import defined_by_sdk
from ._streaming import Played, keep, play, plays_as
from ._vectors import added, take_apart

ClientT = TypeVar("ClientT", bound=AsyncOpenAI)


class CachedClient(AsyncOpenAI):
    """Mixed into the class of a wrapped client."""

    _binding: Binding | None = None
    _upstream: Callable[..., Any] | None = None
    """The `request` that somebody had put on the client before it was wrapped."""

    async def request(  # one signature for the SDK's overloads
        self,
        cast_to: Any,
        options: FinalRequestOptions,
        *,
        stream: bool = False,
        stream_cls: Any = None,
    ) -> Any:
        """The complete layer: every call of every resource comes through here."""
        upstream: Callable[..., Any] = self._upstream or super().request
        binding = self._binding
        endpoint = _endpoint_of(options)
        if binding is None or endpoint is None or asyncio._get_running_loop() is None:
            return await upstream(cast_to, options, stream=stream, stream_cls=stream_cls)
        cast_to = self._maybe_override_cast_to(cast_to, options)
        exchange = _Call(self, binding, endpoint, cast_to, options, stream, stream_cls, upstream)
        return await exchange.answer()

    async def _process_response(self, *, cast_to: Any, **parts: Any) -> Any:
        return await processed(super()._process_response, cast_to=cast_to, **parts)


class _Call:
    """One call in the complete layer."""

    def __init__(
        self,
        client: CachedClient,
        binding: Binding,
        endpoint: Endpoint,
        cast_to: Any,
        options: FinalRequestOptions,
        stream: bool,
        stream_cls: Any,
        upstream: Callable[..., Any],
    ) -> None:
        headers: Mapping[str, Any] = (
            {} if isinstance(options.headers, NotGiven) else options.headers
        )
        self._client = client
        self._headers = headers
        self._binding = binding
        self._endpoint = endpoint
        self._engine = binding.engine
        self._cast_to = cast_to
        self._options = options.model_copy()
        self._options.headers = without_directives(headers)
        self._stream = stream
        self._stream_cls = stream_cls
        self._upstream = upstream
        self._raw = headers.get(RAW_HEADER)
        self._plan = binding.plan_or_bypass(
            endpoint,
            "/" + options.url.strip("/"),
            self._body,
            headers,
            options.params,
        )
        if self._plan is not None:  # the work begins later: what is sent is what the key says
            self._options.json_data = snapshot(options.json_data)
            self._options.extra_json = snapshot(options.extra_json)

    async def answer(self) -> Any:
        """What the SDK would have returned."""
        try:
            return await self._answer()
        except Foreign as foreign:
            return foreign.args[0]

    async def _answer(self) -> Any:
        call = self._plan
        if call is None:
            return await self._bypass()
        if call.request.stream != self._stream:  # `stream` only in extra_body: the SDK's own affair
            return await self._bypass()
        if call.items is not None:
            return await self._embedded(call, call.items)
        return await (self._streamed(call) if self._stream else self._plain(call))

    def _body(self) -> dict[str, Any]:
        """What is sent, as the SDK merges it."""
        body: Any = self._options.json_data or {}
        return given({**body, **(self._options.extra_json or {})})

    async def _bypass(self) -> Any:
        policy = self._binding.policy_for(self._headers)
        if policy.only_if_cached:
            raise NotCached("only_if_cached: this call may not be cached at all")
        body: Any = self._options.json_data or {}
        model = body["model"] if isinstance(body.get("model"), str) else None
        ask = Ask(key="", slot="", policy=policy, endpoint=self._endpoint.name, model=model)
        unread = self._stream or self._raw == "stream"
        reply = await self._engine.answers.bypassed(
            ask, self._ask_upstream, lambda reply: billed(ask, None if unread else reply.response)
        )
        return await self._deliver(reply, ("", *_MISS[:4], "bypass"))

    async def _ask_upstream(self, options: FinalRequestOptions | None = None) -> Reply:
        options = options or self._options
        form = {"stream": self._stream, "stream_cls": self._stream_cls}
        return await ask(self._upstream, self._cast_to, options, **form)

    async def _plain(self, call: Call) -> Any:
        if call.loads:
            return await self._ask(call).load()
        try:
            answer = call.answer or await self._engine.fetch(self._ask(call))
        except OutOfPatience:
            raise APITimeoutError(request=self._request()) from None
        return await self._answered(answer)

    async def _answered(self, answer: Answer) -> Any:
        if answer.extra is None:
            return await self._replay(answer)
        reply, body, parsed = answer.extra
        if parsed is not None and self._simple(reply.response, body):
            return self._built(reply, parsed, answer.status)
        if self._raw == "stream":
            reply = reply._replace(response=reopened(reply.response, body))
        return await self._deliver(reply, answer.status)

    def _simple(self, response: Any, body: bytes) -> bool:
        """Is but the parsed object asked for, and both JSON readers make the same of it?"""
        return (
            self._raw is None
            and self._plan is not None
            and self._cast_to is self._plan.endpoint.model
            and response.headers.get("content-type", "").startswith("application/json")
            and not has_long_integer(body)
        )

    def _built(self, reply: Reply, parsed: Any, status: Any) -> Any:
        """What the SDK makes of a JSON body, from the body that was read already."""
        result: Any = self._client._process_response_data(
            data=parsed, cast_to=self._cast_to, response=reply.response
        )
        if not isinstance(reply.options.post_parser, NotGiven):
            result = reply.options.post_parser(result)
        if isinstance(result, BaseModel):
            vars(result)["_request_id"] = reply.response.headers.get("x-request-id")
        return mark(result, status)

    def _ask(self, call: Call) -> Ask:
        async def load() -> Loaded:
            reply = await self._ask_upstream()
            body = await reply.response.aread()
            parsed = parse(body)
            entry = self._binding.entry(call, Kind.HTTP, reply.response, body, parsed)
            storable = self._binding.storable(call, reply.response, parsed)
            return Loaded(entry, storable, (reply, body, parsed))

        return self._binding.ask(call, self._options.timeout, load)

    # Embeddings, item by item

    async def _embedded(self, call: Call, items: Items) -> Any:
        inputs = split(self._body().get("input")) or ()
        ask, by_slot = self._ask(call), dict(zip(items.slots, inputs, strict=True))
        asked = replace(ask, key=items.key)
        load = functools.partial(self._load_items, call, items.slots, by_slot)
        try:
            assembled = await Gathering(self._engine, asked, items, load, call.due).answer()
        except OutOfPatience:
            raise APITimeoutError(request=self._request()) from None
        if isinstance(assembled, Whole):
            self._engine.batches.odd[items.family] = True
            if assembled.landed is None:
                return await self._plain(call._replace(looked=False))
            answer = self._engine.answered(ask, assembled.landed, leader=assembled.leader)
            return await self._answered(answer)
        if assembled.genuine:
            return await self._answered(assembled.answer._replace(extra=assembled.paid[0]))
        return await self._assembled(call, assembled)

    async def _load_items(
        self, call: Call, every: list[str], inputs: dict[str, Any], slots: Sequence[str] | None
    ) -> Fetched:
        """Ask for some items, or just as the caller did; keep each of the answer by itself."""
        options = self._options
        if slots is not None:
            sent = [inputs[slot] for slot in slots]
            options = self._asking(sent)
            params = {**call.request.params, "input": sent}
            call = call._replace(request=Request(call.endpoint.name, params, False))
        reply = await self._ask_upstream(options)
        body = await reply.response.aread()
        parsed = parse(body)
        storable = self._binding.storable(call, reply.response, parsed)
        extra, wanted = (reply, body, parsed), every if slots is None else slots
        taken = take_apart(body, parsed, [inputs[slot] for slot in wanted])
        if taken is not None:
            entries = self._binding.item_entries(call, reply.response, parsed, taken)
            return Fetched(dict(zip(wanted, entries, strict=True)), storable, extra)
        if slots is not None:
            return Fetched({}, storable, extra)
        whole = self._binding.entry(call, Kind.HTTP, reply.response, body, parsed)
        return Fetched({call.slot: whole}, storable, extra)

    def _asking(self, inputs: list[Any]) -> FinalRequestOptions:
        """The caller's request with other inputs."""
        options = self._options.model_copy()
        if isinstance(extra := options.extra_json, Mapping) and "input" in extra:
            options.extra_json = {**extra, "input": inputs}
        else:
            body: Any = options.json_data
            options.json_data = {**body, "input": inputs}
        return options

    async def _assembled(self, call: Call, assembled: Assembled) -> Any:
        """An answer that nobody gave as it is: as an object, or as a response of the HTTP library
        that the SDK makes of what the caller asked for.
        """
        answer, entries, paid, _ = assembled
        usage = added(parsed["usage"] for _, _, parsed in paid)
        reply: Reply | None = paid[-1][0] if paid else None
        assembler = self._binding.assembler
        if self._raw is None and self._cast_to is call.endpoint.model:
            built: Any = assembler.response(entries, usage, decoded=call.decoded)
            if not isinstance(self._options.post_parser, NotGiven):
                built = self._options.post_parser(built)
            vars(built)["_request_id"] = (
                assembler.request_id(entries[0])
                if reply is None
                else reply.response.headers.get("x-request-id")
            )
            return mark(built, answer.status)
        if reply is None:
            return await self._replay(answer._replace(entry=assembler.http(entries, usage, None)))
        entry = assembler.http(entries, usage, pack_head(reply.response))
        status = str(CacheStatus(*answer.status))
        response = replay(
            entry, reply.response.request, unread=self._raw == "stream", status=status
        )
        return await self._deliver(reply._replace(response=response), answer.status, told=True)

    async def _streamed(self, call: Call) -> Any:
        if call.loads:
            return await self._live_ask(call).load()
        try:
            answer = call.answer or await self._engine.fetch(self._live_ask(call))
        except OutOfPatience:
            raise APITimeoutError(request=self._request()) from None
        played = play(self._binding, call, answer, self._request)
        reply: Reply | None = None
        if answer.entry is COMING and answer.extra.leader:
            reply = answer.extra.head.reply
        if self._raw is None and plays_as(self._binding, call, self._cast_to, self._stream_cls):
            return await self._playback(played, reply or Reply(None, self._options, 0))
        response = played.make_response(played.source)
        if reply is None:
            reply = Reply(response, self._options, 0)
        return await self._deliver(reply._replace(response=response), played.status, told=True)

    async def _playback(self, played: Played, reply: Reply) -> Any:
        options = reply.options
        ways = None if options.synthesize_event_and_data else played.ways
        cast_to = getattr(self._stream_cls, "__args__", (None,))[0]
        result: Any = Playback(
            played.source, ways, cast_to, self._client, played.make_response, options
        )
        if not isinstance(options.post_parser, NotGiven):
            result = options.post_parser(result)
        return mark(result, played.status)

    def _live_ask(self, call: Call) -> Ask:
        live = Live()
        load = functools.partial(self._load_live, call, live)
        return self._binding.ask(call, self._options.timeout, load, live)

    async def _load_live(self, call: Call, live: Live) -> Loaded:
        began = self._engine.clock()
        reply, usage = await self._ask_for_stream(call)
        return await keep(self._binding, call, live, reply, usage=usage, began=began)

    async def _ask_for_stream(self, call: Call) -> tuple[Reply, bool]:
        """The upstream's answer, and whether it was asked for usage."""
        if not self._binding.adds_usage(call):
            return await self._ask_upstream(), call.usage
        as_given = self._options
        self._options = _with_usage(as_given)
        try:
            return await self._ask_upstream(), True
        except APIStatusError as error:
            if not refuses_stream_options(error):
                raise
        self._binding.refusing.add(str(self._client.base_url))
        self._engine.stats.calls[self._endpoint.name] += 1
        self._options = as_given
        return await self._ask_upstream(), False

    async def _replay(self, answer: Answer) -> Any:
        entry = answer.entry if self._plan is None else self._binding.form(self._plan, answer.entry)
        response = replay(
            entry or answer.entry,
            self._request(),
            unread=self._raw == "stream",
            status=str(CacheStatus(*answer.status)),
        )
        return await self._deliver(Reply(response, self._options, 0), answer.status, told=True)

    def _request(self) -> Any:
        return request_of(self._client, self._options)

    async def _deliver(self, reply: Reply, status: Any, *, told: bool = False) -> Any:
        """Let the SDK make of the response what this caller asked for."""
        if self._raw is not None and not told:
            arguments = status.arguments if isinstance(status, LiveStatus) else status
            add_cache_status(reply.response, str(CacheStatus(*arguments)))
        _let_mark(reply.options, status)
        result = await self._client._process_response(
            cast_to=self._cast_to,
            options=reply.options,
            response=reply.response,
            stream=self._stream,
            stream_cls=self._stream_cls,
            retries_taken=reply.retries_taken,
        )
        return mark(result, status)


def _with_usage(options: FinalRequestOptions) -> FinalRequestOptions:
    """The same request, asking for usage too."""
    options = options.model_copy()
    extra: Any = options.extra_json or {}
    place = "extra_json" if "stream_options" in extra else "json_data"
    body: Any = getattr(options, place) or {}
    asked = {**(body.get("stream_options") or {}), "include_usage": True}
    setattr(options, place, {**body, "stream_options": asked})
    return options


_BODIES = (dict, Mapping, type(None))
_MISS = (False, None, None, None)


def _let_mark(options: FinalRequestOptions, status: Any) -> None:
    """Whatever is parsed from the response will carry the call's status."""
    inner: Any = options.post_parser
    options.post_parser = (
        (lambda parsed: mark(parsed, status))
        if isinstance(inner, NotGiven)
        else (lambda parsed: mark(inner(parsed), status))
    )


def _endpoint_of(options: FinalRequestOptions) -> Endpoint | None:
    endpoint = BY_PATH.get("/" + options.url.partition("?")[0].strip("/"))
    if endpoint is None or options.method.lower() != "post":
        return None
    if options.content is not None or options.files:
        return None
    return endpoint if isinstance(options.json_data, _BODIES) else None


# Wrapping

_RESOURCES = {endpoint.name.partition(".")[0] for endpoint in ENDPOINTS}

_classes: WeakKeyDictionary[type, type] = WeakKeyDictionary()


def wrap(engine: Engine, policy: Callable[[], Policy], client: ClientT) -> ClientT:
    """See `PromptCache.wrap`."""
    if not issubclass(type(client), AsyncOpenAI):  # a mock or a proxy only says that it is one
        raise ConfigurationError(
            f"wrap: {type(client).__module__}.{type(client).__qualname__} is no AsyncOpenAI; "
            "allowed: AsyncOpenAI, AsyncAzureOpenAI and their subclasses"
        )
    if isinstance(client, CachedClient) and client._binding and client._binding.engine is engine:
        return client
    kind = _wrapped_class(type(client))
    wrapped: Any = object.__new__(kind)
    # Cached resources hold the client that made them, so they are made anew.
    state = {
        name: value
        for name, value in client.__dict__.items()
        if not isinstance(getattr(type(client), name, None), functools.cached_property)
    }
    wrapped.__dict__.update(adopt(client, state))
    bound: ClientT = _bind(wrapped, engine, policy)
    return bound


def _bind(
    client: Any, engine: Engine, policy: Callable[[], Policy], refusing: set[str] | None = None
) -> Any:
    client._binding = Binding(engine, policy, client, refusing)
    return client


def _wrapped_class(kind: type) -> type:
    if issubclass(kind, CachedClient):
        return kind
    known = _classes.get(kind)
    if known is None:
        namespace: dict[str, Any] = {
            "__module__": kind.__module__,
            "__qualname__": kind.__qualname__,
            "__doc__": kind.__doc__,
            **{name: _copying(getattr(kind, name)) for name in ("copy", "with_options")},
            **{name: _resource(name, kind) for name in _RESOURCES},
        }
        # What a user's own `request` adds must be in the key, so it comes first.
        own = not defined_by_sdk(kind, "request")
        bases = (kind, CachedClient) if own else (CachedClient, kind)
        known = _classes[kind] = type(kind.__name__, bases, namespace)
    return known


def _copying(method: Callable[..., Any]) -> Callable[..., Any]:
    """`copy` and `with_options`, whose result is cached as well."""

    @functools.wraps(method)
    def copy(self: CachedClient, *args: Any, **kwargs: Any) -> Any:
        copied = method(self, *args, **kwargs)
        if self._binding is not None:
            binding = self._binding
            _bind(copied, binding.engine, binding.policy, binding.refusing)
        return copied

    return copy


def _resource(name: str, kind: type) -> Any:
    """A client's resource, its `create` with the fast layer in front."""
    plain: Any = inspect.getattr_static(kind, name)

    def get(self: CachedClient) -> Any:
        resource: Any = plain.__get__(self)
        if self._binding is not None:
            self.__dict__[name] = resource  # the getters below ask for it again
            for endpoint in ENDPOINTS:
                if endpoint.name.partition(".")[0] == name and all(
                    defined_by_sdk(type(self), method) for method in ("post", "request")
                ):
                    target = endpoint.resource(self)
                    target.create = fast_create(self._binding, endpoint, target)
        return resource

    return functools.cached_property(get)
