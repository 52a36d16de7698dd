"""A TCP proxy that misbehaves on purpose."""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self, cast

from .._errors import ConfigurationError
from .._policy import seconds as _seconds

_BACKLOG: Final = 4_096
_LINGER_NOT: Final = struct.pack("ii", 1, 0)  # makes close() send RST instead of FIN
_FILLERS: Final = 16
"""Connections after which a backlog of zero must be full; it is at the second on Linux."""


class TCPProxy:
    """Stands in front of a server on this machine; a test breaks the way to it, and mends it.

    ```python
    async with TCPProxy("127.0.0.1", 6379) as proxy:
        tier = RedisTier(f"redis://{proxy.host}:{proxy.port}/0")
        proxy.black_hole()
        ...
        proxy.pass_through()
    ```

    One of these is the case at a time, for connections that are there and for new ones, from the
    moment of the call:

    | call | what clients see |
    | --- | --- |
    | `pass_through()` | the server, also for what was held back until now |
    | `refuse()` | connections are reset, new ones refused: the server's process is gone |
    | `drop()` | no answers, and new connections are not even made: the machine is gone |
    | `black_hole()` | connections are made, and nothing is answered: the process hangs |
    | `delay(seconds)` | every reply comes so much later |
    | `reset(after=bytes)` | each connection is reset when so many bytes of replies have passed |

    `target` is where new connections lead; it may be changed at any time. A proxy keeps its port
    until the end, and belongs to the event loop that started it. It needs a loop that has
    `add_reader`: asyncio's on POSIX systems, or uvloop.
    """

    host = "127.0.0.1"

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.port = 0
        """Where clients connect to, once it has started."""
        self.connections = 0
        """Connections that were accepted so far."""
        self.received = 0
        """Bytes that clients sent so far."""
        self.sent = 0
        """Bytes that went to clients so far."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener: socket.socket | None = None
        self._fillers: list[socket.socket] = []
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._held = False
        self._delay = 0.0
        self._cut: int | None = None

    def __repr__(self) -> str:
        return f"<TCPProxy {self.host}:{self.port} to {self.target[0]}:{self.target[1]}>"

    @property
    def open(self) -> int:
        """Connections that clients have now."""
        return len(self._links)

    # Running

    async def start(self) -> Self:
        """Listen on a free port of 127.0.0.1; returns the proxy itself."""
        self._loop = asyncio.get_running_loop()
        self.pass_through()
        return self

    async def aclose(self) -> None:
        """Reset all connections and stop listening; nothing is left over."""
        self._deafen()
        for task in self._tasks:
            task.cancel()
        for link in list(self._links):
            link.sever()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._idle.wait()
        self._loop = None

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    # Faults

    def pass_through(self) -> None:
        """Be a good proxy; what was held back goes on its way."""
        self._change()
        self._listen()

    def refuse(self) -> None:
        """Reset connections, and let new ones be refused."""
        self._change()
        self._deafen()
        for link in list(self._links):
            link.sever()

    def drop(self) -> None:
        """Hold back everything, and leave the first packet of new connections unanswered."""
        self._change(held=True)
        self._deafen()
        self._listener = self._socket(backlog=0)
        address = self._listener.getsockname()
        while len(self._fillers) < _FILLERS and (not self._fillers or _made(self._fillers[-1])):
            filler = socket.socket()
            filler.setblocking(False)
            self._fillers.append(filler)
            filler.connect_ex(address)

    def black_hole(self) -> None:
        """Accept connections and answer nothing."""
        self._change(held=True)
        self._listen()

    def delay(self, seconds: float) -> None:
        """Hold back every reply for so many seconds."""
        self._change(delay=_seconds("delay", seconds))
        self._listen()

    def reset(self, *, after: int = 0) -> None:
        """Reset each connection once `after` more bytes of replies have passed."""
        if type(after) is not int or after < 0:
            raise ConfigurationError(f"after={after!r}: expected an int of 0 or more")
        self._change(cut=after)
        self._listen()

    def _change(self, *, held: bool = False, delay: float = 0.0, cut: int | None = None) -> None:
        if self._loop is None:
            raise ConfigurationError("this proxy was not started")
        self._held, self._delay, self._cut = held, delay, cut
        for link in list(self._links):
            link.change()

    # Listening

    def _listen(self) -> None:
        if self._listener is not None and not self._fillers:
            return
        self._deafen()
        self._listener = self._socket(_BACKLOG)
        assert self._loop is not None
        self._loop.add_reader(self._listener.fileno(), self._accept, self._listener)

    def _socket(self, backlog: int) -> socket.socket:
        listener = socket.socket()
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.host, self.port))
        listener.listen(backlog)
        self.port = listener.getsockname()[1]
        return listener

    def _deafen(self) -> None:
        if self._listener is not None:
            assert self._loop is not None
            self._loop.remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None
        while self._fillers:
            self._fillers.pop().close()

    def _accept(self, listener: socket.socket) -> None:
        try:
            accepted, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):  # the client has left already
            return
        self.connections += 1
        self._idle.clear()
        assert self._loop is not None
        link = _Link(self, self._loop)
        self._links.add(link)
        task = self._loop.create_task(link.open(accepted))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # What links ask for

    def plan(self) -> tuple[bool, float, int | None]:
        """Is everything held back, by how much are replies delayed, after what is a reset?"""
        return self._held, self._delay, self._cut

    def forget(self, link: _Link) -> None:
        """A link has ended."""
        self._links.discard(link)
        if not self._links:
            self._idle.set()


class _Link:
    """A client's connection, and ours to the server on its behalf."""

    def __init__(self, proxy: TCPProxy, loop: asyncio.AbstractEventLoop) -> None:
        self._proxy = proxy
        self._loop = loop
        self._client = _End(self._asked, self._lost)
        self._server = _End(self._answered, self._lost)
        self._client.peer, self._server.peer = self._server, self._client
        self._requests: list[bytes] = []
        """What waits for the connection to the server, or is held back."""
        self._replies: deque[tuple[float, bytes]] = deque()
        """Replies under way, with the time of their arrival here."""
        self._timer: asyncio.TimerHandle | None = None
        self._left: int | None = None
        """Bytes of replies until the reset."""
        self._over = False
        self._opening = True

    async def open(self, accepted: socket.socket) -> None:
        """Serve an accepted connection. One whose server cannot be reached is reset."""
        try:
            await self._loop.connect_accepted_socket(lambda: self._client, accepted)
            self.change()
            await self._loop.create_connection(lambda: self._server, *self._proxy.target)
            if self._over:  # it ended while we were connecting
                self.sever()
            self.change()
        except OSError:
            self.sever()
        except asyncio.CancelledError:
            self.sever()
            raise
        finally:
            if self._client.transport is None:
                accepted.close()
            self._opening = False
            self._end()

    def change(self) -> None:
        """The proxy has another fault now, or none."""
        self._left = self._proxy.plan()[2]
        if self._left == 0:
            self.sever()
        self._ask()
        self._answer()

    def sever(self) -> None:
        """Reset both connections."""
        self._over = True
        self._client.reset()
        self._server.reset()

    def _asked(self, data: bytes) -> None:
        self._proxy.received += len(data)
        self._requests.append(data)
        self._ask()

    def _ask(self) -> None:
        if self._server.transport is None or self._proxy.plan()[0]:
            return
        for data in self._requests:
            self._server.transport.write(data)
        self._requests.clear()

    def _answered(self, data: bytes) -> None:
        self._replies.append((self._loop.time(), data))
        self._answer()

    def _answer(self) -> None:
        """Pass on the replies whose time has come."""
        held, delay, _ = self._proxy.plan()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if held or self._client.transport is None:
            return
        while self._replies and not self._over:
            due = self._replies[0][0] + delay
            if delay and due > self._loop.time():
                self._timer = self._loop.call_at(due, self._answer)
                return
            self._pass_on(self._replies.popleft()[1])
        if self._server.lost and not self._over:
            self._over = True
            self._client.transport.close()

    def _pass_on(self, data: bytes) -> None:
        assert self._client.transport is not None
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        self._proxy.sent += len(data)
        self._client.transport.write(data)
        if self._left == 0:
            self.sever()

    def _lost(self) -> None:
        """One of the connections has ended: so does the other, after what is still to come."""
        if self._client.lost:
            self._over = True
            if self._server.transport is not None:
                self._server.transport.close()
        else:
            self._answer()
        self._end()

    def _end(self) -> None:
        """Leave the proxy once nothing is left of either connection."""
        if self._client.gone and self._server.gone and self._over and not self._opening:
            if self._timer is not None:
                self._timer.cancel()
            self._proxy.forget(self)


class _End(asyncio.Protocol):
    """One of a link's two connections."""

    peer: _End

    def __init__(self, on_data: Callable[[bytes], None], on_lost: Callable[[], None]) -> None:
        self.transport: asyncio.Transport | None = None
        self.lost = False
        self._on_data = on_data
        self._on_lost = on_lost

    @property
    def gone(self) -> bool:
        """Is there no connection, or none any more?"""
        return self.transport is None or self.lost

    def reset(self) -> None:
        """End it with RST."""
        if self.transport is not None and not self.lost:
            self.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT
            )
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass

    def data_received(self, data: bytes) -> None:
        self._on_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._on_lost()

    def pause_writing(self) -> None:
        if not self.peer.gone and self.peer.transport is not None:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if not self.peer.gone and self.peer.transport is not None:
            self.peer.transport.resume_reading()


def _made(connecting: socket.socket) -> bool:
    """Was the connection made? On loopback it is at once, or not before something changes."""
    poll = select.poll()
    poll.register(connecting, select.POLLOUT)
    return bool(poll.poll(20))
