"""The masks of a dataset's objects, in the order in which `GroundTruth` has the objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..data.checks.records import mask_rle
from ..data.coco.mask_faults import MISSING
from ..data.registration import dataset_table
from .data import GroundTruth
from .measure.boundary import Rle

MOST_LEFT_OUT = 0.01
"""The largest part of the objects that may lack a mask where masks are measured."""


@dataclass(frozen=True)
class MaskTruth:
    """Masks of the M objects of `GroundTruth`.

    Args:
        masks: M of them, at the size of their images; None for an object that has none, which is left out.
        areas: (M,), square pixels: as annotated, where that is known, else of the mask.
        note: which objects are left out, for people; "" if none is.
    """

    masks: Sequence[Rle | None]
    areas: np.ndarray
    note: str = ""


def load_mask_truth(ground_truth: GroundTruth) -> MaskTruth | None:
    """The masks of a dataset, without those few that cannot be used; None for data for boxes.

    Raises:
        ValueError: more than `MOST_LEFT_OUT` of the objects have a mask that cannot be used.
    """
    if not ground_truth.segmentations:
        return None
    without = [i for i, x in enumerate(ground_truth.segmentations) if x is None]
    fault = _fault(ground_truth, without) if without else ""
    count = len(ground_truth.segmentations)
    few = f"{len(without)} of {count} objects of {ground_truth.name} have no usable mask{fault}"
    if len(without) > MOST_LEFT_OUT * count:
        if fault:
            raise ValueError(f"{few}; correct the segmentations in the annotations")
        return None
    sizes = ground_truth.sizes[ground_truth.image_of]
    masks = [
        None if x is None else mask_rle(x, (int(height), int(width)))
        for x, (height, width) in zip(ground_truth.segmentations, sizes, strict=True)
    ]
    note = f"{few}; they are left out of the figures of masks" if without else ""
    return MaskTruth(masks, ground_truth.areas, note)


def _fault(truth: GroundTruth, without: Sequence[int]) -> str:
    """What is wrong with the first mask of which something is; "" where masks are only missing.

    The records of a COCO file do not have the masks that cannot be used; its table knows why.
    """
    for i in without:
        if truth.mask_faults[i] != MISSING:
            return f", such as one of {truth.file_names[truth.image_of[i]]}, which {truth.mask_faults[i]}"
    table = dataset_table(truth.name)
    if table is not None:
        faults = table.mask_faults[table.mask_fault_of]
        for i in np.flatnonzero((faults != "") & (faults != MISSING))[:1]:
            return f", such as one of {table.file_names[table.image_of[i]]}, which {faults[i]}"
    return ""
