"""`export` and `import`: everything arrives elsewhere as it was, and nothing else is believed."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import os
import stat
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_tools import Tool, Upstream
from stored import ENTRIES, SECRET, filled, hits, put

from aiopromptcache import Entry, Kind, PromptCache, RedisTier
from aiopromptcache._cli._portable import BadFile, Reader
from aiopromptcache.tiers._wire import encode

KEY = base64.urlsafe_b64encode(b"k" * 32).decode()
OTHER = base64.urlsafe_b64encode(b"o" * 32).decode()


@pytest.mark.parametrize("name", ["cache.jsonl", "cache.jsonl.gz"])
def test_everything_hits_in_another_environment(
    tool: Tool, url: str, upstream: Upstream, tmp_path: Path, name: str
) -> None:
    filled(url, upstream.server.base_url, encryption_key=KEY)
    calls = upstream.server.calls
    file = tmp_path / name
    sealed = {"AIOPROMPTCACHE_ENCRYPTION_KEY": KEY}
    assert tool.json("export", str(file), env=sealed) == {"exported": ENTRIES, "unreadable": 0}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_bytes().startswith(b"\x1f\x8b") == name.endswith(".gz")
    elsewhere = ["--prefix", "other", "--namespace", "a b"]
    there = {"AIOPROMPTCACHE_ENCRYPTION_KEY": OTHER}
    said = tool.json("import", str(file), *elsewhere, env=there)
    assert said == {"imported": ENTRIES, "kept": 0, "expired": 0, "refused": 0}
    assert tool.json("stats", *elsewhere, env=there)["entries"] == ENTRIES
    place = {"namespace": "a b", "prefix": "other", "encryption_key": OTHER}
    assert asyncio.run(hits(url, upstream.server.base_url, **place)) == 0
    assert upstream.server.calls == calls
    # Tags came along.
    assert tool.json("invalidate", "docs", *elsewhere, env=there)["removed"] == 2


def test_ages_and_windows_are_kept(tool: Tool, url: str, tmp_path: Path) -> None:
    put(url, "old", age=90, ttl=100, stale_if_error=500, tags=("a",), cost=1.5)
    file = str(tmp_path / "file")
    tool("export", file)
    tool("import", file, "--namespace", "there")
    [before], [after] = (
        tool.json("ls", "--namespace", name)["entries"] for name in ("default", "there")
    )
    assert 85 < after["age"] < 120
    for field in ("age", "ttl", "expires_in", "stored_at"):
        assert abs(after[field] - before[field]) < 5
    assert after["tags"] == ["a"]


def _written(file: Path, *, at: float, entries: dict[str, Entry]) -> None:
    """A file that was exported at some time."""
    head = {"format": "aiopromptcache export", "version": 1, "exported_at": at, "namespace": "x"}
    lines = [head, *[_line(key, entry) for key, entry in entries.items()]]
    lines.append({"end": True, "entries": len(entries)})
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


def _line(key: str, entry: Entry) -> dict[str, str]:
    record = encode(entry, offset=0.0, compress_over=None)
    check = zlib.crc32(record, zlib.crc32(key.encode()))
    return {"key": key, "record": base64.b64encode(record).decode(), "check": f"{check:08x}"}


def test_time_in_a_drawer_counts_as_age_or_not(tool: Tool, tmp_path: Path) -> None:
    file, now = tmp_path / "file", time.time()
    entry = Entry(Kind.JSON, b"1", stored_at=now - 1_050, ttl=100)
    _written(file, at=now - 1_000, entries={"key": entry})
    assert tool.json("import", str(file))["expired"] == 1
    assert tool.json("ls")["matching"] == 0
    assert tool.json("import", str(file), "--as-exported")["imported"] == 1
    [row] = tool.json("ls")["entries"]
    assert 50 <= row["age"] < 80


@pytest.mark.parametrize("at", [0.0, -1e300])
def test_a_file_that_lies_about_its_time_stores_nothing_in_the_future(
    tool: Tool, tmp_path: Path, at: float
) -> None:
    file, now = tmp_path / "file", time.time()
    _written(file, at=at, entries={"key": Entry(Kind.JSON, b"1", stored_at=now - 10, ttl=100)})
    assert tool.json("import", str(file), "--as-exported")["imported"] == 1
    [row] = tool.json("ls")["entries"]
    assert row["stored_at"] < now + 60
    assert row["expires_in"] <= 100


def test_what_is_newer_stays_unless_told(tool: Tool, url: str, tmp_path: Path) -> None:
    file, now = tmp_path / "file", time.time()
    old = Entry(Kind.JSON, b'"file"', stored_at=now - 50, ttl=1_000)
    _written(file, at=now, entries={"newer": old, "older": old, "missing": old})
    put(url, "newer", age=10, ttl=1_000, payload=b'"cache"')
    put(url, "older", age=90, ttl=1_000, payload=b'"cache"')

    def values() -> dict[str, str]:
        return {
            key: tool.json("show", key, "--reveal")["answer"]["json"]
            for key in ("newer", "older", "missing")
        }

    said = tool.json("import", str(file))
    assert (said["imported"], said["kept"]) == (2, 1)
    assert values() == {"newer": "cache", "older": "file", "missing": "file"}
    assert tool.json("import", str(file))["kept"] == 3  # again, and nothing changes
    assert tool.json("import", str(file), "--overwrite")["imported"] == 3
    assert values()["newer"] == "file"


def test_what_is_being_made_anew_is_not_overtaken(tool: Tool, url: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    entry = Entry(Kind.JSON, b'"file"', stored_at=time.time() - 50, ttl=1_000)
    _written(file, at=time.time(), entries={"key": entry})

    async def app() -> None:
        async with PromptCache(RedisTier(url, timeout=5)) as cache:

            async def made() -> str:
                said = await asyncio.to_thread(tool.json, "import", str(file))
                assert (said["imported"], said["kept"]) == (0, 1)
                return "made"

            assert await cache.get_or_create("key", made) == "made"
            assert await cache.get("key") == "made"

    asyncio.run(app())


def test_only_some_are_exported(tool: Tool, url: str, upstream: Upstream, tmp_path: Path) -> None:
    filled(url, upstream.server.base_url)
    file = tmp_path / "file"
    assert tool.json("export", str(file), "--tag", "docs")["exported"] == 2
    assert tool.json("import", str(file), "--check") == {"entries": 2}
    assert tool("export", "-", "--endpoint", "embeddings").stdout.count("\n") == 4


def test_a_pipe_carries_it_from_one_place_to_another(
    tool: Tool, url: str, upstream: Upstream
) -> None:
    filled(url, upstream.server.base_url)
    out = tool("export", "-")
    assert out.stderr == f"exported {ENTRIES} entries\n"
    said = tool.json("import", "-", "--namespace", "there", input=out.stdout_bytes)
    assert said["imported"] == ENTRIES
    again = tool("import", "-", code=2, input=out.stdout_bytes[:-50])
    assert "stdin: line" in again.stderr


def test_what_cannot_be_read_is_told(tool: Tool, url: str, tmp_path: Path) -> None:
    put(url, "plain", ttl=100)
    sealed = {"AIOPROMPTCACHE_ENCRYPTION_KEY": KEY}
    said = tool.json("export", str(tmp_path / "file"), env=sealed, code=1)
    assert said == {"exported": 0, "unreadable": 1}


def test_an_export_leaves_a_pipe_a_pipe_and_a_link_a_link(
    tool: Tool, url: str, tmp_path: Path
) -> None:
    """As in `export /dev/stdout`, or by somebody who may replace anything."""
    put(url, "key", ttl=60.0)
    pipe, real, link = tmp_path / "pipe", tmp_path / "real", tmp_path / "link"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    tool("export", str(pipe))
    assert pipe.is_fifo()
    assert os.read(reader, 2**16).endswith(b'{"end":true,"entries":1}\n')
    os.close(reader)
    real.write_text("")
    link.symlink_to(real)
    tool("export", str(link))
    assert link.is_symlink()
    assert real.read_text().endswith('{"end":true,"entries":1}\n')


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="there is no full device")
def test_a_full_disk_is_no_fault_of_the_server(tool: Tool) -> None:
    for args in (["stats", "--json"], ["stats"], ["ls"], ["export", "-"]):
        with Path("/dev/full").open("w") as full:
            run = subprocess.run(
                [sys.executable, "-m", "aiopromptcache", *args],
                check=False, stdout=full, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
        assert run.returncode == 2
        [line] = run.stderr.splitlines()
        assert "No space left on device" in line
        assert "redis" not in line


def test_a_failed_export_leaves_the_file_that_was_there(tool: Tool, tmp_path: Path) -> None:
    file = tmp_path / "file.gz"
    file.write_text("before", "utf-8")
    result = tool("export", str(file), "--url", "redis://127.0.0.1:1", code=2)
    assert "127.0.0.1:1" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file.gz"]
    assert file.read_text("utf-8") == "before"
    assert "No such file" in tool("export", str(tmp_path / "no" / "file"), code=2).stderr


# Files that nobody should believe


def _replaced(**changes: Any) -> Callable[[list[dict[str, Any]]], None]:
    def change(lines: list[dict[str, Any]]) -> None:
        lines[0].update(changes)

    return change


def _entry(**fields: Any) -> Callable[[list[dict[str, Any]]], None]:
    """The second entry is this one."""

    def change(lines: list[dict[str, Any]]) -> None:
        usual: dict[str, Any] = {"stored_at": time.time(), "ttl": 100.0}
        kind, payload = fields.pop("kind", Kind.JSON), fields.pop("payload", b"1")
        lines[2] = _line("key", Entry(kind, payload, **{**usual, **fields}))

    return change


def _changed(line: int, name: str, value: Any) -> Callable[[list[dict[str, Any]]], None]:
    def change(lines: list[dict[str, Any]]) -> None:
        lines[line][name] = value

    return change


def _swapped(lines: list[dict[str, Any]]) -> None:
    lines[1]["record"], lines[2]["record"] = lines[2]["record"], lines[1]["record"]


def _bit(lines: list[dict[str, Any]]) -> None:
    record = bytearray(base64.b64decode(lines[2]["record"]))
    record[-1] ^= 1
    text = base64.b64encode(record).decode()
    check = f"{zlib.crc32(record, zlib.crc32(lines[2]['key'].encode())):08x}"
    lines[2].update(record=text, check=check)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_replaced(format="x"), "line 1: no aiopromptcache export"),
        (_replaced(version=2), "line 1: version 2 is not known"),
        (_replaced(exported_at="now"), "line 1: 'exported_at' is no time"),
        (_replaced(exported_at=9e99), "line 1: was exported in the future"),
        (lambda lines: lines.pop(), "line 4: the end is missing"),
        (lambda lines: lines.pop(1), "line 3: 1 entries came"),
        (lambda lines: lines.append(lines[1]), "line 5: something comes after the end"),
        (_changed(2, "key", 5), "line 3: expected 'key', 'record' and 'check'"),
        (_changed(2, "more", "5"), "line 3: expected 'key', 'record' and 'check'"),
        (_changed(2, "key", "renamed"), "line 3: damaged"),
        (_changed(2, "key", "k" * 70_000), "line 3: the key is too long"),
        (_changed(2, "record", "*"), "line 3: 'record' is not base64"),
        (_changed(2, "record", "gASVBAAAAAAAAABLAS4="), "line 3: damaged"),
        (_swapped, "line 2: damaged"),
        (_bit, "line 3: no record: damaged"),
        (_entry(stored_at=time.time() + 1e6), "line 3: stored in the future"),
        (_entry(ttl=1e15), "line 3: would live too long"),
        (_entry(payload=b"{no json"), "line 3: does not hold what a JSON holds"),
        (_entry(kind=Kind.ITEMS), "line 3: does not hold what a ITEMS holds"),
        (_entry(kind=Kind.VECTOR), "line 3: does not hold what a VECTOR holds"),
        (_entry(kind=Kind.HTTP, head=b"{}"), "line 3: does not hold what a HTTP holds"),
    ],
)
def test_a_hostile_file_is_refused_as_a_whole(
    tool: Tool, tmp_path: Path, change: Callable[[list[dict[str, Any]]], None], words: str
) -> None:
    file = tmp_path / "file"
    good = Entry(Kind.JSON, b"1", stored_at=time.time(), ttl=100)
    other = Entry(Kind.JSON, b"2", stored_at=time.time(), ttl=100)
    _written(file, at=time.time(), entries={"good": good, "other": other})
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    change(lines)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    result = tool("import", str(file), code=2)
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert tool.json("stats")["entries"] == 0  # not even what came before the bad line


def test_whatever_byte_is_another_nothing_else_is_believed(tmp_path: Path) -> None:
    file, now = tmp_path / "file", time.time()
    entries = {
        "one": Entry(Kind.JSON, b"[1]", stored_at=now, ttl=100, tags=("a",), model="m"),
        "two": Entry(Kind.BYTES, b"\x00\xff", stored_at=now, ttl=None),
    }
    _written(file, at=now, entries=entries)
    good = file.read_bytes()
    first = good.index(b"\n") + 1  # what the first line says of its origin is not believed at all
    believed = 0
    for place in range(first, len(good)):
        for other in (good[place] ^ 1, good[place] ^ 0x20, 0x22):
            bad = bytearray(good)
            bad[place] = other
            try:
                items = list(Reader(io.BytesIO(bytes(bad)), now).items())
            except BadFile:
                continue
            believed += bad != good
            assert {item.key: item.entry.payload for item in items} == {
                key: entry.payload for key, entry in entries.items()
            }
    assert believed < 20  # spaces between the parts of a line, at most


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "line 1: no aiopromptcache export"),
        (b"\x80\x04\x95", "line 1: not JSON"),
        (b"[" * 100_000, "line 1: not JSON"),
        (b"[]\n", "line 1: not an object"),
        (gzip.compress(b'{"format":')[:-9], "line 1: damaged: it cannot be unpacked"),
        (b"\x1f\x8b" + b"\xff" * 30, "line 1: damaged: it cannot be unpacked"),
    ],
    ids=range(6),
)
def test_what_is_no_such_file_at_all(
    tool: Tool, tmp_path: Path, content: bytes, words: str
) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    assert words in tool("import", str(file), code=2).stderr


def test_a_line_without_end_fills_no_memory(
    tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiopromptcache._cli._portable.LONGEST", 1_000)
    file = tmp_path / "file.gz"
    file.write_bytes(gzip.compress(b" " * 10**7))
    assert "line 1: too long" in tool("import", str(file), code=2).stderr


def test_a_file_for_one_reader_says_nothing_in_messages(
    tool: Tool, url: str, upstream: Upstream, tmp_path: Path
) -> None:
    filled(url, upstream.server.base_url)
    file = tmp_path / "file"
    result = tool("export", str(file))
    assert result.stdout == f"exported {ENTRIES} entries\n"
    text = file.read_text("utf-8")
    file.write_text(text[: len(text) // 2], "utf-8")
    refused = tool("import", str(file), code=2)
    assert SECRET not in refused.stderr + refused.stdout
