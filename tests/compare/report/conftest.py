"""A browser for the tests of pages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from headless_chromium import headless_chromium


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """One Chromium for all tests, offline."""
    with headless_chromium() as driver:
        yield driver
