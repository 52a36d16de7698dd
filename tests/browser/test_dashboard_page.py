"""The dashboard, as those see it who run an app."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from chromium import Browser, Page
from openai import AsyncOpenAI
from web_server import serving

from aiopromptcache import MemoryTier, Price, PromptCache
from aiopromptcache.dashboard import Dashboard
from aiopromptcache.testing import FaultyTier, OpenAIServer
from aiopromptcache.tiers._base import Held

pytestmark = pytest.mark.anyio

READY = "document.documentElement.dataset.ready === ''"
TILE = "[...document.querySelectorAll('.tile')].find(t => t.innerText.startsWith({!r}))"


class App:
    """An app's cache, and the page that shows it."""

    def __init__(self, cache: PromptCache, client: AsyncOpenAI, url: str) -> None:
        self.cache = cache
        self.client = client
        self.url = url

    async def ask(self, *questions: str, model: str = "m") -> None:
        """Call the model."""
        for question in questions:
            await self.client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": question}]
            )

    def sample(self) -> None:
        """What happens every five seconds, at once."""
        self.cache._engine.watch.sample()


@pytest.fixture
async def upstream() -> AsyncIterator[OpenAIServer]:
    """What stands in for the model."""
    async with OpenAIServer() as server:
        yield server


@pytest.fixture
async def app(upstream: OpenAIServer) -> AsyncIterator[App]:
    """An app with a memory tier and another one."""
    prices = {"m": Price(1_000.0, 2_000.0)}
    async with PromptCache(MemoryTier(), FaultyTier(), prices=prices) as cache:
        client = cache.wrap(upstream.client(max_retries=0))
        async with serving(Dashboard(cache)) as http:
            yield App(cache, client, f"{http.base_url}/")


async def opened(browser: Browser, app: App, **options: Any) -> Page:
    """A window with the dashboard in it."""
    page = await browser.page(**options)
    await page.goto(app.url)
    await page.wait_for(READY)
    return page


async def tile(page: Page, name: str) -> str:
    """The large figure below a name."""
    said: str = await page.evaluate(TILE.format(name) + ".querySelector('.value').innerText")
    return said


async def test_numbers_grow_while_calls_are_made(
    browser: Browser, app: App, upstream: OpenAIServer
) -> None:
    page = await opened(browser, app)
    assert await tile(page, "Calls") == "0"
    assert await tile(page, "Hit rate") == "–"
    await app.ask("one", "one", "one", "two")
    await page.wait_for(TILE.format("Calls") + ".innerText.includes('4')")
    assert await tile(page, "Hit rate") == "50 %"
    assert await tile(page, "Upstream calls") == str(upstream.calls) == "2"
    assert await tile(page, "Tokens saved") == str(app.cache.stats.tokens_saved.total)
    saved = app.cache.stats.cost_saved
    assert saved is not None
    assert await tile(page, "Money saved") == (f"${saved:.4f}" if saved < 0.01 else f"${saved:.2f}")
    await app.ask("two", "two")
    await page.wait_for(TILE.format("Calls") + ".innerText.includes('6')")
    assert page.errors == []
    origin = app.url.rstrip("/")
    assert {url for url in page.requests if not url.startswith(origin)} == set()


async def test_plots_are_drawn_and_read_out(browser: Browser, app: App) -> None:
    page = await opened(browser, app)
    empty = "[...document.querySelectorAll('svg .empty')].map(e => e.textContent)"
    assert len(await page.evaluate(empty)) == 9
    await app.ask("one", "one", "two", "one")
    app.sample()
    await page.wait_for("document.querySelectorAll('svg .line, svg .area').length > 8")
    assert await page.evaluate(empty) == ["None in this time"]  # errors
    latency = await page.text("#plots figure:nth-child(5) .legend b")
    assert latency.endswith("ms") or latency.endswith("s")
    axis = "[...document.querySelectorAll('figure:nth-child(2) .tick.end')].map(e => e.textContent)"
    assert {"0 %", "50 %", "100 %"} <= set(await page.evaluate(axis))
    label = "document.querySelector('figure:nth-child(2) svg').getAttribute('aria-label')"
    assert "latest: hits of all requests 50 %" in await page.evaluate(label)

    await page.evaluate("document.querySelector('figure:nth-child(2) svg').focus()")
    await page.press("End")
    for _ in range(8):  # the sample may not be the latest any more
        if "50 %" in (said := await page.evaluate("document.querySelectorAll('output')[1].value")):
            break
        await page.press("ArrowLeft")
    assert said.endswith("hits of all requests 50 %")
    assert await page.text("figure:nth-child(2) .when") == said.split(": ")[0]
    await page.press("Escape")
    assert await page.text("figure:nth-child(2) .when") == ""

    await page.click("figure:nth-child(2) summary")
    await page.wait_for("document.querySelector('figure:nth-child(2) tbody tr')")
    rows = await page.texts("figure:nth-child(2) tbody tr")
    assert len(rows) == 1
    assert rows[0].endswith("50 %")
    assert page.errors == []


async def test_what_callers_name_is_only_ever_text(browser: Browser, app: App) -> None:
    model = "<img src=x onerror=alert(1)>"
    await app.ask("one", model=model)
    page = await opened(browser, app)
    assert await page.texts("#models tbody th") == [model]
    assert await page.evaluate("document.querySelectorAll('article img').length") == 0
    assert page.errors == []


async def test_long_names_leave_the_numbers_in_sight(browser: Browser, app: App) -> None:
    await app.ask("one", model="m" * 300)
    page = await opened(browser, app, width=800)
    await page.wait_for("document.querySelector('#models tbody')")
    table = "document.querySelector('#models .scroll')"
    assert await page.evaluate(f"{table}.scrollWidth <= {table}.clientWidth")
    assert page.errors == []


@pytest.mark.parametrize("count", [9_999_999, 987_654_321_012])
@pytest.mark.parametrize("width", [360, 740, 1_040, 1_280])
async def test_large_numbers_stay_in_their_tiles(
    browser: Browser, app: App, count: int, width: int
) -> None:
    app.cache.stats.outcomes["chat.completions", "hit", "memory"] = count
    page = await opened(browser, app, width=width)
    for value in await page.evaluate(
        "[...document.querySelectorAll('.tile .value')].map(v => v.scrollWidth - v.clientWidth)"
    ):
        assert value <= 0
    assert await tile(page, "Calls") == ("9,999,999" if count < 10**7 else "987.7B")


async def test_what_a_tier_holds_is_seen_and_whether_that_is_an_estimate(
    browser: Browser, app: App
) -> None:
    class Large(FaultyTier):
        async def measure(self, namespace: str) -> Held:
            return Held(1_234_567, 9_876_543_210, exact=False)

    app.cache._engine.storage.remote[0].tier = Large()
    page = await opened(browser, app)
    cells = await page.texts("#tiers tbody tr:nth-child(2) td")
    assert cells[-2:] == ["≈ 1,234,567", "≈ 9.2 GiB"]
    assert page.errors == []


async def test_an_outage_is_seen(browser: Browser, app: App) -> None:
    page = await opened(browser, app)
    assert "closed" in await page.text("#tiers tbody tr:nth-child(2)")
    tier = app.cache._engine.storage.remote[0].tier
    assert isinstance(tier, FaultyTier)
    tier.fail()
    await app.ask(*[f"question {number}" for number in range(6)])
    await page.wait_for("!document.querySelector('#notice').hidden")
    assert await page.text("#notice") == f"{tier.name} does not answer. Calls go on without it."
    assert "open" in await page.text("#tiers tbody tr:nth-child(2)")
    assert "OSError" in await page.text("#errors")
    tier.resume()
    await page.wait_for("document.querySelector('#notice').hidden")


async def test_it_asks_only_while_it_is_seen(browser: Browser, app: App) -> None:
    page = await opened(browser, app)
    hide = (
        "Object.defineProperty(document, 'hidden', {configurable: true, value: %s});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    await page.evaluate(hide % "true")
    asked = len(page.requests)
    await app.ask("one")
    await page.evaluate("new Promise(done => setTimeout(done, 2500))")
    assert len(page.requests) == asked
    await page.evaluate(hide % "false")
    await page.wait_for(TILE.format("Calls") + ".innerText.includes('1')")
    await page.click("#live")
    assert await page.text("#live") == "Paused"
    assert await page.evaluate("document.querySelector('#live').ariaPressed") == "false"
    await page.click("#live")
    await page.wait_for("document.querySelector('#live').innerText === 'Live'")


async def test_a_lost_app_is_told_and_found_again(browser: Browser, app: App) -> None:
    page = await opened(browser, app)
    await page.offline()
    await page.wait_for("document.querySelector('#live').innerText === 'No answer'")
    await page.offline(False)
    await page.wait_for("document.querySelector('#live').innerText === 'Live'")


async def test_keys_choose_the_time_shown(browser: Browser, app: App) -> None:
    page = await opened(browser, app)
    await page.evaluate("document.querySelector('[name=span]').focus()")
    await page.send(
        "Input.dispatchKeyEvent",
        type="rawKeyDown", key="ArrowRight", code="ArrowRight", windowsVirtualKeyCode=39,
    )  # fmt: skip
    await page.until("an hour", lambda: "span=3600" in page.requests[-1])
    assert page.errors == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "phone"), [(1280, False), (820, False), (360, True)])
async def test_it_fits(
    browser: Browser, app: App, scheme: str, width: int, phone: bool, tmp_path: Path
) -> None:
    await app.ask("one", "one", model="a-model-with-a-name-that-is-far-longer-than-any-phone-is")
    page = await browser.page(width=width, height=900)
    await page.resize(width, 900, phone=phone)
    await page.prefer(color_scheme=scheme)
    other = PromptCache(namespace="another-cache-whose-name-is-longer-than-a-phone-is-wide")
    async with other, serving(Dashboard(app.cache, other)) as http:
        await fits(page, f"{http.base_url}/", width, scheme, tmp_path)


async def fits(page: Page, url: str, width: int, scheme: str, tmp_path: Path) -> None:
    """Nothing is wider than the window, in the colours that were asked for."""
    await page.goto(url)
    await page.wait_for(READY)
    assert await page.evaluate("document.documentElement.scrollWidth") <= width
    light = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (light == "rgb(244, 245, 248)") is (scheme == "light")
    await page.screenshot(tmp_path / "page.png")
    assert page.errors == []
