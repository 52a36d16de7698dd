"""The tool as a whole: help, options, errors, pipes, kinds of servers, and a missing extra."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_tools import Tool, Upstream, at_a_terminal
from redis.asyncio import RedisCluster
from servers import Cluster, Server
from stored import ENTRIES, fill, filled, put

from aiopromptcache._cli._app import cli
from aiopromptcache._cli._options import COMMON_NAMES

COMMANDS = sorted(cli.commands)


def test_the_commands() -> None:
    assert COMMANDS == [
        "clear", "doctor", "export", "import", "invalidate", "ls", "rm", "show", "stats", "warm",
    ]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(tool: Tool, command: str) -> None:
    said = tool(command, "--help").stdout
    assert f"\n  aiopromptcache {command}" in said  # an example
    assert "Which cache, and how to answer:" in said
    assert {parameter.name for parameter in cli.commands[command].params} >= set(COMMON_NAMES)
    assert all(len(line) <= 100 for line in said.splitlines())


def test_arguments_are_not_listed_as_options(tool: Tool) -> None:
    lines = tool("show", "--help").stdout.splitlines()
    assert "Options:" in lines
    assert "KEY" not in map(str.strip, lines)


def test_help_names_commands_and_exit_codes(tool: Tool) -> None:
    said = tool("--help").stdout
    assert all(f"\n  {command} " in said for command in COMMANDS)
    assert "Exit codes: 0" in said
    assert tool("-h").stdout == said


def test_options_stand_before_or_after_and_the_nearer_counts(tool: Tool, url: str) -> None:
    def room(*args: str, **env: str) -> str:
        name = tool.json(*args, env=env)["namespace"]
        return str(name)

    assert room("stats") == "default"
    assert room("stats", AIOPROMPTCACHE_NAMESPACE="of the environment") == "of the environment"
    assert room("--namespace", "before", "stats", AIOPROMPTCACHE_NAMESPACE="x") == "before"
    assert room("--namespace", "before", "stats", "--namespace", "after") == "after"
    dead = {"REDIS_URL": "redis://127.0.0.1:1"}
    assert room("stats", AIOPROMPTCACHE_URL=url, **dead) == "default"
    assert room("--url", url, "stats", **dead) == "default"
    assert tool("--json", "stats").stdout.startswith("{")


@pytest.mark.parametrize(
    ("args", "words", "code"),
    [
        (["show", "no-such-key"], "no key 'no-such-key'", 1),
        (["clear"], "--yes clears without asking", 2),
        (["ls", "--url", "redis://127.0.0.1:1"], "cannot connect", 2),
        (["ls", "--timeout", "soon"], "not a valid float", 2),
        (["lss"], "No such command", 2),
    ],
)
def test_an_error_is_json_too_where_that_is_asked_for(
    tool: Tool, args: list[str], words: str, code: int
) -> None:
    assert words in tool.json(*args, code=code)["error"]
    assert tool("show", "--", "--json", code=1).stdout == ""  # that is a key


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("redis://user:hunter2@127.0.0.1:1/0", "redis at 127.0.0.1:1: cannot connect"),
        ("user:hunter2@host", "expected a redis://, rediss:// or unix:// URL"),
        ("redis://user:hunter2@[::1", "--url"),
        ("redis://:hunter2@127.0.0.1:port/0", "--url"),
        ("unix:///no/such/hunter2.sock", "redis at /no/such/"),
        ("redis://no.such.host.invalid:1", "no such host"),
    ],
)
def test_a_server_that_is_not_there_is_one_line_without_password(
    tool: Tool, given: str, words: str
) -> None:
    result = tool("stats", "--url", given, "--timeout", "2", code=2)
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert "hunter2" not in result.stderr.replace("/no/such/hunter2", "")
    assert result.stdout == ""


def test_a_wrong_password_and_a_missing_right(tool: Tool, valkey: Server) -> None:
    valkey.command("ACL", "SETUSER", "some", "reset", "on", ">pw", "~*", "+@all", "-scan")
    place = f"127.0.0.1:{valkey.port}"
    wrong = tool("stats", "--url", f"redis://some:guess@{place}/0", code=2).stderr
    assert wrong.startswith(f"aiopromptcache: redis at {place}: wrong or missing password")
    with Server("valkey", requirepass="pw") as locked:
        missing = tool("stats", "--url", locked.url, code=2).stderr
    assert "missing password; put it into the URL" in missing
    lacking = tool("stats", "--url", f"redis://some:pw@{place}/0", code=2).stderr
    assert "'scan'" in lacking
    assert "doctor" in lacking


def test_a_server_that_hangs(tool: Tool) -> None:
    with Server("valkey") as hung:
        hung.pause()
        result = tool("ls", "--url", hung.url, "--timeout", "0.1", code=2)
        hung.resume()
    assert "no answer in time" in result.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nothing"], "No such command 'nothing'"),
        (["ls", "--sort", "colour"], "--sort"),
        (["rm"], "KEY"),
        (["stats", "--timeout", "0"], "--timeout"),
        (["stats", "--prefix", "a{}b"], "prefix='a{}b'"),
        (["warm", "/dev/null", "--tag", ""], "tags: '' is no tag"),
        (["stats", "--encryption-key-file", "/no/such/file"], "No such file"),
    ],
)
def test_wrong_arguments(tool: Tool, args: list[str], words: str) -> None:
    result = tool(*args, code=2)
    assert words in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("option", ["--namespace", "--prefix", "--url", "--encryption-key-file"])
def test_what_is_given_as_nothing_is_not_the_default(tool: Tool, url: str, option: str) -> None:
    """As in `--namespace "$NAME"` where NAME is not set: another cache would be emptied."""
    put(url, "kept", ttl=60.0)
    for args in ([option, "", "clear", "--yes"], ["clear", "--yes", option, ""]):
        assert "it is empty" in tool(*args, code=2).stderr
    assert tool.json("stats")["entries"] == 1


def test_a_key_comes_from_a_file_and_is_never_shown(tool: Tool, url: str, tmp_path: Path) -> None:
    key = "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="
    put(url, "sealed", ttl=60, encryption_key=key)
    file = tmp_path / "key"
    for content in (f"\n{key}\n".encode(), b"k" * 32):
        file.write_bytes(content)
        assert tool.json("stats", "--encryption-key-file", str(file))["entries"] == 1
    file.write_text("not a key", "utf-8")
    result = tool("stats", "--encryption-key-file", str(file), code=2)
    assert "encryption_key: " in result.stderr
    assert "not a key" not in result.stderr
    assert not any("--encryption-key" in option.opts for option in cli.commands["ls"].params)


# Kinds of servers


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three masters with a replica each."""
    with Cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def redis_server() -> Iterator[Server]:
    """A Redis."""
    with Server("redis") as server:
        yield server


@pytest.mark.parametrize("kind", ["redis", "cluster"])
def test_all_of_it_on_other_servers(
    tool: Tool,
    upstream: Upstream,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    kind: str,
) -> None:
    async def store() -> None:
        if kind == "redis":
            await fill(url, upstream.server.base_url)
        else:
            async with RedisCluster.from_url(url) as client:
                await fill(client, upstream.server.base_url)

    if kind == "redis":
        url = request.getfixturevalue("redis_server").url
    else:
        url = request.getfixturevalue("cluster").nodes[0].url
    monkeypatch.setenv("REDIS_URL", url)
    asyncio.run(store())
    said = tool.json("stats")
    assert (said["entries"], said["server"]["nodes"]) == (ENTRIES, 1 if kind == "redis" else 3)
    assert len(tool.json("ls")["entries"]) == ENTRIES
    assert tool.json("show", "doc:4")["key"] == "doc:42"
    file = str(tmp_path / "file")
    assert tool.json("export", file)["exported"] == ENTRIES
    assert tool.json("rm", "doc:42")["removed"] == 1
    again = tool.json("import", file)
    assert (again["imported"], again["kept"]) == (1, ENTRIES - 1)
    assert tool.json("invalidate", "docs")["removed"] == 2
    assert tool.json("clear", "--yes")["removed"] == ENTRIES - 2
    doctor = tool.json("doctor")
    assert {finding["level"] for finding in doctor["findings"]} <= {"ok", "note"}


# As a process


def test_a_reader_that_leaves_is_no_error(tool: Tool, url: str, upstream: Upstream) -> None:
    filled(url, upstream.server.base_url)
    command = f"{sys.executable} -m aiopromptcache export - | true"
    shell = subprocess.run(
        ["bash", "-c", f"{command}; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ},
    )
    assert shell.stderr in ("", f"exported {ENTRIES} entries\n")  # it may have been faster
    assert shell.stdout in ("1\n", "0\n")


def test_without_the_extra_one_line_says_which(tmp_path: Path) -> None:
    code = "import sys; sys.modules['click'] = None; from aiopromptcache._cli import main\n"
    done = subprocess.run(
        [sys.executable, "-c", code + "sys.exit(main())"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "aiopromptcache: the command line needs the extra: pip install 'aiopromptcache[cli]'"
    ]


@pytest.mark.parametrize("colours", [True, False])
def test_a_terminal_gets_colours_unless_it_wants_none(tool: Tool, colours: bool) -> None:
    environ = {"TERM": "xterm", **({} if colours else {"NO_COLOR": "1"})}
    said = at_a_terminal(["doctor"], environ)
    assert "rights" in said
    assert ("\x1b[32m" in said) is colours


def test_a_terminal_is_shown_how_far_warming_is(
    tool: Tool, upstream: Upstream, tmp_path: Path
) -> None:
    file = tmp_path / "requests.jsonl"
    lines = [
        json.dumps({"model": "m", "messages": [{"role": "user", "content": str(n)}]})
        for n in range(3)
    ]
    file.write_text("\n".join(lines), "utf-8")
    said = at_a_terminal(["warm", str(file), "--price", "m=1,1"], {"TERM": "xterm"})
    assert "3/3" in said
    assert "3 stored" in said
    assert "/s" in said
    assert "$0.0000" in said or "<$0.0001" in said


def test_a_narrow_terminal_is_shown_the_numbers_too(
    tool: Tool, upstream: Upstream, tmp_path: Path
) -> None:
    file = tmp_path / "requests.jsonl"
    file.write_text('{"model": "m", "messages": []}\n' * 150, "utf-8")
    narrow = {"TERM": "xterm", "COLUMNS": "60", "NO_COLOR": "1"}
    said = at_a_terminal(["warm", str(file), "--price", "m=1,1"], narrow)
    shown = re.sub(r"\x1b\[[?\d]*[a-zA-Z]", "", said[: said.rindex("150 requests")])
    [bar, counts] = [line for line in shown.splitlines() if line.strip()][-2:]
    assert " 150/150 " in bar
    assert bar.rstrip().endswith("0:00:00")
    assert counts.startswith(("149 fresh, 1 stored", "142 fresh"))


def test_the_version_from_the_module(tool: Tool) -> None:
    process = tool.start("--version")
    out, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
    assert out.startswith("aiopromptcache 0.")
