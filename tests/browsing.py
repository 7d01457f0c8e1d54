"""Chromium as a person uses it."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
IN_CHROMIUM = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Debian's packages chromium and chromium-driver"),
]
DESKTOP, PHONE = 1280, 390


@contextmanager
def chromium(profile: Path) -> Iterator[Chrome]:
    """Start Chromium without a window; its log and its requests are kept.

    Args:
        profile: an empty folder for its files.
    """
    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (
        *("headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "disable-quic", "no-first-run"),
        *("disable-background-networking", "disable-component-update", "disable-sync", "hide-scrollbars"),
        f"user-data-dir={profile}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = Chrome(options, ChromeService(str(DRIVER)))
    try:
        yield chrome
    finally:
        chrome.quit()


def screen(browser: Chrome, width: int, scheme: str = "light", height: int = 900) -> None:
    """Show pages on a screen of some width."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def view(browser: Chrome, url: str, width: int, scheme: str = "light") -> None:
    """Open a page on a screen of some width."""
    screen(browser, width, scheme)
    browser.get(url)


def errors(browser: Chrome) -> list[str]:
    """Return what the browser has complained of since it was last asked."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def eventually(holds: Callable[[], bool], seconds: float = 30) -> bool:
    """Wait until something holds, and return whether it does."""
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.2)
    return holds()
