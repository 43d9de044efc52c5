"""Pages without their figures."""

from __future__ import annotations

import pytest


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of `compare` without figures, which take most of their time: for tests of what else a run does."""
    monkeypatch.setattr("detr_d2.compare.report.plots.plot.draw", lambda *_, **__: "<svg></svg>")
    monkeypatch.setattr("detr_d2.compare.report.plots.plot.swatch", lambda *_, **__: "<svg></svg>")
