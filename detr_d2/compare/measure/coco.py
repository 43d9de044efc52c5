"""COCO's twelve figures and those of each class, by `faster-coco-eval` where it is installed, else by pycocotools."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
from typing import Any

import numpy as np

from ..data import Detections, GroundTruth
from ..records import ClassMetrics, CocoMetrics, PrecisionRecall
from .matching import MAX_DETECTIONS


def available_evaluator() -> str:
    """ "faster-coco-eval" where it is installed, else "pycocotools"."""
    return "faster-coco-eval" if importlib.util.find_spec("faster_coco_eval") else "pycocotools"


def coco_metrics(
    ground_truth: GroundTruth,
    detections: Detections,
    *,
    max_detections: int = MAX_DETECTIONS,
    evaluator: str | None = None,
) -> tuple[CocoMetrics, list[PrecisionRecall]]:
    """What detectron2's COCOEvaluator reports of boxes, and the curves behind it.

    Args:
        ground_truth: N images.
        detections: of the same images.
        max_detections: the most that count per image and class; 100 for COCO's own figures.
        evaluator: "faster-coco-eval" or "pycocotools"; None: `available_evaluator()`.

    Returns:
        The figures, and precision over recall at IoU 0.5, 0.75 and the mean over 0.50:0.95.
    """
    evaluator = evaluator or available_evaluator()
    precision, recall = _precision_and_recall(ground_truth, detections, max_detections, evaluator)
    per_class = [
        ClassMetrics(
            name=name,
            num_objects=int((~ground_truth.crowd & (ground_truth.classes == k)).sum()),
            ap=_mean(precision[:, :, k, 0, 2]),
            ap50=_mean(precision[0, :, k, 0, 2]),
            ar=_mean(recall[:, k, 0, 2]),
        )
        for k, name in enumerate(ground_truth.class_names)
    ]
    metrics = CocoMetrics(
        **precision_figures(precision),
        ar_1=_mean(recall[:, :, 0, 0]),
        ar_10=_mean(recall[:, :, 0, 1]),
        ar_max=_mean(recall[:, :, 0, 2]),
        ar_small=_mean(recall[:, :, 1, 2]),
        ar_medium=_mean(recall[:, :, 2, 2]),
        ar_large=_mean(recall[:, :, 3, 2]),
        max_detections=max_detections,
        per_class=per_class,
        evaluator=f"{evaluator} {importlib.metadata.version(evaluator)}",
    )
    return metrics, _curves(precision)


def _precision_and_recall(
    ground_truth: GroundTruth, detections: Detections, max_detections: int, evaluator: str
) -> tuple[np.ndarray, np.ndarray]:
    """COCO's precision (T, R, K, 4 areas, 3 limits) and recall (T, K, 4, 3); -1 where there are no objects."""
    if evaluator == "faster-coco-eval":
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval
    else:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = coco_dataset(ground_truth)
        found = {**dataset, "annotations": coco_detections(detections)}
        evaluation = COCOeval(indexed(COCO(), dataset), indexed(COCO(), found), "bbox")
        run_evaluation(evaluation, max_detections)
    return evaluation.eval["precision"], evaluation.eval["recall"]


def indexed(coco: Any, dataset: dict[str, Any]) -> Any:
    """An empty COCO object, of pycocotools or another library, filled with the content of a file."""
    coco.dataset = dataset
    coco.createIndex()
    return coco


def run_evaluation(evaluation: Any, max_detections: int) -> None:
    """Runs COCO's evaluation with at most so many detections per image and class; its figures are in `eval`."""
    evaluation.params.maxDets = [1, min(10, max_detections), max_detections]
    evaluation.evaluate()
    evaluation.accumulate()


def precision_figures(precision: np.ndarray) -> dict[str, float]:
    """AP, AP50, AP75 and AP by area, 0-100, of COCO's precision (T, R, K, 4 areas, 3 limits); NaN where nothing is."""
    best = precision[..., 2]
    return {
        "ap": _mean(best[:, :, :, 0]),
        "ap50": _mean(best[0, :, :, 0]),
        "ap75": _mean(best[5, :, :, 0]),
        "ap_small": _mean(best[:, :, :, 1]),
        "ap_medium": _mean(best[:, :, :, 2]),
        "ap_large": _mean(best[:, :, :, 3]),
    }


def coco_dataset(ground_truth: GroundTruth) -> dict[str, Any]:
    """The ground truth as the content of a COCO file in which all is numbered from 1, by the order it has here.

    What the dataset calls its images, annotations and classes may be anything; COCO's evaluation calculates with ids.
    """
    images = [
        {"id": i, "file_name": name, "height": int(height), "width": int(width)}
        for i, (name, (height, width)) in enumerate(
            zip(ground_truth.file_names, ground_truth.sizes, strict=True), start=1
        )
    ]
    annotations = [
        {
            "id": number,
            "image_id": int(image) + 1,
            "category_id": int(k) + 1,
            "bbox": box.tolist(),
            "area": float(area),
            "iscrowd": int(crowd),
        }
        for number, (image, k, box, area, crowd) in enumerate(
            zip(
                ground_truth.image_of,
                ground_truth.classes,
                ground_truth.boxes_xywh,
                ground_truth.areas,
                ground_truth.crowd,
                strict=True,
            ),
            start=1,
        )
    ]
    unnamed = [f"class {k}" for k in range(int(ground_truth.classes.max(initial=-1)) + 1)]
    categories = [{"id": k, "name": name} for k, name in enumerate(ground_truth.class_names or unnamed, start=1)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def coco_detections(detections: Detections) -> list[dict[str, Any]]:
    """Detections as annotations of such a file, with scores."""
    boxes = detections.boxes_xywh
    return [
        {
            "id": number,
            "image_id": int(image) + 1,
            "category_id": int(k) + 1,
            "bbox": box.tolist(),
            "area": float(box[2] * box[3]),
            "iscrowd": 0,
            "score": float(score),
        }
        for number, (image, k, box, score) in enumerate(
            zip(detections.image_of, detections.classes, boxes, detections.scores, strict=True), start=1
        )
    ]


def _mean(values: np.ndarray) -> float:
    """Mean of what is known, 0-100; NaN if nothing is."""
    known = values[values > -1]
    return 100 * float(known.mean()) if known.size else float("nan")


def _curves(precision: np.ndarray) -> list[PrecisionRecall]:
    overall = precision[:, :, :, 0, 2]  # (T, R, K)
    known = overall[:, :, overall[0, 0] > -1]
    if not known.size:
        return []
    per_iou = 100 * known.mean(-1)  # (T, R)
    recall = [float(x) for x in range(101)]
    picked = ((0.5, per_iou[0]), (0.75, per_iou[5]), (None, per_iou.mean(0)))
    return [PrecisionRecall(iou=iou, recall=recall, precision=values.tolist()) for iou, values in picked]
