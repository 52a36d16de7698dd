"""The README's examples run, offline: the SDK's environment points at a local server."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from servers import Server

from aiopromptcache import PromptCache
from aiopromptcache.testing import OpenAIServer

pytestmark = pytest.mark.anyio

README = Path(__file__).parent.parent / "README.md"
TEXT = README.read_text("utf-8")
BY_HAND = TEXT[TEXT.index("<!-- by hand -->") : TEXT.index("<!-- /by hand -->")]
"""A table whose snippets are one program, with its imports at the end."""


def examples_in(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


EXAMPLES = examples_in(TEXT.replace(BY_HAND, ""))


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
async def test_an_example_of_the_readme_runs(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = EXAMPLES[number].replace("redis://localhost:6379/0", "redis://127.0.0.1:1/0")
    async with OpenAIServer() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "-")
        names: dict[str, Any] = {"__name__": f"readme_{number}"}
        await run(example, names)
        if "client" in names:  # a real app keeps its client for as long as it runs
            await names["client"].close()
    printed = capsys.readouterr().out
    expected = re.findall(r"^ *# (aiopromptcache; .*)$", example, re.MULTILINE)
    for line in expected:
        assert line in printed


async def test_what_one_writes_instead_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of three to five lines, against a real server."""
    *snippets, imports = examples_in(BY_HAND)
    assert len(snippets) >= 8
    assert all(2 <= len(snippet.splitlines()) <= 5 for snippet in snippets)
    made: list[Any] = []
    names: dict[str, Any] = {"__name__": "by_hand"}
    with Server("valkey") as redis:
        async with OpenAIServer() as server:
            monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
            monkeypatch.setenv("OPENAI_API_KEY", "-")
            await run(imports, names)
            for name in ("AsyncOpenAI", "PromptCache"):
                names[name] = closed_in_the_end(names[name], made)
            try:
                for snippet in snippets:
                    await run(snippet.replace("redis://localhost:6379/0", redis.url), names)
            finally:
                for one in reversed(made):
                    await (one.aclose() if isinstance(one, PromptCache) else one.close())
            # A dict, a crowd, a password, a history, a document, A?, B?, and without a Redis.
            assert server.calls == 8


async def run(source: str, names: dict[str, Any]) -> None:
    code = compile(source, source, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, names)  # a coroutine where the example awaits
    if inspect.isawaitable(result):
        await result


def closed_in_the_end(kind: type[Any], made: list[Any]) -> type[Any]:
    """The same class, whose objects are kept in `made`."""

    class Kept(kind):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append(self)

    return Kept


def test_the_readme_has_examples() -> None:
    assert len(EXAMPLES) >= 4
