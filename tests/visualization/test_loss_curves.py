"""Curves out of `metrics.json`."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from PIL import Image

from detr_d2.visualization.loss_curves import RunLog, choose_metrics, curves_json, read_log, save_curves

LINES = [
    {"iteration": 19, "total_loss": 5.0, "lr": 0.1},
    {"iteration": 39, "total_loss": 4.0, "lr": 0.1, "bbox/AP": 12.5, "note": "text"},
    {"iteration": 59, "total_loss": 9.0},
    {"iteration": 39, "total_loss": 3.5},  # resumed from iteration 20
    {"iteration": 59, "total_loss": math.nan},
]


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_later_values_of_an_iteration_count(tmp_path: Path) -> None:
    log = read_log(write(tmp_path / "m.json", "\n".join(map(json.dumps, LINES))), "mine")
    assert list(log.curves["total_loss"].items())[:2] == [(19, 5.0), (39, 3.5)]
    assert math.isnan(log.curves["total_loss"][59])
    assert log.curves["bbox/AP"] == {39: 12.5}
    assert set(log.curves) == {"total_loss", "lr", "bbox/AP"}
    assert curves_json([log], ["total_loss"]) == {"mine": {"total_loss": [[19, 5.0], [39, 3.5], [59, None]]}}


def test_iterations_rise(tmp_path: Path) -> None:
    lines = [{"iteration": 39, "total_loss": 1.0}, {"iteration": 19, "total_loss": 2.0}]
    log = read_log(write(tmp_path / "m.json", "\n".join(map(json.dumps, lines))), "mine")
    assert list(log.curves["total_loss"]) == [19, 39]


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    log = read_log(write(tmp_path / "m.json", json.dumps(LINES[0]) + '\n{"iteration": 3'), "mine")
    assert list(log.curves["total_loss"]) == [19]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no metrics"),
        ("{\n", "line 1 of"),
        ("{\n" + json.dumps(LINES[0]), "line 1 of"),
        ('{"iteration": 1, "a": 2}\n[1]', "line 2 of"),
        ('{"loss": 1}', 'no JSON object with an "iteration"'),
    ],
)
def test_other_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_log(write(tmp_path / "m.json", text), "mine")


def test_metrics_are_chosen() -> None:
    first = RunLog("a", {"total_loss": {1: 1.0}, "loss_ce": {1: 1.0}})
    second = RunLog("b", {"bbox/AP": {1: 1.0}})
    assert choose_metrics([first], None) == ["total_loss"]
    assert choose_metrics([first, second], None) == ["total_loss", "bbox/AP"]
    assert choose_metrics([first, second], ["loss_ce"]) == ["loss_ce"]
    with pytest.raises(ValueError, match="no run has the metric 'loss_bbox'; there are loss_ce, total_loss"):
        choose_metrics([first], ["loss_bbox"])
    with pytest.raises(ValueError, match="name --metrics, of x"):
        choose_metrics([RunLog("c", {"x": {1: 1.0}})], None)


def test_picture_has_a_plot_for_each_metric(tmp_path: Path) -> None:
    logs = [RunLog("a", {"total_loss": {1: 1.0, 2: math.nan}}), RunLog("$b", {"bbox/AP": {1: 1.0}})]
    save_curves(tmp_path / "one.png", logs, ["total_loss"])
    save_curves(tmp_path / "two.png", logs, ["total_loss", "bbox/AP"])
    one, two = (Image.open(tmp_path / name).size for name in ("one.png", "two.png"))
    assert two == (2 * one[0], one[1])
