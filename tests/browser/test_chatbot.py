"""The chatbot's page, as its users see it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from chatbot.app import build_app
from chromium import Browser, Page
from web_server import serving

from aiopromptcache import PromptCache
from aiopromptcache.testing import OpenAIServer

pytestmark = pytest.mark.anyio

QUESTION = "Why is the sky blue, and what else is?"
READY = "document.documentElement.dataset.ready === ''"
HOLD = """(() => {
    const send = window.fetch, held = new Promise((go) => { window.release = go; });
    window.fetch = async (url, options) => {
        if (options?.method === METHOD) await held;
        return send(url, options);
    };
})()"""
HOLD_DELETE = HOLD.replace("METHOD", '"DELETE"')
HOLD_HISTORY = HOLD.replace("METHOD", "undefined")
ANSWERS_BY_TURNS = """(() => {
    const badge = { kind: "hit", tier: "memory", tokens: 5, seconds: 0 };
    const totals = [{ worker: 1, tokens: 5 }, { worker: 2, tokens: 7 }, { worker: 1, tokens: 8 }];
    window.fetch = async () =>
        new Response(`${JSON.stringify({ done: badge, total: totals.shift() })}\\n`);
})()"""
BADGES = "document.querySelectorAll('.badge:not([hidden])').length"


@pytest.fixture
async def upstream() -> AsyncIterator[OpenAIServer]:
    """What stands in for the model."""
    async with OpenAIServer() as server:
        yield server


@pytest.fixture
async def url(upstream: OpenAIServer) -> AsyncIterator[str]:
    """Where the chatbot is."""
    app = build_app(upstream.client(), PromptCache(), "m")
    async with serving(app) as http:
        yield f"{http.base_url}/"


async def opened(browser: Browser, url: str, **options: Any) -> Page:
    """A window with the chatbot in it."""
    page = await browser.page(**options)
    await page.goto(url)
    await page.wait_for(READY)
    return page


async def ask(page: Page, question: str = QUESTION) -> None:
    """Enter a question and send it."""
    await page.evaluate("document.querySelector('#text').focus()")
    await page.type(question)
    await page.press("Enter")


async def badges(page: Page, count: int = 1) -> list[str]:
    """What the badges say, once there are so many."""
    await page.wait_for(f"{BADGES} === {count}")
    return await page.texts(".badge b")


async def words(page: Page, count: int) -> str:
    """The last answer, once it has so many words."""
    last = "[...document.querySelectorAll('.words')].at(-1)?.textContent"
    said: str = await page.wait_for(f"({last})?.split(' ').length >= {count} && {last}")
    return said


# Streams


async def test_an_answer_is_seen_growing(
    browser: Browser, url: str, upstream: OpenAIServer
) -> None:
    page = await opened(browser, url)
    upstream.hold_after(4)
    await ask(page)
    first = await words(page, 3)
    assert await page.evaluate("document.querySelector('.answer').ariaBusy") == "true"
    upstream.release()
    upstream.hold_after(7)
    second = await words(page, 6)
    assert await page.evaluate(BADGES) == 0
    upstream.release()
    assert await badges(page) == ["Fresh"]
    whole = await page.text(".words")
    assert whole.startswith(second)
    assert second.startswith(first)
    assert [len(text.split()) for text in (first, second)] == [3, 6]
    assert whole.endswith(QUESTION)
    assert await page.evaluate("document.querySelector('.answer').ariaBusy") == "false"
    assert page.errors == []


async def test_a_second_window_joins_the_live_stream(
    browser: Browser, url: str, upstream: OpenAIServer
) -> None:
    first = await opened(browser, url)
    upstream.hold_after(4)
    await ask(first)
    begun = await words(first, 3)
    second, third = await opened(browser, url), await opened(browser, url, user="two")
    for page in (second, third):
        await ask(page)
        assert await words(page, 3) == begun
    upstream.release()
    assert await badges(first) == ["Fresh"]
    for page in (second, third):
        assert await badges(page) == ["Shared"]
        assert "saved" in await page.text(".badge")
        assert await page.text(".words") == await first.text(".words")
    assert upstream.calls == 1
    await first.reload()  # both windows are the same user's, who has asked once
    assert (await badges(first))[0] in ("Fresh", "Shared")


async def test_whoever_stops_leaves_the_others_alone(
    browser: Browser, url: str, upstream: OpenAIServer
) -> None:
    first, second = await opened(browser, url), await opened(browser, url, user="two")
    upstream.hold_after(4)
    for page in (first, second):
        await ask(page)
        await words(page, 3)
    await first.click("#send")
    assert await badges(first) == ["Stopped"]
    upstream.release()
    assert (await badges(second))[0] in ("Fresh", "Shared")
    assert (await second.text(".words")).endswith(QUESTION)
    upstream.hold_after(4)
    await ask(first, "Something else")
    await words(first, 3)
    await first.press("Escape")
    await upstream.wait_disconnects(1)
    assert await badges(first, 2) == ["Stopped", "Stopped"]
    upstream.release()


# What is kept


async def test_the_badge_says_hit_on_a_repeat(
    browser: Browser, url: str, upstream: OpenAIServer
) -> None:
    page, other = await opened(browser, url), await opened(browser, url, user="two")
    await ask(page)
    assert await badges(page) == ["Fresh"]
    await ask(other)
    assert await badges(other) == ["Hit"]
    assert "memory" in await other.text(".badge")
    await page.click("#clear")
    await page.wait_for("!document.querySelector('#welcome').hidden")
    await ask(page)
    assert await badges(page) == ["Hit"]
    assert "tokens" in await page.text("#saved")
    assert upstream.calls == 1


async def test_what_was_saved_adds_up_over_workers(browser: Browser, url: str) -> None:
    page = await opened(browser, url)
    await page.evaluate(ANSWERS_BY_TURNS)
    for answers, total in enumerate(("5 tokens", "12 tokens", "15 tokens"), 1):
        await ask(page)
        await badges(page, answers)
        assert await page.text("#saved") == f"Saved {total}"


async def test_a_reload_keeps_the_history(browser: Browser, url: str) -> None:
    page = await opened(browser, url)
    await ask(page)
    assert await badges(page) == ["Fresh"]
    await ask(page, "And at night?")
    assert await badges(page, 2) == ["Fresh", "Fresh"]
    seen = await page.texts("article p")
    await page.reload()
    await page.wait_for(READY)
    assert await page.texts("article p") == seen
    stranger = await opened(browser, url, user="two")
    assert await stranger.texts("article p") == []
    await page.click("#clear")
    await page.wait_for("!document.querySelector('#welcome').hidden")
    await page.reload()
    await page.wait_for(READY)
    assert await page.texts("article p") == []


async def test_who_asks_before_the_history_is_there_asks_after_it(
    browser: Browser, url: str, upstream: OpenAIServer
) -> None:
    page = await opened(browser, url)
    await ask(page, "First?")
    await badges(page)
    await page.send("Page.addScriptToEvaluateOnNewDocument", source=HOLD_HISTORY)
    await page.reload()
    await ask(page, "Second?")
    await page.wait_for("document.querySelectorAll('.question').length === 1")
    await page.evaluate("release()")
    await badges(page, 2)
    assert await page.texts(".question") == ["First?", "Second?"]
    assert upstream.calls == 2


async def test_who_asks_at_once_in_a_new_chat_loses_nothing(
    browser: Browser, url: str, upstream: OpenAIServer
) -> None:
    page = await opened(browser, url)
    await ask(page)
    await badges(page)
    await page.evaluate(HOLD_DELETE)
    await page.click("#clear")
    await ask(page, "And now?")
    await page.evaluate("release()")
    assert await badges(page) == ["Fresh"]
    assert await page.texts(".question") == ["And now?"]
    assert [said["role"] for said in upstream.requests[-1].body["messages"]] == ["system", "user"]
    await page.reload()
    await page.wait_for(READY)
    assert await page.texts(".question") == ["And now?"]


async def test_private_answers_are_not_shared(
    browser: Browser, url: str, upstream: OpenAIServer
) -> None:
    for user in ("one", "two"):
        page = await opened(browser, url, user=user)
        await page.click("#private")
        await ask(page)
        assert await badges(page) == ["Fresh"]
    assert upstream.calls == 2


# How it behaves


async def test_the_keyboard_is_enough(browser: Browser, url: str, upstream: OpenAIServer) -> None:
    page = await opened(browser, url)
    await page.wait_for("document.activeElement.id === 'text'")
    stops = []
    for _ in range(8):
        await page.press("Tab")
        if await page.evaluate("document.activeElement === document.body"):
            continue  # where a browser with more around the page would show that
        assert await page.evaluate("document.activeElement.matches(':focus-visible')")
        stops.append(await page.evaluate("getComputedStyle(document.activeElement).outlineStyle"))
        if await page.evaluate("document.activeElement.matches('#welcome button')"):
            break
    assert set(stops) == {"solid"}
    await page.press("Enter")
    assert await badges(page) == ["Fresh"]
    assert await page.text(".question") == "Why is the sky blue?"
    assert await page.evaluate("document.activeElement.id") == "text"
    await page.type("One")
    await page.press("Enter", "shift")
    await page.type("two")
    await page.press("Enter")
    await badges(page, 2)
    assert upstream.requests[-1].prompt == "One\ntwo"
    await page.press("Enter")  # nothing to send
    assert await page.evaluate("document.querySelectorAll('article').length") == 2


async def test_a_thumb_can_hit_it(browser: Browser, url: str) -> None:
    page = await opened(browser, url, width=375, height=667)
    seen = "[...document.querySelectorAll('button, a, label')].filter(e => e.checkVisibility())"
    heights = await page.evaluate(f"{seen}.map(e => e.getBoundingClientRect().height)")
    assert min(heights) >= 24  # as the WCAG ask (2.5.8)


@pytest.mark.parametrize("width", [320, 390])
async def test_a_phone_scrolls_in_one_direction_only(
    browser: Browser, url: str, width: int
) -> None:
    page = await opened(browser, url, width=width)
    await page.resize(width, 700, phone=True)
    await ask(page, "A-long-word-" * 20 + " " + "https://example.com/" * 10)
    await badges(page)
    for place in ("document.documentElement", "document.querySelector('main')"):
        assert await page.evaluate(f"{place}.scrollWidth <= {place}.clientWidth")
    assert await page.evaluate("document.documentElement.clientWidth") == width
    box = "document.querySelector('#send').getBoundingClientRect()"
    assert await page.evaluate(f"{box}.right < innerWidth && {box}.bottom < innerHeight")


async def test_it_is_dark_for_those_who_like_it_dark(browser: Browser, url: str) -> None:
    page = await opened(browser, url)
    ground = "getComputedStyle(document.body).backgroundColor"
    light = await page.evaluate(ground)
    await page.prefer(color_scheme="dark")
    assert await page.evaluate(ground) != light


async def test_nothing_is_fetched_from_elsewhere(browser: Browser, url: str) -> None:
    page = await opened(browser, url)
    await ask(page)
    await badges(page)
    assert len(page.requests) >= 5
    assert [asked for asked in page.requests if not asked.startswith(url)] == []
    blocked = "fetch('https://example.com/').catch((error) => error.name)"
    assert await page.evaluate(blocked) == "TypeError"
    await page.until("the browser to say why", lambda: bool(page.errors))
    assert "Content Security Policy" in page.errors[0]


async def test_what_is_written_is_text_and_no_markup(browser: Browser, url: str) -> None:
    page = await opened(browser, url)
    written = "<img src=x onerror=alert(1)> <b>bold</b>"
    await ask(page, written)
    await badges(page)
    assert await page.text(".question") == written
    assert (
        await page.evaluate("document.querySelectorAll('article img, article p > b').length") == 1
    )
    assert page.errors == []


# When things go wrong


async def test_a_failure_is_told_kindly_and_can_be_tried_again(
    browser: Browser, url: str, upstream: OpenAIServer
) -> None:
    page = await opened(browser, url)
    upstream.fail(503)
    await ask(page)
    await page.wait_for("document.querySelector('.failure:not([hidden])')")
    assert await page.text(".failure span") == "The model could not answer this."
    upstream.truncate_stream(3)
    await page.press("Tab", "shift")
    await page.press("Enter")  # Try again
    assert await page.evaluate("document.activeElement.id") == "text"
    said = "document.querySelector('.failure:not([hidden]) span')?.innerText"
    await page.wait_for(f"{said} === 'The model cannot be reached right now.'")
    await page.click(".failure button")
    assert await badges(page) == ["Fresh"]
    assert len(await page.texts("article")) == 1
    await page.reload()
    assert await badges(page) == ["Fresh"]
    assert upstream.calls == 3


async def test_nothing_is_tried_again_while_another_answer_is_written(
    browser: Browser, url: str, upstream: OpenAIServer
) -> None:
    page = await opened(browser, url)
    again = "document.querySelector('.failure button').checkVisibility()"
    upstream.fail(503)
    await ask(page, "The first one?")
    await page.wait_for(again)
    upstream.hold_after(4)
    await ask(page)
    await words(page, 3)
    assert not await page.evaluate(again)
    upstream.release()
    await badges(page)
    await page.click(".failure button")
    assert await badges(page, 2) == ["Fresh", "Fresh"]
    assert await page.texts(".question") == [QUESTION, "The first one?"]


async def test_a_lost_connection_is_told(browser: Browser, url: str) -> None:
    page = await opened(browser, url)
    await page.offline()
    await ask(page)
    await page.wait_for("document.querySelector('.failure:not([hidden])')")
    assert await page.text(".failure span") == "The connection was lost."
    await page.offline(False)
    await page.click(".failure button")
    assert await badges(page) == ["Fresh"]
