"""`warm`: what it costs, what it says of each line, and how it ends."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from cli_tools import Tool, Upstream, wait_until
from openai import AsyncOpenAI
from servers import Server

from aiopromptcache import PromptCache, RedisTier, cache_status

SECRET = "nobody may see this prompt"


def _file(tmp_path: Path, *lines: Any) -> str:
    """A line for each; a str is taken as it is."""
    path = tmp_path / "requests.jsonl"
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(line + "\n" for line in text), "utf-8")
    return str(path)


def _ask(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


def _batch(url: str, **body: Any) -> dict[str, Any]:
    return {"custom_id": "1", "method": "POST", "url": url, "body": {"model": "m", **body}}


def test_warming_again_costs_nothing(tool: Tool, upstream: Upstream, tmp_path: Path) -> None:
    file = _file(
        tmp_path,
        _ask("one"),
        "",
        _ask("two", stream=True),
        _batch("/v1/embeddings", input=["a", "b"]),
        "   ",
        _batch("/v1/responses", input="three"),
    )
    first = tool.json("warm", file, "--tag", "faq", "--ttl", "500")
    assert (first["warm"], first["total"], first["stored"]) == (True, 4, 4)
    assert first["tokens"]["total"] > 0
    assert upstream.server.calls == 4
    second = tool.json("warm", file)
    assert (second["warm"], second["fresh"], second["stored"]) == (True, 4, 0)
    assert second["tokens"]["total"] == 0
    assert upstream.server.calls == 4
    rows = tool.json("ls", "--tag", "faq")["entries"]
    assert len(rows) == 5
    assert all(490 < row["ttl"] <= 500 for row in rows)


def test_an_interrupted_run_pays_only_for_the_rest(
    tool: Tool, upstream: Upstream, tmp_path: Path
) -> None:
    lines = [_ask(f"question {n}") for n in range(6)]
    tool("warm", _file(tmp_path, *lines[:4]))
    said = tool("warm", _file(tmp_path, *lines)).stdout
    assert said.startswith("6 requests, 4 fresh already, 2 stored, 0 failed")
    assert upstream.server.calls == 6


def test_an_app_gets_what_was_warmed(
    tool: Tool, url: str, upstream: Upstream, tmp_path: Path
) -> None:
    tool("warm", _file(tmp_path, _ask("one")), "--partition", "tenant", "--namespace", "shop")

    async def app() -> None:
        async with (
            PromptCache(RedisTier(url, timeout=5), namespace="shop") as cache,
            AsyncOpenAI() as bare,
        ):
            client = cache.wrap(bare)
            with cache.control(partition="tenant"):
                status = cache_status(await client.chat.completions.create(**_ask("one")))
            assert status is not None
            assert status.hit

    asyncio.run(app())
    assert upstream.server.calls == 1


def test_what_was_paid_is_told_and_what_is_fresh_costs_nothing(
    tool: Tool, upstream: Upstream, tmp_path: Path
) -> None:
    file = _file(tmp_path, _ask("one"), _ask("two"))
    price = ["--price", "m=1000000,0"]  # a dollar for each token of a prompt
    first = tool.json("warm", file, *price)
    assert first["cost"] == first["tokens"]["prompt"] > 0
    assert tool.json("warm", file, *price)["cost"] is None
    tool("clear", "--yes")
    assert f"${first['cost']:.4f} paid" in tool("warm", file, *price).stdout


def test_failures_are_told_by_line_and_stop_nothing(
    tool: Tool, upstream: Upstream, tmp_path: Path
) -> None:
    file = _file(
        tmp_path,
        _ask(SECRET),
        "{" + SECRET,
        f'["{SECRET}"]',
        {"prompt": SECRET},
        _batch("/v1/files", input=SECRET),
        _ask(SECRET, store=True),
        _ask(SECRET, nonsense=1),
        _ask("the last"),
    )
    said = tool.json("warm", file, "--concurrency", "1", code=1)
    assert (said["warm"], said["stored"], said["failed"]) == (False, 2, 5)
    reasons = {failure["line"]: failure["reason"] for failure in said["failures"]}
    assert list(reasons) == [2, 3, 4, 5, 6, 7]
    assert reasons[2] == "not JSON (column 2)"
    assert reasons[3] == reasons[4]
    assert "'messages'" in reasons[4]
    assert "/v1/files" in reasons[5]
    assert "not stored" in reasons[6]
    assert "nonsense" in reasons[7]
    shown = tool("warm", file, code=1)
    assert "line 5: asks for POST '/v1/files'" in shown.stderr
    assert SECRET not in json.dumps(said) + shown.stderr + shown.stdout


def test_an_upstream_error_says_its_kind_and_not_its_words(
    tool: Tool, upstream: Upstream, tmp_path: Path
) -> None:
    body = {"error": {"message": SECRET, "type": "invalid_request_error", "code": "bad_thing"}}
    upstream.do(lambda: upstream.server.fail(400, body=body))
    said = tool.json("warm", _file(tmp_path, _ask(SECRET)), code=1)
    [failure] = said["failures"]
    assert failure["reason"] == "BadRequestError 400 invalid_request_error bad_thing"
    assert SECRET not in json.dumps(said)
    body = {"error": {"message": "", "type": SECRET, "code": f"bad: {SECRET}", "param": "a[0].b-c"}}
    upstream.do(lambda: upstream.server.fail(400, body=body))
    said = tool.json("warm", _file(tmp_path, _ask(SECRET)), code=1)
    assert [failure["reason"] for failure in said["failures"]] == ["BadRequestError 400 a[0].b-c"]


def test_a_batch_line_without_its_parts_is_told_in_the_words_of_the_file(
    tool: Tool, upstream: Upstream, tmp_path: Path
) -> None:
    lines = [{"url": 1, "body": {}}, {"url": "/v1/responses", "body": SECRET}, {"url": "/v1/x"}]
    said = tool.json("warm", _file(tmp_path, *lines), code=1)
    for failure in said["failures"]:
        assert "'url' to be a string, and 'body' an object" in failure["reason"]
        assert "callable" not in failure["reason"]
    assert len(said["failures"]) == 3
    assert SECRET not in json.dumps(said)


def test_an_api_that_is_not_there_is_named(tool: Tool, upstream: Upstream, tmp_path: Path) -> None:
    options = ["--base-url", "http://127.0.0.1:1/v1", "--max-retries", "0"]
    result = tool("warm", _file(tmp_path, _ask("x")), *options, code=1)
    assert "line 1: cannot reach the API at 127.0.0.1" in result.stderr
    nothing = {"OPENAI_BASE_URL": ""}
    result = tool("warm", _file(tmp_path, _ask("x")), "--max-retries", "0", code=1, env=nothing)
    assert "cannot reach the API at an empty URL" in result.stderr


def test_what_is_missing_is_said_before_anything_is_asked(
    tool: Tool, upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "No such file" in tool("warm", str(tmp_path / "none"), code=2).stderr
    assert "Is a directory" in tool("warm", str(tmp_path), code=2).stderr
    monkeypatch.delenv("OPENAI_API_KEY")
    assert "OPENAI_API_KEY" in tool("warm", _file(tmp_path, _ask("x")), code=2).stderr
    assert upstream.server.calls == 0


def test_nothing_more_is_paid_for_when_the_cache_is_gone(
    tool: Tool, upstream: Upstream, tmp_path: Path
) -> None:
    file = _file(tmp_path, *[_ask(f"question {n}") for n in range(100)])
    with Server("valkey") as lost:

        def answer(_: Any) -> None:
            lost.kill()

        upstream.server.answer = answer
        try:
            options = ["--url", lost.url, "--timeout", "0.2", "--concurrency", "1"]
            said = tool.json("warm", file, *options, code=1)
        finally:
            upstream.server.answer = None
    assert said["outage"] is True
    assert said["stored"] == 0
    assert "or the server is out" in said["failures"][0]["reason"]
    assert upstream.server.calls < 50


def test_ctrl_c_lets_what_is_under_way_be_stored(
    tool: Tool, upstream: Upstream, tmp_path: Path
) -> None:
    server = upstream.server
    upstream.do(server.hold)
    process = tool.start("warm", "-", "--json", "--concurrency", "2")
    assert process.stdin is not None
    lines = [_ask(f"question {n}") for n in range(5)]
    process.stdin.write("".join(json.dumps(line) + "\n" for line in lines))
    process.stdin.flush()  # and more may come: it waits for it
    wait_until("two requests", lambda: server.active == 2)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert "come to their end" in process.stderr.readline()
    upstream.do(server.release)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    said = json.loads(out)
    assert (said["interrupted"], said["total"], said["stored"]) == (True, 2, 2)
    again = tool.json("warm", _file(tmp_path, *lines))
    assert (again["fresh"], again["stored"]) == (2, 3)
    assert server.calls == 5


def test_a_second_ctrl_c_drops_it(tool: Tool, upstream: Upstream) -> None:
    server = upstream.server
    upstream.do(server.hold)
    process = tool.start("warm", "-", "--json")
    assert process.stdin is not None
    process.stdin.write(json.dumps(_ask("one")) + "\n")
    process.stdin.flush()
    wait_until("a request", lambda: server.active == 1)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, _errors = process.communicate(timeout=20)
    upstream.do(server.release)
    assert process.returncode == 130
    assert json.loads(out)["total"] == 0
