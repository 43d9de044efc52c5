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
from detr_d2.compare.report.plots import accuracy as report_figures
from detr_d2.compare.report.plots import crowds as report_crowds
from detr_d2.compare.report.plots import plot as report_plot
from detr_d2.compare.report.plots import sets as report_set_figures
from detr_d2.compare.report.plots import sparks
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
            (report_crowds, ("crowds",)),
            (report_set_figures, ("nms_sweep", "layers", "scores", "counting", "missed")),
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


def _named(axes: Axes, name: str) -> list[float]:
    """Heights of the line that the slider moves."""
    (line,) = [x for x in axes.lines if x.get_gid() == f"live-{name}"]
    return np.asarray(line.get_ydata()).tolist()


def test_crowds_as_shipped_and_without_nms(drawn: Callable[..., dict[str, Axes]]) -> None:
    axes = drawn()["crowds-recall"]
    # The empty bin is left out. Faster R-CNN: recall 66 at its operating point, minus 0, 2, 6, 20, 30 in the bins.
    assert _named(axes, "1.crowds") == [66.0, 64.0, 60.0, 46.0, 36.0]
    assert _named(axes, "1.crowds_without_nms") == [66.0, 65.0, 63.0, 56.0, 51.0]
    assert _named(axes, "0.crowds") == pytest.approx([64.0, 62.0, 60.0, 56.0, 54.0])
    assert [x.get_text() for x in axes.get_xticklabels()][3:] == ["0.5 to 0.7\n(22)", "0.7 to 1\n(5)"]
    hatched = [x.get_extents().x0 for x in axes.patches if x.get_hatch()]
    assert len(hatched) == 1  # the last one, of 5 objects


def test_lines_of_crowds_look_as_their_legend_says(example: Comparison) -> None:
    plot = report_crowds.crowds(report_plot.live_series(example))[0]
    legend = {text: swatch for swatch, text in plot.legend}
    assert legend["Faster R-CNN without NMS"] == "swatch-w1"
    assert "lost to NMS by Faster R-CNN" in legend
    assert not any("lost" in text and "DETR" in text for text in legend)
    assert report_plot.shipped_style(1)["linestyle"] == "-"
    assert report_plot.without_style(1)["linestyle"] == ":"
    swatches = report_plot.swatches(report_plot.live_series(example))
    assert set(legend.values()) <= set(swatches)
    assert "stroke-dasharray" in swatches["swatch-w1"]
    assert "stroke-dasharray" not in swatches["swatch-c1"]  # though Faster R-CNN is dashed in other figures
    assert "stroke-dasharray" in swatches["swatch-m1"]


def test_what_the_slider_moves_is_named_in_the_svg(example: Comparison) -> None:
    plot = report_crowds.crowds(report_plot.live_series(example))[0]
    names = {x.attributes["data-line"] for x in parse(plot.svg).find_all() if "data-line" in x.attributes}
    assert {"scale", "own", "0.crowds", "1.crowds", "1.crowds_without_nms"} <= names
    used = set(re.findall(r"url\(#([^)]+)\)", plot.svg))
    assert used <= {x.attributes.get("id") for x in parse(plot.svg).find_all()}


def test_bins_of_another_model_are_joined_by_their_bounds(
    example: Comparison, drawn: Callable[..., dict[str, Axes]]
) -> None:
    other = replace(example.models[1], crowds=[x for x in example.models[1].crowds if x.low == 0.3])
    axes = drawn(replace(example, models=[example.models[0], other]))["crowds-ap"]
    ((place, height),) = _lines(axes)[-1]
    assert (round(place), height) == (2, 50.0)  # 60 − 10


def test_operating_scores_are_marked_on_their_curve(drawn: Callable[..., dict[str, Axes]]) -> None:
    axes = drawn()
    lines = _lines(axes["score-recall"])
    assert [x for x in lines if len(x) == 1] == [[(0.6, 66.0)], [(0.7, 62.0)], [(0.7, 68.0)], [(0.8, 64.0)]]
    assert lines[2][0] == (0.05, 88.0)  # after the two helpers of the slider


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


# Small pictures of the cards, 240 x 40


def _paths(svg: str) -> list[str]:
    return [x.attributes["d"] for x in parse(svg).find_all("path")]


def test_a_line_of_a_card_goes_from_corner_to_corner() -> None:
    assert _paths(sparks.lines([(0, [(0.0, 10.0), (1.0, 20.0)])])) == ["M4.0 36.0 L236.0 4.0"]
    # A span of 40 around 15: the line rises by a quarter of the 32 pixels.
    assert _paths(sparks.lines([(0, [(0.0, 10.0), (1.0, 20.0)])], least_span=40.0)) == ["M4.0 24.0 L236.0 16.0"]
    assert sparks.lines([(0, [(0.0, _NAN)])]) == ""


def test_dots_and_bars_of_a_card() -> None:
    bar, dot, alone = _paths(sparks.whiskers([(0, 5.0, 0.0, 10.0), (1, 10.0, _NAN, _NAN)]))
    assert bar == "M8.5 10.0 H231.5"  # 2 % of 10 are left free at each end
    assert dot.startswith("M120.0 10.0")
    assert alone.startswith("M231.5 30.0")
    bars = list(parse(sparks.bars([(0, 20.0), (1, 5.0), (2, _NAN)])).find_all("rect"))
    assert [x.attributes["width"] for x in bars] == ["240.0", "60.0"]
    assert "var(--c1)" in bars[1].attributes["style"]
    assert sparks.bars([(0, _NAN)]) == sparks.whiskers([]) == ""
