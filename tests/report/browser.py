"""A headless Chromium, driven over its debugging pipe: what a reader's browser makes of a page. Needs no package but Chromium itself."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe"),
)


def found() -> str:
    """Return Chromium's path.

    Without one the tests fail: a page that nobody opened is not checked. Who has no browser says so with SENTINODE_BROWSER=none,
    and the tests are then skipped by name; CI never does.
    """
    named = os.environ.get("SENTINODE_BROWSER", "")
    if named == "none":
        pytest.skip("SENTINODE_BROWSER=none: pages are not opened in a browser")
    for name in filter(None, (named, *NAMES)):
        path = shutil.which(name)
        if path:
            return path
    pytest.fail("expected Chromium on PATH; found none; install it, name it in SENTINODE_BROWSER, or set that to 'none'")


PATIENCE_S = 600
"""Seconds until a browser is given up, on a machine that does other things as well."""


class Browser:
    """One tab. `said` are the console's errors and warnings, `asked` the addresses it requested."""

    def __init__(self, read: int, write: int) -> None:
        self._in, self._out = os.fdopen(read, "rb", buffering=0), os.fdopen(write, "wb", buffering=0)
        self._numbers = itertools.count(1)
        self._rest = b""
        self._session = ""
        self.said: list[str] = []
        self.asked: list[str] = []
        self._events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = self._in.read(1 << 20)
            if not part:
                raise AssertionError("the browser went away")
            self._rest += part
        whole, self._rest = self._rest.split(b"\0", 1)
        message: dict[str, Any] = json.loads(whole)
        method, told = message.get("method", ""), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.said.append(str(told["exceptionDetails"]))
        if method == "Runtime.consoleAPICalled" and told["type"] in {"error", "warning", "assert"}:
            self.said.append(str(told["args"]))
        if method == "Log.entryAdded" and told["entry"]["level"] in {"error", "warning"}:
            self.said.append(str(told["entry"]["text"]))
        if method == "Network.requestWillBeSent":
            self.asked.append(str(told["request"]["url"]))
        return message

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Return the answer to one command of the DevTools protocol."""
        number = next(self._numbers)
        session = {"sessionId": self._session} if self._session else {}
        self._out.write(json.dumps({"id": number, "method": method, "params": params} | session).encode() + b"\0")
        while (message := self._message()).get("id") != number:
            self._events.append(message)
        if "error" in message:
            raise AssertionError(f"{method}: {message['error']}")
        answer: dict[str, Any] = message["result"]
        return answer

    def open(self, page: Path, *, width: int = 1280, dark: bool = False) -> None:
        """Open a file at a width of so many pixels, and wait until it is drawn."""
        self.said.clear()
        self.asked.clear()
        self._events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        self.light(dark=dark)
        self.call("Page.navigate", url=page.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self._events):
            self._events.append(self._message())

    def light(self, *, dark: bool) -> None:
        """Ask for a light or a dark page."""
        told = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=told)

    def value(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """Press a key."""
        text = "\r" if key == "Enter" else ""
        for kind in ("keyDown", "keyUp"):
            more = {"text": text} if kind == "keyDown" and text else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **more)

    def picture(self) -> bytes:
        """Return the whole page as PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 14000), "scale": 1}
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"])

    def paper(self) -> bytes:
        """Return the page as it prints, a PDF."""
        return base64.b64decode(self.call("Page.printToPDF", preferCSSPageSize=False, paperWidth=8.27, paperHeight=11.69)["data"])


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start Chromium with a new, empty profile; end it afterwards."""
    path = found()
    read_there, write_here = os.pipe()
    read_here, write_there = os.pipe()
    # The protocol's pipe is descriptors 3 and 4; bash puts ours there.
    words = ["bash", "-c", f'exec "$@" 3<&{read_there} 4>&{write_there}', "bash", path, *FLAGS, f"--user-data-dir={profile}"]
    started = subprocess.Popen(words, pass_fds=(read_there, write_there), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = threading.Timer(PATIENCE_S, started.kill)  # a browser that hangs then ends the read that waits for it
    deadline.start()
    os.close(read_there)
    os.close(write_there)
    tab = Browser(read_here, write_here)
    try:
        yield tab
    finally:
        deadline.cancel()
        tab._out.close()
        tab._in.close()
        started.terminate()
        started.wait(60)
