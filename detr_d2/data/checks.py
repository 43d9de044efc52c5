"""Looks through the datasets of a config before the first step, and says what they hold.

Errors, in training and evaluation sets: unknown classes, boxes that are not finite, more than a few masks that cannot
be used where the model has masks, image files and panoptic PNGs that are missing or, in a sample, cannot be read. A
training box without area after clipping to the image is dropped by the mappers; whether that is said in one line or
stops the run is `DATASETS.INVALID_ANNOTATIONS`. Evaluation sets are only reported on.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from ..class_names import match_classes, require_same_classes
from .annotation_checks import DatasetReport, check_annotations
from .annotation_table import AnnotationTable, cache_file
from .images import read_image
from .likely_mistakes import warn_of_shared_images
from .panoptic_checks import check_panoptic_pngs
from .records import check_records
from .registration import (
    classes_of,
    dataset_table,
    is_coco_file,
    is_panoptic,
    require_registered,
    resolve_num_classes,
)

_SAMPLE = 16  # images decoded per dataset
_MOST_NAMED = 10  # files or annotations named in one message

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
    outcome: tuple[list[DatasetReport], str | None] | None = None
    failure: Exception | None = None
    if comm.is_main_process():
        try:
            outcome = (_check_all(cfg), None)
        except Exception as error:  # whatever it is, the other processes must not wait for ever
            failure, outcome = error, ([], str(error) or repr(error))
    reports, message = next(found for found in comm.all_gather(outcome) if found is not None)
    if failure is not None:
        raise failure
    if message is not None:
        raise ValueError(message)
    return reports


def _check_all(cfg: CfgNode) -> list[DatasetReport]:
    if cfg.DATASETS.INVALID_ANNOTATIONS not in ("skip", "error"):
        raise ValueError(
            f'DATASETS.INVALID_ANNOTATIONS must be "skip" or "error", but is {cfg.DATASETS.INVALID_ANNOTATIONS!r}'
        )
    pairs = [("train", name) for name in cfg.DATASETS.TRAIN] + [("test", name) for name in cfg.DATASETS.TEST]
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
        _check_images(name, table)
        if is_panoptic(cfg):
            check_panoptic_pngs(name)
        reports.append(check_annotations(cfg, split, name, table))
        paths[split][name] = {os.path.abspath(path) for path in _image_paths(name, table)}
    warn_of_shared_images(paths["train"], paths["test"])
    return reports


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
            check_records(name)


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


def _image_paths(name: str, table: AnnotationTable) -> list[str]:
    """Of the images that have a file."""
    root = MetadataCatalog.get(name).get("image_root", "") if is_coco_file(name) else ""
    return [os.path.join(root, file_name) for file_name in table.file_names.tolist() if file_name]


def _check_images(name: str, table: AnnotationTable) -> None:
    """All image files exist, and a sample can be decoded and has the annotated size.

    For a COCO file a success is remembered until the file, a folder of its images or an image of the sample changes.
    """
    metadata = MetadataCatalog.get(name)
    root = metadata.get("image_root", "") if is_coco_file(name) else ""
    paths = _image_paths(name, table)
    if not paths or "://" in paths[0]:
        return
    by_folder: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        folder, file_name = os.path.split(path)
        by_folder[folder].append(file_name)
    sample = np.unique(np.linspace(0, len(paths) - 1, _SAMPLE).astype(int)).tolist()
    remembered = None
    if is_coco_file(name):
        states = [_state(paths[index]) for index in sample]
        times = [os.stat(folder).st_mtime_ns if os.path.isdir(folder) else 0 for folder in sorted(by_folder)]
        status = os.stat(metadata.json_file)
        remembered = cache_file("images", metadata.json_file, root, status.st_size, status.st_mtime_ns, times, states)
        if remembered.exists():
            return
    _require_files(name, by_folder)
    for index in sample:
        _require_readable(paths[index], table.image_sizes[np.flatnonzero(table.file_names != "")[index]])
    if remembered is not None:
        try:
            remembered.parent.mkdir(parents=True, exist_ok=True)
            remembered.touch()
        except OSError as error:
            logger.warning("The check of the images of %s cannot be cached: %s", name, error)


def _state(path: str) -> tuple[int, int]:
    """Size and time of change of a file; zeros where there is none, which is said afterwards."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _require_files(name: str, by_folder: dict[str, list[str]]) -> None:
    missing: list[str] = []
    for folder, file_names in by_folder.items():
        try:
            with os.scandir(folder) as entries:
                present = {entry.name for entry in entries}
        except OSError:
            present = set()
        missing += [os.path.join(folder, file_name) for file_name in file_names if file_name not in present]
    if missing:
        raise ValueError(
            f"{name}: {len(missing)} image files are missing, among them {', '.join(missing[:_MOST_NAMED])}: check the "
            "image folder and the file names in the annotations"
        )


def _require_readable(path: str, size: np.ndarray) -> None:
    height, width = read_image(path, "RGB").shape[:2]
    if size.all() and (width, height) != tuple(size):
        raise ValueError(
            f"image file {path} is {width}x{height} pixels (after EXIF rotation), but its annotation says "
            f"{size[0]}x{size[1]}: correct the width and height in the annotations"
        )
