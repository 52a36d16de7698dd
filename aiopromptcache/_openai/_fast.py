"""The fast layer: a resource's own `create`, which first looks into memory.

It answers a call, plain or streamed, that was answered before, or that another caller has in
flight, before the SDK has done any work. Everything else it leaves to the complete layer, along
with the plan it made.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Mapping
from time import perf_counter
from types import MethodType
from typing import Any

from openai import APITimeoutError, not_given

from .._ask import Answer, Ask, Loaded
from .._entry import Entry, Kind
from .._flights import OutOfPatience
from .._found import Found
from .._idle import idle_time
from .._policy import Verdict, decide
from .._status import mark, outcome_of
from .._streams import Live
from ._binding import RAW_HEADER, Binding, Call, given, planned, snapshot
from ._embeddings import Items, summary
from ._endpoints import Endpoint
from ._playback import Playback
from ._raw import RawHit, options_of, request_of
from ._rebuild import decode_vectors
from ._streaming import play
from ._vectors import is_item

_NOT_SENT = frozenset({"extra_headers", "extra_query", "timeout"})
_EXTRAS = frozenset({"extra_headers", "extra_query", "extra_body", "timeout"})


def fast_create(binding: Binding, endpoint: Endpoint, resource: Any) -> MethodType:
    """The `create` of a resource, a method of it as before, with the fast layer in front."""
    kind = type(resource)

    @functools.wraps(kind.create)
    async def create(resource: Any, /, *args: Any, **params: Any) -> Any:
        call = None
        if not args:
            fast = _FastCall(binding, endpoint, params, resource)
            call = fast.plan()
            if call is not None:
                result, call = fast.from_memory(call)
                if result is None and call.answer is None and fast.is_elsewhere(call):
                    params = fast.as_asked  # the caller may change its objects while we wait
                    result, call = await fast.from_elsewhere(call)
                if result is not None:
                    return result
        outer = planned.get()
        planned.set(call)
        try:
            return await _plain_create(resource)(*args, **params)
        finally:
            planned.set(outer)

    return MethodType(create, resource)


def _plain_create(resource: Any) -> Callable[..., Any]:
    """The class's `create`: looked up anew, as tracing libraries and mocks may have replaced it."""
    found: Any = inspect.getattr_static(type(resource), "create")
    bind: Any = getattr(type(found), "__get__", None)  # a mock has none
    plain: Callable[..., Any] = found if bind is None else bind(found, resource, type(resource))
    return plain


class _FastCall:
    """One call of `create`."""

    __slots__ = (
        "_binding",
        "_endpoint",
        "_given",
        "_headers",
        "_params",
        "_query",
        "_resource",
        "_timeout",
        "_vectors",
    )

    def __init__(
        self,
        binding: Binding,
        endpoint: Endpoint,
        params: dict[str, Any],
        resource: Any,
    ) -> None:
        self._resource = resource
        self._binding = binding
        self._endpoint = endpoint
        self._given = self._params = given(params)
        self._headers: Mapping[str, Any] | None = None
        self._query: Mapping[str, Any] | None = None
        self._timeout: Any = not_given
        self._vectors = False

    def plan(self) -> Call | None:
        """How the call is cached; None where the complete layer must see for itself."""
        params = self._params
        streamed = bool(params.get("stream"))
        if streamed and (params["stream"] is not True or not self._binding.plays):
            return None
        if self._endpoint.name == "embeddings" and "encoding_format" not in params:
            self._vectors = True
            params = self._params = {**params, "encoding_format": "base64"}  # as the SDK does
        try:
            if asyncio._get_running_loop() is None:
                return None  # trio
            if not _EXTRAS.isdisjoint(params):
                self._take_extras()
            raw = self._headers.get(RAW_HEADER) if self._headers else None
            if raw == "stream" or (streamed and raw is not None):
                return None
            call = self._binding.plan(
                self._endpoint,
                self._endpoint.path,
                self._params,
                self._headers,
                self._query,
                looked=self._binding.engine.ledger.observer is None,  # else the engine shows it
            )
            return call._replace(decoded=True) if call and self._vectors else call
        except Exception:  # whatever it was, the complete layer meets it again, and tells
            return None

    def _take_extras(self) -> None:
        params = self._params = dict(self._params)
        self._headers = params.pop("extra_headers", None)
        self._query = params.pop("extra_query", None)
        self._timeout = params.pop("timeout", not_given)
        if extra_body := params.pop("extra_body", None):
            self._params = given({**params, **extra_body})

    def from_memory(self, call: Call) -> tuple[Any, Call]:
        """A new object for a repeat, or the plan to go on with."""
        engine = self._binding.engine
        if call.policy.no_cache:
            return None, call
        if call.items is not None:
            return self._items_from_memory(call, call.items)
        entry, name = engine.storage.peek(call.slot), engine.storage.local_name
        if entry is None:
            return None, call
        form = self._binding.form(call, entry) if engine.settled(entry, call.policy) else None
        if form is not None:
            return self._answered(call, engine.answers.hit(call.key, form, name))
        ask = self._ask(call)
        return self._offered(call, ask, engine.offer(ask, Found(entry, name)))

    def _items_from_memory(self, call: Call, items: Items) -> tuple[Any, Call]:
        """A new object if all items are fresh here; the complete layer does the rest."""
        engine, policy, entries = self._binding.engine, call.policy, []
        for slot in items.slots:
            entry = engine.storage.peek(slot)
            if entry is None or not is_item(entry):
                return None, call
            if decide(entry, policy, engine.clock()) is not Verdict.FRESH:
                return None, call
            entries.append(entry)
        if policy.refresh_ahead:
            pairs = zip(items.slots, entries, strict=True)
            if due := frozenset(slot for slot, entry in pairs if engine.is_due(entry, policy)):
                return None, call._replace(due=due)
        whole = summary(entries, engine.clock())
        answer = engine.answers.hit(items.key, whole, engine.storage.local_name)
        assembler = self._binding.assembler
        built = assembler.response(entries, None, decoded=self._vectors)
        vars(built)["_request_id"] = assembler.request_id(entries[0])
        return self._deliver(answer, built, lambda: assembler.http(entries, None, None)), call

    @property
    def as_asked(self) -> dict[str, Any]:
        """The arguments as they are now."""
        return {
            name: value if name in _NOT_SENT else snapshot(value)
            for name, value in self._given.items()
        }

    def is_elsewhere(self, call: Call) -> bool:
        """May the answer be in another caller's flight or in a remote tier?"""
        engine = self._binding.engine
        if call.items is not None or engine.ledger.observer is not None:
            return False
        return self._flying(call) or (bool(engine.storage.remote) and not call.policy.no_cache)

    async def from_elsewhere(self, call: Call) -> tuple[Any, Call]:
        """The answer of another caller's flight or of a remote tier, or the plan to go on with."""
        if (
            not self._flying(call)
            and self._binding.engine.storage.remote
            and not call.policy.no_cache
        ):
            result, call = await self._from_remote(call)
            if result is not None:
                return result, call
        if call.answer is None and self._flying(call):
            return await self._follow(call)
        return None, call

    async def _from_remote(self, call: Call) -> tuple[Any, Call]:
        started, began = perf_counter(), idle_time()
        engine, policy = self._binding.engine, call.policy
        claim = not (policy.only_if_cached or policy.no_store)
        found = await engine.storage.look(call.slot, promote=not policy.no_store, claim=claim)
        call = call._replace(spent=idle_time() - began, waited=perf_counter() - started)
        if found is None:
            return None, call
        if engine.settled(found.entry, policy):
            form = self._binding.form(call, found.entry)
            if form is not None:
                self._binding.met(call)
                answer = engine.answers.hit(call.key, form, found.tier, took=found.took)
                return self._waited(call, answer, started)
        ask = self._ask(call)
        offered = engine.offer(ask, found)
        if offered is None:
            return self._offered(call, ask, None)
        return self._waited(call, offered, started)

    def _waited(self, call: Call, answer: Answer, started: float) -> tuple[Any, Call]:
        """The answer is there, and its caller had to wait for it."""
        ledger = self._binding.engine.ledger
        ledger.waited(self._endpoint.name, outcome_of(answer.status), perf_counter() - started)
        return self._answered(call, answer)

    def _ask(self, call: Call) -> Ask:
        live = Live() if call.request.stream else None
        load = functools.partial(self._load, call)
        ask = self._binding.ask(call, self._timeout, load, live)
        ask.settle = self._settle
        return ask

    def _settle(self) -> None:
        self._given = self.as_asked

    async def _load(self, call: Call) -> Loaded:
        """Ask the upstream through the SDK, in a flight of its own."""
        planned.set(call._replace(loads=True))
        loaded: Loaded = await _plain_create(self._resource)(**self._given)
        return loaded

    def _offered(self, call: Call, ask: Ask, answer: Answer | None) -> tuple[Any, Call]:
        """What a tier's entry came to."""
        if answer is None:
            return None, call._replace(fwd=ask.fwd)
        return self._answered(call, answer)

    def _answered(self, call: Call, answer: Answer) -> tuple[Any, Call]:
        """The object, or the answer for the SDK to make an object of."""
        if call.request.stream:
            return self._play(call, answer), call
        if answer.entry.kind is not Kind.HTTP:
            entry = self._binding.form(call, answer.entry)
            assert entry is not None  # it was accepted
            answer = answer._replace(entry=entry)
        built = self._build(call, answer.entry)
        if built is None:
            return None, call._replace(answer=answer)
        return self._deliver(answer, built), call

    def _flying(self, call: Call) -> bool:
        """Is another caller's flight for the same answer there to join?"""
        policy = call.policy
        return (
            not (policy.no_cache or policy.no_store or policy.only_if_cached)
            and len(self._binding.engine.flights) > 0
            and self._binding.joinable(call)
        )

    async def _follow(self, call: Call) -> tuple[Any, Call]:
        """The other caller's answer, or the plan where that came to nothing."""
        started = perf_counter()
        try:
            answer = await self._binding.engine.follow(self._ask(call))
        except OutOfPatience:
            raise APITimeoutError(request=self._request()) from None
        if answer is None:
            return None, call._replace(looked=False)
        return self._waited(call, answer, started)

    def _build(self, call: Call, entry: Entry) -> Any:
        built = self._binding.build(call, entry)
        return None if self._vectors and built and not decode_vectors(built) else built

    def _deliver(self, answer: Answer, built: Any, entry: Callable[[], Entry] | None = None) -> Any:
        mark(built, answer.status)
        if self._headers is None or self._headers.get(RAW_HEADER) is None:
            return built
        return RawHit(
            self._binding.client,
            self._endpoint,
            answer,
            built,
            self._params,
            self._headers,
            self._query,
            vectors=self._vectors,
            entry=entry,
        )

    def _play(self, call: Call, answer: Answer) -> Any:
        played = play(self._binding, call, answer, self._request)
        event = self._endpoint.event
        stream = Playback(
            played.source, played.ways, event, self._binding.client, played.make_response
        )
        return mark(stream, played.status)

    def _request(self) -> Any:
        options = options_of(self._endpoint, self._params, self._headers, self._query)
        return request_of(self._binding.client, options)
