"""The figures of the page of `compare`, as drawn and as SVG."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from report_html import parse

from detr_d2.compare.records.comparison import Comparison
from detr_d2.compare.records.sets import CrowdingBin
from detr_d2.compare.report.plots import accuracy as report_figures
from detr_d2.compare.report.plots import plot as report_plot
from detr_d2.compare.report.plots import sets as report_set_figures
from detr_d2.compare.report.plots.svg import draw, series_style, swatch

_NAN = float("nan")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, example: Comparison) -> Callable[..., dict[str, Axes]]:
    """Figures by name, as the axes that were drawn on."""

    def make(comparison: Comparison = example) -> dict[str, Axes]:
        axes: dict[str, Axes] = {}

        def record(on: Callable[[Axes], object], name: str, **_: Any) -> str:
            axes[name] = Figure().add_subplot()
            on(axes[name])
            return ""

        monkeypatch.setattr(report_plot, "draw", record)
        series = report_plot.live_series(comparison)
        for module, names in (
            (report_figures, ("precision_recall", "speed", "errors", "stages", "throughput")),
            (report_set_figures, ("nms_sweep", "layers", "crowding", "counting", "missed")),
        ):
            for name in names:
                getattr(module, name)(series)
        return axes

    return make


def _lines(axes: Axes) -> list[list[tuple[float, float]]]:
    return [list(zip(*map(np.ndarray.tolist, map(np.asarray, line.get_data())), strict=True)) for line in axes.lines]


def test_the_sweep_ends_without_nms_and_rings_what_is_shipped(drawn: Callable[..., dict[str, Axes]]) -> None:
    axes = drawn()["nms-ap"]
    detr, ring, rcnn, other_ring = _lines(axes)
    assert [x for x, _ in detr] == pytest.approx([*np.arange(0.3, 0.96, 0.05), 1.0])
    assert detr[-1] == (1.0, 65.0)
    assert ring == [(1.0, 65.0)]
    assert other_ring == [(0.5, 70.0)]
    assert rcnn[-1] == (1.0, 30.0)
    assert axes.get_xticklabels()[-1].get_text() == "none"
    assert _lines(drawn()["nms-kept"])[2][0] == (0.3, 120.0)


@pytest.mark.parametrize("level", [0.001, 50.0])
def test_axes_of_ap_do_not_magnify_noise(
    example: Comparison, drawn: Callable[..., dict[str, Axes]], level: float
) -> None:
    model = example.models[0]
    nms = [replace(p, ap=level + 0.001 * p.layer, ap50=level) for p in model.nms]
    axes = drawn(replace(example, models=[replace(model, nms=nms)]))
    for name in ("nms-ap", "layers-ap-0", "layers-ap50-0"):
        low, high = axes[name].get_ylim()
        assert 0 <= low < level < high
        assert high - low >= 3.99
    low, high = drawn()["nms-ap"].get_ylim()
    assert low < 30.0 < 70.0 < high < 73.0  # and show all there is


def test_layers_with_and_without_nms(drawn: Callable[..., dict[str, Axes]]) -> None:
    axes = drawn()
    assert [name for name in axes if name.startswith("layers")] == ["layers-ap-0", "layers-ap50-0"]
    none, loose, strict = _lines(axes["layers-ap-0"])
    assert none == [(1, 55.0), (2, 60.0), (3, 65.0)]
    assert [y for _, y in loose] == pytest.approx([55.4, 60.0, 64.6])  # 0.7: (2 − layer) × 0.4
    assert [y for _, y in strict] == pytest.approx([55.6, 60.0, 64.4])


def test_time_against_ap_with_its_interval(drawn: Callable[..., dict[str, Axes]]) -> None:
    detr, *_ = _lines(drawn()["speed"])
    assert detr == [(21.0, 65.0)]
    bars = [bar for container in drawn()["speed"].containers for bar in container.lines[2]]  # type: ignore[attr-defined]
    assert bars[0].get_segments()[0].tolist() == [[21.0, pytest.approx(61.9)], [21.0, pytest.approx(67.9)]]


def test_crowding_as_shipped_and_without_nms(drawn: Callable[..., dict[str, Axes]]) -> None:
    lines = _lines(drawn()["crowding-recall"])
    assert [y for _, y in lines[2]] == pytest.approx([98.0, 92.0, 70.0, _NAN], nan_ok=True)  # the second model's
    assert [y for _, y in lines[3]] == pytest.approx([98.0, 95.0, 90.0, _NAN], nan_ok=True)
    assert drawn()["crowding-ap"].get_xticklabels()[2].get_text() == "0.3 to 0.5\n(15)"


def test_bins_of_another_model_are_joined_by_their_bounds(
    example: Comparison, drawn: Callable[..., dict[str, Axes]]
) -> None:
    other = replace(example.models[1], crowding=[CrowdingBin(0.3, 0.5, 15, 50.0, 60.0, 40.0, 0.5)])
    lines = _lines(drawn(replace(example, models=[example.models[0], other]))["crowding-ap"])
    assert [y for _, y in lines[1]] == pytest.approx([_NAN, _NAN, 40.0, _NAN], nan_ok=True)


def test_times_are_stacked_in_the_order_of_the_stages(drawn: Callable[..., dict[str, Axes]]) -> None:
    axes = drawn()["stages"]
    bars = [[(bar.get_x(), bar.get_width()) for bar in group] for group in axes.containers]
    assert [group[0] for group in bars] == [(0, 12.0), (12.0, 7.5), (19.5, 0), (19.5, 0), (19.5, 0), (19.5, 1.5)]
    assert [group[1] for group in bars] == [(0, 14.0), (14.0, 0), (14.0, 4.0), (18.0, 5.0), (23.0, 0.5), (23.5, 1.5)]


def test_counting_errors_missed_and_throughput(drawn: Callable[..., dict[str, Axes]]) -> None:
    axes = drawn()
    exact, detr, _ = _lines(axes["counting"])
    assert exact == [(0, 0), (4.0, 4.0)]
    assert detr == [(1.5, 1.6), (3.75, 4.0)]
    gains = [bar.get_width() for bar in axes["errors"].containers[0]]
    assert gains == [1.5, 3.25, 0.1, 0.4, 2.0, 4.5]
    assert [y for _, y in _lines(axes["missed"])[0]] == pytest.approx([100 / 33, 600 / 67])
    assert _lines(axes["throughput"])[0][:2] == [(1, 45.0), (4, 60.0)]
    assert len(_lines(axes["pr-75"])[0]) == 101
    assert _lines(axes["pr-50"])[1][-1] == (100.0, 60.0)


def test_svg_is_coloured_by_the_page_and_keeps_to_itself() -> None:
    def on(axes: Axes) -> None:
        axes.plot([1, 2], [1, 2], **series_style(2))
        axes.set_xlabel("<b> $x^$ #010000")

    svg = draw(on, "one")
    node = parse(svg).find("svg")
    assert "var(--c2)" in svg
    assert "var(--ink)" in svg
    assert not list(node.find_all("style"))
    assert not list(node.find_all("metadata"))
    assert "<b> $x^$ #010000" in [x.text() for x in node.find_all("text")]
    assert not re.findall(r"(?:fill|stroke): #", svg)
    ids = [x.attributes["id"] for x in node.find_all() if "id" in x.attributes]
    assert ids
    assert all(name.startswith("one-") for name in ids)
    assert draw(on, "one") == svg


def test_many_models_are_told_apart() -> None:
    styles = [tuple(series_style(i).values()) for i in range(16)]
    assert len(set(styles)) == 16
    assert "var(--c7)" in swatch("x", **series_style(15))
