"""The README's examples run, offline: the SDK's environment points at a local server."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from aiopromptcache.testing import OpenAIServer

pytestmark = pytest.mark.anyio

README = Path(__file__).parent.parent / "README.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README.read_text("utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
async def test_an_example_of_the_readme_runs(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = EXAMPLES[number].replace("redis://localhost:6379/0", "redis://127.0.0.1:1/0")
    async with OpenAIServer() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "-")
        code = compile(example, f"README example {number}", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        names: dict[str, Any] = {"__name__": f"readme_{number}"}
        result = eval(code, names)  # a coroutine where the example awaits
        if inspect.isawaitable(result):
            await result
        if "client" in names:  # a real app keeps its client for as long as it runs
            await names["client"].close()
    printed = capsys.readouterr().out
    expected = re.findall(r"^ *# (aiopromptcache; .*)$", example, re.MULTILINE)
    for line in expected:
        assert line in printed


def test_the_readme_has_examples() -> None:
    assert len(EXAMPLES) >= 4
