"""Runs the command line, and an API for it on a thread."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from click.testing import CliRunner, Result

from aiopromptcache._cli._app import cli
from aiopromptcache.testing import OpenAIServer


class Tool:
    """Runs commands."""

    def __call__(self, *args: str, code: int = 0, **options: Any) -> Result:
        """Run one in this process; its exit code must be this one."""
        result = CliRunner().invoke(cli, args, catch_exceptions=False, **options)
        assert result.exit_code == code, (result.stdout, result.stderr)
        return result

    def json(self, *args: str, code: int = 0, **options: Any) -> Any:
        """What it says in JSON, with nothing else on stdout."""
        result = self(*args, "--json", code=code, **options)
        [line] = result.stdout.splitlines()
        return json.loads(line)

    def start(self, *args: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start one as a process of its own, with pipes."""
        return subprocess.Popen(
            [sys.executable, "-m", "aiopromptcache", *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
        )


class Upstream:
    """The local OpenAI server on an event loop in a thread, so that a test may block."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self.server = OpenAIServer()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def start(self) -> None:
        self._thread.start()
        self.do(self.server.start)

    def do(self, work: Callable[[], Any]) -> Any:
        """Do something on the server's loop."""

        async def on_loop() -> Any:
            result = work()
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(on_loop(), self._loop).result(10)

    def stop(self) -> None:
        self.do(self.server.aclose)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def wait_until(what: str, condition: Callable[[], Any]) -> None:
    """Another process gets there in its own time."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen"
        time.sleep(0.01)


def at_a_terminal(args: list[str], env: Mapping[str, str]) -> str:
    """What a process writes to a terminal of its own."""
    mine, terminal = pty.openpty()
    command = [sys.executable, "-m", "aiopromptcache", *args]
    plain = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    process = subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, env={**plain, **env}
    )
    os.close(terminal)
    written = b""
    try:
        while part := os.read(mine, 2**16):
            written += part
    except OSError:  # so a terminal tells that nobody is at its other end
        pass
    os.close(mine)
    assert process.wait(20) == 0, written
    return written.decode()
