"""A headless Chromium, driven by Selenium, for pictures of reports.

Selenium, Chromium and its driver are needed for nothing else, so they are no dependency of the package:
Debian has `chromium-driver`, and `pip install selenium` does the rest.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dps_ray.errors import ResourceError

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

_SECONDS_TO_DRAW = 30
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


@contextmanager
def headless_browser() -> Iterator[Chrome]:
    """A fresh browser with a profile of its own; gone, with the profile, at the end.

    Raises ResourceError when Selenium, Chromium or chromedriver is not installed.
    """
    try:
        from selenium.webdriver import Chrome, ChromeOptions, ChromeService
    except ImportError:
        raise ResourceError("selenium is not installed: run `pip install selenium`") from None
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if missing := [name for name, path in programs.items() if not path]:
        raise ResourceError(
            f"{' and '.join(missing)} not found on PATH: on Debian, `apt-get install chromium-driver` brings both"
        )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ChromeOptions()
        options.binary_location = str(programs["chromium"])
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        browser = Chrome(options, ChromeService(str(programs["chromedriver"])))
        try:
            yield browser
        finally:
            browser.quit()


def open_report(browser: Chrome, report: Path, width: int = 1200) -> None:
    """Opens a report in a window `width` pixels wide and waits until its charts are drawn."""
    from selenium.webdriver.support.ui import WebDriverWait

    resize(browser, width, 900)
    browser.get(report.resolve().as_uri())
    WebDriverWait(browser, _SECONDS_TO_DRAW).until(
        lambda page: page.execute_script("return document.body.dataset.drawn")
    )


def resize(browser: Chrome, width: int, height: int) -> None:
    """Sets the size of the page itself, in CSS pixels; a window has a least width, a page has none."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def screenshot(report: Path, image: Path, width: int = 1200) -> None:
    """A PNG of the whole page, as wide as asked and as tall as it is."""
    with headless_browser() as browser:
        open_report(browser, report, width)
        height = browser.execute_script("return document.documentElement.scrollHeight")
        resize(browser, width, height)
        browser.save_screenshot(str(image))
