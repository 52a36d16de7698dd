"""One client's tie to one cache: from a call to its key, its question, its entry."""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple, cast

import orjson
from cachetools import LRUCache
from openai import (
    APIConnectionError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    AsyncOpenAI,
    NotGiven,
    Omit,
    OpenAIError,
)

from .._ask import SIDE, Answer, Ask, Loaded, Prompt
from .._engine import Engine
from .._entry import Entry, ForeignEntry, Kind, Usage
from .._keys import Unkeyable, canonical, digest, plain_json
from .._policy import Policy, Request, cache_control
from .._refresh import is_outage
from .._streams import Live
from . import _prompts as prompts
from ._embeddings import Items, items_of
from ._endpoints import Body, Endpoint, billed_as, cacheable, service_of, usage_of
from ._forms import as_plain, as_stream
from ._live import EventForm
from ._prompts import parse
from ._rebuild import rebuild
from ._record import is_head, is_json, pack_head, says_json
from ._scope import Scope, defined_by_sdk
from ._sse import is_stream
from ._vectors import Assembler, Item

logger = logging.getLogger("aiopromptcache")

RAW_HEADER = "X-Stainless-Raw-Response"
"""How the SDK marks a call of with_raw_response ("true") or with_streaming_response ("stream")."""

_MEMOS = 1_024
_LARGE_MEMO = 2**16

_UNSET = (Omit, NotGiven)
_SCALARS = frozenset({str, int, float, bool, type(None)})

WHOLE = "/stream"
"""In a lane: a stream that carries all that a plain call gets, too."""
PART = "/stream without usage"
_SDK_STREAMS = ("_process_response", "_process_response_data", "_make_sse_decoder")


class Call(NamedTuple):
    """One cacheable call: what it asks, under which policy, and where its answer is kept."""

    endpoint: Endpoint
    request: Request
    policy: Policy
    key: str
    slot: str
    usage: bool = False
    """True for a stream that is to say its usage."""
    answer: Answer | None = None
    """Set where the fast layer has the answer already, and only the SDK can make the object."""
    looked: bool = False
    """True where the fast layer has asked the tiers, which had nothing."""
    spent: float = 0.0
    """Seconds that this took of remote tiers (see `_idle`)."""
    waited: float = 0.0
    """Seconds that its caller waited for it."""
    fwd: str = "miss"
    """Why it goes upstream, as far as the fast layer knows."""
    loads: bool = False
    """True for a refresh of the fast layer's: it wants what the upstream gives, and no object."""
    items: Items | None = None
    """Of embeddings: the inputs, each cached by itself."""
    due: frozenset[str] | None = None
    """Of embeddings: what to refresh ahead of time, where the fast layer has drawn lots."""
    decoded: bool = False
    """Of embeddings: True where base64 is asked for, and the caller gets floats."""
    hashed: tuple[bytes, bytes] | None = None
    """What the key was made of, where similar questions matter."""


planned: ContextVar[Call | None] = ContextVar("aiopromptcache planned call", default=None)
"""The plan that the fast layer made for the call that is now on its way through the SDK."""


class Binding:
    """What a wrapped client has besides what its own class gives it."""

    def __init__(
        self,
        engine: Engine,
        policy: Callable[[], Policy],
        client: AsyncOpenAI,
        refusing: set[str] | None = None,
    ) -> None:
        self.engine = engine
        self.policy = policy
        self.client = client
        self.refusing: set[str] = set() if refusing is None else refusing
        """Base URLs of servers that know no `stream_options`."""
        self.strict = client._strict_response_validation
        self.plays = not self.strict and all(
            defined_by_sdk(type(client), name) for name in _SDK_STREAMS
        )
        """May streams be rebuilt without going through the client?"""
        self._scope = Scope(client)
        self._memos: LRUCache[int, Any] = LRUCache(_MEMOS)
        self.assembler = Assembler(client)

    def plan(
        self,
        endpoint: Endpoint,
        path: str,
        params: Body,
        headers: Mapping[str, Any] | None,
        query: Mapping[str, Any] | None,
        *,
        looked: bool = False,
    ) -> Call | None:
        """How one call is cached; None where it may not be.

        Raises `Unkeyable` where its arguments are not JSON, before any callable of the policy gets
        to see them, and what such a callable raises.
        """
        policy = self.policy_for(headers)
        stream = bool(params.get("stream"))
        if params.get("stream") is False:  # what the server does without it, too
            params = {name: value for name, value in params.items() if name != "stream"}
        text = canonical(_without_form(params) if stream else params)
        request = Request(endpoint.name, params, stream)
        if not (
            cacheable(endpoint, params) if policy.cacheable is None else policy.cacheable(request)
        ):
            return None
        if policy.normalize is not None:
            text = canonical(_without_form(dict(policy.normalize(request))))
        prefix = self._scope.prefix(path, policy.partition, headers, query)
        key = digest(prefix, text)
        slot = self.engine.prefix + key
        call = Call(endpoint, request, policy, key, slot, looked=looked)
        if self.engine.similar is not None and endpoint.name in prompts.ENDPOINTS:
            call = call._replace(hashed=(prefix, text))
        if stream:
            return self._stream_call(call)
        if endpoint.name == "embeddings" and not self.strict:
            hashed = params if policy.normalize is None else orjson.loads(text)
            odd = self.engine.batches.odd
            return call._replace(items=items_of(prefix, self.engine.prefix, hashed, params, odd))
        return call

    def _stream_call(self, call: Call) -> Call:
        call = call._replace(usage=_wants_usage(call.request.params))
        entry = self.engine.peek(call.slot, call.policy)
        if entry is not None and entry.kind is Kind.HTTP and self.form(call, entry) is None:
            return call._replace(slot=call.slot + SIDE)
        return call

    def form(self, call: Call, entry: Entry) -> Entry | None:
        """A stored answer in the form that a call asks for; None where something would be missing.

        A strict client gets no form but the one that was validated.
        """
        if not self._is_sound(call, entry):
            return None
        streamed = call.request.stream
        if entry.kind is (Kind.SSE if streamed else Kind.HTTP):
            if not streamed:
                return entry
        elif self.strict or call.endpoint.event is None:
            return None
        known = len(entry.forms or ())
        form = (
            as_stream(entry, call.endpoint, usage=call.usage)
            if streamed
            else as_plain(entry, call.endpoint)
        )
        local = self.engine.storage.local
        grown = len(entry.forms or ()) != known
        if grown and local is not None and local.peek(call.slot) is entry:
            local.put(call.slot, entry)  # it has grown by what it remembers
        return form

    def lanes(self, call: Call) -> tuple[str, tuple[str, ...]]:
        """What this call's flight will bring, and whose it may follow, best first."""
        if not call.request.stream:
            return "", ("", WHOLE) if call.endpoint.event is not None else ("",)
        if call.usage or not call.endpoint.usage_on_demand:
            return WHOLE, (WHOLE, "")
        return WHOLE if self.adds_usage(call) else PART, (WHOLE, PART, "")

    def joinable(self, call: Call) -> bool:
        """Is another caller's flight there that brings this answer?"""
        follows = self.lanes(call)[1]
        return self.engine.joinable(call.slot, call.policy, follows) is not None

    def adds_usage(self, call: Call) -> bool:
        """Is the upstream asked for usage that the caller did not ask for?"""
        return (
            call.policy.stream_usage
            and not call.usage
            and call.endpoint.usage_on_demand
            and str(self.client.base_url) not in self.refusing
        )

    def policy_for(self, headers: Mapping[str, Any] | None) -> Policy:
        """The policy in force, with the directives of a call's own Cache-Control."""
        policy = self.policy()
        return _with_directives(policy, headers) if headers else policy

    def plan_or_bypass(
        self,
        endpoint: Endpoint,
        path: str,
        params: Callable[[], Body],
        headers: Mapping[str, Any] | None,
        query: Mapping[str, Any] | None,
    ) -> Call | None:
        """The fast layer's plan, or a new one; what stands in the way is an event and a bypass."""
        call = planned.get()
        if call is not None:
            planned.set(None)
            if call.endpoint is endpoint:
                return call
        try:
            return self.plan(endpoint, path, params(), headers, query)
        except Exception as error:
            self._fault(endpoint, error)
            return None

    def _fault(self, endpoint: Endpoint, error: Exception) -> None:
        self.engine.stats.erred("request", endpoint.name, error)
        if not isinstance(error, Unkeyable):
            logger.warning("a policy callable failed with %s", type(error).__name__)
        self.engine.ledger.tell("error", endpoint=endpoint.name, error=error)

    # Rebuilding

    def build(self, call: Call, entry: Entry) -> Any:
        """A new object for a plain answer; None where only the SDK's own path will do."""
        if entry.memo is not None or self._recalled(call, entry):
            return rebuild(entry, call.endpoint, self.client)
        local = self.engine.storage.local
        built = rebuild(entry, call.endpoint, self.client)
        if local is None:
            if entry.size - len(entry.payload) < _LARGE_MEMO:
                self._memos[_identity(call, entry)] = entry.memo
        elif local.peek(call.slot) is entry:
            local.put(call.slot, entry)  # it has grown by what it remembers
        return built

    def _recalled(self, call: Call, entry: Entry) -> bool:
        """Without a local tier the same answer comes as a new entry each time."""
        if self.engine.storage.local is None:
            entry.memo = self._memos.get(_identity(call, entry))
        return entry.memo is not None

    def _is_sound(self, call: Call, entry: Entry) -> bool:
        """May what comes from outside be the answer that it says it is?"""
        if type(entry) is not ForeignEntry or entry.memo is not None or entry.forms:
            return True
        if entry.kind is Kind.HTTP:
            if self._recalled(call, entry):
                return True
            return is_json(entry) and parse(entry.payload) is not None
        return entry.kind is not Kind.SSE or (is_head(entry) and is_stream(entry.payload))

    # Asking

    def ask(
        self,
        call: Call,
        timeout: Any,
        load: Callable[[], Awaitable[Loaded]],
        live: Live | None = None,
    ) -> Ask:
        """One caller's question; `timeout` is the SDK's, given for this call or not.

        `live` is what `load` fills, for a streamed call.

        A timeout of the call's own is what its caller waits for another's flight; without one the
        caller waits as long as all of the client's tries may take.
        """
        tries = 1
        if isinstance(timeout, NotGiven):
            timeout, tries = self.client.timeout, 1 + self.client.max_retries
        seconds = getattr(timeout, "read", timeout)
        patience = None if seconds is None else float(seconds) * tries
        leads, follows = self.lanes(call)
        usage = leads == WHOLE and call.endpoint.usage_on_demand
        return Ask(
            key=call.key,
            slot=call.slot,
            policy=call.policy,
            load=load,
            accepts=lambda entry: self.form(call, entry) is not None,
            live=live,
            form=None if live is None else EventForm(usage=usage),
            leads=leads,
            follows=follows,
            patience=patience,
            outlasts=lambda error, other: _outlasts(error, patience, other),
            looked=call.looked,
            spent=call.spent,
            waited=call.waited,
            outage=_is_outage,
            fwd=call.fwd,
            endpoint=call.endpoint.name,
            model=model_of(call),
            prompt=_prompt(call),
        )

    def met(self, call: Call) -> None:
        """A remote tier had the answer, which may have come from another process."""
        similar = self.engine.similar
        if similar is None or call.policy.similarity is None:
            return
        if (prompt := _prompt(call)) is not None:
            similar.met(call.key, prompt)

    # Storing

    def entry(
        self,
        call: Call,
        kind: Kind,
        response: Any,
        body: bytes,
        parsed: Body | None,
        *,
        usage: bool = False,
    ) -> Entry:
        """The entry for an upstream response; `parsed` is its plain form.

        `usage`: the upstream was asked to put the usage into this stream.
        """
        head = pack_head(response, usage=usage)
        return self._entry(call, kind, body, head, parsed, usage_of(parsed or {}))

    def item_entries(
        self, call: Call, response: Any, parsed: Body | None, items: Iterable[Item]
    ) -> list[Entry]:
        """The entries for the items of an embeddings answer."""
        head = pack_head(response)
        return [self._entry(call, Kind.VECTOR, i.payload, head, parsed, i.usage) for i in items]

    def _entry(
        self,
        call: Call,
        kind: Kind,
        payload: bytes,
        head: bytes,
        parsed: Body | None,
        usage: Usage | None,
    ) -> Entry:
        model = model_of(call)
        entry = self.engine.answers.entry(
            kind,
            payload,
            call.policy,
            head=head,
            endpoint=call.endpoint.name,
            model=model,
            billed=billed_as(parsed or {}, model),
            service=service_of(parsed or {}),
            usage=usage,
        )
        # What one call's own header allows on errors is no reason to record less for the others.
        window = cast(float, self.policy().stale_if_error)
        entry.stale_if_error = max(entry.stale_if_error, window)
        return entry

    def storable(self, call: Call, response: Any, parsed: Body | None) -> bool:
        """May this answer be stored? A policy's callable that fails says no."""
        if parsed is None or response.status_code != 200:
            return False
        if not call.request.stream and not says_json(response.headers.get("content-type")):
            return False
        if self.client._strict_response_validation and not self._valid(call, response, parsed):
            return False
        if call.policy.storable is None:
            return call.endpoint.storable(parsed)
        try:
            return bool(call.policy.storable(call.request, parsed))
        except Exception as error:
            self._fault(call.endpoint, error)
            return False

    def _valid(self, call: Call, response: Any, parsed: Body) -> bool:
        if call.request.stream:
            return True  # each event is validated as it is read
        try:
            self.client._process_response_data(
                data=parsed, cast_to=call.endpoint.model, response=response
            )
        except APIResponseValidationError:
            return False
        return True


def snapshot(value: Any) -> Any:
    """A copy of what is keyed, as it will be sent, for work that begins later."""
    if type(value) in _SCALARS:
        return value
    try:
        return orjson.loads(orjson.dumps(value, default=plain_json))
    except (orjson.JSONEncodeError, orjson.JSONDecodeError):  # e.g. an integer past 64 bits
        return copy.deepcopy(value)


def _prompt(call: Call) -> Prompt | None:
    if call.hashed is None:
        return None
    split = functools.partial(prompts.split, call.endpoint, *call.hashed)
    return Prompt(split, functools.partial(prompts.body_of, call.endpoint))


def _identity(call: Call, entry: Entry) -> int:
    return hash((call.slot, entry.head, entry.payload))


def _without_form(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is asked, without how it is to be told: `stream`, and whether a stream says its usage.

    Only where these are as documented. Other `stream_options` may change what the events are.
    """
    stream = params.get("stream")
    if stream is False:
        return {name: value for name, value in params.items() if name != "stream"}
    if stream is not True:
        return params
    kept = {name: value for name, value in params.items() if name != "stream"}
    options = kept.get("stream_options")
    if isinstance(options, Mapping):
        rest = {name: value for name, value in options.items() if name != "include_usage"}
        del kept["stream_options"]
        if rest:
            kept["stream_options"] = rest
    return kept


def _wants_usage(params: Mapping[str, Any]) -> bool:
    options = params.get("stream_options")
    return isinstance(options, Mapping) and bool(options.get("include_usage"))


def _outlasts(error: Exception, mine: float | None, leaders: float | None) -> bool:
    """The leader ran out of its own time, and this caller has more."""
    if not isinstance(error, APITimeoutError) or leaders is None:
        return False
    return mine is None or mine > leaders


def _is_outage(error: Exception) -> bool:
    """By status; of the SDK's other errors only those of connections and timeouts."""
    if isinstance(error, OpenAIError) and not isinstance(error, APIStatusError):
        return isinstance(error, APIConnectionError)
    return is_outage(error)


def model_of(call: Call) -> str | None:
    """The model that a call asks for."""
    model = call.request.params.get("model")
    return model if isinstance(model, str) else None


def given(params: Mapping[str, Any]) -> Body:
    """Without what the caller left out."""
    return {name: value for name, value in params.items() if not isinstance(value, _UNSET)}


def _with_directives(policy: Policy, headers: Mapping[str, Any]) -> Policy:
    for name, value in headers.items():
        if name.lower() == "cache-control" and isinstance(value, str):
            policy = policy.merged(**cache_control(value))
    return policy


def without_directives(headers: Mapping[str, Any]) -> dict[str, Any]:
    """The headers that are sent: Cache-Control is for the cache alone."""
    return {name: value for name, value in headers.items() if name.lower() != "cache-control"}
