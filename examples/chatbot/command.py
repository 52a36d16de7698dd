"""The command line: a parent that starts what is needed, and its workers."""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path

import uvicorn
from _offline import ended, listening, supervise

from chatbot.app import create_app
from chatbot.stand_in import local_model

HERE = Path(__file__).parent


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="chatbot", description="A chat in the browser.")
    parser.add_argument("--workers", type=int, default=2, choices=range(1, 65), metavar="N")
    parser.add_argument(
        "--port", type=int, default=8000, choices=range(65_536), metavar="PORT", help="0: any free"
    )
    parser.add_argument("--real", action="store_true", help="ask the API of OPENAI_API_KEY")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    found = parser.parse_args(arguments)
    if found.real and not os.environ.get("OPENAI_API_KEY"):
        parser.error("--real needs OPENAI_API_KEY")
    return found


async def work(port: int) -> None:
    """One worker: serve until the parent says stop."""
    config = uvicorn.Config(create_app(), log_level="warning", timeout_graceful_shutdown=10)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening(port)]))
    while not (server.started or serving.done()):  # noqa: ASYNC110  # it tells nobody
        await asyncio.sleep(0.01)
    if not serving.done():
        await ended()
    server.should_exit = True
    await serving


def main() -> None:
    """The parent, or with --worker one of its workers."""
    options = parsed()
    if options.worker is not None:
        asyncio.run(work(options.worker))
        return
    supervise(
        [str(HERE), "--worker"],
        workers=options.workers,
        port=options.port,
        model=None if options.real else local_model(),
        what="Chatbot",
    )
