"""Learning curves: times, the goal, the table and the picture."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from detr_d2.compare.records.results import RunResult
from detr_d2.experiments.convergence import (
    LearningCurve,
    convergence_table,
    read_metrics,
    save_curves_json,
    save_picture,
)


def curve(model: str, *ap: float, seconds: float = 100.0, seed: int = 0, steps: int = 10) -> LearningCurve:
    iterations = tuple(steps * (i + 1) for i in range(len(ap)))
    return LearningCurve(model, seed, iterations, ap, tuple(x + 5 for x in ap), seconds)


def test_from_the_metrics_of_a_run() -> None:
    result = RunResult(
        "DETR", "detr.yaml", "val", ap=30.0, ap50=50.0, ap75=20.0, iterations=50, train_seconds=200.0, seed=3
    )
    metrics = {
        "bbox/AP": {19: 10.0, 39: 20.0, 50: 30.0},
        "bbox/AP50": {19: 20.0, 39: 40.0, 50: 50.0},
        "loss": {19: 1.0},
    }
    run = LearningCurve.from_run(result, metrics)
    assert run.iterations == (20, 40, 50)
    assert (run.ap, run.ap50) == ((10.0, 20.0, 30.0), (20.0, 40.0, 50.0))
    assert (run.seconds, run.seed) == ((80.0, 160.0, 200.0), 3)


def test_nothing_detected_is_an_ap_of_zero() -> None:
    result = RunResult("DETR", "detr.yaml", "val", ap=3.0, ap50=5.0, ap75=2.0, iterations=20, train_seconds=2.0)
    run = LearningCurve.from_run(result, {"bbox/AP": {9: math.nan, 19: 3.0}, "bbox/AP50": {9: math.nan, 19: 5.0}})
    assert (run.ap, run.ap50) == ((0.0, 3.0), (0.0, 5.0))


def test_a_run_without_evaluation_is_an_error() -> None:
    result = RunResult(
        "DETR", "detr.yaml", "val", ap=30.0, ap50=50.0, ap75=20.0, iterations=50, train_seconds=200.0, seed=3
    )
    with pytest.raises(ValueError, match="DETR with seed 3 has no bbox/AP"):
        LearningCurve.from_run(result, {"total_loss": {19: 1.0}})


@pytest.mark.parametrize(
    ("goal", "seconds"),
    [(5.0, 12.5), (10.0, 25.0), (25.0, 43.75), (30.0, 50.0), (45.0, None), (math.nan, None)],
    ids=["before the first", "at the first", "between", "at the peak", "never", "unknown"],
)
def test_time_until_an_ap_is_reached(goal: float, seconds: float | None) -> None:
    """Evaluations after 25, 50, 75 and 100 seconds; the first crossing counts."""
    assert curve("DETR", 10.0, 30.0, 20.0, 40.0).seconds_until(goal) == seconds


def test_a_curve_that_starts_at_the_goal_of_zero() -> None:
    assert curve("DETR", 0.0, 0.0).seconds_until(0.0) == 50.0


def test_table_of_means_ranges_and_times() -> None:
    curves = [
        curve("DETR", 10.0, 30.0, seconds=100.0),
        curve("DETR", 20.0, 50.0, seconds=140.0, seed=1),  # the goal is AP 40, the whole time 120 s
        curve("Fast", 60.0, 70.0, seconds=90.0),  # 40 after 30 s
        curve("Fast", 80.0, 90.0, seconds=90.0, seed=1),  # after 22.5 s
        curve("Unsteady", 39.0, 39.0),
        curve("Unsteady", 60.0, 60.0, seed=1),
    ]
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in convergence_table(curves, "DETR").splitlines()
    ]
    assert lines[0][-2:] == ["time to AP 40.0", "share of DETR's"]
    assert lines[2] == ["DETR", "2", "20", "2:00", "40.0 (30.0 - 50.0)", "45.0 (35.0 - 55.0)", "2:00", "100 %"]
    assert lines[3] == ["Fast", "2", "20", "1:30", "80.0 (70.0 - 90.0)", "85.0 (75.0 - 95.0)", "0:26", "22 %"]
    assert lines[4][-2:] == ["-", "-"]
    assert convergence_table(curves[:1], "DETR").splitlines()[-1].split("|")[5].strip() == "30.0"


def test_numbers_and_picture(tmp_path: Path) -> None:
    curves = [curve("a $ b", 10.0, 30.0), curve("other", 10.0, seed=1), curve("other", 10.0, 20.0, seed=2)]
    save_curves_json(tmp_path / "c.json", curves, machine={"threads": 2})
    values = json.loads((tmp_path / "c.json").read_text())
    assert values["machine"] == {"threads": 2}
    assert [run["ap"] for run in values["runs"]] == [[10, 30], [10], [10, 20]]
    save_picture(tmp_path / "c.png", curves)
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_metrics_of_a_run_that_was_killed_and_resumed(tmp_path: Path) -> None:
    lines = [
        '{"iteration": 19, "total_loss": 5.0}',
        '{"iteration": 39, "total_loss": 4.0, "bbox/AP": 12.5}',
        '{"iteration": 59, "total_loss": 9.0}',
        '{"iteration": 79, "total',  # killed
        '{"iteration": 39, "total_loss": 3.5, "bbox/AP": NaN}',  # resumed from iteration 20
        '{"iteration": 29, "total_loss": 6.0}',
    ]
    (tmp_path / "metrics.json").write_text("\n".join(lines))
    curves = read_metrics(tmp_path / "metrics.json")
    assert list(curves["total_loss"].items()) == [(19, 5.0), (29, 6.0), (39, 3.5), (59, 9.0)]
    assert math.isnan(curves["bbox/AP"][39])
