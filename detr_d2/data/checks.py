"""Looks through the datasets of a config before the first step, and says what they hold.

Errors, in training and evaluation sets: unknown classes, boxes that are not finite, more than a few masks that cannot
be used where the model has masks, images that are missing or of another size (`image_checks`), panoptic PNGs. A
training box without area after clipping to the image is dropped by the mappers; whether that is said in one line or
stops the run is `DATASETS.INVALID_ANNOTATIONS`. Evaluation sets are only reported on.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from .annotation_checks import DatasetReport, check_annotations
from .annotation_table import AnnotationTable
from .image_checks import TRAINING_SECONDS, check_images
from .likely_mistakes import warn_of_shared_images
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


def _image_paths(name: str, table: AnnotationTable) -> list[str]:
    """One per image, "" where it has no file."""
    root = MetadataCatalog.get(name).get("image_root", "") if is_coco_file(name) else ""
    return [os.path.join(root, file_name) if file_name else "" for file_name in table.file_names.tolist()]


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
    _compare_test_classes(cfg)
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
