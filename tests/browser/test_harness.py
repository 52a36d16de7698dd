"""The harness itself: a page is driven, and what goes wrong in it is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from chromium import Browser, ProtocolError
from servers import free_port

pytestmark = pytest.mark.anyio

PAGE = """<!doctype html><title>A page</title><link rel="icon" href="data:,">
<meta name="viewport" content="width=device-width">
<textarea autofocus></textarea><button onclick="this.innerText = 'clicked'">a</button>
<input type="file"><p></p><script>
  document.querySelector("textarea").onkeydown = (e) => {
    document.querySelector("p").innerText += `${e.key}${e.shiftKey ? "+" : ""},`;
  };
  document.cookie = "mark=" + (document.cookie || "new");
</script>"""


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """Where the page is."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=PAGE, content_type="text/html")

    app = web.Application()
    app.router.add_get("/", page)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    await runner.cleanup()


async def test_a_page_is_driven(browser: Browser, url: str, tmp_path: Path) -> None:
    page = await browser.page()
    await page.goto(url)
    await page.wait_for("document.activeElement.tagName == 'TEXTAREA'")
    await page.type("Hi")
    await page.press("x")
    await page.press("Enter")
    await page.press("Enter", "shift")
    assert await page.evaluate("document.querySelector('textarea').value") == "Hix\n\n"
    assert await page.text("p") == "x,Enter,Enter+,"
    await page.press("Tab")
    assert await page.evaluate("document.activeElement.tagName") == "BUTTON"
    await page.wait_for("document.querySelector('button')")
    await page.click("button")
    assert await page.texts("button") == ["clicked"]
    await page.choose_files("input", Path(__file__))
    assert await page.evaluate("document.querySelector('input').files[0].name") == "test_harness.py"
    assert page.requests == [url]
    assert page.errors == []
    await page.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


async def test_users_have_cookies_of_their_own(browser: Browser, url: str) -> None:
    first, second = await browser.page(), await browser.page()
    other = await browser.page(user="two")
    for page in (first, second, other):
        await page.goto(url)
    marks = [await page.evaluate("document.cookie") for page in (first, second, other)]
    assert marks == ["mark=mark=new", "mark=mark=new", "mark=new"]


async def test_a_page_looks_as_its_user_prefers(browser: Browser, url: str) -> None:
    page = await browser.page(width=400, height=300)
    await page.goto(url)
    await page.prefer(color_scheme="dark")
    assert await page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    await page.resize(320, 600, phone=True)
    assert await page.evaluate("[innerWidth, innerHeight]") == [320, 600]


async def test_errors_are_told(browser: Browser, url: str) -> None:
    page = await browser.page()
    await page.goto(url)
    with pytest.raises(ProtocolError, match="nothing is not defined"):
        await page.evaluate("nothing")
    await page.evaluate("void setTimeout(() => { throw new Error('later') })")
    await page.evaluate("fetch('/missing').then(r => r.status)")
    await page.until("both errors", lambda: len(page.errors) == 2)
    told = "\n".join(page.errors)
    assert "Error: later" in told
    assert "404" in told
    with pytest.raises(AssertionError, match="not within 0"):
        await page.wait_for("false", timeout=0)
    with pytest.raises(ProtocolError, match="ERR_CONNECTION_REFUSED"):
        await page.goto(f"http://127.0.0.1:{free_port()}/")
