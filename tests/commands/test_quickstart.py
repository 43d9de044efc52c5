"""`quickstart`: on shapes and of segmentation with tiny models, and which jobs each of the three asks for."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from coco_files import CocoFiles
from detectron2.data import DatasetCatalog, MetadataCatalog
from segmentation_cases import MASKS
from tiny_baselines import tiny_faster_rcnn_cfg
from tiny_models import tiny_cfg

from detr_d2.__main__ import main
from detr_d2.compare import run_costs
from detr_d2.compare.cost.cost import CostSettings
from detr_d2.compare.found import boxes as collect
from detr_d2.compare.models import Contestant
from detr_d2.compare.records.comparison import load_comparison
from detr_d2.compare.records.results import RunResult
from detr_d2.data import read_image
from detr_d2.engine.startup.setup import load_config
from detr_d2.experiments import quickstarts, side_by_side, timed_training
from detr_d2.experiments.side_by_side import SideBySide
from detr_d2.experiments.timed_training import TrainingError, train
from detr_d2.experiments.training_job import TrainingJob

COMMON: list[Any] = [
    *("DATASETS.TRAIN", ("shapes_train",), "DATASETS.TEST", ("shapes_val",), "DATALOADER.NUM_WORKERS", 0),
    *("INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.MIN_SIZE_TEST", 64, "INPUT.CROP.ENABLED", False, "TEST.EVAL_PERIOD", 0),
    *("INPUT.MASK_FORMAT", "bitmask", "SOLVER.IMS_PER_BATCH", 2, "SOLVER.OPTIMIZER", "ADAMW", "SOLVER.MAX_ITER", 2),
]
DETR = [*COMMON, "MODEL.DETR.NUM_CLASSES", 0]
FASTER_RCNN = [*COMMON, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0]  # there are detections to evaluate
SIZES = ["--max-iter", "3", "--train-images", "4", "--val-images", "3", "--seed", "5"]


@pytest.fixture(scope="module")
def config_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Configs of tiny models in place of those of the quickstarts on shapes."""
    masks: list[Any] = [
        *("MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"),
        *("MODEL.ROI_MASK_HEAD.NUM_CONV", 1, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8),
    ]
    panoptic: list[Any] = [
        *("MODEL.DETR.PANOPTIC.ENABLED", True, "MODEL.DETR.CLASS_HEAD_FROM", "names"),
        *("DATASETS.TRAIN", ("shapes_panoptic_train",), "DATASETS.TEST", ("shapes_panoptic_val",)),
    ]
    made = {
        "detr": tiny_cfg(*DETR),
        "faster_rcnn": tiny_faster_rcnn_cfg(*FASTER_RCNN),
        "detr_masks": tiny_cfg(*DETR, *MASKS),
        "mask_rcnn": tiny_faster_rcnn_cfg(*FASTER_RCNN, *masks),
        "panoptic": tiny_cfg(*DETR, *MASKS, *panoptic),
    }
    folder = tmp_path_factory.mktemp("configs")
    for name, cfg in made.items():
        (folder / f"{name}.yaml").write_text(cfg.dump())
    return {name: str(folder / f"{name}.yaml") for name in made}


def shapes_of(files: dict[str, str]) -> dict[str, str]:
    return {"DETR": files["detr"], "Faster R-CNN": files["faster_rcnn"]}


@pytest.fixture
def configs(config_files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny models, and little to measure."""
    files = config_files
    monkeypatch.setattr(quickstarts, "SHAPES", shapes_of(files))
    models = {"DETR": (files["detr_masks"], "detr"), "Mask R-CNN": (files["mask_rcnn"], "faster_rcnn")}
    assert {title: folder for title, (_, folder) in quickstarts.MASKS.items()} == {x: y[1] for x, y in models.items()}
    monkeypatch.setattr(quickstarts, "MASKS", models)
    monkeypatch.setattr(quickstarts, "PANOPTIC", files["panoptic"])
    monkeypatch.setattr(side_by_side, "COST", CostSettings(repeat=2, batch_sizes=(1,), images=2, flops_images=1))
    monkeypatch.setattr("detr_d2.compare.cost.cost.image_memory_mb", lambda *_: 123.0)


def train_in_this_process(job: TrainingJob, report: Any) -> None:
    train(job, report).save(job.result)


@pytest.fixture
def train_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training without a process of its own, which takes seconds to start."""
    monkeypatch.setattr(timed_training, "_train_in_a_process", train_in_this_process)


@pytest.fixture(scope="module")
def trained(config_files: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a small quickstart on shapes that was stopped after the trainings.

    That of Faster R-CNN, which is given a time, was in a process of its own.
    """
    output = tmp_path_factory.mktemp("quickstart") / "out"
    in_a_process = timed_training._train_in_a_process

    def one_here(job: TrainingJob, report: Any) -> None:
        (train_in_this_process if job.seconds is None else in_a_process)(job, report)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quickstarts, "SHAPES", shapes_of(config_files))
        patch.setattr(timed_training, "_train_in_a_process", one_here)
        patch.setattr(SideBySide, "compare", lambda *_: 0)
        assert main(shapes_command(output)) == 0
    for name in ("shapes_train", "shapes_val"):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    return output


def shapes_command(output: Path) -> list[str]:
    return ["quickstart", "--output", str(output), *SIZES]


@pytest.fixture
def output(trained: Path) -> Path:
    """That folder with the trainings alone, whatever was compared in it."""
    for path in trained.iterdir():
        if path.name not in ("data", "detr", "faster_rcnn", "made_with.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return trained


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """A small quickstart that writes into `tmp_path / "out"`."""
    return shapes_command(tmp_path / "out")


@pytest.mark.usefixtures("configs")
def test_on_shapes(output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    command = shapes_command(output)
    assert main(command) == 0

    printed = capsys.readouterr().out
    assert re.findall(r"^\[(\d)/5\] ", printed, re.MULTILINE) == list("12345")
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
    page = report.read_text(encoding="utf-8")
    for model, result in zip(comparison.models, (detr, faster_rcnn), strict=True):
        assert model.label == result.model
        assert model.coco is not None
        assert model.coco.ap == pytest.approx(result.ap)  # of the evaluation after the training
        assert model.cost is not None
        assert {x.stage: x.p50_ms for x in model.cost.latency}["total"] == result.inference_ms
        assert model.weights_sha256
        assert f"training of {model.label}" in page
    assert all(f">{label}</th>" in page for label in ("DETR", "Faster R-CNN"))
    assert not re.findall(r"""(?:src|href)=["']?(?!data:|#)[^"'>]+|@import|url\((?!data:|#)""", page)

    never = {
        "trained again": (timed_training, "_train_in_a_process"),
        "run again": (collect, "raw_outputs"),
        "timed again": (run_costs, "measure_costs"),
    }
    for message, (module, name) in never.items():
        monkeypatch.setattr(module, name, lambda *_, message=message, **__: pytest.fail(message))
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert printed.count("trained already with these settings") == 2
    assert printed.splitlines()[-1] == last
    assert RunResult.load(output / "detr.json") == detr
    assert load_comparison(output / "compare" / "results.json").models == comparison.models


@pytest.mark.usefixtures("configs", "no_figures")
def test_nothing_is_lost_with_a_model_or_the_page(
    output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Faster R-CNN cannot be loaded; in the first call, jinja2 cannot either."""
    original, command = Contestant.load, shapes_command(output)

    def only_detr(contestant: Contestant, **how: Any) -> Any:
        if contestant.spec.label != "DETR":
            raise ValueError("out of luck")
        return original(contestant, **how)

    monkeypatch.setattr(Contestant, "load", only_detr)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "jinja2", None)
        assert main(command) == 2
    printed, error = capsys.readouterr()
    assert "error: Faster R-CNN cannot be compared: out of luck" in error
    assert error.splitlines()[-1] == 'error: the report needs jinja2: pip install "detr_d2[report]".'
    assert printed.splitlines()[-1].startswith("all of it took")
    names = ["results.md", "detr.json", "faster_rcnn.json", "pictures/side_by_side.png"]
    names += ["compare/results.json", "compare/table.md"]
    assert [name for name in names if not (output / name).is_file()] == []
    assert not (output / "compare" / "report.html").exists()

    assert main(command) == 1
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {output / 'compare' / 'report.html'}"
    assert (output / "compare" / "report.html").is_file()
    detr, faster_rcnn = (RunResult.load(output / name) for name in ("detr.json", "faster_rcnn.json"))
    assert detr.inference_ms > 0
    assert np.isnan(faster_rcnn.inference_ms)
    assert faster_rcnn.train_seconds > 0


@pytest.mark.usefixtures("configs", "train_here", "no_figures")
def test_masks_and_panoptic_maps_are_trained_and_compared(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert main(["quickstart", "segmentation", "--base", str(trained), "--output", str(output), *SIZES]) == 0
    printed = capsys.readouterr().out
    assert re.findall(r"^\[(\d)/8\] ", printed, re.MULTILINE) == list("12345678")
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


# From here on nothing is trained: which jobs are asked for, and what is wrong before that.


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[TrainingJob]:
    """What would be trained; no training takes place, and nothing is compared."""
    jobs: list[TrainingJob] = []

    def pretend(job: TrainingJob, _: Any) -> None:
        jobs.append(job)
        RunResult(job.title, job.config_file, "val", 1, 1, 1, iterations=7, train_seconds=61.44).save(job.result)

    monkeypatch.setattr(timed_training, "_train_in_a_process", pretend)
    monkeypatch.setattr(SideBySide, "compare", lambda *_: 0)
    return jobs


def options_of(job: TrainingJob) -> dict[str, str]:
    return dict(zip(job.opts[::2], job.opts[1::2], strict=True))


def test_what_is_asked_for_on_shapes(tmp_path: Path, command: list[str], jobs: list[TrainingJob]) -> None:
    """Under the names that folders of earlier versions have, so that these are found again."""
    assert main(command) == 0
    assert [(x.title, x.iterations, x.seconds) for x in jobs] == [("DETR", 3, None), ("Faster R-CNN", None, 61.4)]
    assert [x.output_dir for x in jobs] == [str(tmp_path / "out" / name) for name in ("detr", "faster_rcnn")]
    assert jobs[0].opts == ("SEED", "5", "TEST.BEST_CHECKPOINT", "False")
    data = tmp_path / "out" / "data"
    assert jobs[0].coco == jobs[1].coco
    assert jobs[0].coco == (
        f"shapes_train={data}/train-seed-5-4/annotations.json:{data}/train-seed-5-4/images",
        f"shapes_val={data}/val-seed-10005-3/annotations.json:{data}/val-seed-10005-3/images",
    )
    record = json.loads((tmp_path / "out" / "made_with.json").read_text())
    assert record["command"] == "quickstart"
    assert record["settings"] == {"seed": 5, "max_iter": 3, "train_images": 4, "val_images": 3}


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
def real(tmp_path: Path, data: Path) -> list[str]:
    return ["quickstart", "real", "--data", str(data), "--output", str(tmp_path / "out"), "--seed", "5"]


BOTH = ["Deformable DETR", "Faster R-CNN"]


def test_what_is_asked_for_on_real_images(
    tmp_path: Path, data: Path, real: list[str], jobs: list[TrainingJob], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(real) == 0
    printed = capsys.readouterr().out
    assert f"[1/5] data: 3 training and 2 validation images of {data}" in printed
    assert "[2/5] Deformable DETR: training by its own schedule and evaluation" in printed
    assert "trained: Deformable DETR 7 iterations in 1:01; Faster R-CNN 7 iterations in 1:01" in printed
    assert [(x.title, x.iterations, x.seconds) for x in jobs] == [(title, None, None) for title in BOTH]
    assert [x.output_dir for x in jobs] == [str(tmp_path / "out" / name) for name in ("deformable_detr", "faster_rcnn")]
    images = data / "images"
    assert jobs[0].coco == (f"bccd_train={data / 'train.json'}:{images}", f"bccd_val={data / 'val.json'}:{images}")
    assert jobs[0].opts[:4] == ("SEED", "5", "TEST.BEST_CHECKPOINT", "False")
    record = json.loads((tmp_path / "out" / "made_with.json").read_text())
    assert record["command"] == "quickstart-real"
    assert record["settings"] == {"data": str(data), "seed": 5, "max_iter": None, "same_time": False}
    # The other name of the command finds what is there.
    assert main(["quickstart-real", *real[2:]]) == 0
    assert len(jobs) == 2


def test_it_goes_on_where_it_was_stopped_unless_something_is_new(
    data: Path,
    real: list[str],
    jobs: list[TrainingJob],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def titles(*options: str) -> list[str]:
        done = len(jobs)
        main([*real, *options])
        return [job.title for job in jobs[done:]]

    pretend = timed_training._train_in_a_process

    def stop_second(job: TrainingJob, report: Any) -> None:
        if job.title == BOTH[1]:
            raise KeyboardInterrupt
        pretend(job, report)

    with monkeypatch.context() as patch:
        patch.setattr(timed_training, "_train_in_a_process", stop_second)
        assert titles() == BOTH[:1]
    assert "the same command goes on from here" in capsys.readouterr().err
    assert titles() == BOTH[1:]
    assert titles() == []
    assert titles("--fresh") == BOTH
    assert titles("--max-iter", "7") == BOTH
    assert [job.iterations for job in jobs[-2:]] == [7, 7]
    content = json.loads((data / "train.json").read_text())
    (data / "train.json").write_text(json.dumps({**content, "annotations": content["annotations"][1:]}))
    assert titles("--max-iter", "7") == BOTH  # other data under the same name


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"avx512_bf16": True, "avx2": True}, True), ({"amx_bf16": True}, True), ({"avx2": True}, False), ({}, False)],
)
def test_bfloat16_is_used_where_the_processor_has_it(
    real: list[str],
    jobs: list[TrainingJob],
    monkeypatch: pytest.MonkeyPatch,
    capabilities: dict[str, bool],
    expected: bool,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities, raising=False)
    assert main(real) == 0
    assert [options_of(job).get("SOLVER.AMP.ENABLED") for job in jobs] == ["True" if expected else None] * 2


def test_faster_rcnn_can_be_given_the_same_time(
    real: list[str], jobs: list[TrainingJob], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*real, "--max-iter", "9", "--same-time"]) == 0
    assert [(job.iterations, job.seconds) for job in jobs] == [(9, None), (None, 61.4)]
    assert "[3/5] Faster R-CNN: training for the same 1:01 and evaluation" in capsys.readouterr().out


def test_the_shipped_configs_are_for_data_of_any_classes() -> None:
    for config in quickstarts.REAL.values():
        cfg = load_config(config)
        assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == (("bccd_train",), ("bccd_val",))
        assert cfg.DATASETS.COCO == []
        assert cfg.MODEL.WEIGHTS == ""
    assert load_config(quickstarts.REAL["Deformable DETR"]).MODEL.DETR.NUM_CLASSES == 0


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """What is read of a finished quickstart before the trainings."""
    for folder in ("detr", "faster_rcnn"):
        path = tmp_path / "base" / folder
        path.mkdir(parents=True)
        torch.save({"model": {}, "folder": folder}, path / "model_final.pth")
        (path / "job.json").write_text(json.dumps({"coco": ["shapes_train=a:b", "shapes_val=c:d"]}))
        RunResult(folder, "c", "d", 1, 1, 1).save(path / "result.json")
    return tmp_path / "base"


def test_segmentation_begins_with_the_models_of_the_quickstart(
    tmp_path: Path, base: Path, jobs: list[TrainingJob]
) -> None:
    command = ["quickstart-segmentation", "--base", str(base), "--output", str(tmp_path / "out"), *SIZES]
    assert main(command) == 0
    expected = [base / name / "model_final.pth" for name in ("detr", "faster_rcnn", "detr")]
    assert [options_of(job)["MODEL.WEIGHTS"] for job in jobs] == [str(path) for path in expected]
    folders = ("masks/detr", "masks/mask_rcnn", "panoptic/detr")
    assert [job.output_dir for job in jobs] == [str(tmp_path / "out" / name) for name in folders]
    coco = ("shapes_train=a:b", "shapes_val=c:d")
    assert [job.coco for job in jobs] == [coco, coco, ()]
    assert [bool(job.coco_panoptic) for job in jobs] == [False, False, True]
    record = json.loads((tmp_path / "out" / "made_with.json").read_text())
    assert record["command"] == "quickstart-segmentation"
    assert list(record["settings"]) == ["base", "seed", "max_iter", "train_images", "val_images"]

    jobs.clear()
    assert main(command) == 0
    assert jobs == []  # all of it is there
    torch.save({"model": {}, "folder": "another"}, expected[1])
    assert main(command) == 0
    assert [job.title for job in jobs] == ["Mask R-CNN"]  # which began with another model


def test_two_models_of_different_data_are_refused(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = base / "faster_rcnn" / "job.json"
    both: list[str] = json.loads(path.read_text())["coco"]
    for coco in (both[::-1], both[:1]):
        path.write_text(json.dumps({"coco": coco}))
        assert main(["quickstart", "segmentation", "--base", str(base)]) == 2
        assert "expected two models trained on one pair of datasets" in capsys.readouterr().err


def test_a_failed_training_is_told(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise TrainingError("the training of DETR failed with exit code 1")

    monkeypatch.setattr(timed_training, "_train_in_a_process", fail)
    assert main(command) == 1
    assert "error: the training of DETR failed" in capsys.readouterr().err


EXPECTED = "expected a folder with train.json and val.json in COCO format and the images of both in images/"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-iter", "0"], "--max-iter is 0, expected at least 1"),
        (["--train-images", "0"], "--train-images is 0, expected at least 1"),
        (["--val-images", "0"], "--val-images is 0, expected at least 1"),
        (["real", "--data", "x", "--seed", "-1"], "--seed is -1, expected at least 0"),
        (["real"], f"--data names no folder (`make quickstart-real DATA=path/to/bccd`); {EXPECTED}"),
        (["real", "--data", ""], f"--data names no folder (`make quickstart-real DATA=path/to/bccd`); {EXPECTED}"),
        (["real", "--data", "nowhere"], f"--data nowhere: there is no such folder; {EXPECTED}"),
        (["--data", "x"], "--data is an option of quickstart real, not of shapes"),
        (["real", "--val-images", "5"], "--val-images is an option of quickstart shapes and segmentation, not of real"),
        (["segmentation", "--same-time"], "--same-time is an option of quickstart real, not of segmentation"),
        (
            ["segmentation", "--base", "nowhere"],
            "--base nowhere: detr/model_final.pth is not there; run `make quickstart` (python -m detr_d2 quickstart) "
            "to its end first: training begins with its models",
        ),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quickstart", *options, "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (["train.json"], "the folder has no train.json; expected"),
        (["val.json", "images"], "the folder has no val.json and no images/; expected"),
    ],
)
def test_what_the_folder_lacks_is_told(
    data: Path, real: list[str], missing: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in missing:
        (data / name).rename(tmp_path / name)
    assert main(real) == 2
    assert capsys.readouterr().err.startswith(f"error: --data {data}: {message}")
    assert not (tmp_path / "out").exists()
