"""A process with an app of its own, as a worker of uvicorn is: a cache, and a dashboard or not.

It says its port, makes the calls that it is told to, and ends when its input does.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from openai import AsyncOpenAI

from aiopromptcache import MemoryTier, PromptCache, RedisTier
from aiopromptcache.dashboard import Dashboard, share


async def main(url: str, base_url: str, shown: bool) -> None:
    cache = PromptCache(MemoryTier(), RedisTier(url, timeout=5))
    client = cache.wrap(AsyncOpenAI(base_url=base_url, api_key="test", max_retries=0))
    app = FastAPI()
    if shown:
        app.mount("/cache", Dashboard(cache))
    else:
        share(cache)

    @app.post("/ask")
    async def ask(question: str, times: int = 1) -> dict[str, Any]:
        for _ in range(times):
            await client.chat.completions.create(
                model="gpt-4o-mini", messages=[{"role": "user", "content": question}]
            )
        return cache.stats.as_dict()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        sys.stdout.write(json.dumps({"port": listening.getsockname()[1]}) + "\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)
        server.should_exit = True
        await serving
    await cache.aclose()


asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3] == "shown"))
