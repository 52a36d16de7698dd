"""A cache for one command: connected first, so that whatever is wrong is known at once."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, NamedTuple, TypeVar

from .._cache import PromptCache
from .._entry import Entry
from .._events import CacheEvent
from .._policy import Policy
from .._prices import Price
from ..tiers._listing import SCANNED
from ..tiers._redis import RedisTier
from ._errors import ToolError, explained, place_of
from ._options import Settings

T = TypeVar("T")

BULK_SECONDS = 7 * 86_400.0
"""A tool has the time that `clear` takes."""


NAMESPACES = 10
"""Names of others that are shown."""


class Row(NamedTuple):
    """One entry of the namespace."""

    key: str
    entry: Entry
    size: int
    """Bytes of the record on the server."""
    cost: float | None
    """US dollars that it was billed, where its price is known."""


class Session:
    """The cache that the settings mean, its tier, and a plain client beside it."""

    def __init__(
        self,
        settings: Settings,
        client: Any,
        policy: Policy | None = None,
        prices: Mapping[str, Price] | None = None,
    ) -> None:
        self.settings = settings
        self.client = client
        self.faults: list[BaseException] = []
        self.on_outage: Callable[[], None] | None = None
        """Called when the cache gives up on the server."""
        self.tier = RedisTier(
            client,
            prefix=settings.beginning,
            timeout=settings.patience,
            encryption_key=settings.keys,
        )
        self.tier.bulk_timeout = BULK_SECONDS
        self.cache = PromptCache(
            self.tier,
            policy=policy,
            namespace=settings.room,
            hooks=[self._heard],
            prices=prices or {},
        )
        self.clock = self.cache._engine.clock
        self.slots = self.cache._engine.prefix
        """What all slots of the namespace begin with."""

    def _heard(self, event: CacheEvent) -> None:
        """A cache keeps faults from its callers; a tool's user wants to know."""
        if event.error is not None:
            self.faults.append(event.error)
            if event.kind == "breaker" and self.on_outage is not None:
                self.on_outage()

    async def act(self, work: Awaitable[T]) -> T:
        """The result of a method of the cache. Raises the fault that the cache met with."""
        events = self.cache._engine.ledger.events
        await events.drain()  # what came before is not this one's fault
        self.faults.clear()
        result = await work
        await events.drain()
        if self.faults:
            raise self.faults[0]
        return result

    async def within(self, work: Awaitable[T]) -> T:
        """One step on the server, with its deadline."""
        async with asyncio.timeout(self.settings.patience):
            return await work

    async def info(self, *section: str) -> list[dict[str, Any]]:
        """INFO of the server, or of each master of a cluster."""
        if not self.tier._link.clustered:
            return [await self.within(self.client.info(*section))]
        reply = await self.within(self.client.info(*section, target_nodes="primaries"))
        return list(reply.values())

    async def rows(self) -> AsyncGenerator[Row | None]:
        """What the namespace holds, in no order; None for each record that cannot be read."""
        async with aclosing(self.tier.entries(self.slots[:-1])) as batches:
            async for batch in batches:
                for found in batch:
                    if found.slot is None or found.entry is None:
                        yield None
                    elif found.entry.expires_at > self.clock():
                        yield self.row(found.slot[len(self.slots) :], found.entry, found.size)

    def row(self, key: str, entry: Entry, size: int) -> Row:
        """An entry with its price."""
        return Row(key, entry, size, self.cache._engine.ledger.prices.of(entry))

    async def elsewhere(self) -> str:
        """For whoever looks into an empty namespace: which others there are."""
        names: set[str] = set()
        pattern = self.tier._names.everywhere()
        async with aclosing(self.tier._link.scan(pattern, SCANNED)) as scan:
            async for keys in scan:
                names |= {self.tier._names.namespace_of(key) for key in keys}
                if len(names) > NAMESPACES:
                    break
        names.discard(self.settings.room)
        shown = ", ".join(sorted(names)[:NAMESPACES])
        return f"other namespaces under this prefix: {shown}" if names else ""

    async def find(self, keys: Sequence[str]) -> dict[str, Entry]:
        """Entries of exactly these keys."""
        slots = {self.slots + key: key for key in keys}
        found = await self.within(self.tier.get(list(slots)))
        return {slots[slot]: entry for slot, entry in found.items()}


@asynccontextmanager
async def opened(
    settings: Settings,
    policy: Policy | None = None,
    prices: Mapping[str, Price] | None = None,
) -> AsyncIterator[Session]:
    """The session; what it opened is closed in the end. Raises what is wrong with the server."""
    client = await connected(settings)
    try:
        session = Session(settings, client, policy, prices)
        try:
            yield session
        finally:
            await session.cache.aclose()
    finally:
        await client.aclose()


async def connected(settings: Settings) -> Any:
    """A client that has had an answer; for a cluster, where the URL is that of a node."""
    from redis.asyncio import Redis, RedisCluster
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import NoPermissionError

    url = checked_url(settings.where)
    options: dict[str, Any] = {"socket_connect_timeout": settings.patience}
    try:
        client: Any = Redis.from_url(url, retry=Retry(NoBackoff(), 0), **options)
    except (ValueError, TypeError) as error:
        raise ToolError(f"--url: {error}") from None
    try:
        async with asyncio.timeout(settings.patience):
            with suppress(NoPermissionError):  # an answer too; the command that needs it says so
                await client.ping()
            clustered = await _is_cluster(client)
    except BaseException:
        await client.aclose()
        raise
    if clustered:
        await client.aclose()
        client = RedisCluster.from_url(url, **options)
    return client


def checked_url(url: str) -> str:
    """Never shown whole: there may be a password in it."""
    if not re.match(r"(redis|rediss|unix)://", url):
        raise ToolError(
            "--url: expected a redis://, rediss:// or unix:// URL, as redis://host:6379/0"
        )
    return url


async def _is_cluster(client: Any) -> bool:
    from redis.exceptions import ResponseError

    with suppress(ResponseError):  # not everybody may ask
        return bool((await client.info("cluster")).get("cluster_enabled"))
    return False


def run(settings: Settings, work: Coroutine[Any, Any, T]) -> T:
    """Run a command's work. Raises `ToolError` for what is not a bug of ours."""
    logger = logging.getLogger("aiopromptcache")  # what it has to say, we say ourselves
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    try:
        return asyncio.run(work)
    except BrokenPipeError:
        raise
    except Exception as error:
        told = explained(error, place_of(settings.where))
        if told is None:
            raise
        raise told from error
