"""The masks of a dataset's objects, in the order in which `GroundTruth` has the objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..data.mask_faults import MISSING
from ..data.records import mask_rle
from .boundary import Rle
from .compare_data import GroundTruth

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
    if len(without) > MOST_LEFT_OUT * len(ground_truth.segmentations):
        if all(ground_truth.mask_faults[i] in ("", MISSING) for i in without):
            return None
        raise ValueError(f"{_left_out(ground_truth, without)}: correct the segmentations in the annotations")
    sizes = ground_truth.sizes[ground_truth.image_of]
    masks = [
        None if x is None else mask_rle(x, (int(height), int(width)))
        for x, (height, width) in zip(ground_truth.segmentations, sizes, strict=True)
    ]
    note = f"{_left_out(ground_truth, without)}; they are left out of the figures of masks" if without else ""
    return MaskTruth(masks, ground_truth.areas, note)


def _left_out(truth: GroundTruth, without: Sequence[int]) -> str:
    """How many objects have no mask that can be used, and what is wrong with the first of which something is."""
    first = next((i for i in without if truth.mask_faults[i] != MISSING), without[0])
    return (
        f"{len(without)} of {len(truth.segmentations)} objects of {truth.name} have no mask that can be used, such as "
        f"one of {truth.file_names[truth.image_of[first]]}, which {truth.mask_faults[first]}"
    )
