"""Pages as a person sees them: Chromium without a window, from Debian's packages or any other on the path."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
PATIENCE_SECONDS = 60


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser of its own, driven by Selenium."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    assert CHROMIUM is not None
    assert DRIVER is not None
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(option)
    options.add_argument("--window-size=1600,1400")
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def shown(browser: Any, address: str, *words: str, name: str, framed: bool = False, click: str | None = None) -> str:
    """Open a page, or the file it shows in a frame, and wait until it shows all the words; its text.

    What the CSS selector `click` finds is clicked once, as soon as it is there. With EVERMOE_SCREENSHOTS a picture is kept in that
    folder, under `name`.
    """
    browser.get("about:blank")  # MLflow's addresses differ after the #, which alone loads nothing anew
    browser.get(address)
    deadline, text = time.monotonic() + PATIENCE_SECONDS, ""
    while time.monotonic() < deadline and (click or not text or not all(word in text for word in words)):
        time.sleep(0.3)
        browser.switch_to.default_content()
        frames = browser.find_elements("tag name", "iframe")
        if framed and not frames:
            continue
        if framed:
            browser.switch_to.frame(frames[0])
        if click and (found := browser.find_elements("css selector", click)):
            for one in found:
                browser.execute_script("arguments[0].click()", one)
            click = None
        text = browser.find_element("tag name", "body").text
    browser.switch_to.default_content()
    if folder := os.environ.get("EVERMOE_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))
    missing = [word for word in words if word not in text]
    assert not missing, f"{address} does not show {missing}; it shows: {text[:3000]}"
    assert len(set(browser.get_screenshot_as_png())) > 100  # not one colour
    return text
