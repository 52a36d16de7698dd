"""`PromptCache`: the surface that users write against."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import timedelta
from types import EllipsisType, TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, cast, overload

from ._ask import SIDE, Ask, Loaded
from ._cached import decorate
from ._control import Control, Inside, control_of, controls, learning
from ._engine import Engine
from ._entry import Entry
from ._errors import ConfigurationError
from ._events import Hook
from ._keys import prefix, request_key
from ._policy import Policy, seconds, tag_tuple
from ._prices import Price
from ._shared import SharedStream
from ._stats import Stats
from ._status import CacheStatus
from ._values import Misfit, decode, decode_as, encode, encode_as, readable_as
from ._warm import Calls, MissingClient, Warming, WarmReport
from .tiers._base import Tier
from .tiers._memory import MemoryTier

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from .similarity._matchers import Matcher

    ClientT = TypeVar("ClientT", bound=AsyncOpenAI)

T = TypeVar("T")
D = TypeVar("D")
P = ParamSpec("P")

Ttl = float | timedelta | EllipsisType | None
"""Seconds, a timedelta, None (no expiry), or `...`: as the policy says."""


class PromptCache:
    """An asynchronous cache of prompts and model answers, with one flight per key.

    `tiers` are asked in order, fastest first; none given means one `MemoryTier()`. `ttl` is
    shorthand for `Policy(ttl=…)`. `hooks` get a `CacheEvent` each. `clock` gives seconds, as
    `time.time` does. `similarity`, a matcher of `aiopromptcache.similarity`, lets a call of a
    wrapped client get the answer to a question in other words. `prices`, a `Price` by model, counts
    before those of genai-prices, which are used where the extra "prices" is installed.

    Works at module level without `async with`; leaving `async with`, or `aclose()`, drains what is
    still being written and closes the connections that the cache made. One cache may serve one
    event loop after another, not two at a time.

    Raises `ConfigurationError` for arguments that are not usable. A fault of a tier never reaches
    a caller.
    """

    def __init__(
        self,
        *tiers: Tier,
        policy: Policy | None = None,
        ttl: Ttl = ...,
        namespace: str = "default",
        hooks: Iterable[Hook] = (),
        similarity: Matcher | None = None,
        prices: Mapping[str, Price] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if policy is not None and not isinstance(policy, Policy):
            raise ConfigurationError(f"policy={policy!r}: expected a Policy")
        self.policy = policy or Policy()
        if ttl is not ...:
            self.policy = replace(self.policy, ttl=ttl)
        self._engine = Engine(
            tiers or (MemoryTier(),),
            namespace=namespace,
            hooks=hooks,
            clock=clock,
            prices={} if prices is None else prices,
            similarity=None if similarity is None else _matcher(similarity),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Drain pending writes and events, close connections that the cache made itself."""
        await self._engine.aclose()

    @property
    def namespace(self) -> str:
        """The namespace that `clear` empties."""
        return self._engine.ledger.namespace

    @property
    def stats(self) -> Stats:
        """Counters so far."""
        return self._engine.stats

    def report_false_hit(self, status: CacheStatus) -> None:
        """A similar hit gave a wrong answer; `status` is its `cache_status`.

        That answer is not given to that question again, the report counts in `stats`, and where
        the matcher has a `max_error` that is threatened, the threshold rises. A copy that was kept
        (`store_similar`) is removed in the background, or when the cache is closed. A second
        report of the same changes nothing. `ConfigurationError` where `status` is not of a similar
        hit.
        """
        if not isinstance(status, CacheStatus):
            raise ConfigurationError(f"status={status!r}: expected a CacheStatus")
        if self._engine.similar is None:
            raise ConfigurationError("status: this cache has no similarity=, so no similar hits")
        self._engine.similar.report(status)

    # Policy

    def control(self, **policy_fields: Any) -> AbstractContextManager[None]:
        """Override policy fields for the calls made inside.

        A context variable carries it, so it also reaches calls made deep inside a framework, and
        tasks started inside. An unknown field or a value out of range is a `ConfigurationError`.
        """
        return Inside(self._controlled(policy_fields, {}))

    @contextmanager
    def _controlled(self, fields: dict[str, Any], directives: dict[str, Any]) -> Iterator[None]:
        """Override `fields` for all calls inside, and `directives` for what could be asked anew."""
        outer = controls.get()
        asking, given = control_of(self)
        same = asking is given and not directives
        given = given.merged(**fields)
        asking = given if same else asking.merged(**fields, **directives)
        controls.set({**(outer or {}), self: Control(asking, given)})
        try:
            yield
        finally:
            controls.set(outer)

    @property
    def current_policy(self) -> Policy:
        """The cache's policy with the overrides of the `control` blocks that we are in."""
        return self.policy if controls.get() is None else control_of(self).asking

    def _policy_with(self, policy: Policy, ttl: Ttl, tags: Iterable[str]) -> Policy:
        if ttl is not ...:
            policy = replace(policy, ttl=ttl)
        if tags:
            policy = replace(policy, tags=(*policy.tags, *tag_tuple(tags)))
        return policy

    # Keys

    def key(self, **request: Any) -> str:
        """Hex digest of any JSON-able request, e.g. `key(model=…, messages=…, temperature=…)`.

        The same in every process, for every order of dict keys, on every Python. A pydantic object
        counts as its JSON. `TypeError` for what is not JSON, NaN included.
        """
        return request_key(request)

    def _slot(self, key: str, policy: Policy) -> str:
        """Where a key of the caller's own is kept: partitions never share."""
        if type(key) is not str:
            raise TypeError(f"key={key!r}: expected a str, e.g. from cache.key(...)")
        if policy.partition:
            key = prefix("partition", policy.partition, key).hex()
        return self._engine.prefix + key

    # Plain access

    @overload
    async def get(self, key: str) -> Any | None: ...
    @overload
    async def get(self, key: str, default: D) -> Any | D: ...
    @overload
    async def get(self, key: str, default: D, *, type: type[T]) -> T | D: ...
    @overload
    async def get(self, key: str, *, type: type[T]) -> T | None: ...
    async def get(self, key: str, default: Any = None, *, type: Any = None) -> Any:
        """The stored value, or `default`.

        With `type` (a pydantic model, dataclass, TypedDict, …) it is validated into it; a stored
        value that does not fit is a miss. The value is the caller's own copy. One that is past its
        fresh life is a miss as well (nothing here could refresh it), but for `max_stale`.
        """
        engine = self._engine
        policy = control_of(self).given
        slot = self._slot(key, policy)
        if type is not None:
            _check_type(type)
        if not policy.no_cache:
            answer = await engine.find(key, slot, policy, _fits(type))
            if answer is not None:
                return decode_as(answer.entry, type)
        engine.ledger.missed(key)
        return default

    async def set(
        self, key: str, value: object, *, ttl: Ttl = ..., tags: Iterable[str] = ()
    ) -> None:
        """Store a value; what is in flight for the key is not stored over it.

        JSON values and bytes come back equal and of the same type from every tier; pydantic
        models are stored as JSON. `TypeError` for anything else, naming the offending part.
        """
        policy = self._policy_with(control_of(self).given, ttl, tags)
        kind, payload = encode(value)
        slot = self._slot(key, policy)
        if not policy.no_store:
            await self._engine.storage.put(
                key, slot, self._engine.answers.entry(kind, payload, policy)
            )

    async def delete(self, *keys: str) -> int:
        """Remove keys (a `CacheStatus.key` too) from every tier; gives how many were there.

        What is in flight for them still answers its callers, and is not stored.
        """
        policy = self.current_policy
        keys = tuple(part for key in keys for part in _parts(key))
        slots = {self._slot(key, policy) for key in keys}
        if policy.partition:  # a status's key has its partition inside
            slots |= {self._engine.prefix + key for key in keys if _is_digest(key)}
        sides = [slot + SIDE for slot in slots]
        return min(len(slots), await self._engine.storage.drop([*slots, *sides]))

    async def clear(self) -> int:
        """Empty this cache's namespace in every tier; gives how many entries were there."""
        return await self._engine.storage.clear()

    async def invalidate(self, *tags: str) -> int:
        """Drop all that was stored with any of the tags; gives how many entries that were.

        What is in flight with such a tag still answers its callers, and is not stored.
        """
        return await self._engine.storage.invalidate(tag_tuple(tags))

    # Computing

    @overload
    async def get_or_create(
        self,
        key: str,
        factory: Callable[[], Awaitable[T]],
        *,
        type: None = None,
        ttl: Ttl = ...,
        tags: Iterable[str] = (),
    ) -> T: ...
    @overload
    async def get_or_create(
        self,
        key: str,
        factory: Callable[[], Awaitable[object]],
        *,
        type: type[T],
        ttl: Ttl = ...,
        tags: Iterable[str] = (),
    ) -> T: ...
    async def get_or_create(
        self,
        key: str,
        factory: Callable[[], Awaitable[Any]],
        *,
        type: Any = None,
        ttl: Ttl = ...,
        tags: Iterable[str] = (),
    ) -> Any:
        """The stored value, or that of one `await factory()` for all who ask at once.

        Each caller gets a value of its own; the factory's error reaches each as an instance of its
        own, and is not stored. The factory runs in a copy of the first caller's context and is
        cancelled when the last caller has left. `TypeError` where its value cannot be stored.
        Within stale_while_revalidate the old value comes at once and the factory runs in the
        background; within stale_if_error it stands in for what the factory raises, but for errors
        that carry a status of 4xx (other than 408, 409, 425, 429), `TypeError`, `NameError`,
        `ImportError`, `NotImplementedError` and this library's own.
        A factory that waits for its own key gets `ReentrantCall`.
        """
        engine = self._engine
        policy = self.current_policy
        if ttl is not ... or tags:
            policy = self._policy_with(policy, ttl, tags)
        slot = self._slot(key, policy)
        if type is not None:
            _check_type(type)
        if not callable(factory):
            raise ConfigurationError(f"factory={factory!r}: expected {_FACTORY} an awaitable")
        if not policy.no_cache:
            entry = engine.peek(slot, policy)
            if entry is not None:
                try:
                    value = decode(entry) if type is None else decode_as(entry, type)
                except Misfit:
                    pass
                else:
                    engine.ledger.count_hit(key, entry, engine.storage.local_name)
                    return value

        async def load() -> Loaded:
            kind, payload = encode_as(await factory(), type)
            entry = engine.answers.entry(kind, payload, policy)
            return Loaded(entry, storable=type is None or _fits(type)(entry))

        answer = await engine.fetch(
            Ask(key=key, slot=slot, policy=policy, load=load, accepts=_fits(type))
        )
        return _decode_fresh(answer.entry, type)

    def stream(
        self,
        key: str,
        factory: Callable[[], AsyncIterable[T]],
        *,
        ttl: Ttl = ...,
        tags: Iterable[str] = (),
    ) -> SharedStream[T]:
        """The items of one `factory()` for all who ask at once, as they come, and of a stored one.

        `factory` takes no arguments and returns an async iterator of JSON values or bytes, falsy
        ones included; usually it is a call of an async generator function. It is read at its own
        speed, in a copy of the first caller's context. Who comes later gets what there is so far at
        once, then the rest live, each a copy of its own. Any consumer may leave (`aclose`, `async
        with`, or simply drop it); when the last one has, the iterator is closed. It is stored only
        after its end; what it raises reaches each consumer after the items before it.

        Nothing happens before the first item is asked for; the policy is the one in force now.
        `TypeError`, as an item comes, where it cannot be stored.
        """
        policy = self._policy_with(self.current_policy, ttl, tags)
        slot = self._slot(key, policy)
        if not callable(factory):
            raise ConfigurationError(f"factory={factory!r}: expected {_FACTORY} an async iterator")
        return SharedStream(self._engine, key, slot, policy, factory)

    def cached(
        self,
        *,
        ttl: Ttl = ...,
        tags: Iterable[str] | Callable[..., Iterable[str]] = (),
        key: Callable[..., str] | None = None,
    ) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Awaitable[T]]]:
        """Cache an async function: one run at a time for equal arguments.

        The key is made of the function's qualified name and its bound arguments, so `f(1)` is
        `f(a=1)`; or it is what `key`, a callable on them, returns. `tags` may be such a callable
        too. The return annotation serves as `type`. `TypeError` for an argument that is not JSON.
        """
        if ttl is not ... and ttl is not None:
            seconds("ttl", ttl)
        return cast(
            Callable[[Callable[P, Awaitable[T]]], Callable[P, Awaitable[T]]],
            decorate(self, ttl, tags, key),
        )

    async def warm(
        self,
        calls: Calls,
        *,
        client: AsyncOpenAI | None = None,
        concurrency: int = 8,
        on_progress: Callable[[WarmReport], Any] | None = None,
    ) -> WarmReport:
        """Answer many requests ahead of time; what is fresh already costs nothing.

        `calls` is an iterable or async iterable, pulled as it is needed: of callables without
        arguments that return an awaitable, or, with `client=` (wrapped or not), of dicts of
        `chat.completions.create` arguments or of OpenAI batch lines (`url`, `body`). At most
        `concurrency` are under way at once. `on_progress`, plain or async, gets the report so far.

        A request that fails is counted and does not stop the rest; one that is none of the above
        is such a failure, and `report.errors` says what is wrong. `ConfigurationError` for dicts
        without a client. What the input or `on_progress` raises is raised in the end.
        """
        if type(concurrency) is not int or concurrency < 1:
            raise ConfigurationError(f"concurrency={concurrency!r}: expected an int, 1 or more")
        if not isinstance(calls, (Iterable, AsyncIterable)) or isinstance(calls, (str, Mapping)):
            raise ConfigurationError(f"calls={calls!r}: expected an iterable of requests")
        if on_progress is not None and not callable(on_progress):
            raise ConfigurationError(f"on_progress={on_progress!r}: expected a callable or None")
        wrapped = self.wrap(client) if client is not None else None

        def call_of(position: int, item: Mapping[str, Any]) -> Callable[[], Awaitable[Any]]:
            if wrapped is None:
                raise MissingClient(
                    f"warm: item {position} is a dict: give client= to make it with"
                )
            from ._openai import call_of as line

            return line(wrapped, position, item)

        @contextmanager
        def policy() -> Iterator[None]:
            with self.control(max_stale=0, refresh_ahead=0), learning():
                yield

        return await Warming(calls, call_of, policy, on_progress).run(concurrency)

    # Clients

    def wrap(self, client: ClientT) -> ClientT:
        """The same client, cached; the one given stays as it was.

        `chat.completions`, `responses`, `embeddings`, `completions` and `moderations` are answered
        from the cache in every form; all else passes through. The result is an instance of the
        client's own class and shares its connections. `ConfigurationError` for what is not an
        AsyncOpenAI.
        """
        from ._openai import wrap  # the SDK takes a second to import

        return wrap(self._engine, lambda: self.current_policy, client)


def _matcher(similarity: object) -> Matcher:
    from .similarity._matchers import Matcher

    if not isinstance(similarity, Matcher):
        raise ConfigurationError(
            f"similarity={similarity!r}: expected a LexicalSimilarity or SemanticSimilarity"
        )
    return similarity


_FACTORY = "a callable without arguments that returns"


def _check_type(kind: Any) -> None:
    if not readable_as(kind):
        raise ConfigurationError(f"type={kind!r}: expected a type that pydantic can validate into")


def _fits(kind: Any) -> Callable[[Entry], bool]:
    def fits(entry: Entry) -> bool:
        try:
            decode_as(entry, kind)
        except Misfit:
            return False
        return True

    return fits


def _decode_fresh(entry: Entry, kind: Any) -> Any:
    """What a factory just made: given as it is where it does not fit its declared type."""
    try:
        return decode_as(entry, kind)
    except Misfit:
        return decode(entry)


def _parts(key: str) -> list[str]:
    """The keys that are meant: that of several embeddings is made of theirs."""
    if type(key) is not str or "," not in key:
        return [key]
    parts = key.split(",")
    return parts if all(map(_is_digest, parts)) else [key]


def _is_digest(key: str) -> bool:
    return len(key) == 64 and all(character in "0123456789abcdef" for character in key)
