"""A browser for pages: Debian's Chromium under Playwright, and a record of what a page asks for and complains of."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def browsing() -> Iterator[Any]:
    """A running Chromium; the tests that want one are skipped where there is none, and say so."""
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium here (apt-get install chromium)")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Looked:
    """A page that was opened from disk; `faults` are errors and requests beyond the file itself."""

    def __init__(self, browser: Any, path: Path, fragment: str = "", **context: Any) -> None:
        self.context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | context))
        self.page, self.faults = self.context.new_page(), []
        self.page.on("console", lambda message: self.faults.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.faults.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.page.on("request", lambda request: self._asked(request.url, path))
        self.page.goto(path.as_uri() + fragment)

    def _asked(self, url: str, path: Path) -> None:
        if not url.startswith(("data:", path.parent.as_uri())):
            self.faults.append(f"request {url}")

    def until(self, expression: str) -> None:
        """Waits until an expression is true in the page, 5 s at most; the policy forbids Playwright its own way."""
        end = time.monotonic() + 5
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, f"never came true: {expression}"
            self.page.wait_for_timeout(20)

    def count(self) -> str:
        """What stands above the list: how many questions are shown."""
        return str(self.page.inner_text("#x-count"))

    def rows(self) -> list[str]:
        """The questions in sight, in their order."""
        texts = self.page.locator(".row .asked").all_inner_texts()
        places = self.page.locator(".row").evaluate_all("rows => rows.map(row => +row.getAttribute('aria-posinset'))")
        return [text for _, text in sorted(zip(places, texts, strict=True))]

    def choose(self, title: str, words: str) -> None:
        """Chooses an option of a filter, by the first words of the option."""
        control = self.page.locator("#x-form label", has_text=title).locator("select").first
        options = control.locator("option").all_inner_texts()
        control.select_option(index=next(n for n, option in enumerate(options) if option.startswith(words)))
