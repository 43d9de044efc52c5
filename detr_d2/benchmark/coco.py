"""COCO evaluation of random detections, and COCO files of any size."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator
from detectron2.structures import Boxes, Instances

from ..data import register_coco
from ..evaluation.coco import RecordsEvaluator
from .report import differ, measure, report

EVALUATION_TOLERANCE = 1e-9
HEIGHT, WIDTH = 480, 640


def evaluate(args: argparse.Namespace) -> int:
    """COCO's figures of random detections by the evaluator of `train_net.py` and by detectron2's with pycocotools."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "instances.json")
        objects = args.images * args.objects
        write_coco_file(path, images=args.images, annotations=objects, num_classes=args.classes, seed=args.seed)
        with registered_file(path) as dataset:
            detections = random_detections(path, per_image=args.detections, seed=args.seed)
            evaluators = filled_evaluators(dataset, detections)
            print(f"{args.images} images, {args.detections} detections each")
            ours, theirs = (_figures(x) for x in evaluators.values())
            difference = largest_figure_difference(ours, theirs)
            if differ({"pycocotools": {"AP figures": difference}}, EVALUATION_TOLERANCE):
                return 1
            work = {name: partial(_figures, x) for name, x in evaluators.items()}
            timings = measure(work, args.repeat, warmup=0)  # both have run once
    report(timings, {"largest_difference": difference}, args)
    return 0


def _figures(evaluator: DatasetEvaluator) -> dict[str, float]:
    with contextlib.redirect_stdout(io.StringIO()):
        return evaluator.evaluate()["bbox"]


def write_coco_file(
    path: Path, *, images: int, annotations: int, num_classes: int, polygon_points: int = 0, seed: int = 0
) -> None:
    """Writes a COCO instances file with random boxes.

    Args:
        path: of the file.
        images: N, with ids from 1.
        annotations: spread evenly over the images at random; one of fifty is a crowd.
        num_classes: K, with ids from 0, those of the class indices: detectron2's replaces one by the other in place.
        polygon_points: of the one polygon of each annotation; 0 for none.
        seed: of the random numbers.

    Raises:
        ValueError: no images or no classes.
    """
    for name, value in {"images": images, "classes": num_classes}.items():
        if value < 1:
            raise ValueError(f"the number of {name} is {value}, expected at least 1")
    rng = np.random.default_rng(seed)
    boxes = np.round(_random_boxes(rng, annotations), 2)
    owners = rng.integers(1, images + 1, annotations)
    classes = rng.integers(0, num_classes, annotations)
    crowd = rng.random(annotations) < 0.02
    entries = []
    for i, (box, owner, k, c) in enumerate(zip(boxes, owners, classes, crowd, strict=True), start=1):
        entry = {
            "id": i,
            "image_id": int(owner),
            "category_id": int(k),
            "bbox": box.tolist(),
            "area": float(box[2] * box[3]),
            "iscrowd": int(c),
        }
        if polygon_points:
            entry["segmentation"] = [_ellipse(box, polygon_points)]
        entries.append(entry)
    content = {
        "info": {},
        "images": [
            {"id": i, "file_name": f"{i:012d}.jpg", "height": HEIGHT, "width": WIDTH} for i in range(1, images + 1)
        ],
        "annotations": entries,
        "categories": [{"id": k, "name": f"class {k}"} for k in range(num_classes)],
    }
    path.write_text(json.dumps(content), encoding="utf-8")


def _ellipse(box: np.ndarray, points: int) -> list[float]:
    """A ring x, y, x, y, ... inside a box, with two decimals as COCO's polygons have."""
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.round(box[:2] + box[2:] * (circle + 1) / 2, 2).reshape(-1).tolist()


def _random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) xywh inside the image, small, medium and large ones."""
    sides = np.exp(rng.uniform(np.log(8), np.log(400), (count, 2)))
    corners = rng.random((count, 2)) * (np.array([WIDTH, HEIGHT]) - sides).clip(1)
    return np.concatenate([corners, sides], axis=1)


@contextmanager
def registered_file(path: Path) -> Iterator[str]:
    """The file as a dataset of detectron2, for as long as the context lasts."""
    name = register_coco(f"benchmark_{path.stem}={path}:{path.parent}")
    try:
        yield name
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def random_detections(path: Path, *, per_image: int, seed: int = 0) -> list[tuple[dict[str, Any], Instances]]:
    """Detections of all images of a file, most of them near its objects.

    Returns:
        detectron2's input ("image_id") and output of every image.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    rng = np.random.default_rng(seed)
    num_classes = len(content["categories"])
    objects: dict[int, list[tuple[list[float], int]]] = {image["id"]: [] for image in content["images"]}
    for entry in content["annotations"]:
        objects[entry["image_id"]].append((entry["bbox"], entry["category_id"]))
    return [
        ({"image_id": image_id}, _detect(found, per_image, num_classes, rng)) for image_id, found in objects.items()
    ]


def _detect(
    objects: list[tuple[list[float], int]], count: int, num_classes: int, rng: np.random.Generator
) -> Instances:
    boxes, classes = _random_boxes(rng, count), rng.integers(0, num_classes, count)
    if objects:
        picked = rng.integers(0, len(objects), count)
        near = np.array([box for box, _ in objects])[picked]
        near = near + rng.normal(0, 0.1, (count, 4)) * near[:, [2, 3, 2, 3]]
        right = rng.random(count) < 0.7
        boxes = np.where(right[:, None], near, boxes)
        classes = np.where(right, np.array([k for _, k in objects])[picked], classes)
    boxes[:, 2:] = boxes[:, 2:].clip(1)
    instances = Instances((HEIGHT, WIDTH))
    instances.pred_boxes = Boxes(torch.as_tensor(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)))
    instances.scores = torch.as_tensor(rng.random(count))
    instances.pred_classes = torch.as_tensor(classes)
    return instances


def filled_evaluators(
    dataset: str, detections: list[tuple[dict[str, Any], Instances]]
) -> dict[str, COCOEvaluator | RecordsEvaluator]:
    """Ours (as `train_net.py` evaluates) and detectron2's with pycocotools, both with all detections."""
    # The kind is named, for pycocotools adds outlines to detections, from which a second evaluation would infer masks.
    options: dict[str, Any] = {"tasks": ("bbox",), "distributed": False}
    evaluators: dict[str, COCOEvaluator | RecordsEvaluator] = {
        "ours": RecordsEvaluator(dataset, **options),
        "pycocotools": COCOEvaluator(dataset, output_dir=None, use_fast_impl=False, **options),
    }
    for evaluator in evaluators.values():
        evaluator.reset()
        for image, instances in detections:
            evaluator.process([image], [{"instances": instances}])
    return evaluators


def largest_figure_difference(a: dict[str, float], b: dict[str, float]) -> float:
    """Of the AP figures of two evaluations; infinite if they do not have the same ones, or one is NaN alone."""
    if a.keys() != b.keys() or any(np.isnan(a[name]) != np.isnan(b[name]) for name in a):
        return float("inf")
    return max((abs(a[name] - b[name]) for name in a if not np.isnan(a[name])), default=0.0)
