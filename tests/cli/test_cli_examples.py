"""What a newcomer types: the README's commands run as they stand, and those of every help."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import click
import pytest
from cli_tools import Tool, Upstream
from stored import ENTRIES, filled

from aiopromptcache._cli._app import EXAMPLES, cli
from aiopromptcache._cli._options import Command

README = Path(__file__).parents[2] / "README.md"
[BLOCK] = re.findall(
    r"<!-- command line -->\n```bash\n(.*?)```", README.read_text("utf-8"), re.DOTALL
)


def _words(line: str) -> list[str]:
    """The first command of a line, without its comment."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|")
    lexer.whitespace_split = True
    words = list(lexer)
    return words[1 : words.index("|")] if "|" in words else words[1:]


def test_the_commands_of_the_readme(
    tool: Tool,
    url: str,
    upstream: Upstream,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    filled(url, upstream.server.base_url)
    monkeypatch.chdir(tmp_path)
    question = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Why?"}]}
    Path("questions.jsonl").write_text(json.dumps(question) + "\n", "utf-8")
    said: dict[str, str] = {}
    for line in re.findall(r"^aiopromptcache .*", BLOCK, re.MULTILINE):
        name, *words = _words(line)
        if name == "stats":
            words.remove("--watch")  # it would go on
        if name == "clear":
            words.append("--yes")  # there is no terminal to answer at
        said[name] = tool(name, *words).stdout
    assert f"({ENTRIES} fresh, 0 stale)" in said["stats"]
    assert '"a": 1' in said["show"]
    assert said["invalidate"] == "removed 2 entries\n"
    assert "1 stored" in said["warm"]
    assert said["import"].startswith(f"imported {ENTRIES - 1} entries")
    assert said["clear"] == f"removed {ENTRIES - 1} entries\n"


def _examples() -> list[str]:
    texts = [EXAMPLES, *(c.examples for c in cli.commands.values() if isinstance(c, Command))]
    lines = [line for text in texts for line in text.splitlines()]
    return [line for line in lines if line.startswith("aiopromptcache ")]


@pytest.mark.parametrize("line", _examples())
def test_the_examples_of_the_help_are_understood(line: str) -> None:
    name, *words = _words(re.split(r" {3,}", line)[0])
    if name == "COMMAND":
        return
    with click.Context(cli) as parent:
        context = cli.commands[name].make_context(name, words, parent=parent)
    assert context.command is cli.commands[name]
