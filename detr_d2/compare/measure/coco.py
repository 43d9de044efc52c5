"""COCO's twelve figures and those of each class, by `faster-coco-eval`."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from ...evaluation.arrays import MAX_DETECTIONS, Detections, GroundTruth, coco_dataset, coco_detections
from ..records.figures import ClassMetrics, CocoMetrics, PrecisionRecall

EVALUATOR = f"faster-coco-eval {importlib.metadata.version('faster-coco-eval')}"


def coco_metrics(
    ground_truth: GroundTruth, detections: Detections, *, max_detections: int = MAX_DETECTIONS
) -> tuple[CocoMetrics, list[PrecisionRecall]]:
    """What detectron2's COCOEvaluator reports of boxes, and the curves behind it.

    Args:
        ground_truth: N images.
        detections: of the same images.
        max_detections: the most that count per image and class; 100 for COCO's own figures.

    Returns:
        The figures, and precision over recall at IoU 0.5, 0.75 and the mean over 0.50:0.95.
    """
    content = coco_dataset(ground_truth)
    found = COCO({**content, "annotations": coco_detections(detections)})
    result = evaluate(COCO(content), found, "bbox", max_detections)
    precision, recall = result["precision"], result["recall"]
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
        evaluator=EVALUATOR,
    )
    return metrics, _curves(precision)


def evaluate(truth: COCO, found: COCO, kind: str, max_detections: int, **params: Any) -> Mapping[str, Any]:
    """Runs COCO's evaluation.

    Args:
        truth, found: objects and detections, which are numbered alike.
        kind: "bbox", "segm" or "boundary".
        max_detections: the most that count per image and class.
        params: other ones than COCO's own, such as `iouThrs`.

    Returns:
        "precision" (T, R, K, 4 areas, 3 limits) and "recall" (T, K, 4, 3), -1 where there are no objects; "matched",
        the pairs "detection_object" of any threshold and area.
    """
    evaluation = COCOeval_faster(truth, found, kind)
    evaluation.params.maxDets = [1, min(10, max_detections), max_detections]
    for name, value in params.items():
        setattr(evaluation.params, name, value)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval


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
