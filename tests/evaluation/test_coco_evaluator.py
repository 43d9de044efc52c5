"""The faster COCO evaluator gives detectron2's results to 1e-9, and leaves detectron2 as it was."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.evaluation import COCOEvaluator, coco_evaluation

from detr_d2.config import get_cfg
from detr_d2.engine.evaluators import build_evaluator
from detr_d2.evaluation import coco_evaluator
from detr_d2.evaluation.benchmark_coco import (
    largest_figure_difference,
    random_detections,
    registered_file,
    write_coco_file,
)
from detr_d2.evaluation.coco_evaluator import FasterCOCOEvaluator, build_coco_evaluator

IMAGES = 25


@pytest.fixture
def dataset(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    path = tmp_path / "truth.json"
    write_coco_file(path, images=IMAGES, annotations=150, num_classes=5, polygon_points=8, seed=3)
    with registered_file(path) as name:
        yield name, path


def figures(evaluator: Any, path: Path, *, per_image: int = 120, masks: bool = False) -> dict[str, dict[str, float]]:
    evaluator.reset()
    for image, instances in random_detections(path, per_image=per_image, seed=1):
        if masks:
            instances = instances[:4]
            instances.pred_masks = torch.zeros(len(instances), *instances.image_size, dtype=torch.bool)
            for mask, (x0, y0, x1, y1) in zip(
                instances.pred_masks, instances.pred_boxes.tensor.long().tolist(), strict=True
            ):
                mask[max(0, y0) : y1, max(0, x0) : x1] = True
        evaluator.process([image], [{"instances": instances}])
    return evaluator.evaluate()


@pytest.mark.parametrize("limit", [None, 110])
def test_equal_boxes(dataset: tuple[str, Path], limit: int | None) -> None:
    pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed")
    name, path = dataset
    options: dict[str, Any] = {"max_dets_per_image": limit, "distributed": False}
    before = coco_evaluation.COCOevalMaxDets, coco_evaluation.COCOeval_opt
    ours = figures(FasterCOCOEvaluator(name, output_dir=None, **options), path)["bbox"]
    assert (coco_evaluation.COCOevalMaxDets, coco_evaluation.COCOeval_opt) == before
    theirs = figures(COCOEvaluator(name, output_dir=None, **options), path)["bbox"]
    assert 1 < theirs["AP"] < 99
    assert "AP-class 3" in theirs
    assert largest_figure_difference(ours, theirs) < 1e-9


def test_equal_masks(dataset: tuple[str, Path]) -> None:
    pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed")
    name, path = dataset
    ours, theirs = (
        figures(kind(name, output_dir=None, distributed=False), path, masks=True)["segm"]
        for kind in (FasterCOCOEvaluator, COCOEvaluator)
    )
    assert largest_figure_difference(ours, theirs) < 1e-9


def test_training_uses_it_and_says_so(dataset: tuple[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed")
    with caplog.at_level(logging.INFO, logger="detr_d2"):
        evaluator = build_evaluator(get_cfg(), dataset[0], str(dataset[1].parent))
    assert isinstance(evaluator, FasterCOCOEvaluator)
    assert "computed by faster-coco-eval" in caplog.text


def test_without_the_package(
    dataset: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(coco_evaluator, "available_evaluator", lambda: "pycocotools")
    with caplog.at_level(logging.INFO, logger="detr_d2"):
        evaluator = build_coco_evaluator(dataset[0], None, distributed=False)
    assert type(evaluator) is COCOEvaluator
    assert 'pip install "detr_d2[eval]"' in caplog.text


def test_differences_of_figures() -> None:
    nan = float("nan")
    assert largest_figure_difference({"AP": 1.0, "APs": nan}, {"AP": 1.5, "APs": nan}) == 0.5
    assert largest_figure_difference({"AP": nan}, {"AP": 1.0}) == float("inf")
    assert largest_figure_difference({"AP": 1.0}, {"AR": 1.0}) == float("inf")
