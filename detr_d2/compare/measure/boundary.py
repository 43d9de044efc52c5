"""The boundaries of masks, which decide little of a large mask's IoU and most of what one sees of its quality.

Paper: Cheng et al. 2021, "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", Sec. 4 and 5: the
boundary of a mask is its pixels within a distance d of its contour, d is 2 % of the image's diagonal, and the Boundary
IoU of two masks is the IoU of their boundaries.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

WIDTH = 0.02
"""d divided by the diagonal of the image (paper, Sec. 5)."""

Rle = dict[str, Any]
"""Compressed run lengths of pycocotools: "size" (height, width) and "counts"."""


def boundary_width(height: int, width: int) -> int:
    """d in pixels of an image, at least 1."""
    return max(1, round(WIDTH * math.hypot(height, width)))


def boundary(mask: np.ndarray, distance: int) -> np.ndarray:
    """The pixels of a mask within a distance of its contour.

    The border of the image is part of the contour. Distances are those of a king on a chess board.

    Args:
        mask: (H, W) uint8, 0 or 1.
        distance: d, in pixels.
    """
    bordered = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    inside = cv2.erode(bordered, np.ones((3, 3), dtype=np.uint8), iterations=distance)
    return mask - inside[1:-1, 1:-1]


def boundary_rle(rle: Rle) -> Rle:
    """The boundary of a mask, at the distance that belongs to its image."""
    height, width = rle["size"]
    x, y, w, h = (int(value) for value in coco_mask.toBbox(rle))
    mask = coco_mask.decode(rle)
    edges = np.zeros_like(mask)
    inside = slice(y, y + h), slice(x, x + w)  # eroding the rest of a large image changes nothing
    if w and h:
        edges[inside] = boundary(np.ascontiguousarray(mask[inside]), boundary_width(height, width))
    return encode(edges)


def encode(mask: np.ndarray) -> Rle:
    """Run lengths of a mask (H, W) of 0 and 1, or False and True."""
    return dict(coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)))


def mask_iou(first: Rle, second: Rle) -> float:
    """IoU, 0-1; 0 if both are empty."""
    value = float(coco_mask.iou([first], [second], [0])[0, 0])
    return value if math.isfinite(value) else 0.0
