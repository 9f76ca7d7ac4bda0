"""Pages as a person sees them: Chromium without a window, from Debian's packages or any other on the path, driven by Playwright.

Playwright's browser of its own is not downloaded. It runs in a thread of its own, because its loop would pass for a running one
in a test that also runs flows.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE_SECONDS = 60


class Browser:
    """A browser of its own. `title` is that of the last page that was looked at."""

    def __init__(self, chromium: Any, thread: ThreadPoolExecutor) -> None:
        self._chromium, self._thread = chromium, thread
        self.title = ""

    def play(self, what: Callable[[Any], T], **how: Any) -> T:
        """What `what` returns, given a page of a person without cookies. `how` is what Playwright's `new_context` takes."""

        def played() -> T:
            with self._chromium.new_context(**{"viewport": {"width": 1600, "height": 1400}} | how) as context:
                context.set_default_timeout(PATIENCE_SECONDS * 1000)
                page = context.new_page()
                try:
                    return what(page)
                finally:
                    self.title = page.title()

        return self._thread.submit(played).result()


@contextmanager
def chromium() -> Iterator[Browser]:
    """A running browser."""
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    with ThreadPoolExecutor(1, "chromium") as thread:
        playwright = thread.submit(lambda: sync_playwright().start()).result()
        try:
            launched = thread.submit(lambda: playwright.chromium.launch(executable_path=CHROMIUM, args=flags)).result()
            try:
                yield Browser(launched, thread)
            finally:
                thread.submit(launched.close).result()
        finally:
            thread.submit(playwright.stop).result()


def shown(
    browser: Browser, address: str, *words: str, name: str, framed: bool = False, click: str | None = None, **how: Any
) -> str:
    """Open a page, or the file it shows in a frame, and wait until it shows all the words; its text.

    What the CSS selector `click` finds is clicked once, as soon as it is there. A picture is kept under `name` (`keep`).
    """

    def look(page: Any) -> str:
        page.goto(address)
        deadline, text, unclicked = time.monotonic() + PATIENCE_SECONDS, "", click
        while time.monotonic() < deadline and (unclicked or not text or not all(word in text for word in words)):
            page.wait_for_timeout(300)
            frames = page.frames[1:]
            if framed and not frames:
                continue
            shows = frames[0] if framed else page
            if unclicked and shows.evaluate(
                "css => [...document.querySelectorAll(css)].map(one => one.click()).length", unclicked
            ):
                unclicked = None
            text = shows.evaluate("() => document.body ? document.body.innerText : ''")
        keep(page, name)
        missing = [word for word in words if word not in text]
        assert not missing, f"{address} does not show {missing}; it shows: {text[:3000]}"
        assert len(set(page.screenshot())) > 100  # not one colour
        return str(text)

    return browser.play(look, **how)


def keep(page: Any, name: str, whole: bool = False) -> None:
    """With EVERMOE_SCREENSHOTS a picture of the page, or of the whole of it, is kept in that folder under `name`."""
    if folder := os.environ.get("EVERMOE_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=whole)
