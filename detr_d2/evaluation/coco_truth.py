"""The ground truth of a dataset's records as pycocotools takes it, for boxes, masks and keypoints."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from pycocotools.coco import COCO

from ..compare.data import GroundTruth
from ..compare.mask_truth import load_mask_truth
from ..compare.measure.coco import coco_dataset, indexed

logger = logging.getLogger(__name__)


def coco_truth(truth: GroundTruth, task: str) -> COCO | None:
    """The ground truth of a task as pycocotools takes it.

    Args:
        truth: of the dataset.
        task: "bbox", "segm" or "keypoints".

    Returns:
        None, and a warning, where the data have nothing for the task.
    """
    content = coco_dataset(truth)
    objects = content["annotations"]
    if task == "segm":
        try:
            masks = load_mask_truth(truth)
        except ValueError as error:  # what has been predicted must not be lost
            logger.warning("The masks are not measured: %s.", error)
            return None
        if masks is None and objects:
            logger.warning("The masks are not measured: the annotations of %s have none.", truth.name)
            return None
        if masks is not None and masks.note:
            logger.warning("%s.", masks.note)
        segmented = zip(objects, masks.masks if masks is not None else (), strict=True)
        content["annotations"] = [{**x, "segmentation": mask} for x, mask in segmented if mask is not None]
    elif task == "keypoints":
        length = max((len(x) for x in truth.keypoints if x is not None), default=0)
        if not length:
            logger.warning("Keypoints are not measured: the annotations of %s have none.", truth.name)
            return None
        content["annotations"] = [
            {**x, "keypoints": points or [0] * length, "num_keypoints": sum(v > 0 for v in (points or [])[2::3])}
            for x, points in zip(objects, truth.keypoints, strict=True)
        ]
    return indexed(COCO(), content)


def check_keypoints(truth: COCO, rows: Sequence[dict[str, Any]], sigmas: int) -> None:
    """Raises ValueError if ground truth, predictions and the sigmas of keypoints are not of the same number of them."""
    found = len(rows[0]["keypoints"]) // 3
    real = len(next(iter(truth.anns.values()))["keypoints"]) // 3
    if not found == real == sigmas:
        raise ValueError(
            f"the model predicts {found} keypoints, the annotations have {real}, and kpt_oks_sigmas holds {sigmas} "
            "values (17 unless given): give as many of each"
        )
