"""A headless Chromium for tests that look at pages as a reader does."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

FLAGS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync""".split()


@contextmanager
def open_page(**options: Any) -> Iterator[Any]:
    """Yield a page of a fresh browser; skips the test where there is none.

    Args:
        **options: of playwright's `new_context`, e.g. `offline=True`.
    """
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("needs Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=FLAGS)
        try:
            page = browser.new_context(**options).new_page()
            page.set_default_timeout(15_000)
            yield page
        finally:
            browser.close()


class Watcher:
    """Keeps what a page asked for outside an address, and the errors on its console."""

    def __init__(self, page: Any, allowed: str) -> None:
        self.outside: list[str] = []
        self.errors: list[str] = []
        page.on("request", lambda request: self._request(request.url, allowed))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._console)

    def _request(self, url: str, allowed: str) -> None:
        if not url.startswith((allowed, allowed.replace("http", "ws", 1), "data:", "blob:")):
            self.outside.append(url)

    def _console(self, message: Any) -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} {message.location.get('url', '')}")
