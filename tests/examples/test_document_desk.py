"""The document desk over HTTP, in one process."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from desk_calls import CAT, KETTLE, Visitor, filled, serving, visiting, waiting
from document_desk import documents
from document_desk.desk import Desk
from document_desk.documents import Document, Library
from document_desk.prompt import UNKNOWN, stand_in
from yarl import URL

from aiopromptcache import PromptCache
from aiopromptcache.similarity import LexicalSimilarity
from aiopromptcache.testing import OpenAIServer

pytestmark = pytest.mark.anyio

DESCALE = "How often do I descale the kettle?"
EATS = "When does the cat eat?"
ODD_NAMES = [
    *("../kettle.txt", "..", ".hidden.txt", "a/b.txt", "a\b.txt", "C:x.txt", "x\0.txt", " x.txt"),
    *("notes", "notes.exe", f"{'x' * 117}.txt"),
]


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """Two short documents."""
    return filled(tmp_path)


@pytest.fixture
async def desk(upstream: OpenAIServer, library: Library) -> AsyncIterator[Visitor]:
    """A visitor of a desk with these documents."""
    async with serving(PromptCache(), upstream, library) as url, visiting(url) as visitor:
        yield visitor


async def test_a_repeated_question_costs_nothing(desk: Visitor, upstream: OpenAIServer) -> None:
    first = await desk.ask("kettle.txt", DESCALE)
    assert (first["how"], first["tokens_saved"]) == ("fresh", 0)
    assert first["answer"] == "Descale the kettle every three months. [1]"
    assert [p["number"] for p in first["passages"] if p["cited"]] == [1]
    again = await desk.ask("kettle.txt", f"  {DESCALE}\n")
    assert (again["how"], again["answer"]) == ("hit", first["answer"])
    assert again["tokens_saved"] > 10
    assert upstream.calls == 1


async def test_what_it_says_of_itself_is_what_the_model_counted(
    upstream: OpenAIServer, library: Library
) -> None:
    async with serving(PromptCache(), upstream, library) as url, visiting(url) as desk:
        for _ in range(2):
            await desk.ask("kettle.txt", DESCALE)
        async with httpx.AsyncClient(base_url=str(url)) as http:
            scraped, page = await http.get("/metrics"), await http.get("/cache/")
    chat = 'endpoint="chat.completions",namespace="default"'
    lines = scraped.text.splitlines()
    assert f"aiopromptcache_upstream_calls_total{{{chat}}} {upstream.calls}.0" in lines
    hit = f'{{{chat},outcome="hit",tier="memory"}} 1.0'
    assert f"aiopromptcache_requests_total{hit}" in lines
    assert page.status_code == 200
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    assert DESCALE not in scraped.text + page.text


async def test_a_document_is_read_once(upstream: OpenAIServer, library: Library) -> None:
    class Counted(Library):
        reads = 0

        def read(self, name: str) -> Document:
            Counted.reads += 1
            return super().read(name)

    counted = Counted(library.folder)
    async with serving(PromptCache(), upstream, counted) as url, visiting(url) as desk:
        for question in ("cat?", "noon?", "roof?"):
            assert await desk.how("cat.md", question) == "fresh"
        assert Counted.reads == 1
        (library.folder / "cat.md").write_text(f"{CAT} And purrs.", "utf-8")  # by another's hand
        assert (await desk.ask("cat.md", "Who purrs?"))["answer"] == "And purrs. [2]"
        assert Counted.reads == 2


async def test_an_edit_drops_exactly_its_answers(desk: Visitor, upstream: OpenAIServer) -> None:
    for question in (EATS, "Where does the cat sleep?"):
        assert await desk.how("cat.md", question) == "fresh"
    assert await desk.how("kettle.txt", DESCALE) == "fresh"
    status, saved = await desk.put("cat.md", CAT.replace("noon", "midnight"))
    assert (status, saved["dropped"]) == (200, 2)
    assert await desk.how("kettle.txt", DESCALE) == "hit"
    eats = await desk.ask("cat.md", EATS)
    assert (eats["how"], eats["answer"]) == ("fresh", "The cat eats at midnight. [1]")
    assert await desk.how("cat.md", EATS) == "hit"
    assert upstream.calls == 4


async def test_a_save_without_a_change_drops_answers_too(desk: Visitor) -> None:
    await desk.ask("cat.md", EATS)
    assert (await desk.put("cat.md", CAT))[1]["dropped"] == 1
    assert await desk.how("cat.md", EATS) == "fresh"


async def test_documents_of_the_same_text_have_answers_of_their_own(desk: Visitor) -> None:
    assert (await desk.put("dog.md", CAT))[1]["dropped"] == 0
    assert [await desk.how(name, EATS) for name in ("cat.md", "dog.md")] == ["fresh", "fresh"]
    assert (await desk.put("dog.md", KETTLE))[1]["dropped"] == 1
    assert await desk.how("cat.md", EATS) == "hit"


async def test_an_answer_overtaken_by_an_edit_is_not_stored(
    desk: Visitor, upstream: OpenAIServer
) -> None:
    upstream.hold()
    asking = asyncio.create_task(desk.ask("cat.md", EATS))
    await upstream.wait_active(1)
    await desk.put("cat.md", CAT.replace("noon", "midnight"))
    await desk.put("cat.md", CAT)
    upstream.release()
    assert (await asking)["answer"] == "The cat eats at noon. [1]"
    assert await desk.how("cat.md", EATS) == "fresh"


async def test_twenty_at_once_make_one_call(upstream: OpenAIServer, library: Library) -> None:
    cache = PromptCache()
    async with serving(cache, upstream, library) as url, visiting(url) as desk:
        await desk.ask("cat.md", "What is read before?")
        upstream.hold()
        asking = [asyncio.create_task(desk.how("cat.md", EATS)) for _ in range(20)]
        while waiting(cache) < 20:
            await asyncio.sleep(0)
        upstream.release()
        assert Counter(await asyncio.gather(*asking)) == {"fresh": 1, "shared": 19}
        assert upstream.calls == 2


async def test_a_similar_question_is_answered_too(upstream: OpenAIServer, library: Library) -> None:
    cache = PromptCache(similarity=LexicalSimilarity(threshold=0.85))
    async with serving(cache, upstream, library) as url, visiting(url) as desk:
        await desk.ask("kettle.txt", "How do I descale the kettle?")
        found = await desk.ask("kettle.txt", "How can I descale the kettle?")
        assert (found["how"], found["tokens_saved"] > 10) == ("similar", True)
        assert 0.85 <= found["similarity"] < 1
        assert await desk.how("cat.md", "How can I descale the kettle?") == "fresh"
        await desk.put("kettle.txt", f"{KETTLE} New.")
        assert await desk.how("kettle.txt", "How may I descale the kettle?") == "fresh"
        assert upstream.calls == 3


async def test_of_a_long_document_the_passages_that_matter_are_sent(
    desk: Visitor, upstream: OpenAIServer
) -> None:
    parts = [
        f"Room {n} holds things of number {n}. {'Much dust lies there. ' * 8}" for n in range(40)
    ]
    parts[17] += "The telescope is under the bed."
    await desk.put("rooms.txt", "\n\n".join(parts))
    reply = await desk.ask("rooms.txt", "Where is the telescope?")
    assert reply["answer"] == "The telescope is under the bed. [18]"
    assert ([p["number"] for p in reply["passages"]], reply["of"]) == ([18], 40)
    parts[3] = "Room 3 is empty."
    await desk.put("rooms.txt", "\n\n".join(parts))  # the prompt is the same, the answer is gone
    assert await desk.how("rooms.txt", "Where is the telescope?") == "fresh"
    assert (await desk.ask("rooms.txt", "Any unicorns?"))["answer"] == UNKNOWN


async def test_an_upload_of_a_text_file(desk: Visitor, library: Library) -> None:
    name = "Über uns 猫 (1).txt"
    status, body = await desk.put(name, b"\xef\xbb\xbfOne cat.\r\nTwo cats.\r\n")
    assert (status, body["name"], body["text"]) == (200, name, "One cat.\nTwo cats.\n")
    assert (await desk.call("GET", "/documents"))[1]["documents"] == ["cat.md", "kettle.txt", name]
    assert (library.folder / name).read_bytes() == b"One cat.\nTwo cats.\n"
    assert (await desk.ask(name, "How many cats are there?"))["of"] == 1


async def test_one_document_by_two_spellings_of_its_name(desk: Visitor) -> None:
    composed, decomposed = "caf\u00e9.txt", "cafe\u0301.txt"
    assert (await desk.put(decomposed, CAT))[1]["name"] == composed
    assert [await desk.how(name, EATS) for name in (decomposed, composed)] == ["fresh", "hit"]
    assert (await desk.put(composed, CAT))[1]["dropped"] == 1
    assert await desk.how(decomposed, EATS) == "fresh"
    assert (await desk.call("DELETE", f"/documents/{decomposed}"))[1]["dropped"] == 1


async def test_a_file_by_another_hand_that_is_no_text(desk: Visitor, library: Library) -> None:
    (library.folder / "picture.txt").write_bytes(b"\x89PNG\r\n\x1a\n\0")
    asking = [desk.call("POST", "/documents/picture.txt/questions", EATS) for _ in range(3)]
    said = (415, {"error": "This is no text file: it is not UTF-8."})
    assert await asyncio.gather(*asking) == [said] * 3


async def test_a_delete_takes_the_answers_along(desk: Visitor) -> None:
    await desk.ask("cat.md", EATS)
    assert await desk.call("DELETE", "/documents/cat.md") == (200, {"dropped": 1})
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/questions")):
        status, body = await desk.call(method, f"/documents/cat.md{path}", EATS)
        assert (status, body) == (404, {"error": "There is no document named cat.md."})


async def test_a_save_whose_visitor_goes_still_drops_the_answers(
    upstream: OpenAIServer, library: Library
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Library):
        def save(self, name: str, data: bytes, *, expected: str | None = None) -> Document:
            begun.set()
            assert go_on.wait(10)
            return super().save(name, data, expected=expected)

    upstream.answer = stand_in
    async with PromptCache() as cache:
        desk = Desk(cache, cache.wrap(upstream.client()), Slow(library.folder), "m")
        closing = desk.closed_at_the_end(None)
        await anext(closing)
        assert (await desk.ask("cat.md", EATS)).how == "fresh"
        saving = asyncio.create_task(desk.save("cat.md", CAT.encode(), None))
        await asyncio.to_thread(begun.wait, 10)
        saving.cancel()
        await asyncio.wait([saving])
        assert saving.cancelled()
        go_on.set()
        assert await anext(closing, "closed") == "closed"
        assert (await desk.ask("cat.md", EATS)).how == "fresh"


async def test_nobody_saves_over_what_he_has_not_seen(desk: Visitor) -> None:
    _, seen = await desk.call("GET", "/documents/cat.md")
    tag = f'"{seen["version"]}"'
    for _ in ("once", "again, as its answer was lost"):
        assert (await desk.put("cat.md", "A new text.", If_Match=tag))[0] == 200
    status, body = await desk.put("cat.md", "A newer text.", If_Match=tag)
    assert (status, body["error"]) == (412, "cat.md was changed by somebody else meanwhile.")
    status, body = await desk.put("cat.md", "A text.", If_None_Match="*")
    assert (status, body["error"]) == (412, "There is a document named cat.md already.")
    assert (await desk.put("gone.md", "A text.", If_Match=tag))[0] == 412
    assert (await desk.call("GET", "/documents/cat.md"))[1]["text"] == "A new text."


async def test_what_is_no_document(desk: Visitor) -> None:
    for data, status, says in (
        (b"", 400, "empty"),
        (b" \r\n\t", 400, "empty"),
        (b"x" * 200_001, 413, "200,000 bytes"),
        (b"\x89PNG\r\n\x1a\n\0\0", 415, "not UTF-8"),
        (b"text\0and more", 415, "control characters"),
    ):
        got, body = await desk.put("cat.md", data)
        assert got == status
        assert says in body["error"]
    assert (await desk.call("GET", "/documents/cat.md"))[1]["text"] == CAT


async def test_what_is_no_name(desk: Visitor, library: Library) -> None:
    before = {path.name for path in library.folder.parent.iterdir()}
    for name in ODD_NAMES:
        quoted = "".join(f"%{byte:02X}" for byte in name.encode())
        for method, path in (("GET", ""), ("PUT", ""), ("DELETE", ""), ("POST", "/questions")):
            url = URL(f"{desk.url}/documents/{quoted}{path}", encoded=True)
            async with desk.http.request(method, url, json={"question": "x?"}) as got:
                assert got.status == 400, (name, method)
                assert "name" in (await got.json())["error"]
    assert {path.name for path in library.folder.parent.iterdir()} == before
    assert library.names() == ["cat.md", "kettle.txt"]


async def test_a_plain_path_upwards_is_not_found(desk: Visitor) -> None:
    address = URL(desk.url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(b"GET /documents/../../etc/passwd HTTP/1.0\r\n\r\n")
    assert b" 404 " in await reader.readline()
    writer.close()
    await writer.wait_closed()


async def test_links_and_hidden_files_are_no_documents(
    desk: Visitor, library: Library, tmp_path_factory: pytest.TempPathFactory
) -> None:
    secret = tmp_path_factory.mktemp("elsewhere") / "secret.txt"
    secret.write_text("secret", "utf-8")
    (library.folder / "link.txt").symlink_to(secret)
    for name in (".hidden.txt", "e\u0301.txt", "new\nline.txt", "\udcff.txt"):
        (library.folder / name).write_text("no document's name", "utf-8")
    (library.folder / "folder.txt").mkdir()
    assert library.names() == ["cat.md", "kettle.txt"]
    for name in ("link.txt", "folder.txt"):
        assert (await desk.call("GET", f"/documents/{name}"))[0] == 404
    await desk.put("link.txt", "mine")
    assert secret.read_text("utf-8") == "secret"


async def test_what_is_no_question(desk: Visitor, upstream: OpenAIServer) -> None:
    for question in ("", "  \n", "x" * 501, 7, ["x"], "\ud800"):
        status, body = await desk.call("POST", "/documents/cat.md/questions", question)
        assert (status, "question" in body["error"]) == (400, True)
    assert upstream.calls == 0


async def test_a_request_that_is_none(desk: Visitor) -> None:
    async def post(data: bytes, kind: str) -> int:
        headers = {"Content-Type": kind}
        url = "/documents/cat.md/questions"
        async with desk.http.post(url, data=data, headers=headers) as got:
            assert (await got.json())["error"]
            return got.status

    assert await post(b'{"question": "x"}', "text/plain") == 415
    assert await post(b"{", "application/json") == 400
    assert await post(b"\xff", "application/json") == 400
    assert await post(b"[]", "application/json") == 400
    assert await post(b"[" * 100_000, "application/json") == 400
    assert await post(b"{}", "application/json; charset=nope") == 400
    assert await desk.call("POST", "/documents/cat.md") == (
        405,
        {"error": "405: Method Not Allowed"},
    )
    assert (await desk.call("GET", "/nowhere"))[0] == 404


async def test_there_is_an_end_to_documents(desk: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_DOCUMENTS", 2)
    assert (await desk.put("third.txt", "One more."))[0] == 409
    assert (await desk.put("cat.md", "Still saved."))[0] == 200


async def test_a_model_that_fails(desk: Visitor, upstream: OpenAIServer) -> None:
    upstream.fail(500)
    status, body = await desk.call("POST", "/documents/cat.md/questions", EATS)
    assert (status, body["error"]) == (502, "The model gave no answer. Ask again in a moment.")
    assert await desk.how("cat.md", EATS) == "fresh"


async def test_what_a_stranger_may_say_of_the_cache(desk: Visitor, upstream: OpenAIServer) -> None:
    path = "/documents/cat.md/questions"
    only = {"Cache_Control": "only-if-cached"}
    assert (await desk.call("POST", path, EATS, **only))[0] == 504
    assert await desk.how("cat.md", EATS) == "fresh"
    for said in ("only-if-cached", "no-cache", "no-store, max-age=0"):
        assert (await desk.ask("cat.md", EATS, Cache_Control=said))["how"] == "hit"
    async with desk.http.post(path, json={"question": EATS}) as got:
        assert got.headers["Cache-Status"] == 'aiopromptcache; hit; detail="2 hit"'
    assert upstream.calls == 1


async def test_the_page_fetches_nothing_from_elsewhere(desk: Visitor) -> None:
    for path, kind in (("/", "html"), ("/desk.js", "javascript"), ("/desk.css", "css")):
        async with desk.http.get(path) as got:
            text = await got.text()
            assert kind in got.content_type
            assert "default-src 'none'" in got.headers["Content-Security-Policy"]
        assert "http:" not in text
        assert "//" not in text.replace("\n//", "")
