"""Looks through the datasets of a config before the first step, and says what they hold.

Errors, in training and evaluation sets: unknown classes, boxes that are not finite, more than a few masks that cannot
be used where the model has masks, images that are missing or of another size (`image_checks`), panoptic PNGs. A
training box without area after clipping to the image is dropped by the mappers; whether that is said in one line or
stops the run is `DATASETS.INVALID_ANNOTATIONS`. Evaluation sets are only reported on.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from ...class_names import match_classes, require_same_classes
from ..coco.annotation_table import AnnotationTable
from ..coco.json_file import image_path
from ..panoptic.file import read_segment_ids
from ..registration import (
    classes_of,
    dataset_table,
    is_coco_file,
    is_panoptic,
    require_registered,
    resolve_num_classes,
)
from .annotations import DatasetReport, check_annotations
from .images import TRAINING_SECONDS, check_images
from .likely_mistakes import warn_of_shared_images
from .records import forget_records, image_ids, read_objects, registered_records

_SAMPLE = 16  # panoptic PNGs read per dataset

logger = logging.getLogger(__name__)


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
    try:
        return _on_machines(cfg, _check_all)
    finally:
        forget_records()


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


def _image_paths(name: str, table: AnnotationTable) -> list[str]:
    """One per image, "" where it has no file."""
    root = MetadataCatalog.get(name).get("image_root", "") if is_coco_file(name) else ""
    return [image_path(root, file_name) if file_name else "" for file_name in table.file_names.tolist()]


def _check_images(split: str, name: str, table: AnnotationTable) -> None:
    check_images(
        name,
        _image_paths(name, table),
        table.image_sizes,
        root=MetadataCatalog.get(name).get("image_root") or "",
        seconds=_seconds(split),
    )


def _seconds(split: str) -> float | None:
    """How long sizes of training images are compared; of an evaluation set all are, before hours are spent on it."""
    return TRAINING_SECONDS if split == "train" else None


def _check_all(cfg: CfgNode) -> list[DatasetReport]:
    if cfg.DATASETS.INVALID_ANNOTATIONS not in ("skip", "error"):
        raise ValueError(
            f'DATASETS.INVALID_ANNOTATIONS must be "skip" or "error", but is {cfg.DATASETS.INVALID_ANNOTATIONS!r}'
        )
    pairs = _named(cfg)
    require_registered([name for _, name in pairs])
    resolve_num_classes(cfg.clone())  # a clone: here the number of classes is only compared
    check_evaluation_sets(cfg, trained_on=cfg.DATASETS.TRAIN[:1])
    reports = []
    paths: dict[str, dict[str, set[str]]] = {"train": {}, "test": {}}
    for split, name in pairs:
        table = dataset_table(name, panoptic=is_panoptic(cfg))
        if table is None:
            logger.warning("Dataset %s is not a list of dicts: it is used without checks.", name)
            continue
        _check_images(split, name, table)
        if is_panoptic(cfg):
            check_panoptic_pngs(name, seconds=_seconds(split))
        reports.append(check_annotations(cfg, split, name, table))
        paths[split][name] = {os.path.abspath(path) for path in _image_paths(name, table) if path}
    warn_of_shared_images(paths["train"], paths["test"])
    return reports


def check_panoptic_pngs(name: str, *, seconds: float | None = None) -> None:
    """Checks the panoptic PNGs of a registered dataset; one whose dicts name none is not looked at.

    All must have the size of their image; of a sample the pixels are read, the mapper checks those of the others.

    Args:
        name: of the dataset.
        seconds: for the sizes, as in `check_images`.

    Raises:
        ValueError: if one is missing, broken or of another size than its image; or one of the sample has ids that
            `segments_info` does not list.
    """
    records = [record for record in registered_records(name) or [] if "pan_seg_file_name" in record]
    check_images(
        name,
        [record["pan_seg_file_name"] for record in records],
        np.array([(record.get("width", 0), record.get("height", 0)) for record in records]).reshape(-1, 2),
        root=MetadataCatalog.get(name).get("panoptic_root") or "",
        seconds=seconds,
        pngs=True,
    )
    sample = np.unique(np.linspace(0, len(records) - 1, min(_SAMPLE, len(records))).astype(int)).tolist()
    unseen = {records[index]["pan_seg_file_name"]: _without_pixels(records[index]) for index in sample}
    if any(unseen.values()):
        path = next(path for path, ids in unseen.items() if ids)
        logger.warning(
            "%s: %d segments of the %d panoptic PNGs that were read have no pixel, such as segment %s of %s: they are "
            "not trained on, and count as missed in the panoptic quality; correct segments_info, or the PNGs.",
            name, sum(map(len, unseen.values())), len(unseen), unseen[path][0], path,
        )  # fmt: skip


def _without_pixels(record: dict[str, Any]) -> list[int]:
    """Ids of the segments that the PNG does not show."""
    size = (record["height"], record["width"]) if "height" in record and "width" in record else None
    shown = np.unique(read_segment_ids(record["pan_seg_file_name"], record["segments_info"], size)).tolist()
    return [segment["id"] for segment in record["segments_info"] if segment["id"] not in shown]


def check_evaluation_sets(cfg: CfgNode, *, trained_on: Sequence[str] = ()) -> None:
    """Raises ValueError if one model cannot be evaluated on all of `DATASETS.TEST`, or records cannot be used for it.

    Args:
        cfg: the config.
        trained_on: the training data, whose classes the model has.
    """
    _compare_classes([*trained_on, *cfg.DATASETS.TEST], panoptic=is_panoptic(cfg))
    for name in cfg.DATASETS.TEST:
        boxes = MetadataCatalog.get(name).get("evaluator_type", "coco") in ("coco", "coco_panoptic_seg")
        if boxes and not is_coco_file(name):
            _check_records(name)


def _check_records(name: str) -> None:
    """Raises ValueError if evaluation could not use the records of a registered dataset, before anything is run."""
    records = registered_records(name)
    if records is not None:
        num_classes = len(MetadataCatalog.get(name).get("thing_classes") or ())
        image_ids(name, records)
        for record in records:
            read_objects(name, record, num_classes)


def check_order_of_classes(cfg: CfgNode) -> None:
    """Raises ValueError if the classes of `DATASETS.TEST` are those of `DATASETS.TRAIN` in another order.

    For weights that do not name their classes, and trainers in Python, whose data need not have been checked: other
    names may be right, but the same in another order are not.
    """
    known = {name: MetadataCatalog.get(name).get("thing_classes") for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)}
    trained = next((classes for name in cfg.DATASETS.TRAIN if (classes := known[name])), None)
    for name in cfg.DATASETS.TEST:
        if trained and known[name] and match_classes(trained, known[name]).same_classes:
            cure = "number them in the same order"
            require_same_classes(trained, known[name], model_is="DATASETS.TRAIN has", data_are=f"{name} has", cure=cure)


def _compare_classes(names: Sequence[str], *, panoptic: bool) -> None:
    """Datasets whose classes are others than those of the first, or in another order, would get a wrong AP."""
    known = {name: classes for name in names if (classes := classes_of(name, panoptic=panoptic)) is not None}
    first = next(iter(known), "")
    for name, classes in known.items():
        require_same_classes(
            known[first],
            classes,
            model_is=f"dataset {first} has",
            data_are=f"dataset {name}, which the same model is to be evaluated on, has",
            cure="give both the same classes in the same order of their ids",
        )
