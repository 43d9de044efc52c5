"""`quickstart` with tiny models, and the timed training runs that it is made of."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coco_files import CocoFiles
from tiny_models import tiny_cfg

from detr_d2.__main__ import main
from detr_d2.commands import quickstart
from detr_d2.compare import run as compare_run
from detr_d2.compare.cost.cost import CostSettings
from detr_d2.compare.found import boxes as collect
from detr_d2.compare.models import Contestant
from detr_d2.compare.records import load_comparison
from detr_d2.compare.results import RunResult
from detr_d2.config import get_cfg
from detr_d2.data import read_image
from detr_d2.experiments import timed_training, trained_comparison
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
def faster_rcnn_config(tmp_path: Path) -> str:
    """Faster R-CNN on one feature map, as small as it gets."""
    cfg = tiny_cfg(*DATA)
    cfg.merge_from_list(["MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "MODEL.BACKBONE.NAME", "build_resnet_backbone"])
    cfg.merge_from_list(["MODEL.ROI_HEADS.NAME", "StandardROIHeads", "MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead"])
    cfg.merge_from_list(
        ["MODEL.ROI_BOX_HEAD.NUM_FC", 1, "MODEL.ROI_BOX_HEAD.FC_DIM", 8, "MODEL.ROI_HEADS.NUM_CLASSES", 3]
    )
    cfg.merge_from_list(["MODEL.RPN.POST_NMS_TOPK_TRAIN", 20, "MODEL.RPN.POST_NMS_TOPK_TEST", 20])
    (tmp_path / "faster_rcnn.yaml").write_text(cfg.dump())
    return str(tmp_path / "faster_rcnn.yaml")


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


@pytest.fixture
def command(tmp_path: Path, detr_config: str, faster_rcnn_config: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A small quickstart that writes into `tmp_path / "out"`."""
    monkeypatch.setattr(quickstart, "DETR_CONFIG", detr_config)
    monkeypatch.setattr(quickstart, "FASTER_RCNN_CONFIG", faster_rcnn_config)
    monkeypatch.setattr(trained_comparison, "COST", CostSettings(repeat=2, batch_sizes=(1,), images=2, flops_images=1))
    monkeypatch.setattr("detr_d2.compare.cost.cost.peak_memory_mb", lambda *_: 123.0)
    sizes = ["--max-iter", "3", "--train-images", "4", "--val-images", "3", "--seed", "5"]
    return ["quickstart", "--output", str(tmp_path / "out"), *sizes]


def test_quickstart(
    tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert main(command) == 0

    printed = capsys.readouterr().out
    detr, faster_rcnn = (RunResult.load(output / name) for name in ("detr.json", "faster_rcnn.json"))
    plan = json.loads((output / "faster_rcnn" / "plan.json").read_text())
    assert (detr.model, detr.iterations, detr.seed) == ("DETR", 3, 5)
    assert plan["seconds"] == round(detr.train_seconds, 1)
    assert faster_rcnn.iterations == plan["iterations"] == max(1, round(plan["seconds"] / plan["seconds_per_step"]))
    assert set(detr.per_class) == {"circle", "rectangle", "triangle"}
    assert detr.parameters != faster_rcnn.parameters
    assert detr.inference_ms > 0
    assert detr.train_images_per_second == pytest.approx(3 * 2 / detr.train_seconds)
    for result in (detr, faster_rcnn):
        row = next(line for line in printed.splitlines() if line.startswith(result.model) and " M " in line)
        assert f"{result.ap:.1f}" in row
        assert f"{result.inference_ms:.1f}" in row
    assert f"{100 * faster_rcnn.train_seconds / detr.train_seconds:.0f} % of DETR's time" in printed
    assert str(output / "pictures" / "side_by_side.png") in printed
    pictures = {path.name: read_image(path, "BGR").shape for path in (output / "pictures").iterdir()}
    assert len(pictures) == 3 + 1
    assert pictures["000000.png"][1] > 3 * 128
    assert pictures["side_by_side.png"][1] > 2 * pictures["000000.png"][1]  # two columns
    annotations = [json.loads((path / "annotations.json").read_text()) for path in sorted((output / "data").iterdir())]
    assert [len(x["images"]) for x in annotations] == [4, 3]
    assert annotations[0]["annotations"][:3] != annotations[1]["annotations"][:3]  # other seeds

    report, comparison = output / "compare" / "report.html", load_comparison(output / "compare" / "results.json")
    *_, before_last, last = printed.splitlines()
    assert before_last.startswith("all of it took")
    assert last == f"report: {report}"
    assert comparison.dataset.num_images == 3
    assert comparison.command == shlex.join(["python", "-m", "detr_d2", *command])
    for model, result in zip(comparison.models, (detr, faster_rcnn), strict=True):
        assert model.label == result.model
        assert model.coco is not None
        assert model.coco.ap == pytest.approx(result.ap)  # of the evaluation after the training
        assert model.cost is not None
        assert {x.stage: x.p50_ms for x in model.cost.latency}["total"] == result.inference_ms
        assert model.weights_sha256
    page = report.read_text(encoding="utf-8")
    assert all(f">{label}</th>" in page for label in ("DETR", "Faster R-CNN"))
    assert not re.findall(r"""(?:src|href)=["']?(?!data:|#)[^"'>]+|@import|url\((?!data:|#)""", page)

    never = {
        "trained again": (timed_training, "_train_in_a_process"),
        "run again": (collect, "raw_outputs"),
        "timed again": (compare_run, "measure_costs"),
    }
    for message, (module, name) in never.items():
        monkeypatch.setattr(module, name, lambda *_, message=message, **__: pytest.fail(message))
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert printed.count("trained already with these settings") == 2
    assert printed.splitlines()[-1] == last
    assert RunResult.load(output / "detr.json") == detr
    assert load_comparison(output / "compare" / "results.json").models == comparison.models


@pytest.fixture
def train_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training without a process of its own, which takes seconds to start."""
    monkeypatch.setattr(timed_training, "_train_in_a_process", lambda job, report: train(job, report).save(job.result))


@pytest.mark.usefixtures("train_here")
def test_without_jinja2_only_the_page_is_missing(
    tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "jinja2", None)
        assert main(command) == 2
    printed, error = capsys.readouterr()
    assert error.splitlines()[-1] == 'error: the report needs jinja2: pip install "detr_d2[report]".'
    assert printed.splitlines()[-1].startswith("all of it took")
    output = tmp_path / "out"
    names = ["results.md", "detr.json", "faster_rcnn.json", "pictures/side_by_side.png"]
    names += ["compare/results.json", "compare/table.md"]
    assert [name for name in names if not (output / name).is_file()] == []
    assert not (output / "compare" / "report.html").exists()

    assert main(command) == 0
    assert (output / "compare" / "report.html").is_file()


@pytest.mark.usefixtures("train_here")
def test_a_model_that_cannot_be_compared_loses_nothing(
    tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = Contestant.load

    def only_detr(contestant: Contestant, **how: Any) -> Any:
        if contestant.spec.label != "DETR":
            raise ValueError("out of luck")
        return original(contestant, **how)

    monkeypatch.setattr(Contestant, "load", only_detr)
    assert main(command) == 1
    printed, error = capsys.readouterr()
    assert "error: Faster R-CNN cannot be compared: out of luck" in error
    assert printed.splitlines()[-1].startswith("report: ")
    detr, faster_rcnn = (RunResult.load(tmp_path / "out" / name) for name in ("detr.json", "faster_rcnn.json"))
    assert detr.inference_ms > 0
    assert np.isnan(faster_rcnn.inference_ms)
    assert faster_rcnn.train_seconds > 0


def test_a_failed_training_is_told(
    tmp_path: Path, detr_config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise TrainingError("the training of DETR failed with exit code 1")

    monkeypatch.setattr(quickstart, "DETR_CONFIG", detr_config)
    monkeypatch.setattr(timed_training, "_train_in_a_process", fail)
    sizes = ["--train-images", "1", "--val-images", "1"]
    assert main(["quickstart", "--output", str(tmp_path / "out"), *sizes]) == 1
    assert "error: the training of DETR failed" in capsys.readouterr().err
    assert main(["quickstart", "--output", str(tmp_path / "out"), "--val-images", "0"]) == 2
    assert "--val-images is 0" in capsys.readouterr().err


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


@pytest.mark.parametrize("option", ["--max-iter", "--train-images", "--val-images"])
def test_numbers_below_one_are_mistakes(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quickstart", "--output", str(tmp_path / "out"), option, "0"]) == 2
    assert f"error: {option} is 0, expected at least 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(job: TrainingJob) -> None:
    Path(job.output_dir).mkdir()
    (Path(job.output_dir) / "thesis.tex").touch()
    with pytest.raises(ValueError, match="was not made by this command"):
        run_training(job, Reports(), fresh=True)
    assert (Path(job.output_dir) / "thesis.tex").exists()


def test_a_training_process_that_fails_shows_its_log(job: TrainingJob) -> None:
    broken = TrainingJob(**{**vars(job), "coco": ("shapes_train=gone.json:gone",)})
    with pytest.raises(TrainingError, match="failed with exit code 1") as error:
        run_training(broken, Reports())
    assert "gone" in str(error.value)
    assert "console.txt" in str(error.value)
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
