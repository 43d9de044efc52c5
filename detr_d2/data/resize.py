"""Resizing to a short side, with detectron2's rounding of the long side or that of DETR's authors.

Both scale by the same factor and resample alike (Pillow, bilinear); they differ in the last pixels. For a short side
s, a limit m and an image of sides a <= b:

* detectron2: scale both sides, once more if the long one exceeds m, then round both to the nearest pixel;
* authors: if s * b / a exceeds m, s becomes round(m * a / b); the long side is floor(s * b / a), and may exceed m by a
  few pixels where the image is narrow.

Source of the second: `datasets/transforms.py` of facebookresearch/detr, `get_size_with_aspect_ratio`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import detection_utils
from detectron2.data import transforms as T

RESIZE_ROUNDINGS = ("detectron2", "authors")


class AuthorsResize(T.ResizeShortestEdge):
    """`T.ResizeShortestEdge` (same arguments, same random numbers) with the rounding of DETR's authors."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Draws the short side.

        Args:
            image: (H, W, ...).
        """
        if self.is_range:
            low, high = self.short_edge_length
            short = int(np.random.randint(low, high + 1))  # noqa: NPY002
        else:
            short = int(np.random.choice(self.short_edge_length))  # noqa: NPY002
        if short == 0:
            return T.NoOpTransform()
        height, width = image.shape[:2]
        return T.ResizeTransform(height, width, *authors_size(height, width, short, self.max_size), self.interp)


def authors_size(height: int, width: int, short_side: int, max_size: int) -> tuple[int, int]:
    """Size of a resized image by the authors' rule.

    Args:
        height, width: of the image, in pixels.
        short_side: that the shorter side shall have.
        max_size: the short side is made smaller where the long one would exceed this.

    Returns:
        Height and width in pixels, at least 1 each.
    """
    low, high = min(height, width), max(height, width)
    if high / low * short_side > max_size:
        short_side = max(1, round(max_size * low / high))
    if width < height:
        return int(short_side * height / width), short_side
    return short_side, int(short_side * width / height)


def build_resize(
    short_sides: int | Sequence[int], max_size: int = sys.maxsize, sample_style: str = "range", *, rounding: str
) -> T.ResizeShortestEdge:
    """Builds the resize of `INPUT.RESIZE_ROUNDING`.

    Args:
        short_sides: one, the ends of a range, or a list to choose from, as `T.ResizeShortestEdge` takes it.
        max_size: limit of the long side, in pixels.
        sample_style: "range" or "choice".
        rounding: "detectron2" or "authors".

    Raises:
        ValueError: for another rounding.
    """
    if rounding not in RESIZE_ROUNDINGS:
        raise ValueError(f'INPUT.RESIZE_ROUNDING must be "detectron2" or "authors", but is {rounding!r}')
    kind = AuthorsResize if rounding == "authors" else T.ResizeShortestEdge
    return kind(short_sides, max_size, sample_style)


def build_test_augmentation(cfg: CfgNode) -> list[T.Augmentation]:
    """detectron2's resize to `INPUT.{MIN,MAX}_SIZE_TEST`, rounded as the config says."""
    return [with_rounding(x, cfg.INPUT.RESIZE_ROUNDING) for x in detection_utils.build_augmentation(cfg, False)]


def with_rounding(augmentation: T.Augmentation, rounding: str) -> T.Augmentation:
    """The augmentation; a resize of detectron2's with the rounding of `INPUT.RESIZE_ROUNDING`."""
    if not isinstance(augmentation, T.ResizeShortestEdge):
        return augmentation
    style = "range" if augmentation.is_range else "choice"
    return build_resize(augmentation.short_edge_length, augmentation.max_size, style, rounding=rounding)
