"""`compare` on tiny models that segment, with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coco_files import CocoFiles
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from foreign_models import small_cfg
from panoptic_files import make_tiny_panoptic
from segmentation_cases import PANOPTIC
from tiny_baselines import build_lively, tiny_faster_rcnn_cfg
from tiny_models import tiny_cfg

from detr_d2 import cli
from detr_d2.checkpoint import Checkpointer
from detr_d2.checkpoint.layouts.identify import WITH_MASKS
from detr_d2.commands import compare
from detr_d2.compare.cost import memory as compare_memory
from detr_d2.compare.found import masks as mask_collect
from detr_d2.compare.records.comparison import Comparison, load_comparison
from detr_d2.data import read_image, register_coco_panoptic
from detr_d2.modeling import DETR
from detr_d2.prediction.predictor import ImagePredictor

NAMES = ["red", "green", "blue"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configs and checkpoints of a DETR with a mask head, of Mask R-CNN and of Faster R-CNN."""
    folder = tmp_path_factory.mktemp("models")
    small = ["INPUT.MIN_SIZE_TEST", 48, "INPUT.MAX_SIZE_TEST", 96]
    head = ["MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"]
    head += ["MODEL.ROI_MASK_HEAD.NUM_CONV", 1, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8]
    configs = {
        "detr": small_cfg(*small, family=WITH_MASKS),
        "mask_rcnn": tiny_faster_rcnn_cfg(*small, *head),
        "rcnn": tiny_faster_rcnn_cfg(*small),
    }
    for name, cfg in configs.items():
        (folder / f"{name}.yaml").write_text(cfg.dump())
        torch.manual_seed(0)
        model = DETR(cfg) if name == "detr" else build_lively(cfg)
        Checkpointer(model, str(folder)).save(name, class_names=NAMES)
    return folder


def run(models: Path, data: str, output: Path, labels: Sequence[str], *extra: Any) -> Comparison:
    specs = [x for label in labels for x in ("--model", f"{label}={models / label}.yaml,{models / label}.pth")]
    arguments = ["--coco", data, *specs, "--output", str(output), "--cpu", "--resamples", "3", "--skip-cost"]
    assert cli.run(compare.main, [*arguments, *map(str, extra)]) == 0
    return load_comparison(output / "results.json")


@pytest.mark.usefixtures("no_figures")
def test_masks_are_measured_as_detectron2_measures_them(
    models: Path, tiny_coco: CocoFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The masks of the models are replaced by the boxes of the objects, on some pixels: random ones are never right."""
    from detr_d2.engine.startup.setup import load_config

    truth = {x["file_name"]: x["annotations"] for x in DatasetCatalog.get(_registered(tiny_coco, "masks_compared"))}

    def drawn(output: dict[str, Any], size: tuple[int, int]) -> Any:
        return original({**output, "instances": _like_the_truth(output["instances"], truth, size)}, size)

    original = mask_collect.segmentation_of
    monkeypatch.setattr(mask_collect, "segmentation_of", drawn)
    found = run(models, tiny_coco.spec("masks_compared"), tmp_path, ["mask_rcnn"])
    evaluator = COCOEvaluator("masks_compared", tasks=("segm",), use_fast_impl=False)
    evaluator.reset()
    cfg = load_config(str(models / "mask_rcnn.yaml"), [])
    cfg.MODEL.DEVICE = "cpu"
    model = build_lively(cfg).eval()
    Checkpointer(model).load(str(models / "mask_rcnn.pth"))
    predictor = ImagePredictor(cfg, model=model)
    for record in DatasetCatalog.get("masks_compared"):
        with torch.no_grad():
            (output,) = predictor.model([predictor.inputs(read_image(record["file_name"], "BGR"))])
        size = (record["height"], record["width"])
        evaluator.process([record], [{"instances": _like_the_truth(output["instances"], truth, size)}])
    expected = evaluator.evaluate()["segm"]
    masks = found.models[0].masks
    assert masks is not None
    assert expected["AP50"] > 0
    assert (masks.ap, masks.ap50, masks.ap75) == pytest.approx([expected[x] for x in ("AP", "AP50", "AP75")])


def _registered(data: CocoFiles, name: str) -> str:
    from detr_d2.data import register_coco

    return register_coco(data.spec(name))


def _like_the_truth(instances: Any, truth: dict[str, Any], size: tuple[int, int]) -> Any:
    """Gives the instances, one after the other, the boxes of the objects of an image of this size as masks."""
    objects: list[dict[str, Any]] = next(
        (x for name, x in truth.items() if x and read_image(name, "BGR").shape[:2] == size), []
    )
    masks = torch.zeros(len(instances), *size, dtype=torch.bool)
    classes = instances.pred_classes.clone()
    for index in range(min(len(instances), len(objects))):
        x, y, w, h = (int(value) for value in objects[index]["bbox"])
        masks[index, y : y + h - 2 * index, x : x + w] = True  # the later ones are too low
        classes[index] = objects[index]["category_id"]
    instances.pred_masks, instances.pred_classes = masks, classes
    return instances


def test_models_with_masks_and_without(models: Path, tiny_coco: CocoFiles, tmp_path: Path) -> None:
    found = run(models, tiny_coco.spec("masks_three"), tmp_path, ["detr", "mask_rcnn", "rcnn"])
    detr, mask_rcnn, rcnn = found.models
    for model in (detr, mask_rcnn):
        assert not model.failed
        assert model.masks is not None
        assert 0 <= model.masks.boundary_ap <= model.masks.ap <= 100
        assert model.masks.failed_images == 0
        assert model.panoptic is None
    assert rcnn.masks is None
    assert "mask AP" in (tmp_path / "table.md").read_text()
    assert 'id="masks"' in (tmp_path / "report.html").read_text()
    kept = sorted(tmp_path.glob("cache/*/masks-*/*.json.gz"))
    assert len(kept) == 2
    assert sum(x.stat().st_size for x in kept) < 20_000


@pytest.mark.usefixtures("no_figures")
def test_nothing_is_segmented_twice(
    models: Path, tiny_coco: CocoFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(models, tiny_coco.spec("masks_twice"), tmp_path, ["detr"])

    def never(*_: Any) -> Any:
        raise AssertionError("nothing is left to do")

    monkeypatch.setattr(mask_collect, "segmentation_of", never)
    again = run(models, tiny_coco.spec("masks_twice"), tmp_path, ["detr"], "--score-threshold", 0.4)
    assert again.models[0].masks == first.models[0].masks


@pytest.mark.usefixtures("no_figures")
def test_data_without_masks_are_said(models: Path, tiny_coco: CocoFiles, tmp_path: Path) -> None:
    import json

    content = {**tiny_coco.content, "annotations": [dict(x) for x in tiny_coco.content["annotations"]]}
    for x in content["annotations"]:
        x.pop("segmentation", None)
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    spec = f"masks_none={tmp_path / 'boxes.json'}:{tiny_coco.image_root}"
    (model,) = run(models, spec, tmp_path / "out", ["detr"]).models
    assert model.masks is None
    assert "its masks are not measured, as the data have none" in model.notes
    assert model.coco is not None


@pytest.mark.usefixtures("no_figures")
def test_an_image_whose_masks_fail_is_tried_again(
    models: Path, tiny_coco: CocoFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = mask_collect.segmentation_of
    with monkeypatch.context() as patch:

        def fails(output: dict[str, Any], size: tuple[int, int]) -> Any:
            if size == (40, 40):
                raise RuntimeError("out of memory")
            return original(output, size)

        patch.setattr(mask_collect, "segmentation_of", fails)
        (model,) = run(models, tiny_coco.spec("masks_fail"), tmp_path, ["detr"]).models
        assert model.masks is not None
        assert model.masks.failed_images == 1
        assert any("003.png (RuntimeError: out of memory)" in note for note in model.notes)
    (model,) = run(models, tiny_coco.spec("masks_fail"), tmp_path, ["detr"]).models
    assert model.masks is not None
    assert model.masks.failed_images == 0
    assert np.isfinite(model.masks.ap)


def test_memory_of_a_panoptic_model_is_measured_without_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fresh process knows no dataset, so the classes stand in the config that it gets."""
    name = register_coco_panoptic(make_tiny_panoptic(tmp_path).spec("panoptic_of_memory"))
    tasks: list[dict[str, Any]] = []

    def measured(_module: str, task: dict[str, Any], _mark: str) -> float:
        tasks.append(task)
        return 1.0

    monkeypatch.setattr(compare_memory, "measured_mb", measured)
    keys = ["MODEL.DETR.NUM_CLASSES", 0, "MODEL.DETR.PANOPTIC.NUM_THINGS", 0, "MODEL.DETR.PANOPTIC.LAYOUT", "standard"]
    cfg = tiny_cfg(*PANOPTIC, *keys, "DATASETS.TRAIN", (name,))
    try:
        assert compare_memory.image_memory_mb(torch.nn.Identity(), cfg, "") == 1
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    detr = CfgNode.load_cfg(tasks[0]["config"]).MODEL.DETR
    assert (detr.NUM_CLASSES, detr.PANOPTIC.NUM_THINGS, detr.PANOPTIC.LAYOUT) == (4, 2, "separated")
    assert cfg.MODEL.DETR.NUM_CLASSES == 0


def test_wrong_panoptic_data_are_refused_before_a_model_runs(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = make_tiny_panoptic(tmp_path)
    parts = files.spec("wrong").partition("=")[2].split(":")
    swapped = [parts[0], parts[2], parts[1], *parts[3:]]
    arguments = ["--model", f"detr={models / 'detr.yaml'},", "--output", str(tmp_path / "out"), "--cpu", "--skip-cost"]
    for spec, message in (
        (f"compared_swapped={':'.join(swapped)}", "ids that its segments_info does not list"),
        (f"compared_boxless={':'.join(parts[:3])}", "a comparison needs them: add :instances.json to --coco-panoptic"),
    ):
        assert cli.run(compare.main, ["--coco-panoptic", spec, *arguments]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "results.json").exists()
