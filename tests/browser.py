"""A page in a real browser: Chromium without a window, spoken to in its DevTools protocol through two pipes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
NO_NETWORK = "--proxy-server=127.0.0.1:9"
TIMEOUT = "timeout 120"  # of the browser, in seconds, so that a test cannot hang


class Page:
    """An open page.

    Attributes:
        errors: what scripts and console have complained about since it was opened.
    """

    def __init__(self, asked: int, answered: int) -> None:
        """asked, answered: file descriptors to write commands to and to read answers from."""
        self._asked, self._answered, self._rest = asked, answered, b""
        self._count, self._session, self._loaded = 0, None, False
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The answer to a command of the protocol.

        Raises:
            RuntimeError: the command failed, or the browser has ended.
        """
        self._count += 1
        session = {"sessionId": self._session} if self._session else {}
        message = {"id": self._count, "method": method, "params": params} | session
        os.write(self._asked, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._count:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        """The next answer or event."""
        while b"\0" not in self._rest:
            more = os.read(self._answered, 1 << 20)
            if not more:
                raise RuntimeError("the browser has ended")
            self._rest += more
        text, self._rest = self._rest.split(b"\0", 1)
        message = json.loads(text)
        method, params = message.get("method"), message.get("params", {})
        self._loaded = self._loaded or method == "Page.loadEventFired"
        if method == "Runtime.exceptionThrown":
            self.errors.append(str(params["exceptionDetails"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.errors.append(str(params["args"]))
        return message

    def open(self, url: str, width: int, dark: bool = False) -> None:
        """Load a page in a window of this width in CSS pixels, and wait until it is complete."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self._loaded, self.errors = False, []
        self.call("Page.navigate", url=url)
        while not self._loaded:
            self._next()

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page.

        Raises:
            RuntimeError: the expression failed.
        """
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression}: {found['exceptionDetails']}")
        return found["result"].get("value")


@contextmanager
def page() -> Iterator[Page]:
    """A page of a browser of its own, which ends with it and reaches no network."""
    (commands, asked), (answered, answers) = os.pipe(), os.pipe()
    # the browser reads from its file 3 and writes to its file 4
    shell = f'exec {TIMEOUT} "$@" 3<&{commands} 4>&{answers}'
    quiet = subprocess.DEVNULL
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        options = [*OPTIONS, NO_NETWORK, f"--user-data-dir={home}", "--remote-debugging-pipe"]
        command = ["bash", "-c", shell, "bash", CHROMIUM, *options]
        process = subprocess.Popen(command, pass_fds=(commands, answers), stdout=quiet, stderr=quiet)
        os.close(commands)
        os.close(answers)
        try:
            opened = Page(asked, answered)
            yield opened
            opened.call("Browser.close")
        finally:
            process.terminate()
            process.wait()
            os.close(asked)
            os.close(answered)
