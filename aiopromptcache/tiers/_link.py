"""The connection of a Redis tier: a client handed in, or one made from a URL, and its limits.

Every command has a deadline, and only a few are under way at once, however many callers there
are: no pool runs dry, and no caller's cancellation reaches a command.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

from .._errors import ConfigurationError
from ._base import Refused
from ._lua import Script

AT_ONCE = 8
"""Commands under way at once."""


class Call(NamedTuple):
    """One run of a script."""

    script: Script
    keys: Sequence[bytes]
    args: Sequence[Any]


class Link:
    """Commands and scripts on one server, or on the cluster behind a cluster client."""

    def __init__(self, url_or_client: Any, timeout: float) -> None:
        import redis.asyncio  # noqa: F401  # takes its time: now, and not in somebody's first call

        self._url = url_or_client if isinstance(url_or_client, str) else None
        self._timeout = timeout
        self._client: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turns = asyncio.Semaphore(AT_ONCE)
        if self._url is None:
            self._client = _checked(url_or_client)
        elif not re.match(r"(redis|rediss|unix)://", self._url):
            raise ConfigurationError(
                f"{self._url.partition('://')[0]!r}: expected a redis://, rediss:// or unix:// URL"
            )

    def _get_client(self) -> Any:
        """The client for the running loop."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            if self._url is not None:
                self._client = _made(self._url, self._timeout)
            self._turns = asyncio.Semaphore(self._allowed())
        return self._client

    def _allowed(self) -> int:
        pool = getattr(self._client, "connection_pool", self._client)
        return max(1, min(AT_ONCE, getattr(pool, "max_connections", AT_ONCE)))

    @property
    def clustered(self) -> bool:
        """Are keys in several places?"""
        return self._url is None and hasattr(self._client, "mget_nonatomic")

    # Commands

    async def command(self, *args: Any) -> Any:
        """One command. Raises `Refused` where the server takes no writes, `TimeoutError`, …"""
        client = self._get_client()
        async with self._turns, asyncio.timeout(self._timeout):
            return await _unless_refused(_patient(client, *args))

    async def mget(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values by key; on a cluster one command for each hash slot."""
        client = self._get_client()
        async with self._turns, asyncio.timeout(self._timeout):
            if self.clustered:
                values: list[bytes | None] = await client.mget_nonatomic(*keys)
            else:
                values = await _patient(client, "MGET", *keys)
            return values

    async def run(self, call: Call) -> Any:
        """What a script gives; a server that does not know it is given its text."""
        from redis.exceptions import NoScriptError

        script, keys, args = call
        try:
            return await self.command("EVALSHA", script.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await self.command("EVAL", script.text, len(keys), *keys, *args)

    async def run_all(self, calls: Sequence[Call]) -> list[Any]:
        """Several scripts in one write; on a cluster each by itself. Raises the first error."""
        if len(calls) == 1 or self.clustered:
            return list(await asyncio.gather(*[self.run(call) for call in calls]))
        replies = await self._pipelined(
            [("EVALSHA", c.script.sha, len(c.keys), *c.keys, *c.args) for c in calls]
        )
        return [
            await self.run(call) if _is_unknown(reply) else _raised(reply)
            for call, reply in zip(calls, replies, strict=True)
        ]

    async def unlink(self, keys: Sequence[bytes]) -> int:
        """Remove keys; gives how many were there."""
        if self.clustered:
            return sum(await asyncio.gather(*[self.command("UNLINK", key) for key in keys]))
        count: int = await self.command("UNLINK", *keys) if keys else 0
        return count

    async def _pipelined(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        client = self._get_client()
        pipeline = client.pipeline(transaction=False)
        async with self._turns, asyncio.timeout(self._timeout), pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
            return replies

    async def server_time(self) -> tuple[int, int]:
        """Seconds and microseconds on the server's clock."""
        reply: Any = await self.command("TIME")
        if isinstance(reply, dict):  # a cluster answers for each node
            reply = next(iter(reply.values()))
        return int(reply[0]), int(reply[1])

    async def scan(self, pattern: bytes, count: int) -> AsyncIterator[list[bytes]]:
        """Keys that match, a batch at a time; each step has the deadline."""
        client = self._get_client()
        batch: list[bytes] = []
        keys = aiter(client.scan_iter(match=pattern, count=count))
        while True:
            try:
                async with asyncio.timeout(self._timeout):
                    batch.append(await anext(keys))
            except StopAsyncIteration:
                break
            if len(batch) >= count:
                yield batch
                batch = []
        if batch:
            yield batch

    def connection(self, key: bytes) -> Any:
        """A connection of its own, to where a key is: for a command that waits."""
        client = self._get_client()
        if self.clustered:
            node = client.get_node_from_key(key)
            return node.connection_class(**node.connection_kwargs)
        pool = client.connection_pool
        return pool.connection_class(**pool.connection_kwargs)

    async def ready(self) -> None:
        """On a cluster: know where its slots are."""
        if self.clustered:
            async with asyncio.timeout(self._timeout):
                await self._get_client().initialize()

    async def aclose(self) -> None:
        """Close what was made here."""
        if self._url is not None and self._client is not None:
            client, self._client = self._client, None
            if self._loop is asyncio.get_running_loop():
                await client.aclose()
            self._loop = None


async def _patient(client: Any, *args: Any) -> Any:
    """A pool that others have emptied fills again; the deadline ends the wait."""
    from redis.exceptions import MaxConnectionsError

    while True:
        try:
            return await client.execute_command(*args)
        except MaxConnectionsError:
            await asyncio.sleep(0.001)


async def _unless_refused(reply: Any) -> Any:
    from redis.exceptions import ResponseError

    try:
        return await reply
    except ResponseError as error:
        _refuse(error)
        raise


def _refuse(error: Exception) -> None:
    from redis.exceptions import OutOfMemoryError, ReadOnlyError

    words = str(error)
    if isinstance(error, (OutOfMemoryError, ReadOnlyError)) or re.search(
        r"\b(OOM command|READONLY|MISCONF|NOREPLICAS)\b|against a read only replica", words
    ):
        raise Refused(words.partition(" script:")[0]) from None


def _raised(reply: Any) -> Any:
    if isinstance(reply, Exception):
        _refuse(reply)
        raise reply
    return reply


def _is_unknown(reply: Any) -> bool:
    from redis.exceptions import NoScriptError

    return isinstance(reply, NoScriptError)


def _made(url: str, timeout: float) -> Any:
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as RedisConnectionError

    # One immediate retry: after a restart each pooled connection fails once. RESP 2: with
    # RESP 3 the retry would not be enough.
    retry = Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))
    return Redis.from_url(
        url,
        driver_info=None,  # two commands less for each connection
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=retry,
        protocol=2,
    )


def _checked(client: Any) -> Any:
    from redis.asyncio import Redis, RedisCluster

    if not isinstance(client, (Redis, RedisCluster)):
        raise ConfigurationError(
            f"{type(client).__module__}.{type(client).__qualname__}: expected a URL, or a "
            "redis.asyncio Redis or RedisCluster"
        )
    maker: Any = client if isinstance(client, RedisCluster) else client.connection_pool
    encoder = maker.encoder if isinstance(client, RedisCluster) else maker.get_encoder()
    if encoder.decode_responses:
        raise ConfigurationError(
            "a client with decode_responses=True cannot carry bytes: make it without"
        )
    return client
