"""A headless Chromium, driven by its DevTools protocol over two pipes: no package is needed."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "google-chrome", "chromium-browser")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
SECONDS = 60.0  # of a call, and of what a page is waited for


class Page:
    """A page of a browser. log: its messages and errors on the console."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._numbers = itertools.count(1)
        self._rest = b""
        self._session = ""
        self.log: list[str] = []
        (target,) = self.call("Target.createTarget", url="about:blank").values()
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return the result of a method of the protocol."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            if answer.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.log.append(json.dumps(answer["params"]))

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            readable, _, _ = select.select([self._from], [], [], SECONDS)
            assert readable, "the browser does not answer"
            self._rest += os.read(self._from, 2**16)
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def evaluate(self, script: str) -> Any:
        """Return the value of a JavaScript expression."""
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def wait_for(self, script: str) -> Any:
        """Return the value of an expression as soon as it is true."""
        end = time.monotonic() + SECONDS
        while not (value := self.evaluate(script)):
            assert time.monotonic() < end, f"{script}\n{self.log}"
            time.sleep(0.05)
        return value

    def open(self, address: str, width: int, height: int, dark: bool = False) -> None:
        """Show a page in a window of this size, and forget what others logged."""
        self.log.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = "dark" if dark else "light"
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Page.navigate", url=address)
        self.wait_for("document.readyState == 'complete'")

    def choose_file(self, selector: str, *files: Path) -> None:
        """Choose files in an <input type=file>, as its dialog does."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        paths = [str(file.resolve()) for file in files]
        self.call("DOM.setFileInputFiles", files=paths, nodeId=node)

    def drop_file(self, selector: str, file: Path) -> None:
        """Drop a file on an element."""
        self.evaluate(f"document.querySelector('{selector}').scrollIntoView()")
        x, y = self._find_middle(selector)
        data = {"items": [], "files": [str(file.resolve())], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def click(self, selector: str) -> None:
        """Click into the middle of an element, once it has come to rest."""
        place = None
        while place != (place := self._find_middle(selector)):
            self.evaluate(
                f"document.querySelector('{selector}').scrollIntoView({{block: 'center'}})"
            )
            time.sleep(0.1)
        x, y = place
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def _find_middle(self, selector: str) -> tuple[float, float]:
        box = f"document.querySelector('{selector}').getBoundingClientRect()"
        left, top = self.evaluate(f"[{box}.x, {box}.y]")
        width, height = self.evaluate(f"[{box}.width, {box}.height]")
        return left + width / 2, top + height / 2

    def write(self, selector: str, text: str) -> None:
        """Type into a field."""
        self.evaluate(f"document.querySelector('{selector}').focus()")
        self.call("Input.insertText", text=text)

    def save_screenshot(self, file: Path) -> None:
        """Write a PNG of the whole page."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))


@contextlib.contextmanager
def start_browser(folder: Path) -> Iterator[Page]:
    """Start a browser whose profile is in `folder`, and end it."""
    browser_in, to_browser = os.pipe()
    from_browser, browser_out = os.pipe()
    # The protocol is on descriptors 3 and 4.
    script = f'exec "$@" 3<&{browser_in} 4>&{browser_out}'
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
    command = [str(CHROMIUM), *options, f"--user-data-dir={folder}", "about:blank"]
    with subprocess.Popen(
        ["bash", "-c", script, "bash", *command],
        pass_fds=(browser_in, browser_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        os.close(browser_in)
        os.close(browser_out)
        try:
            page = Page(to_browser, from_browser)
            yield page
            page._session = ""
            page.call("Browser.close")
            process.wait(SECONDS)
        finally:
            process.kill()
            os.close(to_browser)
            os.close(from_browser)
