"""Annotations that are possible one by one and together look like a mistake: a warning each, with numbers."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping

import numpy as np

from ..coco.annotation_table import AnnotationTable
from ..coco.json_values import MOST_NAMED, listed

_NEARLY_ALL = 0.99  # of the boxes
_SOME = 0.05
FAR = 0.05  # of the longer side of the image
_MOST_FILES = 3  # named in one message
ROUNDING = 1.0  # pixels that a right box may reach beyond its image

logger = logging.getLogger(__name__)


def warn_of_mistakes(name: str, table: AnnotationTable, valid: np.ndarray, *, training: bool) -> None:
    """Logs a warning for boxes in another form than x, y, width, height in pixels, and for classes without boxes.

    Args:
        name: of the dataset, for messages.
        table: its annotations.
        valid: (A,) bool, boxes that are targets.
        training: the dataset is trained on, where every class needs boxes.
    """
    _warn_of_other_form(name, table.boxes_xywh[~table.crowd], table.image_sizes[table.image_of[~table.crowd]])
    if training:
        _warn_of_empty_classes(name, table, valid)


def other_form(boxes: np.ndarray, sizes: np.ndarray, beyond_by: np.ndarray | float = ROUNDING) -> str:
    """A sentence about boxes that look like another form than x, y, width, height in pixels; "" if they do not.

    Args:
        boxes: (N, 4), at least one.
        sizes: (N, 2), width and height of the images.
        beyond_by: pixels, (N,) or for all, that a right box may reach beyond its image.
    """
    tiny = int((boxes <= 1).all(axis=1).sum())
    if tiny >= _NEARLY_ALL * len(boxes):
        return (
            f"{tiny} of {len(boxes)} boxes lie within the first pixel of their image; they look like fractions of its "
            "width and height, but x, y, width and height in pixels are expected"
        )
    first, second = boxes[:, :2], boxes[:, 2:]
    beyond = int((~_inside(first, first + second, sizes, beyond_by)).sum())
    if beyond < max(1, _SOME * len(boxes)):
        return ""
    forms = {
        "corners x1, y1, x2, y2": _inside(first, second, sizes) & (second > first).all(axis=1),
        "centre x, centre y, width, height": _inside(first - second / 2, first + second / 2, sizes),
    }
    for form, fits in forms.items():
        if fits.sum() >= _NEARLY_ALL * len(boxes):
            return (
                f"{beyond} of {len(boxes)} boxes reach beyond their image, while {int(fits.sum())} lie inside if they "
                f"are {form}; x, y, width and height are expected"
            )
    return ""


def _warn_of_other_form(name: str, boxes: np.ndarray, sizes: np.ndarray) -> None:
    boxes, sizes = boxes[(sizes > 1).all(axis=1)], sizes[(sizes > 1).all(axis=1)]
    if not len(boxes):
        return
    if text := other_form(boxes, sizes):
        logger.warning("%s: %s.", name, text)
        return
    first, second = boxes[:, :2], boxes[:, 2:]
    farthest = np.maximum(-first, first + second - sizes).max(axis=1)
    far = int((farthest > FAR * sizes.max(axis=1)).sum())
    if far >= max(1, _SOME * len(boxes)):
        logger.warning(
            "%s: %d of %d boxes reach far beyond their image, by up to %.0f pixels; training clips them to it. The "
            "images may have been resized after they were annotated, or the boxes are of another form than x, y, width "
            "and height in pixels.",
            name, far, len(boxes), farthest.max(),
        )  # fmt: skip


def warn_of_repeated_images(name: str, table: AnnotationTable) -> None:
    """Logs a warning if a file lists images twice, which are two images then, each with a part of the annotations.

    Args:
        name: of the dataset, for messages.
        table: of a COCO file.
    """
    counts = Counter(os.path.normpath(file_name) for file_name in table.file_names.tolist())
    repeated = [file_name for file_name, count in counts.items() if count > 1]
    if repeated:
        logger.warning(
            "%s: %d image files are listed more than once under several ids, such as %s: each entry is trained on and "
            "measured with its own annotations only; give all annotations of a file the id of one entry.",
            name, len(repeated), ", ".join(repeated[:_MOST_FILES]),
        )  # fmt: skip


def _inside(
    low: np.ndarray, high: np.ndarray, sizes: np.ndarray, beyond_by: np.ndarray | float = ROUNDING
) -> np.ndarray:
    slack = np.reshape(beyond_by, (-1, 1))
    return np.logical_and((low >= -slack).all(axis=1), (high <= sizes + slack).all(axis=1))


def _warn_of_empty_classes(name: str, table: AnnotationTable, valid: np.ndarray) -> None:
    counts = np.bincount(table.classes[valid], minlength=len(table.class_names))
    crowds = np.bincount(table.classes[table.crowd], minlength=len(table.class_names))
    empty = np.flatnonzero(counts[: len(table.class_names)] == 0).tolist()
    only_crowds = [f"{table.class_names[k]} ({crowds[k]})" for k in empty if crowds[k]]
    if only_crowds:
        logger.warning(
            '%s: all annotations of %s are crowds ("iscrowd": 1), which are not trained on.',
            name, listed(only_crowds[:MOST_NAMED], len(only_crowds)),
        )  # fmt: skip
    names, parents = table.class_names.tolist(), table.class_parents.tolist()
    full = [k for k in range(len(names)) if counts[k]]
    for k in empty:
        twins = [other for other in full if names[k] in (names[other], parents[other])]
        if twins and not crowds[k]:
            logger.warning(
                "%s: class %s (id %s) has no boxes, while %s (id %s) has %d and %s; exports of Roboflow hold such a "
                'parent. It takes a row of the class head; remove it from "categories" unless it is a class of yours.',
                name, names[k], table.class_ids[k], names[twins[0]], table.class_ids[twins[0]], counts[twins[0]],
                "the same name" if names[twins[0]] == names[k] else "names it as its supercategory",
            )  # fmt: skip
    others = [names[k] for k in empty if not crowds[k]]
    if others:
        logger.info(
            "%s: %d of %d classes have no box to train on: %s.",
            name, len(others), len(names), listed(others[:MOST_NAMED], len(others)),
        )  # fmt: skip
    repeated = sorted({x for x in names if names.count(x) > 1})
    if repeated:
        logger.warning(
            "%s: several classes are called %s: they are kept apart by their ids.", name, ", ".join(repeated)
        )


def warn_of_shared_images(train: Mapping[str, set[str]], test: Mapping[str, set[str]]) -> None:
    """Logs a warning for each evaluation set with images that are trained on.

    Args:
        train, test: name of a dataset -> paths of its images.
    """
    for tested, files in test.items():
        for trained, others in train.items():
            shared = sorted(files & others)
            if shared:
                logger.warning(
                    "%d of the %d images of evaluation set %s are in training set %s as well, such as %s: its figures "
                    "will be too good.",
                    len(shared), len(files), tested, trained, shared[0],
                )  # fmt: skip
