"""`stats`, `ls` and `show`: what is there, and nothing of what is in it."""

from __future__ import annotations

import asyncio
import json
import re
import signal

import pytest
from cli_tools import Tool, Upstream, at_a_terminal
from stored import CHAT, ENTRIES, SECRET, filled, put

from aiopromptcache import PromptCache, RedisTier, Usage


async def _set(url: str, key: str, value: object, **options: object) -> None:
    async with PromptCache(RedisTier(url, timeout=5)) as cache:
        await cache.set(key, value, **options)  # type: ignore[arg-type]


def test_stats_count_what_is_there(tool: Tool, url: str, upstream: Upstream) -> None:
    filled(url, upstream.server.base_url)
    filled(url, upstream.server.base_url, namespace="another")
    said = tool.json("stats")
    assert (said["entries"], said["fresh"], said["stale"]) == (ENTRIES, ENTRIES, 0)
    assert said["unreadable"] == 0
    by_model = {share["model"]: share for share in said["models"]}
    assert by_model["text-embedding-3-small"]["entries"] == 2
    assert by_model["gpt-4o-mini"]["tokens"]["total"] == said["tokens"]["total"] - 2
    assert sum(share["bytes"] for share in said["models"]) == said["bytes"]
    assert 0 <= said["newest_age"] <= said["oldest_age"] < 60
    assert said["server"]["kind"] == "valkey"


def test_money_where_the_price_is_known(tool: Tool, url: str) -> None:
    asked = {"endpoint": "chat.completions", "ttl": 60.0}
    put(url, "one", model="our-llama", usage=Usage(1_000, 500, 1_500), **asked)
    put(url, "two", model="our-llama", usage=Usage(2_000, 0, 2_000, cached=1_000), **asked)
    put(url, "unknown", model="nobody-knows", usage=Usage(5, 5, 10), **asked)
    price = ["--price", "our-llama=2,10,0.5"]
    # 1,000 at 2 and 500 at 10; 1,000 at 2 and 1,000 at 0.5: dollars per million.
    said = tool.json("stats", *price)
    assert said["cost"] == pytest.approx(0.007 + 0.0025)
    assert {share["model"]: share["cost"] for share in said["models"]} == {
        "our-llama": said["cost"],
        "nobody-knows": None,
    }
    assert [said["unpriced"]] == [share["unpriced"] for share in said["models"][1:]] == [1]
    told = tool("stats", *price).stdout
    assert "$0.0095 that they cost, and 1 answer without a price" in told
    assert "money    unknown: 3 answers without a price" in tool("stats").stdout
    rows = tool.json("ls", "--sort", "cost", *price)["entries"]
    assert [(row["key"], row["cost"]) for row in rows] == [
        ("one", pytest.approx(0.007)),
        ("two", pytest.approx(0.0025)),
        ("unknown", None),
    ]
    assert "$0.0070" in tool("show", "one", *price).stdout
    assert tool.json("show", "one")["cost"] is None
    for wrong in ("our-llama", "=1,2", "m=1", "m=1,2,3,4", "m=-1,2", "m=nan,1"):
        assert "expected MODEL=INPUT,OUTPUT" in tool("stats", "--price", wrong, code=2).stderr


def test_stats_for_people(tool: Tool, url: str, upstream: Upstream) -> None:
    filled(url, upstream.server.base_url)
    said = tool("stats").stdout
    for part in ("namespace default", f"{ENTRIES} ({ENTRIES} fresh, 0 stale)", "gpt-4o-mini"):
        assert part in said
    assert "\x1b" not in said  # a pipe gets no colours


def test_stale_entries_are_told_apart(tool: Tool, url: str) -> None:
    put(url, "fresh", age=50, ttl=100)
    put(url, "stale", age=200, ttl=100, stale_if_error=1_000)
    said = tool.json("stats")
    assert (said["fresh"], said["stale"]) == (1, 1)
    assert 200 <= said["oldest_age"] < 230
    assert 50 <= said["newest_age"] < 80
    [stale] = tool.json("ls", "--stale")["entries"]
    assert (stale["key"], stale["stale"]) == ("stale", True)
    assert -130 < stale["ttl"] <= -100
    assert 870 < stale["expires_in"] <= 900
    assert [row["key"] for row in tool.json("ls", "--sort", "oldest")["entries"]] == [
        "stale",
        "fresh",
    ]
    assert "(stale)" in tool("show", "stale").stdout


def test_listing_filters_sorts_and_limits(tool: Tool, url: str, upstream: Upstream) -> None:
    filled(url, upstream.server.base_url)

    def keys(*args: str) -> list[str]:
        return [row["key"] for row in tool.json("ls", *args)["entries"]]

    assert len(keys()) == ENTRIES
    assert keys("--sort", "ttl")[0] == "doc:odd"
    assert keys("--sort", "ttl")[-1] == "bytes {and} 100%"
    assert set(keys("--tag", "docs")) == {"doc:42", "doc:odd"}
    assert keys("--tag", "a tag") == ["doc:42"]
    assert len(keys("--endpoint", "embeddings")) == 2
    assert len(keys("--model", "gpt-4o", "--model", "gpt-4o-mini")) == 2
    assert keys("--stale") == []
    assert len(keys("--fresh")) == ENTRIES
    largest = tool.json("ls", "--sort", "largest", "--limit", "1")
    assert largest["matching"] == ENTRIES
    [row] = largest["entries"]
    assert row["bytes"] == max(row["bytes"] for row in tool.json("ls")["entries"])
    oldest, newest = keys("--sort", "oldest"), keys()
    assert sorted(oldest) == sorted(newest)


def test_a_listing_for_people_has_whole_keys_in_a_pipe(
    tool: Tool, url: str, upstream: Upstream
) -> None:
    filled(url, upstream.server.base_url)
    result = tool("ls", "--limit", "2")
    assert f"2 of {ENTRIES} entries" in result.stderr
    everything = tool("ls").stdout
    for row in tool.json("ls")["entries"]:
        assert row["key"] in everything
    assert SECRET not in everything


def test_nothing_that_a_terminal_would_obey_is_printed(tool: Tool, url: str) -> None:
    asyncio.run(_set(url, "key\x1b]0;title\x07", "\x1b[31m", tags=["tag\x1b[2J", "[red]"]))
    shown = tool("show", "key\x1b]0;title\x07", "--reveal").stdout + tool("ls").stdout
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "[red]" in shown
    assert r"\x1b[2J" in shown


@pytest.mark.parametrize(
    ("command", "columns", "titles"),
    [
        ("ls", 60, "key model age ttl size cost tags"),
        ("ls", 80, "key model endpoint age ttl size tokens cost tags"),
        ("stats", 60, "model endpoint entries size tokens cost"),
        ("ls", 44, "key model age ttl size"),
        ("ls", 25, "key age ttl"),
        ("stats", 32, "model entries cost"),
        ("stats", 80, "model endpoint entries stale size tokens cost"),
    ],
)
def test_a_narrow_terminal_has_the_numbers_whole_and_no_line_too_long(
    tool: Tool, url: str, command: str, columns: int, titles: str
) -> None:
    model, asked = "maker/a-model-with-a-very-long-name", "chat.completions"
    for key in ("a key of the user's own, which is rather long as well", 32 * "0f"):
        put(url, key, ttl=1e6, tags=("a-tag",), model=model, endpoint=asked, usage=Usage(1, 2, 3))
    environ = {"TERM": "xterm", "NO_COLOR": "1", "COLUMNS": str(columns)}
    said = at_a_terminal([command, "--price", f"{model}=1,1"], environ)
    lines = re.sub(r"\x1b\[\d*m", "", said).splitlines()
    assert max(map(len, lines)) <= columns
    [place] = [place for place, line in enumerate(lines) if line.split() == titles.split()]
    row = lines[place + 1]
    last = {"tags": "a-tag", "size": "B", "ttl": "d", "cost": "<$0.0001"}
    assert row.rstrip().endswith(last[titles.split()[-1]])
    assert ("0f0f0f0f0f0f" in said) is (command == "ls")


def test_who_looks_in_the_wrong_place_is_told_of_others(
    tool: Tool, url: str, upstream: Upstream
) -> None:
    for name in ("shop", "a b:c*"):
        filled(url, upstream.server.base_url, namespace=name)
    said = "other namespaces under this prefix: a b:c*, shop"
    assert tool("stats").stderr.splitlines() == [said]
    assert tool("ls").stderr.splitlines() == ["no entries", said]
    assert "other" not in tool("stats", "--namespace", "shop").stderr
    assert tool("stats", "--prefix", "else").stderr == ""


def test_the_key_of_several_embeddings_names_them_all(
    tool: Tool, url: str, upstream: Upstream
) -> None:
    filled(url, upstream.server.base_url)
    keys = [row["key"] for row in tool.json("ls", "--endpoint", "embeddings")["entries"]]
    lines = tool("show", ",".join(keys), "--json").stdout.splitlines()
    assert [json.loads(line)["key"] for line in lines] == keys
    assert tool.json("rm", ",".join(keys))["removed"] == 2


def test_an_entry_is_shown_by_the_beginning_of_its_key(
    tool: Tool, url: str, upstream: Upstream
) -> None:
    filled(url, upstream.server.base_url)
    [row] = tool.json("ls", "--model", "gpt-4o-mini")["entries"]
    shown = tool.json("show", row["key"][:8])
    assert shown["key"] == row["key"]
    assert shown["model"] == CHAT["model"]
    assert shown["endpoint"] == "chat.completions"
    assert shown["usage"]["total"] > 0
    assert shown["stored_bytes"] == row["stored_bytes"]
    assert "answer" not in shown
    assert SECRET not in tool("show", row["key"]).stdout


def test_an_answer_is_shown_only_when_asked_for(tool: Tool, url: str, upstream: Upstream) -> None:
    filled(url, upstream.server.base_url)
    [row] = tool.json("ls", "--model", "gpt-4o-mini")["entries"]
    answer = tool.json("show", row["key"], "--reveal")["answer"]["json"]
    assert SECRET in answer["choices"][0]["message"]["content"]
    assert SECRET in tool("show", row["key"], "--reveal").stdout
    assert tool.json("show", "bytes {and} 100%", "--reveal")["answer"]["base64"] == "AP8="
    assert tool.json("show", "poem", "--reveal")["answer"]["json"][0] == "one"
    [stream] = tool.json("ls", "--model", "gpt-4o")["entries"]
    assert "data: " in tool("show", stream["key"], "--reveal").stdout


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("doc:", "could be any of 2 keys: doc:42, doc:odd"),
        ("nope", "no key 'nope' in this namespace"),
        ("d", "a beginning needs 4 characters"),
    ],
)
def test_a_key_that_is_not_there_or_several(
    tool: Tool, url: str, upstream: Upstream, key: str, words: str
) -> None:
    filled(url, upstream.server.base_url)
    result = tool("show", key, code=1)
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_watching_goes_on_until_ctrl_c(tool: Tool) -> None:
    process = tool.start("stats", "--json", "--watch=0.1")
    assert process.stdout is not None
    lines = [json.loads(process.stdout.readline()) for _ in range(2)]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert [line["entries"] for line in lines] == [0, 0]
    assert errors.strip() == "aiopromptcache: interrupted"
