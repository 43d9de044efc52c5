"""All annotations of a dataset as arrays, so that a check of a million boxes takes milliseconds.

A COCO file is parsed once; its table is kept in the cache folder under the file's path, size and time of change, and
read from there the next time.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

import numpy as np
from iopath.common.file_io import file_lock

from ..cache import cache_file, load_arrays, objects_array, save_arrays
from .file import NO_OBJECTS, CocoFile, keep_coco_file
from .json_file import local_json
from .json_values import Id
from .mask_faults import numbered_faults

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AnnotationTable:
    """The annotations of one dataset; every class is known and every box finite, otherwise there is no table.

    Arrays of texts and ids are of Python objects.

    Attributes:
        class_names: (K,) str, in the order of the contiguous indices, not always different; empty if unknown.
        class_ids: (K,) category ids of the file.
        class_parents: (K,) str, supercategories; "" where there is none.
        file_names: (N,) str, as written in the file; "" where the dataset gives none.
        image_sizes: (N, 2) int, width and height; 0 where the dataset gives none.
        image_of: (A,) int, image of each annotation, as an index into the images.
        annotation_ids: (A,) ids of the file; empty where annotations have none.
        boxes_xywh: (A, 4) float, pixels.
        classes: (A,) int, contiguous class indices.
        crowd: (A,) bool.
        mask_faults: (F,) str, what can be wrong with a segmentation; the first is "", for a mask that can be used.
        mask_fault_of: (A,) int, which of these each annotation has.
        orphans: (1,) int, number of annotations left out because their image is not in the file.
        annotated: (1,) bool, False for a test set, which has images and classes only.
    """

    class_names: np.ndarray
    class_ids: np.ndarray
    class_parents: np.ndarray
    file_names: np.ndarray
    image_sizes: np.ndarray
    image_of: np.ndarray
    annotation_ids: np.ndarray
    boxes_xywh: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    mask_faults: np.ndarray
    mask_fault_of: np.ndarray
    orphans: np.ndarray
    annotated: np.ndarray

    def label(self, index: int) -> str:
        """How messages call an annotation: by its id, otherwise by its image and its number there, from 0."""
        if len(self.annotation_ids):
            return f"annotation {self.annotation_ids[index]}"
        image = self.image_of[index]
        number = int((self.image_of[:index] == image).sum())
        return f"annotation {self.file_names[image] or f'image {image}'} #{number}"

    def clipped_sides(self) -> np.ndarray:
        """(A, 2) width and height of the boxes clipped to their images; images of unknown size do not clip."""
        sizes = np.where(self.image_sizes > 0, self.image_sizes, np.inf)[self.image_of]
        low = np.clip(self.boxes_xywh[:, :2], 0, sizes)
        high = np.clip(self.boxes_xywh[:, :2] + self.boxes_xywh[:, 2:], 0, sizes)
        return high - low


def read_coco_table(json_file: str, cure: str = "check the path") -> AnnotationTable:
    """The table of a COCO instances file, from the cache if the file is as it was.

    Of the processes of one machine that ask at the same time, one parses the file.

    Args:
        json_file: path, or URI of detectron2's `PathManager`.
        cure: what to do when the file cannot be read, for the message.

    Raises:
        ValueError: if the file is missing or is not a valid COCO file; names file, entry, value and what was expected.
    """
    path = os.path.abspath(local_json(json_file, cure))
    status = os.stat(path)
    return _read_cached(path, json_file, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=8)
def _read_cached(path: str, source: str, size: int, mtime_ns: int) -> AnnotationTable:
    cached = cache_file("coco", path, size, mtime_ns)
    if (arrays := load_arrays(cached)) is not None:
        return AnnotationTable(**arrays)
    with _one_process(cached):
        if (arrays := load_arrays(cached)) is not None:
            return AnnotationTable(**arrays)
        table = _of_coco(keep_coco_file(path, source))
        save_arrays(cached, {x.name: getattr(table, x.name) for x in fields(table)}, f"The checks of {source}")
    return table


@contextlib.contextmanager
def _one_process(cached: Path) -> Iterator[None]:
    """Others wait, to find the work done; where no lock can be had, everyone works."""
    with contextlib.ExitStack() as stack:
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(file_lock(str(cached)))
        except Exception as error:  # some network folders know no locks, which the lock's library says in its own way
            logger.debug("No lock beside %s: %s", cached, error)
        yield


def _ids_array(ids: list[Id]) -> np.ndarray:
    """Of integers where all are, and small enough."""
    if set(map(type, ids)) <= {int}:
        with contextlib.suppress(OverflowError):
            return np.array(ids, dtype=np.int64)
    return objects_array(ids)


def _of_coco(file: CocoFile) -> AnnotationTable:
    objects = file.objects or NO_OBJECTS
    return AnnotationTable(
        class_names=objects_array(file.classes.names),
        class_ids=objects_array(file.classes.ids),
        class_parents=objects_array(file.classes.parents),
        file_names=objects_array(file.images.file_names),
        image_sizes=file.images.sizes,
        image_of=objects.image_of,
        annotation_ids=_ids_array(objects.ids),
        boxes_xywh=objects.boxes_xywh,
        classes=objects.classes,
        crowd=objects.crowd > 0,
        **numbered_faults(objects.faults),
        orphans=np.array([objects.orphans]),
        annotated=np.array([file.objects is not None]),
    )
