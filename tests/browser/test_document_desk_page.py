"""The document desk's page, as people use it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from chromium import Browser, Page
from desk_calls import CAT, filled, serving, waiting

from aiopromptcache import PromptCache
from aiopromptcache.similarity import LexicalSimilarity
from aiopromptcache.testing import OpenAIServer

pytestmark = pytest.mark.anyio

EATS = "When does the cat eat?"
BADGES = ".answer .badge"


@pytest.fixture
async def upstream() -> AsyncIterator[OpenAIServer]:
    """The local server that answers for the model."""
    async with OpenAIServer() as server:
        yield server


@pytest.fixture
def cache() -> PromptCache:
    """What the desk keeps its answers in; the desk closes it."""
    return PromptCache(similarity=LexicalSimilarity(threshold=0.85))


@pytest.fixture
async def url(upstream: OpenAIServer, cache: PromptCache, tmp_path: Path) -> AsyncIterator[str]:
    """A desk with two short documents."""
    folder = tmp_path / "documents"
    folder.mkdir()
    async with serving(cache, upstream, filled(folder)) as url:
        yield url


@pytest.fixture
async def page(browser: Browser, url: str) -> AsyncIterator[Page]:
    """The page, with the cat's document open; nothing may go wrong in it unseen."""
    page = await browser.page()
    await opened(page, url)
    yield page
    assert page.errors == []
    assert {request for request in page.requests if not request.startswith((url, "data:"))} == set()


async def opened(page: Page, url: str) -> None:
    """Load the page and wait for its first document."""
    await page.goto(url)
    await page.wait_for("document.getElementById('text').value.startsWith('The cat')")


async def asked(page: Page, question: str, answers: int) -> None:
    """Ask, and wait until there are so many answers."""
    await focus(page, "question", select=True)
    await page.type(question)
    await page.press("Enter")
    await answered(page, answers)


async def answered(page: Page, answers: int) -> None:
    """Wait until there are so many answers."""
    await page.wait_for(f"document.querySelectorAll('.answer').length === {answers}")


async def focus(page: Page, name: str, *, select: bool = False) -> None:
    """Put the focus somewhere, where that is not what is tested."""
    also = f"document.getElementById('{name}').select()" if select else ""
    await page.evaluate(f"document.getElementById('{name}').focus(); {also}")


async def tab_to(page: Page, name: str) -> None:
    """Press the tabulator until something has the focus, by its id or its text."""
    for _ in range(30):
        await page.press("Tab")
        on = await page.evaluate("(e => [e.id, e.textContent])(document.activeElement)")
        if name in on:
            return
    raise AssertionError(f"{name} is not reached")


async def test_a_repeat_is_a_hit_and_says_what_it_saved(page: Page, upstream: OpenAIServer) -> None:
    await asked(page, EATS, 1)
    await asked(page, EATS, 2)
    assert await page.texts(BADGES) == ["From the cache", "Asked the model"]
    assert await page.text(".answer .text") == "The cat eats at noon. [1]"
    assert "tokens saved" in await page.text(".answer .saved")
    assert (await page.text("#totals")).startswith("2 asked, 1 by the model, ")
    await page.click("summary")
    assert await page.texts(".answer:first-child .passages li.cited") == [
        "[1] The cat eats at noon."
    ]
    assert await page.texts(".answer:first-child .passages li:not(.cited)") == [
        "[2] The cat sleeps on the roof."
    ]
    await asked(page, "When does this cat eat?", 3)
    assert (await page.text(BADGES)).startswith("From a similar question (0.")
    assert upstream.calls == 1


async def test_an_edit_drops_the_answers(page: Page) -> None:
    await asked(page, EATS, 1)
    await focus(page, "text", select=True)
    await page.type(CAT.replace("noon", "midnight"))
    assert "not saved" in await page.text("#size")
    await page.press("s", "control")
    await page.wait_for("document.getElementById('said-editor').textContent")
    assert await page.text("#said-editor") == "Saved. 1 answer from the old text dropped."
    assert "from the text before" in await page.text(".answer.old")
    await asked(page, EATS, 2)
    assert await page.text(".answer:not(.old) .text") == "The cat eats at midnight. [1]"
    assert await page.text(BADGES) == "Asked the model"


async def test_an_answer_overtaken_by_an_edit_says_so(page: Page, upstream: OpenAIServer) -> None:
    upstream.hold()
    await focus(page, "question")
    await page.type(EATS)
    await page.press("Enter")
    await upstream.wait_active(1)
    await focus(page, "text", select=True)
    await page.type(CAT.replace("noon", "midnight"))
    await page.press("s", "control")
    await page.wait_for("document.getElementById('said-editor').textContent === 'Saved. '")
    upstream.release()
    await answered(page, 1)
    assert await page.text(".answer.old .text") == "The cat eats at noon. [1]"
    assert "from the text before" in await page.text(".answer .saved")
    await asked(page, EATS, 2)
    assert await page.text(".answer:not(.old) .text") == "The cat eats at midnight. [1]"


async def test_an_upload(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "dog & pup.txt"
    path.write_text("The dog barks at <b>dawn</b>.", "utf-8")
    await page.choose_files("#file", path)
    await page.wait_for("document.getElementById('about').textContent === 'dog & pup.txt'")
    assert "dog & pup.txt" in await page.texts("#list button")
    await asked(page, "When does the dog bark?", 1)
    assert await page.text(".answer .text") == "The dog barks at <b>dawn</b>. [1]"
    (picture := tmp_path / "picture.txt").write_bytes(b"\x89PNG\r\n\x1a\n\0")
    await page.choose_files("#file", picture)
    await page.wait_for("document.querySelector('#said-list.bad')")
    assert await page.text("#said-list") == "This is no text file: it is not UTF-8."
    await page.until("the refusal to be logged", lambda: len(page.errors) == 1)
    assert "415" in page.errors.pop()


async def test_an_upload_over_a_document_is_asked_about(page: Page, tmp_path: Path) -> None:
    (path := tmp_path / "cat.md").write_text("Another cat.", "utf-8")
    await page.choose_files("#file", path)
    await page.wait_for("document.querySelector('#said-list button')")
    assert "There is a document named cat.md already." in await page.text("#said-list")
    assert await page.evaluate("document.activeElement.textContent") == "Replace it"
    await page.press("Enter")
    await page.wait_for("document.getElementById('text').value === 'Another cat.'")
    await page.until("the refusal to be logged", lambda: len(page.errors) == 1)
    assert "412" in page.errors.pop()


async def test_another_saves_meanwhile(page: Page, browser: Browser, url: str) -> None:
    other = await browser.page(user="two")
    await opened(other, url)
    for window, text in ((page, "The cat is mine."), (other, "The cat is ours.")):
        await focus(window, "text", select=True)
        await window.type(text)
        await window.press("s", "control")
    await page.wait_for("document.getElementById('said-editor').textContent === 'Saved. '")
    await other.wait_for("document.querySelector('#said-editor button')")
    assert "changed by somebody else" in await other.text("#said-editor")
    await other.press("Enter")
    await other.wait_for("document.getElementById('said-editor').textContent === 'Saved. '")
    await page.reload()
    await page.wait_for("document.getElementById('text').value === 'The cat is ours.'")


async def test_all_of_it_by_keyboard(page: Page) -> None:
    await tab_to(page, "new")
    await page.press("Enter")
    assert await page.evaluate("document.activeElement.id") == "name"
    await page.type("bird.txt")
    await tab_to(page, "text")
    await page.type("The bird sings at dawn.")
    await tab_to(page, "save")
    await page.press("Enter")
    await page.wait_for("document.getElementById('about').textContent === 'bird.txt'")
    await tab_to(page, "cat.md")
    await page.press("Enter")
    await page.wait_for("document.getElementById('about').textContent === 'cat.md'")
    await tab_to(page, "file")
    shown = "getComputedStyle(document.querySelector('.upload label')).outlineStyle"
    assert await page.evaluate(shown) == "solid"
    await tab_to(page, "question")
    for count in (1, 2):
        await page.type(EATS)
        await page.press("Enter")
        await answered(page, count)
    assert await page.text(BADGES) == "From the cache"
    await tab_to(page, "2 of 2 passages were sent")
    await page.press("Enter")
    await page.wait_for("document.querySelector('.answer details').open")
    await tab_to(page, "delete")
    await page.press("Enter")
    await page.wait_for("document.getElementById('said-list').textContent === 'cat.md is deleted.'")
    assert await page.texts("#list button") == ["bird.txt", "kettle.txt"]
    assert await page.evaluate("document.activeElement.id") == "new"


async def test_what_is_not_saved_is_not_lost(page: Page) -> None:
    await focus(page, "text", select=True)
    await page.type("Half a thought")
    await page.click("#list li:nth-child(2) button")
    await page.wait_for("document.querySelector('#said-list button')")
    assert await page.evaluate("document.getElementById('text').value") == "Half a thought"
    await page.press("Enter")
    await page.wait_for("document.getElementById('about').textContent === 'kettle.txt'")
    assert await page.text("#said-list") == ""


async def test_what_is_typed_while_a_save_is_under_way_stays(page: Page) -> None:
    await focus(page, "text", select=True)
    await page.type("One.")
    await page.evaluate(
        "const plain = fetch; window.fetch = async (...given) => {"
        " const got = await plain(...given);"
        " if (given[1]?.method === 'PUT') document.getElementById('text').value += ' Two.';"
        " return got; }; undefined"
    )
    await page.press("s", "control")
    await page.wait_for("document.getElementById('said-editor').textContent === 'Saved. '")
    assert await page.evaluate("document.getElementById('text').value") == "One. Two."
    assert "not saved" in await page.text("#size")


async def test_two_windows_share_one_call(
    page: Page, browser: Browser, url: str, upstream: OpenAIServer, cache: PromptCache
) -> None:
    other = await browser.page(user="two")
    await opened(other, url)
    upstream.hold()
    for window in (page, other):
        await focus(window, "question")
        await window.type(EATS)
        await window.press("Enter")
        await window.wait_for("document.getElementById('send').ariaBusy === 'true'")
    await page.until("both to wait", lambda: waiting(cache) == 2)
    upstream.release()
    await asyncio.gather(answered(page, 1), answered(other, 1))
    badges = {await page.text(BADGES), await other.text(BADGES)}
    assert badges == {"Asked the model", "Shared with another caller"}
    assert upstream.calls == 1


@pytest.mark.parametrize(("width", "height"), [(375, 667), (900, 700), (1280, 800)])
async def test_many_documents_leave_the_question_in_sight(
    page: Page, url: str, tmp_path: Path, width: int, height: int
) -> None:
    for number in range(80):
        path = tmp_path / "documents" / f"minutes of the meeting number {number}.txt"
        path.write_text("We met.", "utf-8")
    await page.resize(width, height, phone=width < 400)
    await opened(page, url)
    assert len(await page.texts("#list button")) == 82
    for name in ("new", "question"):
        box = f"document.getElementById('{name}').getBoundingClientRect()"
        assert await page.evaluate(f"{box}.bottom <= innerHeight")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_on_a_phone_nothing_is_wider_than_it(page: Page, scheme: str) -> None:
    await page.prefer(color_scheme=scheme)
    await page.resize(320, 640, phone=True)
    await asked(page, EATS, 1)
    await page.evaluate("document.querySelector('summary').click()")
    assert await page.evaluate("document.documentElement.scrollWidth") == 320
    assert (
        await page.evaluate("getComputedStyle(document.querySelector('.jump')).display") != "none"
    )
    small = "[...document.querySelectorAll('button, input:not([type=file]), textarea')]"
    heights = await page.evaluate(f"{small}.map(e => e.getBoundingClientRect().height)")
    assert min(heights) >= 40
    assert await page.evaluate(CONTRAST) >= 4.5


CONTRAST = """Math.min(...[...document.querySelectorAll("h1, h2, p, label, button, li, .badge")]
  .filter((e) => e.innerText && e.checkVisibility() && !e.disabled).map((e) => {
    const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = (colour) => numbers(colour).slice(0, 3).map((part) => part / 255)
      .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
      .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
    const ground = (of) => getComputedStyle(of).backgroundColor;
    let behind = e;
    while (numbers(ground(behind))[3] === 0) behind = behind.parentElement;
    const [a, b] = [getComputedStyle(e).color, ground(behind)].map(light);
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }))"""
"""The least contrast of a text to what is behind it, as the WCAG count it."""
