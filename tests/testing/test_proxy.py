"""The TCP proxy, in front of a small server that answers each line with the same line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from aiopromptcache import ConfigurationError
from aiopromptcache.testing import TCPProxy

pytestmark = pytest.mark.anyio


class Echo:
    """A server that repeats lines, and says goodbye to `quit`."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self._handlers: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Echo:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await asyncio.gather(*self._handlers)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        try:
            while (line := await reader.readline()) and line != b"quit\n":
                self.lines.append(line)
                writer.write(line)
        except ConnectionResetError:
            pass
        finally:
            writer.close()


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, line: bytes) -> None:
        self.writer.write(line)

    async def ask(self, line: bytes) -> bytes:
        self.send(line)
        return await self.reader.readline()

    async def silent(self, seconds: float = 0.1) -> bool:
        """Does nothing come for so long?"""
        try:
            await asyncio.wait_for(self.reader.read(1), seconds)
        except TimeoutError:
            return True
        return False

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


@pytest.fixture
async def echo(anyio_backend: Any) -> AsyncIterator[Echo]:
    async with Echo() as echo:
        yield echo


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[TCPProxy]:
    async with TCPProxy("127.0.0.1", echo.port) as proxy:
        yield proxy
    assert proxy.open == 0


@pytest.fixture
async def clients(proxy: TCPProxy) -> AsyncIterator[list[Client]]:
    """Those that a test made are closed before the proxy is."""
    made: list[Client] = []
    yield made
    for client in made:
        await client.close()


async def connect(proxy: TCPProxy, clients: list[Client]) -> Client:
    clients.append(Client(*await asyncio.open_connection(proxy.host, proxy.port)))
    return clients[-1]


async def test_it_passes_bytes_and_counts(proxy: TCPProxy, clients: list[Client]) -> None:
    first, second = await connect(proxy, clients), await connect(proxy, clients)
    assert await first.ask(b"one\n") == b"one\n"
    assert await second.ask(b"three\n") == b"three\n"
    assert (proxy.connections, proxy.open) == (2, 2)
    assert (proxy.received, proxy.sent) == (10, 10)


async def test_much_passes_whole(proxy: TCPProxy, clients: list[Client]) -> None:
    client = await connect(proxy, clients)
    lines = [b"%d" % number * 5_000 + b"\n" for number in range(200)]
    asking = asyncio.gather(*[client.reader.readexactly(len(line)) for line in lines[:1]])
    for line in lines:
        client.send(line)
    [first] = await asking
    rest = await client.reader.readexactly(sum(map(len, lines[1:])))
    assert first + rest == b"".join(lines)


async def test_an_end_on_either_side_is_one_on_the_other(
    proxy: TCPProxy, clients: list[Client]
) -> None:
    client = await connect(proxy, clients)
    client.send(b"last\nquit\n")
    assert await client.reader.read() == b"last\n"
    other = await connect(proxy, clients)
    await other.ask(b"x\n")
    await other.close()
    while proxy.open:
        await asyncio.sleep(0)


async def test_refused(proxy: TCPProxy, clients: list[Client]) -> None:
    client = await connect(proxy, clients)
    await client.ask(b"x\n")
    proxy.refuse()
    with pytest.raises(ConnectionResetError):
        await client.reader.read()
    with pytest.raises(ConnectionRefusedError):
        await connect(proxy, clients)
    proxy.pass_through()
    assert await (await connect(proxy, clients)).ask(b"again\n") == b"again\n"


async def test_dropped(proxy: TCPProxy, echo: Echo, clients: list[Client]) -> None:
    client = await connect(proxy, clients)
    await client.ask(b"x\n")
    proxy.drop()
    client.send(b"held\n")
    assert await client.silent()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(connect(proxy, clients), 0.1)
    assert echo.lines == [b"x\n"]
    proxy.pass_through()
    assert await client.reader.readline() == b"held\n"
    assert await (await connect(proxy, clients)).ask(b"again\n") == b"again\n"


async def test_black_hole(proxy: TCPProxy, echo: Echo, clients: list[Client]) -> None:
    old = await connect(proxy, clients)
    await old.ask(b"x\n")
    proxy.black_hole()
    new = await connect(proxy, clients)
    for client in (old, new):
        client.send(b"held\n")
        assert await client.silent()
    assert echo.lines == [b"x\n"]
    proxy.pass_through()
    for client in (old, new):
        assert await client.reader.readline() == b"held\n"


async def test_delayed(proxy: TCPProxy, echo: Echo, clients: list[Client]) -> None:
    client = await connect(proxy, clients)
    proxy.delay(60)
    client.send(b"one\n")
    assert await client.silent()
    assert echo.lines == [b"one\n"]
    proxy.delay(0.01)
    assert await client.reader.readline() == b"one\n"
    loop = asyncio.get_running_loop()
    started = loop.time()
    assert await client.ask(b"two\n") == b"two\n"
    assert loop.time() - started >= 0.008  # uvloop's clock counts milliseconds


async def test_reset_in_mid_reply(proxy: TCPProxy, echo: Echo, clients: list[Client]) -> None:
    old = await connect(proxy, clients)
    await old.ask(b"x\n")
    proxy.reset(after=3)
    new = await connect(proxy, clients)
    for client in (old, new):
        client.send(b"long\n")
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await client.reader.readexactly(5)
    assert proxy.sent == 2 + 3 + 3
    assert echo.lines == [b"x\n", b"long\n", b"long\n"]
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        await (await connect(proxy, clients)).reader.readexactly(1)


async def test_a_server_that_is_away_and_another_one(
    proxy: TCPProxy, echo: Echo, clients: list[Client]
) -> None:
    proxy.target = ("127.0.0.1", 1)
    with pytest.raises(ConnectionResetError):
        await (await connect(proxy, clients)).reader.readexactly(1)
    async with Echo() as other:
        proxy.target = ("127.0.0.1", other.port)
        client = await connect(proxy, clients)
        assert await client.ask(b"x\n") == b"x\n"
        assert (echo.lines, other.lines) == ([], [b"x\n"])
        await client.close()


@pytest.mark.parametrize("fault", ["refuse", "drop", "black_hole", "reset", "pass_through"])
async def test_closing_leaves_nothing_whatever_the_fault(echo: Echo, fault: str) -> None:
    proxy = await TCPProxy("127.0.0.1", echo.port).start()
    client = Client(*await asyncio.open_connection(proxy.host, proxy.port))
    await client.ask(b"x\n")
    getattr(proxy, fault)()
    await proxy.aclose()
    assert proxy.open == 0
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(proxy.host, proxy.port)
    await client.close()
    async with proxy:  # and it may be started again
        again = Client(*await asyncio.open_connection(proxy.host, proxy.port))
        assert await again.ask(b"y\n") == b"y\n"
        await again.close()


async def test_arguments_are_checked(proxy: TCPProxy) -> None:
    with pytest.raises(ConfigurationError, match="after=-1"):
        proxy.reset(after=-1)
    with pytest.raises(ConfigurationError, match="delay='x'"):
        proxy.delay("x")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="not started"):
        TCPProxy("127.0.0.1", 1).refuse()
