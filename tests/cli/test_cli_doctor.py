"""`doctor`: each trouble is found, named, and has its remedy and exit code."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cli_tools import Tool
from servers import Server
from stored import put

from aiopromptcache._cli._checks_store import _attempts
from aiopromptcache._cli._options import Settings
from aiopromptcache._cli._session import Session
from aiopromptcache.tiers import _lua, _relay

KEY = base64.urlsafe_b64encode(b"k" * 32).decode()


def _findings(tool: Tool, *args: str, code: int, **options: Any) -> dict[str, dict[str, str]]:
    said = tool.json("doctor", *args, code=code, **options)
    assert said["usable"] is (code != 2)
    return {finding["name"]: finding for finding in said["findings"]}


@pytest.fixture
def config(valkey: Server) -> Iterator[Callable[..., None]]:
    """Sets options of the server, and sets them back."""

    def set_(**options: Any) -> None:
        for name, value in options.items():
            valkey.command("CONFIG", "SET", name.replace("_", "-"), value)

    yield set_
    set_(maxmemory_policy="noeviction", maxmemory=0)


def test_a_plain_server_is_fit(tool: Tool) -> None:
    patient = ["--app-timeout", "60"]  # this machine may be busy
    found = _findings(tool, *patient, code=0)
    assert {finding["level"] for finding in found.values()} == {"ok", "note"}
    assert found["version"]["text"].startswith("Valkey ")
    assert found["memory"]["advice"]
    assert tool.json("stats")["entries"] == 0  # the probe is gone
    shown = tool("doctor", *patient).stdout
    assert "ok       rights:" in shown
    assert "note     memory:" in shown


@pytest.mark.parametrize(
    ("policy", "tags", "level"),
    [
        ("noeviction", (), "warning"),
        ("allkeys-random", (), "warning"),
        ("volatile-random", (), "warning"),
        ("allkeys-lru", (), "ok"),
        ("allkeys-lru", ("tag",), "warning"),
        ("volatile-lfu", ("tag",), "warning"),
        ("volatile-ttl", ("tag",), "ok"),
    ],
)
def test_eviction_policies(
    tool: Tool,
    url: str,
    config: Callable[..., None],
    policy: str,
    tags: tuple[str, ...],
    level: str,
) -> None:
    put(url, "key", ttl=60, tags=tags)
    config(maxmemory_policy=policy, maxmemory="100mb")
    found = _findings(tool, code=1 if level == "warning" else 0)["memory"]
    assert found["level"] == level
    assert policy in found["text"]
    assert ("volatile-ttl" in found["advice"]) == (level == "warning")


def test_a_full_server_is_not_fit(tool: Tool, valkey: Server) -> None:
    with valkey.out_of_memory():
        found = _findings(tool, code=2)
    assert found["storing"]["level"] == "failure"
    assert "takes no writes" in found["storing"]["text"]


def test_a_replica_is_not_fit(tool: Tool, valkey: Server) -> None:
    with valkey.read_only():
        found = _findings(tool, code=2)
    assert found["role"]["level"] == found["storing"]["level"] == "failure"


def test_a_dead_port_is_one_line(tool: Tool) -> None:
    found = _findings(tool, "--url", "redis://127.0.0.1:1", code=2)
    assert list(found) == ["connection"]
    assert "127.0.0.1:1" in found["connection"]["text"]
    assert "refused" in found["connection"]["text"]


@pytest.mark.parametrize(
    ("stored_with", "key", "level", "words"),
    [
        (KEY, KEY, "ok", "reads all of 1"),
        (KEY, None, "warning", "cannot be read without a key"),
        (None, KEY, "warning", "does not read 1 of 1"),
        (base64.urlsafe_b64encode(b"o" * 32).decode(), KEY, "warning", "does not read 1 of 1"),
        (None, None, "note", "none"),
    ],
)
def test_the_encryption_key_is_tried(
    tool: Tool, url: str, stored_with: str | None, key: str | None, level: str, words: str
) -> None:
    put(url, "key", ttl=60, encryption_key=stored_with)
    env = {} if key is None else {"AIOPROMPTCACHE_ENCRYPTION_KEY": key}
    found = _findings(tool, env=env, code=1 if level == "warning" else 0)["encryption"]
    assert found["level"] == level
    assert words in found["text"]


def test_missing_rights_are_listed_with_the_command_that_grants_them(
    tool: Tool, valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    valkey.command("ACL", "SETUSER", "app", "on", ">pw", "~else:*", "+@all", "-xadd", "-zpopmin")
    monkeypatch.setenv("REDIS_URL", f"redis://app:pw@127.0.0.1:{valkey.port}/0")
    found = _findings(tool, code=2)["rights"]
    assert found["level"] == "failure"
    assert found["advice"] == "ACL SETUSER app ~aiopromptcache:* +zpopmin +xadd"
    valkey.command("ACL", "SETUSER", "app", *found["advice"].split()[3:])
    assert _findings(tool, code=0)["rights"]["level"] == "ok"
    # A user who may not look at the server itself can use the cache all the same.
    valkey.command("ACL", "SETUSER", "app", "-info", "-acl|whoami")
    levels = {name: finding["level"] for name, finding in _findings(tool, code=0).items()}
    assert levels["version"] == levels["memory"] == "note"
    valkey.command("ACL", "SETUSER", "app", "-ping", "-xadd")
    found = _findings(tool, code=2)
    assert found["connection"]["level"] == "ok"
    assert found["rights"]["text"] == "the user may not: ping, xadd"


def test_rights_are_tried_for_every_command_of_every_script() -> None:
    import re

    scripts = [
        part.text for room in (_lua, _relay) for part in vars(room).values()
        if isinstance(part, _lua.Script)
    ]  # fmt: skip
    used = {name for text in scripts for name in re.findall(r"redis\.call\('(\w+)'", text)}
    session = Session(Settings(), "redis://127.0.0.1:1", None)
    tried = {attempt[0] for attempt in _attempts(session, "default:x")}
    assert len(scripts) > 10
    assert used <= tried
    assert {"MGET", "SCAN", "XREAD", "TIME", "EVAL", "EVALSHA"} <= tried


def test_a_slow_server_is_told_of(tool: Tool) -> None:
    found = _findings(tool, "--app-timeout", "0.0000001", code=1)["latency"]
    assert found["level"] == "warning"
    assert "RedisTier(timeout=" in found["advice"]
