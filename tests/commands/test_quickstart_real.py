"""`quickstart-real` with tiny models on a tiny dataset."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from coco_files import CocoFiles
from tiny_baselines import tiny_faster_rcnn_cfg
from tiny_deformable import tiny_deformable_cfg

from detr_d2.__main__ import main
from detr_d2.commands import quickstart_real
from detr_d2.compare.cost.cost import CostSettings
from detr_d2.compare.records import load_comparison
from detr_d2.compare.results import RunResult, minutes
from detr_d2.engine.startup.setup import load_config
from detr_d2.experiments import timed_training, trained_comparison
from detr_d2.experiments.timed_training import train
from detr_d2.experiments.training_job import TrainingJob

SCHEDULE = [
    *("DATASETS.TRAIN", ("cells_train",), "DATASETS.TEST", ("cells_val",), "DATALOADER.NUM_WORKERS", 0),
    *("INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.MIN_SIZE_TEST", 64, "INPUT.CROP.ENABLED", False),
    *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.OPTIMIZER", "ADAMW", "TEST.EVAL_PERIOD", 0),
]


@pytest.fixture
def data(tmp_path: Path, tiny_coco: CocoFiles) -> Path:
    """Three training images, two of them also for validation."""
    folder = tmp_path / "cells: 2"  # a name that can be read in more than one way
    shutil.copytree(tiny_coco.image_root, folder / "images")
    (folder / "train.json").write_text(json.dumps(tiny_coco.content))
    content = {**tiny_coco.content, "images": tiny_coco.content["images"][:2]}
    (folder / "val.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def command(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Writes into `tmp_path / "out"`, without a process for each training, which takes seconds to start."""
    configs = {
        "Deformable DETR": tiny_deformable_cfg("single_scale", *SCHEDULE, "SOLVER.MAX_ITER", 3),
        # As no score is too low, there are detections to evaluate.
        "Faster R-CNN": tiny_faster_rcnn_cfg(*SCHEDULE, "SOLVER.MAX_ITER", 2, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
    }
    for title, cfg in configs.items():
        path = tmp_path / f"{title}.yaml"
        path.write_text(cfg.dump())
        monkeypatch.setitem(quickstart_real.MODELS, title, str(path))
    monkeypatch.setattr(timed_training, "_train_in_a_process", lambda job, report: train(job, report).save(job.result))
    monkeypatch.setattr(trained_comparison, "COST", CostSettings(repeat=2, batch_sizes=(1,), images=2, flops_images=1))
    monkeypatch.setattr("detr_d2.compare.cost.cost.peak_memory_mb", lambda *_: 123.0)
    return ["quickstart-real", "--data", str(data), "--output", str(tmp_path / "out"), "--seed", "5"]


def test_both_are_trained_by_their_own_schedules_and_compared(
    tmp_path: Path, data: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert main(command) == 0
    printed = capsys.readouterr().out
    deformable, faster_rcnn = (RunResult.load(output / name) for name in ("deformable_detr.json", "faster_rcnn.json"))
    assert f"[1/5] data: 3 training and 2 validation images of {data}" in printed
    assert [x.iterations for x in (deformable, faster_rcnn)] == [3, 2]
    assert [x.seed for x in (deformable, faster_rcnn)] == [5, 5]
    trained = [f"{x.model} {x.iterations} iterations in {minutes(x.train_seconds)}" for x in (deformable, faster_rcnn)]
    assert f"trained: {trained[0]}; {trained[1]}" in printed
    page = output / "compare" / "report.html"
    assert printed.splitlines()[-1] == f"report: {page}"
    assert all(f"training of {text}" in page.read_text(encoding="utf-8") for text in trained)
    comparison = load_comparison(output / "compare" / "results.json")
    assert [x.label for x in comparison.models] == ["Deformable DETR", "Faster R-CNN"]
    assert comparison.dataset.num_images == 2
    for model, result in zip(comparison.models, (deformable, faster_rcnn), strict=True):
        assert model.coco is not None
        assert model.coco.ap == pytest.approx(result.ap)
    assert len(list((output / "pictures").glob("0*.png"))) == 2


def test_it_goes_on_where_it_was_stopped_unless_something_is_new(
    data: Path, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[TrainingJob] = []

    def pretend(job: TrainingJob, _: Any) -> None:
        if len(trained) == 1:
            trained.append(job)
            raise KeyboardInterrupt
        trained.append(job)
        RunResult(job.title, job.config_file, "cells_val", 1, 1, 1).save(job.result)

    monkeypatch.setattr(timed_training, "_train_in_a_process", pretend)
    monkeypatch.setattr(quickstart_real, "compare_trained", lambda *_, **__: 0)

    def titles(*options: str) -> list[str]:
        done = len(trained)
        main([*command, *options])
        return [job.title for job in trained[done:]]

    both = ["Deformable DETR", "Faster R-CNN"]
    assert titles() == both
    assert "the same command goes on from here" in capsys.readouterr().err
    assert titles() == ["Faster R-CNN"]
    assert titles() == []
    assert titles("--fresh") == both
    assert [job.iterations for job in trained] == [None] * 5  # of the config
    assert titles("--max-iter", "7") == both
    assert [job.iterations for job in trained[-2:]] == [7, 7]
    content = json.loads((data / "train.json").read_text())
    (data / "train.json").write_text(json.dumps({**content, "annotations": content["annotations"][1:]}))
    assert titles("--max-iter", "7") == both  # other data under the same name


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[TrainingJob]:
    """What would be trained; no training takes place."""
    jobs: list[TrainingJob] = []

    def pretend(job: TrainingJob, _: Any) -> None:
        jobs.append(job)
        RunResult(job.title, job.config_file, "cells_val", 1, 1, 1, train_seconds=61.44).save(job.result)

    monkeypatch.setattr(timed_training, "_train_in_a_process", pretend)
    monkeypatch.setattr(quickstart_real, "compare_trained", lambda *_, **__: 0)
    return jobs


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"avx512_bf16": True, "avx2": True}, True), ({"amx_bf16": True}, True), ({"avx2": True}, False), ({}, False)],
)
def test_bfloat16_is_used_where_the_processor_has_it(
    command: list[str],
    jobs: list[TrainingJob],
    monkeypatch: pytest.MonkeyPatch,
    capabilities: dict[str, bool],
    expected: bool,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities, raising=False)
    assert main(command) == 0
    wanted = [dict(zip(job.opts[::2], job.opts[1::2], strict=True)).get("SOLVER.AMP.ENABLED") for job in jobs]
    assert wanted == ["True" if expected else None] * 2


def test_faster_rcnn_can_be_given_the_same_time(
    command: list[str], jobs: list[TrainingJob], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--max-iter", "9", "--same-time"]) == 0
    assert [(job.iterations, job.seconds) for job in jobs] == [(9, None), (None, 61.4)]
    assert "[3/5] Faster R-CNN: training for the same 1:01 and evaluation" in capsys.readouterr().out


def test_the_shipped_configs_are_for_data_of_any_classes() -> None:
    for config in quickstart_real.MODELS.values():
        cfg = load_config(config)
        assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == (("bccd_train",), ("bccd_val",))
        assert cfg.DATASETS.COCO == []
        assert cfg.MODEL.WEIGHTS == ""
    assert load_config(quickstart_real.MODELS["Deformable DETR"]).MODEL.DETR.NUM_CLASSES == 0


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ([], "there is no such folder"),
        (["train.json"], "the folder has no train.json; expected"),
        (["val.json", "images"], "the folder has no val.json and no images/; expected"),
    ],
)
def test_what_the_folder_lacks_is_told(
    data: Path, missing: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in missing:
        (data / name).rename(tmp_path / name)
    folder = data if missing else data / "nowhere"
    assert main(["quickstart-real", "--data", str(folder), "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --data {folder}: {message}")
    assert error.rstrip().endswith(
        "a folder with train.json and val.json in COCO format and the images of both in images/"
    )
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", ""], "--data names no folder (`make quickstart-real DATA=path/to/bccd`)"),
        (["--data", "x", "--max-iter", "0"], "--max-iter is 0, expected at least 1"),
        (["--data", "x", "--seed", "-1"], "--seed is -1, expected at least 0"),
    ],
)
def test_wrong_options_are_told(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quickstart-real", *options]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
