"""A real browser for tests: a headless Chromium, driven over its DevTools protocol.

`Chromium` is the process, which several tests may share. `Browser` is one test's connection to it,
with cookies and storage of its own; `Page` is a window: goto, evaluate, wait_for, type, press,
click, screenshot, and a record of all that it requested and of every error in it.

```python
async with Browser(chromium) as browser:
    page = await browser.page()
    await page.goto(url)
    await page.type("Hello")
    await page.press("Enter")
    await page.wait_for("document.querySelector('.answer')")
```
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import aiohttp
from servers import wait_for

NAMES = ("chromium", "chromium-browser", "google-chrome")
"""What it is called, in the order in which it is looked for."""
PATIENCE = 15.0
"""Seconds until what never happens fails a test."""
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--disable-breakpad",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-proxy-server",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
CONTROL_KEYS = {
    "Enter": (13, "\r"),
    "Tab": (9, ""),
    "Escape": (27, ""),
    "Backspace": (8, ""),
    "ArrowUp": (38, ""),
    "ArrowDown": (40, ""),
    "Home": (36, ""),
    "End": (35, ""),
    " ": (32, " "),
}
"""By name: the code that old handlers read, and the text that the key types."""
MODIFIERS = {"alt": 1, "control": 2, "meta": 4, "shift": 8}


def find_chromium() -> str | None:
    """Where a Chromium is, if there is one on the PATH."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Chromium:
    """The process, in a group of its own, so that nothing of it is left by `stop`."""

    def __init__(self, path: str, directory: Path) -> None:
        self._path = path
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint = ""
        """The address of its DevTools, once it runs."""

    def start(self) -> Self:
        """Start it with an empty profile; returns once it can be talked to."""
        self._directory.mkdir(parents=True, exist_ok=True)
        command = [self._path, *FLAGS, f"--user-data-dir={self._directory}", "about:blank"]
        with (self._directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        wait_for("the start of Chromium", self._listens)
        return self

    def _listens(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            log = (self._directory / "log").read_text(errors="replace")
            raise AssertionError(f"Chromium ended at once: {log[-2000:]}")
        port, _, path = (self._directory / "DevToolsActivePort").read_text().partition("\n")
        self.endpoint = f"ws://127.0.0.1:{port}{path.strip()}"
        return bool(path.strip())

    def stop(self) -> None:
        """End it, and all that it started."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


class ProtocolError(AssertionError):
    """Chromium refused a command, or a script in the page failed."""


class Browser:
    """One test's connection to a Chromium. Users have cookies of their own, each by a name."""

    def __init__(self, chromium: Chromium) -> None:
        self._chromium = chromium
        self._numbers = 0
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._pages: dict[str, Page] = {}
        self._users: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession()
        self._socket = await self._session.ws_connect(self._chromium.endpoint, max_msg_size=0)
        self._reading = asyncio.create_task(self._read(), name="chromium")
        return self

    async def __aexit__(self, *_: object) -> None:
        for user in self._users.values():
            await self.send("Target.disposeBrowserContext", browserContextId=user)
        await self._socket.close()
        await self._session.close()
        await self._reading

    async def page(self, *, user: str = "one", width: int = 1280, height: int = 800) -> Page:
        """A new window of a user; those of one user share cookies and storage."""
        if user not in self._users:
            made = await self.send("Target.createBrowserContext")
            self._users[user] = made["browserContextId"]
        target = await self.send(
            "Target.createTarget", url="about:blank", browserContextId=self._users[user]
        )
        attached = await self.send(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        page = Page(self, attached["sessionId"], target["targetId"])
        self._pages[attached["sessionId"]] = page
        await page.prepare(width, height)
        return page

    async def send(self, method: str, *, session: str | None = None, **params: Any) -> Any:
        """A command of the DevTools protocol; what it gives. Raises `ProtocolError`."""
        self._numbers += 1
        number = self._numbers
        self._replies[number] = asyncio.get_running_loop().create_future()
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        try:
            await self._socket.send_str(json.dumps(message))
            async with asyncio.timeout(PATIENCE):
                reply = await self._replies[number]
        except TimeoutError:
            raise ProtocolError(f"{method}: no reply in {PATIENCE} s") from None
        finally:
            del self._replies[number]
        if "error" in reply:
            raise ProtocolError(f"{method}: {reply['error']}")
        return reply["result"]

    async def _read(self) -> None:
        async for message in self._socket:
            said = json.loads(message.data)
            if "id" in said:
                reply = self._replies.get(said["id"])
                if reply is not None and not reply.done():
                    reply.set_result(said)
            elif page := self._pages.get(said.get("sessionId", "")):
                page.heard(said["method"], said["params"])
        for reply in self._replies.values():
            if not reply.done():
                reply.set_result({"error": "Chromium has gone"})


class Page:
    """A window. Scripts are expressions; a promise is waited for."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self._browser = browser
        self._session = session
        self._target = target
        self._loads = 0
        self.requests: list[str] = []
        """The URLs of all that it asked for, oldest first."""
        self.errors: list[str] = []
        """What failed in it: exceptions nobody caught, and errors on its console."""

    async def send(self, method: str, **params: Any) -> Any:
        """A command to this page; see `Browser.send`."""
        return await self._browser.send(method, session=self._session, **params)

    async def prepare(self, width: int, height: int) -> None:
        """What every page needs before its first use."""
        for domain in ("Page", "Runtime", "Network", "Log"):
            await self.send(f"{domain}.enable")
        # Several windows each believe that they are the one in front.
        await self.send("Emulation.setFocusEmulationEnabled", enabled=True)
        await self.resize(width, height)

    def heard(self, method: str, params: dict[str, Any]) -> None:
        """Take note of an event."""
        if method == "Page.loadEventFired":
            self._loads += 1
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Network.webSocketCreated":
            self.requests.append(params["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(_words(params["exceptionDetails"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.errors.append(json.dumps(params["args"]))

    # Where it is

    async def goto(self, url: str) -> None:
        """Open an address; returns when the page is loaded."""
        loads = self._loads
        answer = await self.send("Page.navigate", url=url)
        if answer.get("errorText"):
            raise ProtocolError(f"{url}: {answer['errorText']}")
        await self.until("the page to load", lambda: self._loads > loads)

    async def reload(self) -> None:
        """Load the page again."""
        loads = self._loads
        await self.send("Page.reload")
        await self.until("the page to load again", lambda: self._loads > loads)

    async def close(self) -> None:
        """Close the window."""
        await self._browser.send("Target.closeTarget", targetId=self._target)

    # What is in it

    async def evaluate(self, script: str) -> Any:
        """The JSON value of an expression."""
        found = await self.send(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        if "exceptionDetails" in found:
            raise ProtocolError(_words(found["exceptionDetails"]))
        return found["result"].get("value")

    async def wait_for(self, script: str, timeout: float = PATIENCE) -> Any:
        """Wait until an expression is true, as JavaScript sees it, and give its value."""
        end = asyncio.get_running_loop().time() + timeout
        while not _true(value := await self.evaluate(script)):
            if asyncio.get_running_loop().time() > end:
                body = await self.evaluate("document.body.innerText")
                raise AssertionError(f"not within {timeout} s: {script}\n{self.errors}\n{body}")
            await asyncio.sleep(0.01)
        return value

    async def text(self, selector: str) -> str:
        """The visible text of the first element that fits."""
        said: str = await self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")
        return said

    async def texts(self, selector: str) -> list[str]:
        """The visible texts of all elements that fit."""
        each = f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.innerText)"
        said: list[str] = await self.evaluate(each)
        return said

    # What a person does

    async def type(self, text: str) -> None:
        """Enter text where the focus is."""
        await self.send("Input.insertText", text=text)

    async def press(self, key: str, *modifiers: str) -> None:
        """Press and release a key: a letter, or a name of `CONTROL_KEYS`, with "shift" and such."""
        code, text = CONTROL_KEYS.get(key, (ord(key[0].upper()), key))
        held = sum(MODIFIERS[name] for name in modifiers)
        event = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": held}
        typed = {"text": text} if text and held in (0, MODIFIERS["shift"]) else {}
        kind = "keyDown" if typed else "rawKeyDown"
        await self.send("Input.dispatchKeyEvent", type=kind, **event, **typed)
        await self.send("Input.dispatchKeyEvent", type="keyUp", **event)

    async def click(self, selector: str) -> None:
        """Press the mouse in the middle of the first element that fits."""
        middle = await self.evaluate(
            f"(e => {{ e.scrollIntoView({{block: 'nearest'}}); const r = e.getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + r.height / 2] })"
            f"(document.querySelector({json.dumps(selector)}))"
        )
        where = {"x": middle[0], "y": middle[1], "button": "left", "clickCount": 1}
        await self.send("Input.dispatchMouseEvent", type="mousePressed", **where)
        await self.send("Input.dispatchMouseEvent", type="mouseReleased", **where)

    async def choose_files(self, selector: str, *paths: Path) -> None:
        """Choose files in a file input."""
        root = (await self.send("DOM.getDocument"))["root"]["nodeId"]
        found = await self.send("DOM.querySelector", nodeId=root, selector=selector)
        files = [str(path.resolve()) for path in paths]
        await self.send("DOM.setFileInputFiles", files=files, nodeId=found["nodeId"])

    # How it looks

    async def resize(self, width: int, height: int, *, phone: bool = False) -> None:
        """The window's size in CSS pixels."""
        await self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )

    async def prefer(self, **features: str) -> None:
        """What the person prefers, such as `color_scheme="dark"`, `reduced_motion="reduce"`."""
        wanted = [
            {"name": f"prefers-{name.replace('_', '-')}", "value": value}
            for name, value in features.items()
        ]
        await self.send("Emulation.setEmulatedMedia", features=wanted)

    async def offline(self, gone: bool = True) -> None:
        """Cut it off the network, or give it back."""
        await self.send(
            "Network.emulateNetworkConditions",
            offline=gone,
            latency=0,
            downloadThroughput=-1,
            uploadThroughput=-1,
        )

    async def screenshot(self, path: Path) -> None:
        """What is seen, as PNG."""
        shot = await self.send("Page.captureScreenshot", format="png")
        await asyncio.to_thread(path.write_bytes, base64.b64decode(shot["data"]))

    async def until(self, what: str, condition: Callable[[], bool]) -> None:
        """Wait for what this side is told, such as a request or an error."""
        end = asyncio.get_running_loop().time() + PATIENCE
        while not condition():
            if asyncio.get_running_loop().time() > end:
                raise AssertionError(f"waited {PATIENCE} s for {what}")
            await asyncio.sleep(0.005)


def _true(value: Any) -> bool:
    return bool(value) or isinstance(value, dict | list)  # an element is given as {}


def _words(details: dict[str, Any]) -> str:
    return str(details.get("exception", {}).get("description") or details["text"])
