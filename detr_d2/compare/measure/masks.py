"""How good masks are: COCO's average precision of masks, and the same of their boundaries.

Papers: Lin et al. 2014 (COCO); Cheng et al. 2021, "Boundary IoU: Improving Object-Centric Image Segmentation
Evaluation", Sec. 4 and 5: the boundary of a mask is its pixels within a distance of 2 % of the image's diagonal of its
contour, the Boundary IoU of two masks is the IoU of their boundaries, and Boundary AP takes, wherever AP compares two
masks, the smaller of their mask IoU and their Boundary IoU. A crowd region has no boundary: there the mask IoU decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from faster_coco_eval import COCO
from faster_coco_eval.core.mask import rleToBoundary
from pycocotools import mask as coco_mask

from ...evaluation.arrays import MAX_DETECTIONS, GroundTruth, Rle, coco_dataset
from ..masks import Segmentation
from ..records.figures import MaskMetrics
from .coco import EVALUATOR, evaluate, precision_figures


def mask_metrics(
    ground_truth: GroundTruth,
    masks: Sequence[Rle | None],
    images: Sequence[Segmentation],
    class_map: np.ndarray,
    *,
    max_detections: int = MAX_DETECTIONS,
) -> MaskMetrics:
    """Measures the masks of a model.

    Args:
        ground_truth: N images.
        masks: of their M objects; None for one that is left out.
        images: what the model segments in each.
        class_map: (model's K,) index in the dataset of each of the model's classes, -1 for those it does not have.
        max_detections: the most that count per image and class; 100 for COCO's own figures.
    """
    content = coco_dataset(ground_truth)
    objects = [
        {**x, "segmentation": mask} for x, mask in zip(content["annotations"], masks, strict=True) if mask is not None
    ]
    truth, found = (COCO({**content, "annotations": x}) for x in (objects, _results(images, class_map)))
    of_masks = evaluate(truth, found, "segm", max_detections)
    of_boundaries = precision_figures(evaluate(truth, found, "boundary", max_detections)["precision"])
    agreement = np.full(len(masks), np.nan)
    for real, mine in _matched(truth, found, max_detections):
        agreement[real["id"] - 1] = 100 * boundary_iou(real["segmentation"], mine["segmentation"])
    return MaskMetrics(
        **precision_figures(of_masks["precision"]),
        boundary_ap=of_boundaries["ap"],
        boundary_ap50=of_boundaries["ap50"],
        boundary_iou=_median(agreement),
        matched=int((~np.isnan(agreement)).sum()),
        failed_images=sum(bool(x.error) for x in images),
        evaluator=EVALUATOR,
        boundary_ious=agreement.tolist(),
    )


def over_shared_objects(metrics: Sequence[MaskMetrics]) -> list[MaskMetrics]:
    """The figures with the Boundary IoU of those objects alone that all models have found.

    A model that finds the easy objects only would draw what it finds better than one that finds the others, too.

    Args:
        metrics: of several models on the same objects, from `mask_metrics`.
    """
    if not metrics:
        return []
    agreement = np.array([x.boundary_ious for x in metrics])  # (models, M)
    shared = ~np.isnan(agreement).any(0)
    return [
        replace(x, boundary_iou=_median(own[shared]), matched=int(shared.sum()), boundary_ious=[])
        for x, own in zip(metrics, agreement, strict=True)
    ]


def _median(values: np.ndarray) -> float:
    """Of those that are known; NaN if none is."""
    known = values[~np.isnan(values)]
    return float(np.median(known)) if known.size else float("nan")


def _results(images: Sequence[Segmentation], class_map: np.ndarray) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for image_id, image in enumerate(images, start=1):  # as `coco_dataset` numbers them
        for score, model_class, counts in zip(image.scores, image.classes, image.counts, strict=False):
            index = int(class_map[model_class])
            if index >= 0:
                rle = {"size": image.size, "counts": counts}
                row = {"image_id": image_id, "category_id": index + 1, "segmentation": rle, "score": score}
                rows.append({**row, "id": len(rows) + 1, "iscrowd": 0, "area": float(coco_mask.area(rle))})
    return rows


def _matched(truth: COCO, found: COCO, max_detections: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The objects that are found at mask IoU 0.5, and their detections; crowds are none."""
    every = {"areaRng": [[0, 1e10]], "areaRngLbl": ["all"]}
    pairs = evaluate(truth, found, "segm", max_detections, iouThrs=np.array([0.5]), **every)["matched"]
    matches = [(truth.anns[int(real)], found.anns[int(mine)]) for mine, real in (x.split("_") for x in pairs)]
    return [(real, mine) for real, mine in matches if not real["iscrowd"]]


def boundary_iou(first: Rle, second: Rle) -> float:
    """IoU of the boundaries of two masks that are not empty, 0-1."""
    return float(coco_mask.iou([rleToBoundary(first)], [rleToBoundary(second)], [0])[0, 0])
