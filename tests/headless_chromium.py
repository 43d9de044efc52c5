"""Headless Chromium without network, for tests of the pages.

Tests are skipped where Chromium, its driver or selenium is missing; DETR_D2_REQUIRE_BROWSER=1 makes that a failure.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_REQUIRED = "DETR_D2_REQUIRE_BROWSER"
_ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--force-prefers-reduced-motion",
)


@contextmanager
def headless_chromium() -> Iterator[Any]:
    """A selenium driver, offline."""
    missing = _missing()
    if missing and os.environ.get(_REQUIRED, "") not in ("", "0"):
        pytest.fail(f"{_REQUIRED} is set, but {missing}")
    if missing:
        pytest.skip(f"the page is not tested in a browser: {missing}")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in _ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "localhost,127.0.0.1")  # the driver listens here
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            driver.execute_cdp_cmd("Network.enable", {})
            offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
            driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
            yield driver
        finally:
            driver.quit()


def _missing() -> str:
    if importlib.util.find_spec("selenium") is None:
        return "selenium is missing (pip install selenium)"
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"there is no {' and no '.join(absent)} (Debian: apt-get install chromium chromium-driver)" if absent else ""
