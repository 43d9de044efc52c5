"""How good masks are: COCO's average precision of masks, and the same of their boundaries.

Papers: Lin et al. 2014 (COCO); Cheng et al. 2021, "Boundary IoU", Sec. 5: Boundary AP takes, wherever AP compares two
masks, the smaller of their mask IoU and their Boundary IoU.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..data import GroundTruth
from ..found.masks import Segmentation
from ..mask_truth import MaskTruth
from .boundary import boundary_rle, mask_iou
from .coco import coco_dataset, indexed, precision_figures, run_evaluation
from .mask_records import MaskMetrics
from .matching import MAX_DETECTIONS


class _SmallerIou(COCOeval):
    """Compares two masks by the smaller of two IoUs.

    Args:
        truth, found: COCO objects.
        other: an evaluation of the same objects, in the same order, that has been run.
    """

    def __init__(self, truth: COCO, found: COCO, other: COCOeval) -> None:
        super().__init__(truth, found, "segm")
        self.other = other

    def computeIoU(self, imgId: int, catId: int) -> Any:
        own, other = super().computeIoU(imgId, catId), self.other.ious[imgId, catId]
        return np.minimum(own, other) if len(own) else own


def mask_metrics(
    ground_truth: GroundTruth,
    truth: MaskTruth,
    images: Sequence[Segmentation],
    class_map: np.ndarray,
    *,
    max_detections: int = MAX_DETECTIONS,
) -> MaskMetrics:
    """Measures the masks of a model.

    Args:
        ground_truth: N images.
        truth: masks of their objects.
        images: what the model segments in each.
        class_map: (model's K,) index in the dataset of each of the model's classes, -1 for those it does not have.
        max_detections: the most that count per image and class; 100 for COCO's own figures.
    """
    annotations, results = _annotations(ground_truth, truth), _results(images, class_map)
    with contextlib.redirect_stdout(io.StringIO()):
        masks = COCOeval(_coco(ground_truth, annotations), _coco(ground_truth, results), "segm")
        run_evaluation(masks, max_detections)
        edges, found_edges = _edges(annotations), _edges(results)
        boundaries = COCOeval(_coco(ground_truth, edges), _coco(ground_truth, found_edges), "segm")
        run_evaluation(boundaries, max_detections)
        both = _SmallerIou(masks.cocoGt, masks.cocoDt, boundaries)
        run_evaluation(both, max_detections)
    pairs = _matched(masks)
    at = {x["id"]: x["segmentation"] for x in edges}, {x["id"]: x["segmentation"] for x in found_edges}
    agreement = [mask_iou(at[0][real], at[1][found]) for real, found in pairs]
    of_both = precision_figures(both.eval["precision"])
    return MaskMetrics(
        **precision_figures(masks.eval["precision"]),
        boundary_ap=of_both["ap"],
        boundary_ap50=of_both["ap50"],
        boundary_iou=100 * float(np.median(agreement)) if agreement else float("nan"),
        matched=len(pairs),
        failed_images=sum(bool(x.error) for x in images),
        evaluator=f"pycocotools {importlib.metadata.version('pycocotools')}",
    )


def _annotations(ground_truth: GroundTruth, truth: MaskTruth) -> list[dict[str, Any]]:
    plain = coco_dataset(ground_truth)["annotations"]
    return [
        {**x, "segmentation": mask, "area": float(area)}
        for x, mask, area in zip(plain, truth.masks, truth.areas, strict=True)
        if mask is not None
    ]


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


def _edges(annotations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same objects, of which only the boundary is left; their areas, which sort them by size, stay."""
    return [{**x, "segmentation": boundary_rle(x["segmentation"])} for x in annotations]


def _coco(ground_truth: GroundTruth, annotations: list[dict[str, Any]]) -> COCO:
    return indexed(COCO(), {**coco_dataset(ground_truth), "annotations": [dict(x) for x in annotations]})


def _matched(evaluation: COCOeval) -> list[tuple[int, int]]:
    """(id of an object, id of its detection) for the objects that are found at mask IoU 0.5; crowds are none."""
    every_area = list(evaluation.params.areaRng[0])
    return [
        (int(real), int(found))
        for image in evaluation.evalImgs
        if image is not None and list(image["aRng"]) == every_area
        for found, real, ignored in zip(image["dtIds"], image["dtMatches"][0], image["dtIgnore"][0], strict=True)
        if real and not ignored
    ]
