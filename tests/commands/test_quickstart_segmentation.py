"""`quickstart-segmentation` with tiny models on a few shapes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from segmentation_cases import MASKS
from tiny_baselines import tiny_faster_rcnn_cfg
from tiny_models import tiny_cfg

from detr_d2.__main__ import main
from detr_d2.commands import quickstart_segmentation
from detr_d2.compare.cost.cost import CostSettings
from detr_d2.compare.records import load_comparison
from detr_d2.compare.results import RunResult
from detr_d2.data.shapes.synthetic import make_shapes
from detr_d2.experiments import timed_training, trained_comparison
from detr_d2.experiments.timed_training import run_training, train
from detr_d2.experiments.training_job import TrainingJob

COMMON: list[Any] = [
    *("DATASETS.TRAIN", ("shapes_train",), "DATASETS.TEST", ("shapes_val",), "DATALOADER.NUM_WORKERS", 0),
    *("INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.MIN_SIZE_TEST", 64, "INPUT.CROP.ENABLED", False),
    *("INPUT.MASK_FORMAT", "bitmask", "SOLVER.IMS_PER_BATCH", 2, "SOLVER.OPTIMIZER", "ADAMW", "SOLVER.MAX_ITER", 2),
]
DETR = [*COMMON, "MODEL.DETR.NUM_CLASSES", 0]
FASTER_RCNN = [*COMMON, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0]  # there are detections to evaluate
PANOPTIC = [
    *(*DETR, *MASKS, "MODEL.DETR.PANOPTIC.ENABLED", True, "MODEL.DETR.CLASS_HEAD_FROM", "names"),
    *("DATASETS.TRAIN", ("shapes_panoptic_train",), "DATASETS.TEST", ("shapes_panoptic_val",)),
]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """With tiny models; trainings run in this process."""
    configs = {
        "box_detr": tiny_cfg(*DETR),
        "box_faster_rcnn": tiny_faster_rcnn_cfg(*FASTER_RCNN),
        "detr": tiny_cfg(*DETR, *MASKS),
        "mask_rcnn": tiny_faster_rcnn_cfg(
            *(*FASTER_RCNN, "MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"),
            *("MODEL.ROI_MASK_HEAD.NUM_CONV", 1, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8),
        ),
        "panoptic": tiny_cfg(*PANOPTIC),
    }
    for name, cfg in configs.items():
        (tmp_path / f"{name}.yaml").write_text(cfg.dump())
    own = {"DETR": "detr", "Mask R-CNN": "mask_rcnn"}
    for title, name in own.items():
        folder = quickstart_segmentation.MASK_MODELS[title][1]
        monkeypatch.setitem(quickstart_segmentation.MASK_MODELS, title, (str(tmp_path / f"{name}.yaml"), folder))
    monkeypatch.setattr(quickstart_segmentation, "PANOPTIC_CONFIG", str(tmp_path / "panoptic.yaml"))
    monkeypatch.setattr(timed_training, "_train_in_a_process", lambda job, report: train(job, report).save(job.result))
    monkeypatch.setattr(trained_comparison, "COST", CostSettings(repeat=2, batch_sizes=(1,), images=2, flops_images=1))
    monkeypatch.setattr("detr_d2.compare.cost.cost.peak_memory_mb", lambda *_: 123.0)
    options = ["--base", str(tmp_path / "base"), "--output", str(tmp_path / "out"), "--seed", "5"]
    return ["quickstart-segmentation", *options, "--train-images", "3", "--val-images", "2", "--max-iter", "3"]


@pytest.fixture
def quickstart(tmp_path: Path, command: list[str]) -> Path:  # noqa: ARG001
    """The folder of a quickstart of two iterations."""
    coco = []
    for split, seed in (("train", 0), ("val", 10_000)):
        paths = make_shapes(tmp_path / "shapes" / split, 4, seed)
        coco.append(f"shapes_{split}={paths.annotations}:{paths.images}")
    for folder in ("detr", "faster_rcnn"):
        config = str(tmp_path / f"box_{folder}.yaml")
        run_training(TrainingJob(folder, config, str(tmp_path / "base" / folder), coco=tuple(coco)), lambda **_: None)
    return tmp_path / "base"


@pytest.fixture
def files_of_a_quickstart(tmp_path: Path) -> Path:
    """What is read of one before the trainings."""
    for folder in ("detr", "faster_rcnn"):
        path = tmp_path / "base" / folder
        path.mkdir(parents=True)
        torch.save({"model": {}, "folder": folder}, path / "model_final.pth")
        (path / "job.json").write_text(json.dumps({"coco": ["shapes_train=a:b", "shapes_val=c:d"]}))
        RunResult(folder, "c", "d", 1, 1, 1).save(path / "result.json")
    return tmp_path / "base"


@pytest.mark.usefixtures("quickstart")
def test_masks_and_panoptic_maps_are_trained_and_compared(
    tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 0
    printed = capsys.readouterr().out
    output = tmp_path / "out"
    assert re.findall(r"^\[(\d)/8\] ", printed, re.MULTILINE) == [str(step) for step in range(1, 9)]
    assert printed.splitlines()[-1] == f"report: {output / 'panoptic' / 'compare' / 'report.html'}"

    masks = {name: RunResult.load(output / "masks" / f"{name}.json") for name in ("detr", "mask_rcnn")}
    assert all(set(x.extra) == {"mask AP", "mask AP50"} for x in masks.values())
    panoptic = RunResult.load(output / "panoptic" / "detr.json")
    assert "PQ" in panoptic.extra
    assert [x.iterations for x in (*masks.values(), panoptic)] == [3, 3, 3]
    assert "mask AP50" in (output / "masks" / "results.md").read_text(encoding="utf-8")

    comparison = load_comparison(output / "masks" / "compare" / "results.json")
    assert [x.label for x in comparison.models] == ["DETR", "Mask R-CNN"]
    for model, name in zip(comparison.models, masks, strict=True):
        assert model.masks is not None
        assert model.masks.ap == pytest.approx(masks[name].extra["mask AP"])
    (model,) = load_comparison(output / "panoptic" / "compare" / "results.json").models
    assert model.panoptic is not None
    assert model.panoptic.pq == pytest.approx(panoptic.extra["PQ"])
    picture = cv2.imread(str(output / "panoptic" / "pictures" / "side_by_side.png"))
    assert picture is not None
    assert picture.shape[1] > 2 * 2 * 320  # two images, truth and prediction of each


def test_it_begins_with_the_models_of_the_quickstart(
    files_of_a_quickstart: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[TrainingJob] = []

    def pretend(job: TrainingJob, _: Any) -> None:
        jobs.append(job)
        RunResult(job.title, job.config_file, "shapes_val", 1, 1, 1).save(job.result)

    monkeypatch.setattr(timed_training, "_train_in_a_process", pretend)
    monkeypatch.setattr(quickstart_segmentation, "compare_trained", lambda *_, **__: 0)
    assert main(command) == 0
    weights = [dict(zip(job.opts[::2], job.opts[1::2], strict=True))["MODEL.WEIGHTS"] for job in jobs]
    expected = [files_of_a_quickstart / name / "model_final.pth" for name in ("detr", "faster_rcnn", "detr")]
    assert weights == [str(path) for path in expected]
    coco = ("shapes_train=a:b", "shapes_val=c:d")
    assert [job.coco for job in jobs] == [coco, coco, ()]
    assert [bool(job.coco_panoptic) for job in jobs] == [False, False, True]

    jobs.clear()
    assert main(command) == 0
    assert jobs == []  # all of it is there
    torch.save({"model": {}, "folder": "another"}, expected[1])
    assert main(command) == 0
    assert [job.title for job in jobs] == ["Mask R-CNN"]  # which began with another model


def test_two_models_of_different_data_are_refused(
    files_of_a_quickstart: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = files_of_a_quickstart / "faster_rcnn" / "job.json"
    job = json.loads(path.read_text())
    both: list[str] = job["coco"]
    for coco in (both[::-1], both[:1]):
        path.write_text(json.dumps({**job, "coco": coco}))
        assert main(command) == 2
        assert "expected two models trained on one pair of datasets" in capsys.readouterr().err


def test_without_a_finished_quickstart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tmp_path / "base"
    command = ["quickstart-segmentation", "--base", str(base), "--output", str(tmp_path / "out")]
    assert main(command) == 2
    assert capsys.readouterr().err == (
        f"error: --base {base}: detr/model_final.pth is not there; run `make quickstart` (python -m detr_d2 "
        "quickstart) to its end first: training begins with its models\n"
    )
    assert not (tmp_path / "out").exists()
