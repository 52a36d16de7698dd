"""The example, as one runs it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import httpx
import pytest
from boards import hits, state

pytestmark = pytest.mark.anyio

EXAMPLE = Path(__file__).parents[2] / "examples" / "dashboard.py"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_example_shows_two_processes_and_ends_in_order(number: signal.Signals) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    running = await asyncio.create_subprocess_exec(
        sys.executable, str(EXAMPLE), "--port", "0", "--rate", "40",
        stdout=asyncio.subprocess.PIPE, env=environment,
    )  # fmt: skip
    assert running.stdout is not None
    try:
        said = (await running.stdout.readline()).decode()
        found = re.search(r"http://127\.0\.0\.1:\d+/cache/", said)
        assert found is not None
        async with httpx.AsyncClient(base_url=found[0], timeout=10) as http:
            async with asyncio.timeout(40):
                while True:
                    shown = await state(http, "data.json")
                    if len(shown["processes"]) == 2 and hits(shown["counts"]) > 20:
                        break
                    await asyncio.sleep(0.1)
        assert [tier["name"] for tier in shown["tiers"]] == ["memory", "redis"]
        assert {row["model"] for row in shown["models"]} >= {"gpt-4o-mini"}
    finally:
        running.send_signal(number)
        rest = (await running.stdout.read()).decode()
        await running.wait()
    assert "Ended." in rest
    assert "Traceback" not in rest
