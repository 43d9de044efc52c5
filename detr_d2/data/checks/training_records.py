"""The dicts that training draws from: detectron2's, without the objects whose masks cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts

from ..coco.mask_faults import mask_fault
from ..registration import is_coco_file, is_panoptic, require_registered


def training_records(cfg: CfgNode) -> Any:
    """The dataset of `DATASETS.TRAIN`, as detectron2's loader makes it.

    With `MODEL.MASK_ON`, annotations without a mask that can be used are left out, and the images that lose all of them
    if `FILTER_EMPTY_ANNOTATIONS`; the checks before the first step have counted them. The masks of a panoptic model
    come from its PNGs instead.
    """
    require_registered(cfg.DATASETS.TRAIN)
    records = get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        min_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0,
        proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
    )
    if not cfg.MODEL.MASK_ON or is_panoptic(cfg) or not isinstance(records, list):
        return records
    looked_at = all(is_coco_file(name) for name in cfg.DATASETS.TRAIN)  # their dicts hold good masks only
    usable = _has_mask if looked_at else _has_good_mask
    keep_images = not cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS or "Weighted" in cfg.DATALOADER.SAMPLER_TRAIN
    found = []
    for record in records:
        kept = _without_bad_masks(record, usable)
        if kept is record or keep_images or any(not x.get("iscrowd", 0) for x in kept["annotations"]):
            found.append(kept)
    return found


def _without_bad_masks(
    record: dict[str, Any], usable: Callable[[dict[str, Any], dict[str, Any]], bool]
) -> dict[str, Any]:
    """The same dict if all are usable: what users' functions return is never changed."""
    annotations = record.get("annotations", [])
    kept = [x for x in annotations if x.get("iscrowd", 0) or usable(x, record)]
    return record if len(kept) == len(annotations) else {**record, "annotations": kept}


def _has_mask(annotation: dict[str, Any], _record: dict[str, Any]) -> bool:
    return "segmentation" in annotation


def _has_good_mask(annotation: dict[str, Any], record: dict[str, Any]) -> bool:
    return not mask_fault(annotation.get("segmentation"), record.get("width", 0), record.get("height", 0))
