"""A headless Chromium for tests that look at pages as a reader does."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync""".split()


def find() -> str | None:
    """Return the path of a Chromium."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


def pictures_of(path: Path) -> list[dict[str, Any]]:
    """Open a page without a network; return alt text, own width and shown height of its images.

    Raises:
        AssertionError: the page asks for something outside, or logs an error.
    """
    look = "images => images.map(i => [i.alt, i.naturalWidth, i.clientHeight])"
    with open_page(offline=True) as page:
        watcher = Watcher(page, "file://")
        page.goto(path.as_uri())
        found = page.eval_on_selector_all("img", look)
    assert (watcher.outside, watcher.errors) == ([], [])
    return [dict(zip(("alt", "width", "height"), each, strict=True)) for each in found]


@contextmanager
def open_page(**options: Any) -> Iterator[Any]:
    """Yield a page of a fresh browser; skips the test where there is none.

    Args:
        **options: of playwright's `new_context`, e.g. `offline=True`.
    """
    path = find()
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
