"""What a Redis tier sends its commands through: one server, or a cluster."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    MaxConnectionsError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

from .._errors import ConfigurationError
from ._base import Refused
from ._lines import AT_ONCE, Lines
from ._lua import Call

T = TypeVar("T")


class Link:
    """Commands and scripts for the client that was handed in, or made from a URL.

    Raises `Refused` where the server takes no writes, and what redis-py raises.
    """

    def __init__(self, url_or_client: Any, timeout: float) -> None:
        self._url = url_or_client if isinstance(url_or_client, str) else None
        self._timeout = timeout
        self._name = secrets.token_hex(8)
        self._client: Any = _checked(url_or_client) if self._url is None else None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lines = Lines(self._line)
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._working: set[asyncio.Task[Any]] = set()
        self.clustered = hasattr(self._client, "mget_nonatomic")
        """Are keys in several places?"""
        if self._url is not None and not re.match(r"(redis|rediss|unix)://", self._url):
            raise ConfigurationError(
                f"{self._url.partition('://')[0]!r}: expected a redis://, rediss:// or unix:// URL"
            )
        if self._url is not None:
            _parsed(self._url)

    @property
    def writer(self) -> str:
        """Who writes here: another one in each process, also where one was forked from another."""
        return f"{self._name}{os.getpid():x}"

    def _start(self) -> None:
        """What belongs to an event loop is made anew for the running one."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        self._loop = loop
        if self._url is not None:
            self._client = _made(self._url, self._timeout)
        self._lines = Lines(self._line)
        self._turns = asyncio.Semaphore(AT_ONCE)

    def _line(self) -> Any:
        pool = self._client.connection_pool
        return _lean(pool.connection_class, pool.connection_kwargs)

    # Commands

    async def command(self, *args: Any, on: Any = None) -> Any:
        """The reply to one command; `on`: one of `masters`, where its keys do not say which."""
        self._start()
        if not self.clustered:
            [reply] = await self._lines.exchange(args)
            return _raised(reply)
        async with self._turns:
            return await self._apart(_patient(self._client, *args, on=on))

    async def masters(self) -> list[Any]:
        """What a command can be sent `on`: each master of a cluster, or the one server."""
        self._start()
        if not self.clustered:
            return [None]
        async with self._turns:
            await self._apart(self._client.initialize())
        return list(self._client.get_primaries())

    async def commands(self, *commands: Sequence[Any]) -> list[Any]:
        """Replies to several commands, in one write where all go to one server. Raises the first
        error, after all have run.
        """
        if self.clustered:
            each = [self.command(*command) for command in commands]
            return [_raised(r) for r in await asyncio.gather(*each, return_exceptions=True)]
        self._start()
        return [_raised(reply) for reply in await self._lines.exchange(*commands)]

    async def _apart(self, work: Coroutine[Any, Any, T]) -> T:
        """A cluster's client, once cancelled, has much to look up first: nobody waits for that."""
        task = asyncio.create_task(work, name="aiopromptcache cluster")
        self._working.add(task)
        task.add_done_callback(self._done)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.cancel()
            raise

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._working.discard(task)
        if not task.cancelled():
            task.exception()  # of one that nobody waits for any more, nobody asks for its error

    async def mget(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values by key; on a cluster one command for each hash slot."""
        values: list[bytes | None]
        if not self.clustered:
            values = await self.command("MGET", *keys)
        else:
            self._start()
            async with self._turns:
                values = await self._apart(self._client.mget_nonatomic(*keys))
        return values

    async def run(self, call: Call, *, on: Any = None) -> Any:
        """What a script gives; a server that does not know it is given its text."""
        try:
            return await self.command(*call.short, on=on)
        except NoScriptError:
            return await self.command(*call.whole, on=on)

    async def run_all(self, calls: Sequence[Call]) -> list[Any]:
        """Several scripts, on one server in one write. Raises the first error."""
        if len(calls) == 1:
            return [await self.run(calls[0])]
        if self.clustered:
            return list(await asyncio.gather(*[self.run(call) for call in calls]))
        self._start()
        replies = await self._lines.exchange(*[call.short for call in calls])
        return [
            await self.run(call) if isinstance(reply, NoScriptError) else _raised(reply)
            for call, reply in zip(calls, replies, strict=True)
        ]

    async def unlink(self, keys: Sequence[bytes]) -> int:
        """Remove keys; gives how many were there."""
        if self.clustered:
            return sum(await asyncio.gather(*[self.command("UNLINK", key) for key in keys]))
        count: int = await self.command("UNLINK", *keys) if keys else 0
        return count

    async def server_time(self) -> tuple[int, int]:
        """Seconds and microseconds on the server's clock."""
        reply: Any = await self.command("TIME")
        if isinstance(reply, dict):  # a cluster answers for each node
            reply = next(iter(reply.values()))
        return int(reply[0]), int(reply[1])

    # What takes many commands: each of them has the deadline

    async def scan(self, pattern: bytes, count: int) -> AsyncGenerator[list[bytes]]:
        """Keys that match, a batch at a time."""
        if self.clustered:
            async for keys in self._scan_cluster(pattern, count):
                yield keys
            return
        cursor = b"0"
        while True:
            async with asyncio.timeout(self._timeout):
                cursor, keys = await self.command("SCAN", cursor, "MATCH", pattern, "COUNT", count)
            if keys:
                yield keys
            if cursor == b"0":
                return

    async def _scan_cluster(self, pattern: bytes, count: int) -> AsyncGenerator[list[bytes]]:
        self._start()
        batch: list[bytes] = []
        async for key in self._client.scan_iter(match=pattern, count=count):
            batch.append(key)
            if len(batch) >= count:
                yield batch
                batch = []
        if batch:
            yield batch

    # A connection that waits

    async def connection(self, key: bytes) -> Any:
        """A connection of its own, to where a key is."""
        self._start()
        if not self.clustered:
            return self._line()
        async with asyncio.timeout(self._timeout):
            await self._client.initialize()
        node = self._client.get_node_from_key(key)
        return _lean(node.connection_class, node.connection_kwargs)

    async def aclose(self) -> None:
        """Close what was made here."""
        if self._loop is asyncio.get_running_loop():
            if self._working:
                await asyncio.wait(self._working, timeout=self._timeout)
            await self._lines.aclose()
            if self._url is not None and self._client is not None:
                await self._client.aclose()
        self._loop = None


def _lean(kind: Any, options: Mapping[str, Any]) -> Any:
    """A connection like those of a client, without what costs each command or connection time."""
    kept = {n: v for n, v in options.items() if not n.startswith("maint_notifications")}
    # Deadlines are ours; RESP 2 is read faster; nobody needs to know the library's name.
    timeouts = {"socket_timeout": None, "socket_connect_timeout": None}
    return kind(**{**kept, **timeouts, "protocol": 2, "driver_info": None})


async def _patient(client: Any, *args: Any, on: Any = None) -> Any:
    """A pool that others have emptied fills again; the deadline ends the wait."""
    target = {} if on is None else {"target_nodes": on}
    while True:
        try:
            return await client.execute_command(*args, **target)
        except MaxConnectionsError:
            await asyncio.sleep(0.001)
        except ResponseError as error:
            return _raised(error)


def _raised(reply: Any) -> Any:
    """A reply that is an error is raised."""
    if not isinstance(reply, Exception):
        return reply
    words = str(reply)
    if isinstance(reply, (OutOfMemoryError, ReadOnlyError)) or _NO_WRITES.search(words):
        raise Refused(words.partition(" script:")[0]) from None
    raise reply


_NO_WRITES = re.compile(
    r"\b(OOM command|READONLY|MISCONF|NOREPLICAS)\b|against a read only replica"
)


def _made(url: str, timeout: float) -> Any:
    from redis.asyncio import Redis

    return Redis.from_url(
        url,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
    )


def _parsed(url: str) -> None:
    try:
        parse_url(url)
    except ValueError:  # its words may show a part of the password
        raise ConfigurationError(
            "the Redis URL cannot be read; expected one such as redis://localhost:6379/0, with a "
            "port from 0 to 65535, and signs such as / and # in a password written as %2F and %23"
        ) from None


def _checked(client: Any) -> Any:
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
