"""Timed training runs: interrupted, given a time, failing, and what they say meanwhile."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from coco_files import CocoFiles
from tiny_models import tiny_cfg

from detr_d2.config import get_cfg
from detr_d2.experiments import timed_training
from detr_d2.experiments.timed_training import TrainingError, run_training, seconds_per_step, train, with_iterations
from detr_d2.experiments.training_job import TrainingJob
from detr_d2.experiments.training_progress import TrainingProgress

DATA = [
    *("DATASETS.TRAIN", ("shapes_train",), "DATASETS.TEST", ("shapes_val",), "DATALOADER.NUM_WORKERS", 0),
    *("INPUT.MIN_SIZE_TRAIN", (48,), "INPUT.MIN_SIZE_TEST", 48, "INPUT.CROP.ENABLED", False, "SEED", 7),
    *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 4, "SOLVER.STEPS", (2,), "TEST.EVAL_PERIOD", 0),
    *("SOLVER.OPTIMIZER", "ADAMW", "MODEL.DETR.NUM_CLASSES", 0),
]


@pytest.fixture
def detr_config(tmp_path: Path) -> str:
    (tmp_path / "detr.yaml").write_text(tiny_cfg(*DATA).dump())
    return str(tmp_path / "detr.yaml")


@pytest.fixture
def job(tmp_path: Path, tiny_coco: CocoFiles, detr_config: str) -> TrainingJob:
    coco = (tiny_coco.spec("shapes_train"), tiny_coco.spec("shapes_val"))
    return TrainingJob("DETR", detr_config, str(tmp_path / "run"), coco=coco, opts=("SEED", "3"))


class Reports(list[dict[str, Any]]):
    """Collects what a training says; fails at one iteration if asked."""

    def __init__(self, stop_at: int = 0) -> None:
        super().__init__()
        self.stop_at = stop_at

    def __call__(self, **news: Any) -> None:
        self.append(news)
        if news.get("iteration") == self.stop_at:
            raise InterruptedError("stop")

    def iterations(self) -> list[int]:
        return [news["iteration"] for news in self if "iteration" in news]


def test_an_interrupted_training_goes_on_with_its_clock(job: TrainingJob) -> None:
    interrupted, continued = Reports(stop_at=3), Reports()
    with pytest.raises(InterruptedError):
        train(job, interrupted)
    assert interrupted.iterations() == [1, 2, 3]
    result = train(job, continued)
    assert continued.iterations() == [3, 4]  # a checkpoint after each quarter
    assert continued[0]["max_iter"] == 4
    assert result.iterations == 4
    assert result.seed == 3
    assert result.dataset == "shapes_val"
    assert set(result.per_class) == {"red", "green", "blue"}

    checkpoints = [f"model_{number:07d}" for number in range(4)]
    loaded = [torch.load(Path(job.output_dir) / f"{name}.pth", weights_only=True) for name in checkpoints]
    clocks = [content["trainer"]["step_seconds"] for content in loaded]
    assert clocks == sorted(set(clocks))  # the second process adds to the time of the first
    assert clocks[-1] == result.train_seconds
    assert loaded[-1]["class_names"] == ["red", "green", "blue"]  # what `predict` shows
    assert loaded[-1]["category_ids"] == [1, 23, 56]


def test_a_time_of_zero_is_a_wish_for_one_iteration(job: TrainingJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timed_training, "seconds_per_step", lambda *_, **__: 0.5)
    planned = Reports()
    result = train(TrainingJob(**{**vars(job), "seconds": 0.0}), planned)
    assert planned[0] == {"seconds_per_step": 0.5, "max_iter": 1}
    assert result.iterations == 1


def test_a_folder_of_something_else_is_left_alone(job: TrainingJob) -> None:
    Path(job.output_dir).mkdir()
    (Path(job.output_dir) / "thesis.tex").touch()
    with pytest.raises(ValueError, match="was not made by this command"):
        run_training(job, Reports(), fresh=True)
    assert (Path(job.output_dir) / "thesis.tex").exists()


def test_a_training_process_that_fails_shows_its_log(
    job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script in place of Python: that the training itself fails is seen without a process, which takes seconds."""
    broken = replace(job, coco=("shapes_train=gone.json:gone",))
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho it begins\necho there is no gone.json >&2\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(TrainingError, match="failed with exit code 3") as error:
        run_training(broken, Reports())
    assert str(error.value).endswith("console.txt ends with\nit begins\nthere is no gone.json")
    assert not broken.result.exists()
    reading, writing = os.pipe()
    with pytest.raises((OSError, ValueError), match=r"gone\.json"):
        timed_training.main([json.dumps(asdict(broken)), str(writing)])
    os.close(reading)
    assert not broken.result.exists()


def test_a_schedule_is_stretched() -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.MAX_ITER", 400, "SOLVER.STEPS", (200, 380), "SOLVER.WARMUP_ITERS", 40])
    cfg.freeze()
    longer = with_iterations(cfg, 1000)
    assert longer.SOLVER.MAX_ITER == 1000
    assert longer.SOLVER.STEPS == (500, 950)
    assert longer.SOLVER.WARMUP_ITERS == 100
    assert longer.SOLVER.CHECKPOINT_PERIOD == 250
    assert longer.is_frozen()
    assert cfg.SOLVER.MAX_ITER == 400
    assert with_iterations(cfg, 2).SOLVER.STEPS == (1,)  # steps that fall together, or on the end, are dropped
    assert with_iterations(cfg, 1).SOLVER.CHECKPOINT_PERIOD == 1


def test_the_time_of_a_step_is_the_mean_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"now": 0.0}
    durations = iter([50.0, 40.0, 30.0, *[2.0, 4.0] * 50])

    class Slow:
        def __init__(self, _: Any) -> None:
            self.iter = -1

        def run_step(self) -> None:
            clock["now"] += next(durations)

    monkeypatch.setattr(timed_training, "Trainer", Slow)
    monkeypatch.setitem(timed_training.CLOCKS, "wall", lambda: clock["now"])
    assert seconds_per_step(get_cfg(), limit=1e9) == 3.0  # 30 steps of 2 and 4 seconds in turn
    assert clock["now"] == 120 + 90
    durations = iter([9.0] * 3 + [2.0, 4.0, 6.0, 100.0])
    assert seconds_per_step(get_cfg(), limit=1.0) == 4.0  # three steps at least, then the limit


def test_progress_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = {"now": 0.0}
    monkeypatch.setattr("time.monotonic", lambda: clock["now"])
    with TrainingProgress("DETR") as progress:
        for iteration in range(501, 1001):  # continued at 501, two iterations a second
            clock["now"] += 0.5
            progress(iteration=iteration, max_iter=1000, loss=1.234)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9  # every 30 seconds, and at the end
    assert lines[0] == "DETR: 560 of 1,000 iterations, loss 1.23, 2.0 it/s, ETA 3:40"
    assert lines[-1].startswith("DETR: 1,000 of 1,000 iterations")


@pytest.mark.filterwarnings("ignore")
def test_the_clock_times_the_steps(job: TrainingJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that moves by 5 seconds whenever it is read: 60 seconds hold 12 steps."""
    ticks = count(0.0, 5.0)
    monkeypatch.setitem(timed_training.CLOCKS, "cpu", lambda: next(ticks))
    result = train(replace(job, seconds=60.0, clock="cpu"), lambda **_: None)
    assert (result.iterations, result.train_seconds) == (12, 60.0)
