"""What a dataset's annotations hold, and what of them cannot be used: counted as training will see them."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..coco.annotation_table import AnnotationTable
from ..coco.json_values import MOST_NAMED, listed
from ..coco.mask_faults import MISSING
from ..registration import is_coco_file
from .likely_mistakes import warn_of_mistakes, warn_of_repeated_images

_MOST_WITHOUT_MASK = 0.01  # of the objects; more than that is no slip of a tool

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DatasetReport:
    """What a dataset holds; boxes are those that become targets: no crowds, with an area, with a mask if that counts.

    Attributes:
        name: the registered name.
        split: "train" or "test".
        num_images: all images.
        num_used_images: those that training draws from (FILTER_EMPTY_ANNOTATIONS takes the others away).
        num_empty_images: without any box.
        num_boxes: boxes.
        boxes_mean, boxes_p99, boxes_max: boxes per image, over all images.
        num_classes: classes, 0 if unknown.
        num_dropped: boxes without area after clipping to the image.
        num_crowd: crowd annotations.
        num_without_mask: boxes with an area that a model of masks leaves out.
        num_over_queries: images with more boxes than the model has queries.
    """

    name: str
    split: str
    num_images: int
    num_used_images: int
    num_empty_images: int
    num_boxes: int
    boxes_mean: float
    boxes_p99: float
    boxes_max: int
    num_classes: int
    num_dropped: int
    num_crowd: int
    num_without_mask: int
    num_over_queries: int


def check_annotations(cfg: CfgNode, split: str, name: str, table: AnnotationTable) -> DatasetReport:
    """Logs what looks wrong, and counts.

    Args:
        cfg: of the run.
        split: "train" or "test".
        name: of the dataset.
        table: its annotations.

    Raises:
        ValueError: if nothing can be trained on, masks are needed and missing, or boxes have no area and
            `DATASETS.INVALID_ANNOTATIONS` is "error".
    """
    if not table.annotated[0]:
        _tell_unannotated(split, name)
    without_area = (table.clipped_sides() <= 0).any(axis=1) & ~table.crowd
    if without_area.any():
        _tell_dropped(cfg, split, name, table, np.flatnonzero(without_area))
    if table.orphans[0]:
        logger.warning("%s: %d annotations belong to no image of the file and are not used.", name, table.orphans[0])
    with_area = ~table.crowd & ~without_area
    warn_of_mistakes(name, table, with_area, training=split == "train")
    if is_coco_file(name):
        warn_of_repeated_images(name, table)
    if split == "train":
        _check_targets(name, table, with_area)
    maskless = _without_mask(name, table, with_area) if cfg.MODEL.MASK_ON else np.zeros_like(with_area)
    valid = with_area & ~maskless
    counts = np.bincount(table.image_of[valid], minlength=len(table.file_names))
    some = np.unique(table.image_of[~table.crowd & ~maskless]).size  # detectron2's filter counts boxes without area
    queries = cfg.MODEL.DETR.NUM_QUERIES if cfg.MODEL.META_ARCHITECTURE == "DETR" else None
    report = DatasetReport(
        name=name,
        split=split,
        num_images=len(counts),
        num_used_images=some if split == "train" and cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS else len(counts),
        num_empty_images=int((counts == 0).sum()),
        num_boxes=int(valid.sum()),
        boxes_mean=float(counts.mean()),
        boxes_p99=float(np.percentile(counts, 99)),
        boxes_max=int(counts.max()),
        num_classes=len(table.class_names),
        num_dropped=int(without_area.sum()),
        num_crowd=int(table.crowd.sum()),
        num_without_mask=int((maskless & with_area).sum()),
        num_over_queries=0 if queries is None else int((counts > queries).sum()),
    )
    if report.num_over_queries:
        logger.warning(
            "%s: %d of %d images have more boxes than the model has queries (%d): the surplus can never be found. "
            "Boxes per image: 99%% of the images have up to %.0f, the most is %d; raise MODEL.DETR.NUM_QUERIES.",
            name, report.num_over_queries, report.num_images, queries, report.boxes_p99, report.boxes_max,
        )  # fmt: skip
    return report


def _tell_unannotated(split: str, name: str) -> None:
    if split == "train":
        raise ValueError(
            f'training dataset {name} has no annotations, as a test set: its file has no list "annotations"'
        )
    logger.warning("%s has no annotations: its predictions are written, and there is nothing to measure.", name)


def _tell_dropped(cfg: CfgNode, split: str, name: str, table: AnnotationTable, dropped: np.ndarray) -> None:
    """One line about boxes without area; an error if the config says so and they would be trained on."""
    boxes = [f"{table.label(i)} {_numbers(table.boxes_xywh[i])}" for i in dropped[:MOST_NAMED].tolist()]
    found = (
        f"{source_of(name)}: {len(dropped)} of {len(table.crowd)} boxes have no area inside their image "
        f"(x, y, width, height: {listed(boxes, len(dropped))})"
    )
    if split == "test":
        logger.warning("%s; an evaluation set is left as it is.", found)
    elif cfg.DATASETS.INVALID_ANNOTATIONS == "skip":
        logger.warning("%s; they are not trained on.", found)
    else:
        raise ValueError(f'{found}; correct them, or drop them with DATASETS.INVALID_ANNOTATIONS "skip"')


def source_of(name: str) -> str:
    """What messages call a dataset: its annotation file, otherwise its name."""
    return str(MetadataCatalog.get(name).json_file) if is_coco_file(name) else name


def _numbers(box: np.ndarray) -> str:
    return "[" + ", ".join(f"{value:g}" for value in box) + "]"


def _check_targets(name: str, table: AnnotationTable, valid: np.ndarray) -> None:
    """What only matters for training: something to learn from."""
    if valid.any():
        return
    if len(table.crowd) and table.crowd.all():
        raise ValueError(
            f"training dataset {name} has no boxes to train on: all {len(table.crowd)} annotations are crowds "
            '("iscrowd": 1), which are left out; set "iscrowd" to 0 where there is one object'
        )
    if not len(table.crowd):
        raise ValueError(f'training dataset {name} has no boxes: its list "annotations" is empty')
    box = _numbers(table.boxes_xywh[np.flatnonzero(~table.crowd)[0]])
    raise ValueError(
        f"training dataset {name} has no boxes to train on: none of its {int((~table.crowd).sum())} boxes, such as "
        f"{box}, has an area inside its image; x, y, width and height in pixels are expected"
    )


def _without_mask(name: str, table: AnnotationTable, with_area: np.ndarray) -> np.ndarray:
    """(A,) bool, annotations that a model of masks leaves out; ValueError if they are too many, or all of a class.

    A crowd needs no mask, but one that it has must be right.
    """
    faults = table.mask_faults[table.mask_fault_of]
    bad = (faults != "") & ~(table.crowd & (faults == MISSING))
    looked_at = with_area | table.crowd
    told = np.flatnonzero(bad & looked_at)
    if not len(told):
        return bad & ~table.crowd
    named = [f"{table.label(i)} {faults[i]}" for i in told[:MOST_NAMED].tolist()]
    found = (
        f"{source_of(name)}: {len(told)} of {len(faults)} annotations have no mask that can be used, which "
        f"MODEL.MASK_ON True needs: {listed(named, len(told))}"
    )
    classes = table.classes[with_area]
    lost = np.setdiff1d(classes, table.classes[with_area & ~bad])
    if len(told) > _MOST_WITHOUT_MASK * looked_at.sum() or len(lost):
        names = [str(table.class_names[k]) for k in lost if k < len(table.class_names)]
        why = f" (classes {', '.join(names[:MOST_NAMED])} lose all)" if names else ""
        raise ValueError(f"{found}{why}; correct them, or set MODEL.MASK_ON to False")
    logger.warning("%s; they are left out.", found)
    return bad & ~table.crowd
