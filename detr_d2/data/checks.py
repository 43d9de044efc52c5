"""Looks through the datasets of a config before the first step, and says what they hold.

Errors, in training and evaluation sets: unknown classes, boxes that are not finite, masks that cannot be used where the
model has masks, image files that are missing or of another size (`image_checks`), panoptic PNGs. A training box without
area after clipping to the image is dropped by the mappers; whether that is said in one line or stops the run is
`DATASETS.INVALID_ANNOTATIONS`. Evaluation sets are only reported on.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from .annotation_table import AnnotationTable
from .image_checks import TRAINING_SECONDS, check_images
from .mask_faults import MISSING
from .panoptic_checks import check_panoptic_pngs
from .registration import (
    classes_of,
    dataset_table,
    is_coco_file,
    is_panoptic,
    require_registered,
    resolve_num_classes,
)

_MOST_NAMED = 10  # annotations named in one message

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DatasetReport:
    """What a dataset holds; boxes are those that become targets: no crowds, and with an area.

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
    num_over_queries: int


def check_datasets(cfg: CfgNode) -> list[DatasetReport]:
    """Checks all datasets of a config; the main process looks, all processes get the result or raise the error.

    Args:
        cfg: the config; its datasets are registered and its number of classes is resolved.

    Returns:
        One report per dataset of `DATASETS.TRAIN` and then `DATASETS.TEST`; a dataset that is not a list of dicts
        cannot be looked through and has none.

    Raises:
        ValueError: on the first dataset that cannot be used; names file, annotation, value and what to do.
        OSError: if files cannot be accessed; on other processes than the main one this is a ValueError as well.
    """
    return _on_machines(cfg, _check_all)


def check_test_images(cfg: CfgNode) -> None:
    """Checks the images of `DATASETS.TEST`, for an evaluation without training; all processes call it.

    Raises:
        ValueError: as `check_images`.
    """
    own = cfg.clone()
    own.defrost()
    own.DATASETS.TRAIN = ()
    _on_machines(own, _check_all_images)


def _on_machines(cfg: CfgNode, check: Callable[[CfgNode], list[DatasetReport]]) -> list[DatasetReport]:
    """The main process checks, one of every other machine looks at the images that are there, all get the result."""
    outcome: tuple[list[DatasetReport], str | None] | None = None
    failure: Exception | None = None
    try:
        if comm.is_main_process():
            outcome = check(cfg), None
        elif comm.get_local_rank() == 0:
            outcome = _check_all_images(cfg), None
    except Exception as error:  # whatever it is, the other processes must not wait for ever
        failure, outcome = error, ([], str(error) or repr(error))
    found = [x for x in comm.all_gather(outcome) if x is not None]
    if failure is not None:
        raise failure
    for _, message in found:
        if message is not None:
            raise ValueError(message)
    return found[0][0]


def _check_all_images(cfg: CfgNode) -> list[DatasetReport]:
    for split, name in _named(cfg):
        table = dataset_table(name, panoptic=is_panoptic(cfg))
        if table is not None:
            _check_images(split, name, table)
    return []


def _named(cfg: CfgNode) -> list[tuple[str, str]]:
    """(split, name) of all datasets."""
    return [("train", name) for name in cfg.DATASETS.TRAIN] + [("test", name) for name in cfg.DATASETS.TEST]


def _check_images(split: str, name: str, table: AnnotationTable) -> None:
    root = MetadataCatalog.get(name).get("image_root") or ""
    inside = root if is_coco_file(name) else ""
    paths = [os.path.join(inside, file_name) if file_name else "" for file_name in table.file_names.tolist()]
    seconds = TRAINING_SECONDS if split == "train" else None
    check_images(name, paths, table.image_sizes, root=root, seconds=seconds)


def _check_all(cfg: CfgNode) -> list[DatasetReport]:
    if cfg.DATASETS.INVALID_ANNOTATIONS not in ("skip", "error"):
        raise ValueError(
            f'DATASETS.INVALID_ANNOTATIONS must be "skip" or "error", but is {cfg.DATASETS.INVALID_ANNOTATIONS!r}'
        )
    pairs = _named(cfg)
    require_registered([name for _, name in pairs])
    resolve_num_classes(cfg.clone())  # a clone: here the number of classes is only compared
    _compare_test_classes(cfg)
    reports = []
    for split, name in pairs:
        table = dataset_table(name, panoptic=is_panoptic(cfg))
        if table is None:
            logger.warning("Dataset %s is not a list of dicts: it is used without checks.", name)
            continue
        _check_images(split, name, table)
        if is_panoptic(cfg):
            check_panoptic_pngs(name)
        reports.append(_check_boxes(cfg, split, name, table))
    return reports


def _compare_test_classes(cfg: CfgNode) -> None:
    """Evaluation needs as many classes as training; other names may be meant, and get a warning."""
    if not cfg.DATASETS.TRAIN:
        return
    panoptic = is_panoptic(cfg)
    trained = classes_of(cfg.DATASETS.TRAIN[0], panoptic=panoptic)
    for name in cfg.DATASETS.TEST:
        tested = classes_of(name, panoptic=panoptic)
        if trained is None or tested is None or tested == trained:
            continue
        if len(tested) != len(trained):
            raise ValueError(
                f"evaluation dataset {name} has {len(tested)} classes, but training dataset "
                f"{cfg.DATASETS.TRAIN[0]} has {len(trained)}: evaluate on data with the same classes"
            )
        logger.warning("Dataset %s calls its classes %s, the training data %s.", name, tested[:10], trained[:10])


def _check_boxes(cfg: CfgNode, split: str, name: str, table: AnnotationTable) -> DatasetReport:
    without_area = (table.clipped_sides() <= 0).any(axis=1) & ~table.crowd
    if without_area.any():
        _tell_dropped(cfg, split, name, table, np.flatnonzero(without_area))
    if table.orphans[0]:
        logger.warning("%s: %d annotations belong to no image of the file and are not used.", name, table.orphans[0])
    valid = ~table.crowd & ~without_area
    if split == "train":
        _check_targets(name, valid)
    if cfg.MODEL.MASK_ON:
        _check_masks(name, table, valid)
    counts = np.bincount(table.image_of[valid], minlength=len(table.file_names))
    some = np.unique(table.image_of[~table.crowd]).size  # detectron2's filter counts boxes without area
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
        num_over_queries=0 if queries is None else int((counts > queries).sum()),
    )
    if report.num_over_queries:
        logger.warning(
            "%s: %d of %d images have more boxes than the model has queries (%d): the surplus can never be found. "
            "Boxes per image: 99%% of the images have up to %.0f, the most is %d; raise MODEL.DETR.NUM_QUERIES.",
            name, report.num_over_queries, report.num_images, queries, report.boxes_p99, report.boxes_max,
        )  # fmt: skip
    return report


def _tell_dropped(cfg: CfgNode, split: str, name: str, table: AnnotationTable, dropped: np.ndarray) -> None:
    """One line about boxes without area; an error if the config says so and they would be trained on."""
    source = MetadataCatalog.get(name).get("json_file", name)
    listed = ", ".join(
        f"annotation {table.annotation_ids[i]} {_numbers(table.boxes_xywh[i])}" for i in dropped[:_MOST_NAMED]
    )
    found = f"{source}: {len(dropped)} of {len(table.crowd)} boxes have no area inside their image "
    found += f"(x, y, width, height: {listed}"
    found += ", ...)" if len(dropped) > _MOST_NAMED else ")"
    if split == "test":
        logger.warning("%s; an evaluation set is left as it is.", found)
    elif cfg.DATASETS.INVALID_ANNOTATIONS == "skip":
        logger.warning("%s; they are not trained on.", found)
    else:
        raise ValueError(f'{found}; correct them, or drop them with DATASETS.INVALID_ANNOTATIONS "skip"')


def _numbers(box: np.ndarray) -> str:
    return "[" + ", ".join(f"{value:g}" for value in box) + "]"


def _check_targets(name: str, valid: np.ndarray) -> None:
    """What only matters for training: something to learn from."""
    if not valid.any():
        raise ValueError(f"training dataset {name} has no boxes at all: check its annotations")


def _check_masks(name: str, table: AnnotationTable, valid: np.ndarray) -> None:
    """Every target, and every crowd that has one, has a mask that can be used."""
    faults = table.mask_faults[table.mask_fault_of]
    bad = np.flatnonzero((valid & (faults != "")) | (table.crowd & (faults != "") & (faults != MISSING)))
    if len(bad):
        source = MetadataCatalog.get(name).get("json_file", name) if is_coco_file(name) else name
        listed = ", ".join(f"annotation {table.annotation_ids[i]} {faults[i]}" for i in bad[:_MOST_NAMED])
        raise ValueError(
            f"{source}: {len(bad)} of {len(faults)} annotations have no mask that can be used, which MODEL.MASK_ON "
            f"True needs: {listed}{', ...' if len(bad) > _MOST_NAMED else ''}; correct them, or set MODEL.MASK_ON to "
            "False"
        )
