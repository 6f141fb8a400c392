"""A browser before a running installation, and what it may never say."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
_LINE = "There is no Chromium: install it (Debian, Ubuntu: apt install chromium)."
SECONDS = 20
"""That the page gets for whatever it is expected to show."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's, without a window; where CI has none the test fails, elsewhere it is skipped."""
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(_LINE)
    expect.set_options(timeout=1000 * SECONDS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        try:
            yield browser
        finally:
            browser.close()


def answering(url: str, health: str) -> None:
    """Returns once the installation is well, however busy the machine is."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(httpx.TransportError):
            if httpx.get(f"{url}/health/{health}").status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError(f"{url} is not {health}")


class Console:
    """What a page complains about: errors of its script, and what its policy forbade."""

    def __init__(self, page: Page) -> None:
        self.complaints: list[str] = []
        page.set_default_timeout(1000 * SECONDS)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda line: self._hear(line.type, line.text))

    def _hear(self, kind: str, text: str) -> None:
        # A 401 or 404 that a test asks for is said here too.
        if kind in ("error", "warning") and not text.startswith("Failed to load resource"):
            self.complaints.append(text)
