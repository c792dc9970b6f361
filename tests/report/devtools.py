"""A headless Chromium driven over its DevTools socket: enough to open a page, click and read."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0"),
    "--window-size=1280,1600",
)


def find_chromium() -> str | None:
    """The browser's path, if this machine has one."""
    return next((path for name in ("chromium", "google-chrome", "chrome") if (path := shutil.which(name))), None)


def find_axe() -> Path | None:
    """axe-core's script: a file named by AXE_CORE, or `npm install --no-save axe-core` in the repository's root."""
    installed = Path(__file__).resolve().parents[2] / "node_modules" / "axe-core" / "axe.min.js"
    return next((path for path in (Path(os.environ.get("AXE_CORE", "")), installed) if path.is_file()), None)


class Page:
    """One open page; `evaluate` runs JavaScript in it and returns its value."""

    def __init__(self, file: Path, profile: Path):
        command = [find_chromium(), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._browser = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for line in self._browser.stderr:
            if match := re.search(r"ws://\S+", line):
                break
        else:
            raise RuntimeError("Chromium did not start")
        self._socket = connect(match[0], max_size=None)
        self._ids = itertools.count(1)
        self.errors: list[str] = []
        target = self._call("Target.createTarget", {"url": "about:blank"})["targetId"]
        self._session = None
        self._session = self._call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")
        self._call("Page.navigate", {"url": file.as_uri()})
        loaded = f"location.href === {json.dumps(file.as_uri())} && document.readyState === 'complete'"
        while not self.evaluate(loaded):  # until it navigates, the blank page is complete, too
            time.sleep(0.02)

    def _call(self, method: str, params: dict | None = None) -> dict:
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params or {}}
        if getattr(self, "_session", None):
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.recv(timeout=60))
            if answer.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.errors.append(json.dumps(answer["params"]))
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def evaluate(self, expression: str) -> Any:
        result = self._call("Runtime.evaluate", {"expression": expression, "returnByValue": True})
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"])
        return result["result"].get("value")

    def find_faults(self, axe: Path) -> list[str]:
        """What axe-core calls serious or critical, by all of its rules: `rule: element`."""
        if not self.evaluate("typeof axe === 'object'"):
            self.evaluate(axe.read_text(encoding="utf-8"))
        run = """axe.run(document, {resultTypes: ['violations']}).then(found => JSON.stringify(found.violations
            .filter(one => ['serious', 'critical'].includes(one.impact))
            .flatMap(one => one.nodes.map(node => `${one.id}: ${node.target} ${node.html.slice(0, 120)}`))))"""
        answer = self._call("Runtime.evaluate", {"expression": run, "returnByValue": True, "awaitPromise": True})
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return json.loads(answer["result"]["value"])

    def show(self, width: int, scheme: str, height: int = 900) -> None:
        """The page on a screen of this width, by a reader who prefers `light` or `dark`."""
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", screen)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._call("Emulation.setEmulatedMedia", {"features": features})

    def screenshot(self, path: Path) -> None:
        import base64

        path.write_bytes(
            base64.b64decode(self._call("Page.captureScreenshot", {"captureBeyondViewport": True})["data"])
        )

    def close(self) -> None:
        self._socket.close()
        self._browser.kill()
        self._browser.wait()
        self._browser.stderr.close()
