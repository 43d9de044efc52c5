"""Our COCO evaluator gives the figures of detectron2's, which are those of pycocotools, to 1e-9."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances

from detr_d2.benchmark.coco import largest_figure_difference, random_detections, write_coco_file
from detr_d2.config import get_cfg
from detr_d2.engine.evaluators import build_evaluator
from detr_d2.evaluation.coco import RecordsEvaluator

Dataset = tuple[str, Path]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Boxes with polygons and keypoints; areas are not those of boxes, nor of polygons."""
    path = tmp_path / "truth.json"
    write_coco_file(path, images=25, annotations=150, num_classes=5, seed=3)
    content = json.loads(path.read_text())
    rng = np.random.default_rng(0)
    for x in content["annotations"]:
        left, top, width, height = x["bbox"]
        x["area"] *= 0.7
        x["segmentation"] = [[left, top, left + width, top, left + width, top + height, left, top + height]]
        x["keypoints"] = [int(v) for _ in range(17) for v in (left + rng.random() * width, top, rng.integers(0, 3))]
        x["num_keypoints"] = sum(v > 0 for v in x["keypoints"][2::3])
    path.write_text(json.dumps(content))
    DatasetCatalog.register("truth", lambda: load_coco_json(str(path), str(tmp_path), "truth", ["area", "id"]))
    MetadataCatalog.get("truth").set(json_file=str(path), evaluator_type="coco")
    return "truth", path


def instances_of(path: Path, *, masks: bool = False, keypoints: bool = False, per_image: int = 120) -> list[Any]:
    """Inputs and outputs, made anew: an evaluator changes the keypoints that it gets."""
    found = random_detections(path, per_image=per_image if not (masks or keypoints) else 4, seed=1)
    for _, instances in found:
        corners = instances.pred_boxes.tensor.long().tolist()
        if masks:
            instances.pred_masks = torch.zeros(len(instances), *instances.image_size, dtype=torch.bool)
            for mask, (x0, y0, x1, y1) in zip(instances.pred_masks, corners, strict=True):
                mask[max(0, y0) : y1, max(0, x0) : x1] = True
        if keypoints:
            points = [[[x0 + i / 16 * (x1 - x0), y0, 1] for i in range(17)] for x0, y0, x1, _ in corners]
            instances.pred_keypoints = torch.tensor(points, dtype=torch.float32)
    return [([image], [{"instances": instances}]) for image, instances in found]


def figures(evaluator: Any, pairs: list[Any], only: list[int] | None = None) -> dict[str, dict[str, float]]:
    evaluator.reset()
    for inputs, outputs in pairs:
        evaluator.process(inputs, outputs)
    return evaluator.evaluate(only)


@pytest.mark.parametrize(
    ("options", "kind"), [({}, {}), ({"max_dets_per_image": 110}, {}), ({}, {"masks": True}), ({}, {"keypoints": True})]
)
def test_figures_of_detectron2(dataset: Dataset, options: dict[str, Any], kind: dict[str, bool]) -> None:
    name, path = dataset
    ours = RecordsEvaluator(name, distributed=False, **options)
    theirs = COCOEvaluator(name, distributed=False, use_fast_impl=False, **options)
    found, expected = figures(ours, instances_of(path, **kind)), figures(theirs, instances_of(path, **kind))
    assert set(found) == set(expected) == {"bbox", *(("segm",) if "masks" in kind else ()), *kind} - {"masks"}
    assert 1 < expected["bbox"]["AP"] < 99
    assert "AP-class 3" in found["bbox"]
    for task, values in expected.items():
        assert largest_figure_difference(found[task], values) <= 1e-9, task


def test_recall_of_proposals(dataset: Dataset, tmp_path: Path) -> None:
    name, path = dataset
    pairs = []
    for image, instances in random_detections(path, per_image=20, seed=1):
        proposals = Instances(instances.image_size)
        proposals.proposal_boxes, proposals.objectness_logits = Boxes(instances.pred_boxes.tensor), instances.scores
        pairs.append(([image], [{"proposals": proposals}]))
    found = figures(RecordsEvaluator(name, distributed=False, output_dir=str(tmp_path / "out")), pairs)
    assert found == figures(COCOEvaluator(name, tasks=("bbox",), distributed=False), pairs)
    assert 1 < found["box_proposals"]["AR@100"] < 99
    assert (tmp_path / "out" / "box_proposals.pkl").exists()


def test_only_some_images(dataset: Dataset) -> None:
    name, path = dataset
    pairs, only = instances_of(path, per_image=3), [3, 9, 11]
    found, expected = (
        figures(kind(name, distributed=False), pairs, only)["bbox"] for kind in (RecordsEvaluator, COCOEvaluator)
    )
    assert found == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_training_evaluates_with_it_and_says_what_computes(dataset: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    evaluator = build_evaluator(get_cfg(), dataset[0], str(dataset[1].parent))
    assert isinstance(evaluator, RecordsEvaluator)
    with caplog.at_level(logging.INFO, logger="detr_d2"):
        figures(evaluator, instances_of(dataset[1], per_image=2))
    assert "computed by faster-coco-eval" in caplog.text


def found_exactly(record: dict[str, Any], *, masks: bool = False) -> dict[str, Any]:
    """What a perfect model says of an image, given boxes as XYWH_ABS."""
    objects = record.get("annotations", [{"bbox": [1, 1, 2, 2], "category_id": 0}])
    instances = Instances((record["height"], record["width"]))
    boxes = torch.tensor([x["bbox"] for x in objects], dtype=torch.float32).reshape(-1, 4)
    instances.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1))
    instances.scores = torch.ones(len(objects))
    instances.pred_classes = torch.tensor([x["category_id"] for x in objects], dtype=torch.int64)
    if masks:
        instances.pred_masks = torch.zeros(len(objects), *instances.image_size, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(instances.pred_masks, instances.pred_boxes.tensor.long(), strict=True):
            mask[y0:y1, x0:x1] = True
    return {"instances": instances}


def records(count: int = 4) -> list[dict[str, Any]]:
    """Two square objects an image, of classes 0 and 1, as a user's function returns them."""
    squares = [[2, 2, 10, 10], [20, 4, 8, 8]]
    made: list[dict[str, Any]] = []
    for i in range(count):
        objects = [{"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": k} for k, box in enumerate(squares)]
        made.append({"file_name": f"{i:03d}.png", "image_id": i, "height": 30, "width": 40, "annotations": objects})
    return made


@pytest.fixture
def register() -> Callable[..., str]:
    def _register(made: list[dict[str, Any]], classes: Sequence[str] = ("cat", "dog")) -> str:
        DatasetCatalog.register("mine", lambda: made)
        MetadataCatalog.get("mine").set(thing_classes=list(classes))
        return "mine"

    return _register


def test_nothing_of_an_earlier_run_is_used(register: Any, tmp_path: Path) -> None:
    for shift in (0, 9):
        made = records()
        for x in (x for record in made for x in record["annotations"]):
            x["bbox"] = [x["bbox"][0] + shift, *x["bbox"][1:]]
        evaluator = RecordsEvaluator(register(made), distributed=False, output_dir=str(tmp_path))
        assert figures(evaluator, [([x], [found_exactly(x)]) for x in made])["bbox"]["AP"] == pytest.approx(100)
        assert MetadataCatalog.get("mine").get("json_file") is None
        DatasetCatalog.remove("mine")
        MetadataCatalog.remove("mine")


def test_a_test_set_has_predictions_and_no_figures(
    register: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = [{k: v for k, v in x.items() if k != "annotations"} for x in records()]
    evaluator = RecordsEvaluator(register(made), distributed=False, output_dir=str(tmp_path))
    with caplog.at_level(logging.INFO, logger="detr_d2"):
        assert figures(evaluator, [([x], [found_exactly(x)]) for x in made]) == {}
    assert "mine has no annotations: there are predictions, but nothing to measure" in caplog.text
    assert len(json.loads((tmp_path / "coco_instances_results.json").read_text())) == 4


def test_no_detections_and_no_objects(register: Any) -> None:
    made = records()
    evaluator = RecordsEvaluator(register(made), distributed=False)
    assert evaluator.evaluate() == {}
    empty = {"instances": found_exactly(made[0])["instances"][:0]}
    assert np.isnan(figures(evaluator, [([made[0]], [empty])])["bbox"]["AP"])
    for record in made:
        record["annotations"] = []
    evaluator = RecordsEvaluator("mine", distributed=False)
    result = figures(evaluator, [([made[0]], [found_exactly(records()[0])])])["bbox"]
    assert np.isnan(result["AP"])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"segmentation": [[1, 2, 3, 4]]}, r"1 of 202 objects of mine have no usable mask, such as one of 000\.png"),
        ({}, "1 of 202 objects of mine have no usable mask; they are left out"),
    ],
)
def test_objects_without_a_mask_are_left_out_and_said(
    register: Any, more: dict[str, Any], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = records(count=101)
    for n, x in enumerate(x for record in made for x in record["annotations"]):
        left, top, width, height = x["bbox"]
        corners = [left, top, left + width, top, left + width, top + height, left, top + height]
        x.update({"segmentation": [corners]} if n else more)
    evaluator = RecordsEvaluator(register(made), distributed=False)
    pairs = [([x], [found_exactly(x, masks=True)]) for x in made]
    pairs[0][1][0]["instances"] = pairs[0][1][0]["instances"][1:]  # what is left out is not found
    with caplog.at_level(logging.WARNING, logger="detr_d2"):
        result = figures(evaluator, pairs)
    assert result["segm"]["AP"] == pytest.approx(100)
    assert result["bbox"]["AP"] < 100
    assert re.search(said, caplog.text)


def test_masks_of_data_for_boxes_are_not_measured(register: Any, caplog: pytest.LogCaptureFixture) -> None:
    made = records()
    evaluator = RecordsEvaluator(register(made), distributed=False)
    result = figures(evaluator, [([x], [found_exactly(x, masks=True)]) for x in made])
    assert set(result) == {"bbox"}
    assert "The masks are not measured: the annotations of mine have none" in caplog.text


def test_a_class_or_an_image_that_the_data_do_not_have(register: Any) -> None:
    made = records()
    evaluator = RecordsEvaluator(register(made), distributed=False)
    output = found_exactly(made[0])
    output["instances"].pred_classes += 1
    with pytest.raises(ValueError, match="the model predicts class 2, but mine has 2 classes"):
        figures(evaluator, [([made[0]], [output])])
    with pytest.raises(ValueError, match="dataset mine has no image with image_id 'x'"):
        evaluator.process([{"image_id": "x"}], [output])


def test_classes_of_the_same_name_each_have_their_ap(register: Any) -> None:
    made = records()
    pairs = [([x], [{"instances": found_exactly(x)["instances"][:1]}]) for x in made]
    result = figures(RecordsEvaluator(register(made, ["cat", "cat"]), distributed=False), pairs)["bbox"]
    assert (result["AP-cat (0)"], result["AP-cat (1)"]) == pytest.approx((100, 0))


def test_differences_of_figures() -> None:
    nan = float("nan")
    assert largest_figure_difference({"AP": 1.0, "APs": nan}, {"AP": 1.5, "APs": nan}) == 0.5
    assert largest_figure_difference({"AP": nan}, {"AP": 1.0}) == float("inf")
    assert largest_figure_difference({"AP": 1.0}, {"AR": 1.0}) == float("inf")
