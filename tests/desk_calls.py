"""The document desk under test, and what a visitor does there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import aiohttp
from aiohttp import web
from document_desk.app import make_app
from document_desk.documents import Library
from document_desk.prompt import stand_in
from openai import AsyncOpenAI

from aiopromptcache import PromptCache
from aiopromptcache.testing import OpenAIServer

ROOT = Path(__file__).parent.parent
KETTLE = "Descale the kettle every three months.\n\nThe warranty lasts two years."
CAT = "The cat eats at noon.\n\nThe cat sleeps on the roof."


def filled(folder: Path) -> Library:
    """Two short documents."""
    (folder / "kettle.txt").write_text(KETTLE, "utf-8")
    (folder / "cat.md").write_text(CAT, "utf-8")
    return Library(folder)


class Visitor:
    """An HTTP client of a desk."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self.http = http
        self.url = url

    async def ask(self, name: str, question: str, **headers: str) -> dict[str, Any]:
        """The reply; it must be one."""
        status, body = await self.call("POST", f"/documents/{name}/questions", question, **headers)
        assert status == 200, body
        return body

    async def how(self, name: str, question: str) -> str:
        """How it was answered."""
        return str((await self.ask(name, question))["how"])

    async def put(self, name: str, data: str | bytes, **headers: str) -> tuple[int, dict[str, Any]]:
        """Save or upload: the status and the body."""
        data = data.encode() if isinstance(data, str) else data
        async with self.http.put(f"/documents/{name}", data=data, headers=_named(headers)) as got:
            return got.status, await got.json()

    async def call(
        self, method: str, path: str, question: Any = None, **headers: str
    ) -> tuple[int, dict[str, Any]]:
        """Any request: the status and the body."""
        json = None if question is None else {"question": question}
        async with self.http.request(method, path, json=json, headers=_named(headers)) as got:
            return got.status, await got.json()


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


@asynccontextmanager
async def visiting(url: str) -> AsyncIterator[Visitor]:
    """A visitor of a desk that runs somewhere. Each request is a connection of its own."""
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(url, connector=connector) as http:
        yield Visitor(http, url)


@asynccontextmanager
async def serving(cache: PromptCache, server: OpenAIServer, library: Library) -> AsyncIterator[str]:
    """A desk in this process, its model the local server; gives its address."""
    server.answer = stand_in
    async with AsyncOpenAI(base_url=server.base_url, api_key="-", max_retries=0) as client:
        app = make_app(cache, client, library)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


def waiting(cache: PromptCache) -> int:
    """Callers that wait for a call, their own or another's."""
    flights = cache._engine.flights._flights.values()
    return sum(flight.waiting for same in flights for flight in same)


class Started:
    """The example as its user starts it, on a free port, with a folder of its own."""

    def __init__(self, folder: Path, *options: str, **environment: str) -> None:
        kept = {n: v for n, v in os.environ.items() if n not in ("OPENAI_API_KEY", "REDIS_URL")}
        command = [sys.executable, "examples/document_desk", "--port", "0", *options]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=kept | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder)} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        self.output = self.process.stdout
        self.said: list[str] = []
        """Its lines up to the one with the address."""

    @property
    def url(self) -> str:
        """Where it serves."""
        return "http://" + self.said[-1].partition("http://")[2].partition("/")[0]

    def __enter__(self) -> Self:
        for line in iter(self.output.readline, ""):
            self.said.append(line)
            if "http://" in line:
                return self
        self.end()
        raise AssertionError(f"it did not start: {self.said}")

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """End it by a signal, if it runs; its code, and what it has said since."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.ended()

    def ended(self) -> tuple[int, str]:
        """Wait for its end; its code, and what it has said since."""
        code = self.process.wait(30)
        rest = "" if self.output.closed else self.output.read()
        self.output.close()
        return code, rest


def children(process: int) -> list[int]:
    """The processes that one has started, and those that they have, as far as they still run."""
    below: list[int] = []
    for task in Path(f"/proc/{process}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            below += [child, *children(child)]
    return below


def runs(process: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
