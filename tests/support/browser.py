"""A Chromium without a screen, driven by its chromedriver: pictures of a page, and what axe-core says of it.

Nothing but what the standard library has is needed here; both programs and axe-core are looked for, and what is not
there is said.
"""

import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from waiting import until

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def missing() -> str:
    """In words, what is not installed; empty: nothing."""
    for name in ("chromium", "chromedriver"):
        if shutil.which(name) is None:
            return f"{name} is not installed"
    return ""


def axe() -> Path | None:
    """The script of axe-core, as npm installs it: in a folder above, in NODE_PATH, or for all users. None: nowhere."""
    node = shutil.which("node")
    if node is None:
        return None
    places = [os.environ.get("NODE_PATH", ""), "/usr/lib/node_modules", "/usr/local/lib/node_modules"]
    env = {**os.environ, "NODE_PATH": ":".join(filter(None, places))}
    asked = "process.stdout.write(require.resolve('axe-core/axe.min.js'))"
    done = subprocess.run([node, "-e", asked], env=env, capture_output=True, text=True, check=False)
    return Path(done.stdout) if done.returncode == 0 else None


class Browser:
    """One page. Made by `browser`."""

    def __init__(self, driver: str, session: str) -> None:
        self._driver, self._session = driver, session

    def open(self, url: str) -> None:
        """Go there, and wait until it has loaded."""
        self._post("url", {"url": url})

    def run(self, script: str) -> Any:
        """The value of an expression of JavaScript, awaited."""
        asked = {"expression": script, "awaitPromise": True, "returnByValue": True}
        reply = self.devtools("Runtime.evaluate", asked)
        assert "exceptionDetails" not in reply, reply["exceptionDetails"]
        return reply["result"].get("value")

    def shape(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        """How wide the page is, in CSS pixels, and whether its reader wants it dark."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.devtools("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", {"features": [scheme]})
        # The page hears of it a little later.
        until(lambda: self.run("document.documentElement.clientWidth") <= width)

    def picture(self, path: Path) -> None:
        """The whole page as a PNG."""
        reply = self.devtools("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True})
        path.write_bytes(base64.b64decode(reply["data"]))

    def press(self, key: str) -> None:
        """A key such as Tab."""
        for kind in ("rawKeyDown", "keyUp"):
            self.devtools(
                "Input.dispatchKeyEvent", {"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": 9}
            )

    def faults(self, script: Path) -> list[dict[str, Any]]:
        """What axe-core finds wrong with the page as it is: id, impact, and the elements."""
        self.run(script.read_text(encoding="utf-8") + "; 0")
        wanted = "axe.run(document, {resultTypes: ['violations']})"
        return self.run(
            f"{wanted}.then(r => r.violations.map(v => ({{id: v.id, impact: v.impact, help: v.help, "
            "where: v.nodes.map(n => n.html.slice(0, 200) + ' ' + (n.failureSummary || ''))})))"
        )

    def devtools(self, command: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """A command of Chrome's protocol."""
        return self._post("goog/cdp/execute", {"cmd": command, "params": parameters})

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return ask(f"{self._driver}/session/{self._session}/{path}", body)


def ask(url: str, body: dict[str, Any] | None = None, method: str | None = None) -> Any:
    """The value of a reply of chromedriver."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=120) as reply:
        return json.loads(reply.read())["value"]


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A Chromium with a profile of its own; nothing of it is left."""
    with tempfile.TemporaryDirectory(prefix="rowloom-browser-", ignore_cleanup_errors=True) as profile:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = ["chromedriver", f"--port={port}", "--log-level=OFF"]
        driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        at = f"http://127.0.0.1:{port}"
        try:
            until(lambda: _ready(at), 60)
            chrome = {"binary": shutil.which("chromium"), "args": [*FLAGS, f"--user-data-dir={profile}"]}
            wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": chrome}}}
            session = ask(f"{at}/session", wanted)["sessionId"]
            try:
                yield Browser(at, session)
            finally:
                ask(f"{at}/session/{session}", method="DELETE")
        finally:
            driver.terminate()
            driver.wait(30)


def _ready(at: str) -> bool:
    try:
        return bool(ask(f"{at}/status")["ready"])
    except OSError:
        return False
