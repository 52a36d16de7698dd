"""`PromptCache.stream`: one run of an async iterator, for everyone who asks for its items."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

from ._ask import COMING, Ask, Loaded
from ._engine import Engine
from ._entry import Entry, Kind
from ._follow import Unsuitable
from ._policy import Policy
from ._status import mark
from ._streams import Live, Reader
from ._values import decode_item, encode_item, split_items

T = TypeVar("T")

_LANE = "/items"


class _Items:
    """How such a stream is passed on: it has nothing besides its items. See `Form`."""

    kind = Kind.ITEMS

    def pack(self, head: Any) -> bytes:
        return b""

    def unpack(self, packed: bytes) -> Any:
        if packed:  # of a wrapped client's stream
            raise Unsuitable
        return None


_ITEMS = _Items()


class SharedStream(AsyncIterator[T], Generic[T]):
    """One consumer's iterator over a shared stream; `cache_status` tells how it was answered."""

    def __init__(
        self,
        engine: Engine,
        key: str,
        slot: str,
        policy: Policy,
        factory: Callable[[], AsyncIterable[T]],
    ) -> None:
        self._engine = engine
        self._asked = (key, slot, policy, factory)
        self._begun = False
        self._closed = False
        self._reader: Reader | None = None
        self._stored: deque[bytes] = deque()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        if self._closed:
            raise StopAsyncIteration
        try:
            return cast(T, decode_item(await self._next()))
        except BaseException:  # as with a generator, what was raised ends it; so does cancellation
            await self.aclose()
            raise

    async def _next(self) -> bytes:
        if not self._begun:
            await self._begin()
        if self._reader is not None:
            return await self._reader.next()
        if not self._stored:
            raise StopAsyncIteration
        return self._stored.popleft()

    async def _begin(self) -> None:
        key, slot, policy, factory = self._asked
        engine, live = self._engine, Live()
        ask = Ask(
            key=key,
            slot=slot,
            policy=policy,
            load=lambda: _run(engine, policy, live, factory),  # holds no consumer
            accepts=_is_stream,
            live=live,
            form=_ITEMS,
            leads=_LANE,
            follows=(_LANE,),
        )
        answer = await engine.fetch(ask)
        self._begun = True
        if answer.entry is COMING:
            self._reader = answer.extra
        else:
            self._stored = deque(split_items(answer.entry.payload))
        mark(self, answer.status)

    async def aclose(self) -> None:
        """Leave the stream: it ends here. Nobody else who reads it notices."""
        self._closed = True
        self._stored.clear()
        if self._reader is not None:
            await self._reader.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


def _is_stream(entry: Entry) -> bool:
    if entry.kind is not Kind.ITEMS:
        return False
    try:
        split_items(entry.payload)
    except ValueError:
        return False
    return True


async def _run(
    engine: Engine, policy: Policy, live: Live, factory: Callable[[], AsyncIterable[Any]]
) -> Loaded:
    """Read the factory's iterator to its end."""
    iterator = aiter(factory())
    live.open()
    try:
        async for value in iterator:
            live.append(encode_item(value))
            await asyncio.sleep(0)  # also an iterator that never waits is read as it goes
            if live.size > live.limit:
                await live.room()
    finally:
        if (aclose := getattr(iterator, "aclose", None)) is not None:
            await aclose()
    payload = b"" if live.overflowed else b"".join(live.items)
    return Loaded(engine.answers.entry(Kind.ITEMS, payload, policy), storable=not live.overflowed)
