"""The figures of the page as files, and the summary as a picture."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from detr_d2.commands import compare
from detr_d2.compare.records.comparison import Comparison, ShippedSettings, save_comparison
from detr_d2.compare.records.figures import Interval
from detr_d2.compare.report import files
from detr_d2.compare.report.plots.figure_files import write_figures
from detr_d2.compare.report.plots.plot import Plot, live_series, plot
from detr_d2.compare.report.plots.summary_image import headline_figures, summary_figure
from detr_d2.compare.report.plots.svg import INK, colour, draw, drawing_files, shade


def _two_lines(axes: Axes) -> None:
    axes.plot([0, 1], [0, 1], color=colour(1), linewidth=20)
    axes.barh([0], [1], color=colour(0))


def test_every_plot_in_both_formats_and_the_summary(example: Comparison, tmp_path: Path) -> None:
    one = plot("nms-ap", "Title $x", _two_lines, live_series(example))
    names = write_figures(example, {"a": [one], "b": None, "swatches": {"swatch-m0": "<svg>"}}, tmp_path / "figures")
    assert names == ["nms-ap.png", "nms-ap.pdf", "summary.png"]
    assert sorted(x.name for x in (tmp_path / "figures").iterdir()) == sorted(names)
    assert (tmp_path / "figures" / "nms-ap.pdf").read_bytes().startswith(b"%PDF")
    pixels = np.asarray(Image.open(tmp_path / "figures" / "nms-ap.png").convert("RGB"))
    colours = {tuple(x) for x in pixels.reshape(-1, 3).tolist()}
    assert {(0x00, 0x67, 0xB1), (0xC1, 0x4D, 0x00), (255, 255, 255)} <= colours  # of the style sheet, on white
    summary = Image.open(tmp_path / "figures" / "summary.png")
    assert summary.size == (1200, 630)
    assert summary.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_files_have_the_light_colours_and_the_page_its_variables() -> None:
    before = draw(_two_lines, "x")
    assert "var(--c1)" in before
    buffer = io.BytesIO()
    with drawing_files():
        figure = Figure()
        for i, name in enumerate([INK, *map(colour, range(8)), *map(shade, range(6))]):
            figure.text(0.1, i / 20, "x", color=name)
        figure.savefig(buffer, format="svg")
    text = buffer.getvalue().decode()
    assert "#1b1f24" in text
    assert not any(code in text for code in ("#0100", "#0200", "#0300"))  # all names have a colour
    assert draw(_two_lines, "x") == before


def test_headline_figures(example: Comparison) -> None:
    detr, rcnn, _ = example.models
    assert headline_figures(rcnn) == ["70.0", "66.9 to 72.9", "30.0 → 70.0", "at IoU 0.5, as shipped", "25.0"]
    assert headline_figures(detr) == ["65.0", "61.9 to 67.9", "65.0 → 64.4", "at IoU 0.5, not used", "21.0"]
    alone = replace(
        detr,
        nms=[],
        cost=None,
        confidence={"ap": Interval(50.0, float("nan"), float("nan"), [49.0, 51.0])},
        shipped=ShippedSettings(None, 0.0, 100, None, False),
    )
    assert headline_figures(alone) == ["50.0", "", "–", "", "–"]


def test_summary_of_many_models_keeps_inside_the_picture(example: Comparison) -> None:
    models = [replace(example.models[i % 2], label=f"A model with a very long name {i}") for i in range(7)]
    with drawing_files():
        figure = summary_figure(replace(example, models=models), None)
        figure.canvas.draw()
    texts = [text for text in figure.texts if text.get_text()]
    assert "and 2 more" in [text.get_text() for text in texts]
    boxes = [text.get_window_extent() for text in texts]
    assert all(b.x0 >= 0 and b.y0 >= 0 and b.x1 <= figure.bbox.width and b.y1 <= figure.bbox.height for b in boxes)
    apart = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
    assert apart == []


def test_the_command_draws_them_from_a_record(
    example: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def one_figure(comparison: Comparison) -> dict[str, Plot]:
        return {"x": plot("x", "X", _two_lines, live_series(comparison))}

    monkeypatch.setattr(files, "write_report", lambda *_: None)
    monkeypatch.setattr(files, "page_figures", one_figure)
    save_comparison(replace(example, models=example.models[:2]), tmp_path / "results.json")
    arguments = ["--from-json", str(tmp_path / "results.json"), "--output", str(tmp_path / "out")]
    assert compare.main(arguments) == 0
    assert not (tmp_path / "out" / "figures").exists()
    assert compare.main([*arguments, "--figures"]) == 0
    assert {x.name for x in (tmp_path / "out" / "figures").iterdir()} == {"x.png", "x.pdf", "summary.png"}
    assert f"figures: {tmp_path / 'out' / 'figures'}" in capsys.readouterr().out
