"""`compare` on detections that another program has made, and the files that it writes for other programs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from coco_files import CocoFiles
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tiny_baselines import build_lively, tiny_faster_rcnn_cfg
from tiny_deformable import tiny_deformable_cfg
from tiny_models import tiny_cfg

from detr_d2 import cli
from detr_d2.checkpoint import Checkpointer
from detr_d2.commands import compare
from detr_d2.compare.records.comparison import Comparison, ModelComparison, load_comparison
from detr_d2.modeling import DETR

NAMES = ["red", "green", "blue"]
SMALL = ["INPUT.MIN_SIZE_TEST", 48, "INPUT.MAX_SIZE_TEST", 96]

pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configs and checkpoints of a DETR with NMS, a Deformable DETR and Mask R-CNN."""
    folder = tmp_path_factory.mktemp("models")
    head = ["MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"]
    head += ["MODEL.ROI_MASK_HEAD.NUM_CONV", 1, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8]
    for name, cfg in {
        "detr": tiny_cfg(*SMALL, "MODEL.DETR.NMS_THRESH_TEST", 0.6),
        "deformable": tiny_deformable_cfg("refine", *SMALL),
        "mask_rcnn": tiny_faster_rcnn_cfg(*SMALL, *head),
    }.items():
        (folder / f"{name}.yaml").write_text(cfg.dump())
        torch.manual_seed(0)
        model = build_lively(cfg) if name == "mask_rcnn" else DETR(cfg)
        Checkpointer(model, str(folder)).save(name, class_names=NAMES)
    return folder


def run(data: CocoFiles, output: Path, *arguments: Any) -> int:
    common = [
        "--coco",
        data.spec(f"predictions {data.annotations.stem}"),
        "--output",
        output,
        "--cpu",
        "--resamples",
        3,
        "--skip-cost",
    ]
    return cli.run(compare.main, [str(x) for x in (*common, *arguments)])


def specs(models: Path, labels: Sequence[str]) -> list[str]:
    return [x for label in labels for x in ("--model", f"{label}={models / label}.yaml,{models / label}.pth")]


def results(output: Path) -> Comparison:
    return load_comparison(output / "results.json")


def by_label(output: Path) -> dict[str, ModelComparison]:
    return {x.label: x for x in results(output).models}


def near_objects(data: CocoFiles) -> list[dict[str, Any]]:
    """Detections near the objects, two of each, best first."""
    found = []
    for i, x in enumerate(data.content["annotations"]):
        left, top, width, height = x["bbox"]
        for shift, score in ((1.25, 0.9 - i / 10), (2.5, 0.3 - i / 20)):
            ids = {"image_id": x["image_id"], "category_id": x["category_id"]}
            found.append({**ids, "bbox": [left + shift, top, width, height], "score": score})
    return found


def write(path: Path, rows: Any) -> Path:
    path.write_text(json.dumps(rows))
    return path


def test_the_figures_of_a_file_are_those_of_coco(tiny_coco: CocoFiles, tmp_path: Path) -> None:
    path = write(tmp_path / "found.json", near_objects(tiny_coco))
    assert run(tiny_coco, tmp_path, "--predictions", f"Other={path},raw", "--cost", "Other=6.5:32e6") == 0
    (model,) = results(tmp_path).models
    truth = COCO(str(tiny_coco.annotations))
    evaluation = COCOeval(truth, truth.loadRes(str(path)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert model.coco is not None
    assert 20 < model.coco.ap < 100
    figures = [model.coco.ap, model.coco.ap50, model.coco.ap75, model.coco.ar_max]
    assert figures == pytest.approx([100 * evaluation.stats[i] for i in (0, 1, 2, 8)], abs=1e-9)
    assert (model.num_layers, model.query_limit, model.masks) == (1, None, None)
    assert len(model.nms) == 15
    assert model.nms[0].detections_per_image == pytest.approx(8 / 3)
    strict = model.nms[1]
    assert strict.nms_threshold == 0.3
    assert strict.detections_per_image == pytest.approx(4 / 3)
    assert model.cost is not None
    assert (model.cost.given, model.cost.parameters, model.cost.latency[0].p50_ms) == (True, 32_000_000, 6.5)
    assert (model.run.parameters, model.run.inference_ms) == (32_000_000, 6.5)
    assert list(results(tmp_path).gallery[0].detections) == ["Other"]
    assert (tmp_path / "report.html").exists()
    assert not (tmp_path / "detections").exists()


@pytest.mark.parametrize("word", ["", ",nms"])
def test_the_sweep_is_drawn_whatever_is_known_of_the_file(word: str, tiny_coco: CocoFiles, tmp_path: Path) -> None:
    path = write(tmp_path / "found.json", near_objects(tiny_coco))
    assert run(tiny_coco, tmp_path, "--predictions", f"Other={path}{word}") == 0
    (model,) = results(tmp_path).models
    assert len(model.nms) == 15
    assert [x.shipped for x in model.nms] == [True, *[False] * 14]
    assert model.shipped is not None
    assert not model.shipped.nms_switched_off
    assert model.predictions is not None
    assert model.predictions.looks == ("" if word else "cannot be told")
    assert model.cost is None


def like_detections(data: CocoFiles, path: Path, folder: Path) -> CocoFiles:
    """The same images with objects near some of the detections in a file, so that random weights find them."""
    objects = []
    for i, x in enumerate(json.loads(path.read_text())[::3]):
        left, top, width, height = x["bbox"]
        box = [left + 0.1 * width, top, 0.9 * width, height]
        corners = [box[0], top, left + width, top, left + width, top + height, box[0], top + height]
        ids = {"id": i + 1, "image_id": x["image_id"], "category_id": x["category_id"]}
        objects.append({**ids, "bbox": box, "area": 0.9 * width * height, "iscrowd": 0, "segmentation": [corners]})
    changed = folder / "like_detections.json"
    changed.write_text(json.dumps({**data.content, "annotations": objects}))
    return replace(data, annotations=changed)


@pytest.mark.parametrize("label", ["detr", "deformable", "mask_rcnn"])
def test_detections_given_back_have_the_same_figures(
    label: str, models: Path, tiny_coco: CocoFiles, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert run(tiny_coco, first, *specs(models, [label])) == 0
    data = like_detections(tiny_coco, first / "detections" / f"{label}.json", tmp_path)
    assert run(data, first, *specs(models, [label]), "--raw", 5) == 0
    files = sorted(x.name for x in (first / "detections").iterdir())
    assert files == [f"{label}-raw.json", f"{label}.json"]
    back = f"back={first / 'detections' / files[1]}"
    raw = f"raw={first / 'detections' / files[0]},raw"
    assert run(data, second, "--predictions", back, "--predictions", raw) == 0
    model, found = by_label(first)[label], by_label(second)
    assert model.coco is not None
    assert 5 < model.coco.ap < 95
    assert [x.name for x in model.cures] == (["NMS", "one label per query"] if label == "deformable" else [])
    again = found["back"].coco
    assert again is not None
    for figure in ("ap", "ap50", "ap75", "ar_1", "ar_10", "ar_max", "ap_small", "ar_small"):
        assert getattr(again, figure) == pytest.approx(getattr(model.coco, figure), abs=1e-9, nan_ok=True)
    per_class = [x.ap for x in model.coco.per_class]
    assert [x.ap for x in again.per_class] == pytest.approx(per_class, abs=1e-9, nan_ok=True)
    assert found["back"].masks == model.masks
    assert (model.masks is None) == (label != "mask_rcnn")
    shipped, without = (next(x for x in y.nms if x.shipped) for y in (model, found["raw"]))
    assert without.detections_per_image == 5
    assert found["back"].nms[0].detections_per_image == shipped.detections_per_image
    # A second run reads what the first one has left, and writes the same.
    content = (first / "detections" / f"{label}.json").read_bytes()
    (first / "detections" / f"{label}.json").unlink()
    assert run(data, first, *specs(models, [label])) == 0
    assert (first / "detections" / f"{label}.json").read_bytes() == content


def test_cures_give_what_they_promise(models: Path, tiny_coco: CocoFiles, tmp_path: Path) -> None:
    assert run(tiny_coco, tmp_path / "out", *specs(models, ["deformable"])) == 0
    data = like_detections(tiny_coco, tmp_path / "out" / "detections" / "deformable.json", tmp_path)
    assert run(data, tmp_path / "out", *specs(models, ["deformable"])) == 0
    promised = by_label(tmp_path / "out")["deformable"].cures
    for cure in promised:
        assert run(data, tmp_path / cure.name, *specs(models, ["deformable"]), "--opts", *cure.setting.split()) == 0
        model = by_label(tmp_path / cure.name)["deformable"]
        assert model.coco is not None
        assert (model.coco.ap, model.coco.ap50) == pytest.approx((cure.ap, cure.ap50), abs=1e-9)
        assert model.operating is not None
        for figure in ("recall", "precision", "extra", "other_label", "count_error"):
            given, kept = getattr(model.operating.at, figure), getattr(cure.at, figure)
            assert given == pytest.approx(kept, nan_ok=True), figure
    assert len({x.ap for x in promised}) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--predictions", "A=a.json,filtered"], "expected LABEL=results.json"),
        (["--predictions", "A=a.json", "--cost", "A=fast"], "expected LABEL=latency_ms:params"),
        (["--predictions", "A=a.json", "--raw", "0"], "--raw is 0, expected at least 1"),
        (["--predictions", "A=a.json"], "a file of predictions a.json cannot be read"),
        (["--cost", "A=1:2"], "no model is given: add --model .*, or --predictions LABEL=results.json"),
    ],
)
def test_mistakes_are_said_before_anything_is_written(
    arguments: list[str], said: str, tiny_coco: CocoFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tiny_coco, tmp_path / "out", *arguments) == 2
    (text,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(said, text)
    assert not list(tmp_path.glob("out/*"))


def test_a_wrong_file_loses_nothing(
    models: Path, tiny_coco: CocoFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert run(tiny_coco, output, *specs(models, ["detr"])) == 0
    before = {x: x.read_bytes() for x in output.rglob("*") if x.is_file()}
    wrong = near_objects(tiny_coco)
    wrong[3]["score"] = math.nan
    path = write(tmp_path / "wrong.json", wrong)
    capsys.readouterr()
    assert run(tiny_coco, output, *specs(models, ["detr"]), "--predictions", f"Other={path}") == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"error: {path}: 1 scores cannot be used: detection #3 has score nan; expected a number")
    assert {x: x.read_bytes() for x in output.rglob("*") if x.is_file()} == before


def test_beside_a_model_on_some_of_the_images(models: Path, tiny_coco: CocoFiles, tmp_path: Path) -> None:
    path = write(tmp_path / "found.json", near_objects(tiny_coco))
    arguments = [*specs(models, ["detr"]), "--predictions", f"Other={path}", "--limit", 1]
    assert run(tiny_coco, tmp_path, *arguments) == 0
    found = results(tmp_path)
    assert [x.label for x in found.models] == ["detr", "Other"]
    assert {(x.first, x.second) for x in found.differences} == {("detr", "Other")}
    other = found.models[1]
    assert other.nms[0].detections_per_image == 4  # those of the first image
    assert set(found.gallery[0].detections) == {"detr", "Other"}


def test_masks_of_a_file(tiny_coco: CocoFiles, tmp_path: Path) -> None:
    real = [x for x in tiny_coco.content["annotations"] if not x["iscrowd"]]
    rows = [{**{k: x[k] for k in ("image_id", "category_id", "segmentation")}, "score": 0.5} for x in real]
    path = write(tmp_path / "found.json", rows)
    assert run(tiny_coco, tmp_path, "--predictions", f"Other={path}") == 0
    (model,) = results(tmp_path).models
    assert model.masks is not None
    assert model.masks.ap == pytest.approx(100)
    assert model.masks.matched == 3
    assert model.run.ap == pytest.approx(100)


@pytest.mark.slow
def test_a_detector_of_another_library(tiny_coco: CocoFiles, tmp_path: Path) -> None:
    from torchvision.io import read_image
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

    torch.manual_seed(0)
    model = fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=4, box_score_thresh=0.0, box_nms_thresh=0.5
    ).eval()
    ids, rows = [x["id"] for x in tiny_coco.content["categories"]], []
    for image in tiny_coco.content["images"]:
        pixels = read_image(str(tiny_coco.image_root / image["file_name"])) / 255
        with torch.no_grad():
            (found,) = model([pixels])
        for (x0, y0, x1, y1), label, score in zip(
            found["boxes"].tolist(), found["labels"].tolist(), found["scores"].tolist(), strict=True
        ):
            box = [x0, y0, x1 - x0, y1 - y0]
            rows.append({"image_id": image["id"], "category_id": ids[label - 1], "bbox": box, "score": score})
    assert len(rows) > 20
    path = write(tmp_path / "torchvision.json", rows)
    assert run(tiny_coco, tmp_path, "--predictions", f"torchvision={path},nms") == 0
    (measured,) = results(tmp_path).models
    assert measured.predictions is not None
    assert measured.predictions.largest_iou < 0.5 + 1e-6
    assert 0 <= measured.run.ap <= 100
