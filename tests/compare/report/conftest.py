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


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without figures, which take most of their time."""
    monkeypatch.setattr("detr_d2.compare.report.plots.plot.draw", lambda *_, **__: "<svg></svg>")
    monkeypatch.setattr("detr_d2.compare.report.plots.plot.swatch", lambda *_, **__: "<svg></svg>")
