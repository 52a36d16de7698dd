"""`invalidate`, `rm` and `clear`: what goes, and that other processes hear of it."""

from __future__ import annotations

import asyncio

import pytest
from cli_tools import Tool, Upstream
from servers import Server
from stored import ENTRIES, filled, put

from aiopromptcache import MemoryTier, PromptCache, RedisTier


@pytest.mark.parametrize(
    "command", [["invalidate", "docs"], ["rm", "doc:42"], ["clear", "--yes"]], ids=lambda c: c[0]
)
def test_the_memory_of_other_processes_hears_of_it(
    tool: Tool, url: str, command: list[str]
) -> None:
    async def app() -> None:
        async with PromptCache(MemoryTier(), RedisTier(url, timeout=5)) as cache:
            await cache.set("doc:42", 1, tags=["docs"])
            assert await cache.get("doc:42") == 1
            said = await asyncio.to_thread(tool.json, *command)
            assert said["removed"] == 1
            async with asyncio.timeout(20):
                while await cache.get("doc:42") is not None:
                    await asyncio.sleep(0.01)

    asyncio.run(app())


def test_only_what_carries_a_tag_goes(tool: Tool, url: str, upstream: Upstream) -> None:
    filled(url, upstream.server.base_url)
    assert tool("invalidate", "a tag").stdout == "removed 1 entry\n"
    assert tool("invalidate", "docs", "never given").stdout == "removed 1 entry\n"
    assert tool.json("stats")["entries"] == ENTRIES - 2


def test_keys_are_removed_all_or_none(tool: Tool, url: str) -> None:
    for key in ("long name 1", "long name 2", "other"):
        put(url, key, ttl=60)
    assert "no key 'nope'" in tool("rm", "other", "nope", code=1).stderr
    assert "could be any of 2" in tool("rm", "other", "long name", code=1).stderr
    assert tool.json("stats")["entries"] == 3
    assert tool("rm", "other", "long name 1").stdout == "removed 2 entries\n"
    assert [row["key"] for row in tool.json("ls")["entries"]] == ["long name 2"]


@pytest.mark.parametrize(
    "command", [["invalidate", "docs"], ["rm", "some key"], ["clear", "--yes"]], ids=lambda c: c[0]
)
def test_a_server_that_takes_no_writes_is_told_of(
    tool: Tool, url: str, valkey: Server, command: list[str]
) -> None:
    put(url, "some key", ttl=60, tags=("docs",))
    with valkey.read_only():
        result = tool(*command, code=2)
    assert "takes no writes" in result.stderr
    assert result.stdout == ""


def test_a_record_that_cannot_be_read_is_no_fault_of_a_removal(
    tool: Tool, url: str, valkey: Server
) -> None:
    put(url, "good", ttl=60)
    valkey.command("SET", "aiopromptcache:default:e:{bad}", "ap and nothing more")
    assert tool.json("rm", "good")["removed"] == 1
    assert "no key 'bad'" in tool("rm", "bad", code=1).stderr
    assert tool.json("stats")["unreadable"] == 1
    assert tool.json("clear", "--yes")["removed"] == 1


def test_clearing_leaves_other_namespaces(tool: Tool, url: str, upstream: Upstream) -> None:
    filled(url, upstream.server.base_url)
    filled(url, upstream.server.base_url, namespace="another")
    assert tool.json("clear", "--yes") == {"removed": ENTRIES, "namespace": "default"}
    assert tool.json("stats", "--namespace", "another")["entries"] == ENTRIES


def test_clearing_without_a_terminal_needs_to_be_told(tool: Tool, url: str) -> None:
    put(url, "key", ttl=60)
    assert "--yes clears without asking" in tool("clear", code=2, input="y\n").stderr
    assert tool.json("stats")["entries"] == 1


@pytest.mark.parametrize(("typed", "left", "code"), [("y\n", 0, 0), ("n\n", 1, 1), ("\n", 1, 1)])
def test_clearing_asks_first(
    tool: Tool, url: str, monkeypatch: pytest.MonkeyPatch, typed: str, left: int, code: int
) -> None:
    put(url, "key", ttl=60)
    monkeypatch.setattr("aiopromptcache._cli._remove._at_a_terminal", lambda: True)
    result = tool("clear", code=code, input=typed)
    assert "Remove everything from namespace 'default' at 127.0.0.1:" in result.stderr
    assert tool.json("stats")["entries"] == left
