"""Whether the segmentation of an annotation can be used as a mask; nothing is decoded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

MISSING = "has no segmentation"


def mask_fault(segmentation: Any, width: int, height: int) -> str:
    """What is wrong with a segmentation, as the predicate of a sentence; "" if nothing is.

    Args:
        segmentation: polygons (lists of x, y, x, y, ...), an RLE (dict), or a bitmap (H, W).
        width, height: of the image; 0 where unknown.
    """
    if segmentation is None or (isinstance(segmentation, list | dict) and not segmentation):
        return MISSING
    if isinstance(segmentation, dict):
        return _rle_fault(segmentation, width, height)
    if isinstance(segmentation, list):
        usable = [ring for ring in segmentation if isinstance(ring, list | np.ndarray) and len(ring) >= 6]
        return "" if any(len(ring) % 2 == 0 for ring in usable) else "has no polygon of three points x, y or more"
    shape = np.shape(segmentation)
    wrong = len(shape) != 2 or (width and height and shape != (height, width))
    return f"has a bitmap of shape {shape} in an image of height {height} and width {width}" if wrong else ""


def _rle_fault(rle: dict[str, Any], width: int, height: int) -> str:
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, list | tuple) or len(size) != 2 or counts is None:
        return 'has an RLE without "size" [height, width] and "counts"'
    if width and height and tuple(size) != (height, width):
        return f"has an RLE of height {size[0]} and width {size[1]} in an image of height {height} and width {width}"
    if isinstance(counts, list) and sum(counts) != size[0] * size[1]:
        return f"has an RLE whose counts sum to {sum(counts)} instead of {size[0]} x {size[1]} pixels"
    return ""


def numbered_faults(faults: Iterable[str]) -> dict[str, np.ndarray]:
    """Faults as arrays that stay small: `mask_faults` (F,) str, "" first, and `mask_fault_of` (A,) int."""
    numbers = {"": 0}
    which = [numbers.setdefault(fault, len(numbers)) for fault in faults]
    return {"mask_faults": np.array(list(numbers), dtype=str), "mask_fault_of": np.array(which, dtype=np.int64)}
