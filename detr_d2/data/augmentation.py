"""DETR's augmentation: the parts that detectron2 does not have, and a resize with the rounding of DETR's authors.

detectron2 and the authors resize to a short side by the same factor and resample alike (Pillow, bilinear); they differ
in the last pixels. For a short side s, a limit m and an image of sides a <= b:

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

_LUMA = np.array([0.299, 0.587, 0.114])  # of red, green and blue (ITU-R BT.601)
RESIZE_ROUNDINGS = ("detectron2", "authors")


def build_detr_augmentation(cfg: CfgNode) -> list[T.Augmentation]:
    """DETR's training augmentation: flip, then in half of the cases a resize and a crop, then the multi-scale resize.

    Sizes come from `INPUT.{RANDOM_FLIP,DETR_MIN_SIZES,CROP,MIN_SIZE_TRAIN,MAX_SIZE_TRAIN}`, their rounding from
    `INPUT.RESIZE_ROUNDING`. The resize before the crop has no limit on the long side; a crop larger than the image
    takes all of it. `INPUT.RANDOM_TRANSPOSE`, after the flip, and `INPUT.COLOR_JITTER`, at the end, are off in DETR's
    recipe.

    Raises:
        ValueError: for an unknown rounding or flip, a jitter outside 0 to 1 or of images that are not RGB or BGR.
    """
    rounding = cfg.INPUT.RESIZE_ROUNDING
    augmentations: list[T.Augmentation] = _flips(cfg.INPUT.RANDOM_FLIP)
    if cfg.INPUT.RANDOM_TRANSPOSE:
        augmentations.append(RandomTranspose())
    if cfg.INPUT.CROP.ENABLED:
        enlarge = build_resize(list(cfg.INPUT.DETR_MIN_SIZES), sample_style="choice", rounding=rounding)
        crop = T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE)
        augmentations.append(T.RandomApply(T.AugmentationList([enlarge, crop]), prob=0.5))
    sampling = cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    augmentations.append(build_resize(cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, sampling, rounding=rounding))
    return augmentations + color_jitter(cfg.INPUT.COLOR_JITTER, cfg.INPUT.FORMAT)


def _flips(directions: str) -> list[T.Augmentation]:
    if directions not in ("none", "horizontal", "vertical", "both"):
        raise ValueError(f'INPUT.RANDOM_FLIP must be "none", "horizontal", "vertical" or "both", but is {directions!r}')
    wanted = ("horizontal", "vertical") if directions == "both" else (directions,)
    return [T.RandomFlip(horizontal=x == "horizontal", vertical=x == "vertical") for x in wanted if x != "none"]


class Transpose(T.Transform):
    """Swaps rows and columns; with flips, this makes the quarter turns too. Exact: no pixel is resampled."""

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """(H, W, ...) to (W, H, ...)."""
        return np.ascontiguousarray(img.swapaxes(0, 1))

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """(N, 2) x and y in pixels, to y and x."""
        return coords[:, ::-1]

    def inverse(self) -> T.Transform:
        """Itself."""
        return Transpose()


class RandomTranspose(T.Augmentation):
    """`Transpose` with a probability of one half."""

    def get_transform(self, image: np.ndarray) -> T.Transform:  # noqa: ARG002
        """Draws once; `image` is not looked at."""
        return Transpose() if self._rand_range() < 0.5 else T.NoOpTransform()


class RandomSaturation(T.Augmentation):
    """detectron2's, which takes every image for RGB, for both orders of the channels.

    Args:
        lowest, highest: factors of the saturation; 0 makes an image grey, 1 leaves it as it is.
        image_format: "RGB" or "BGR".
    """

    def __init__(self, lowest: float, highest: float, image_format: str) -> None:
        super().__init__()
        self.lowest = lowest
        self.highest = highest
        self.luma = _LUMA if image_format == "RGB" else _LUMA[::-1]

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Draws a factor.

        Args:
            image: (H, W, 3).
        """
        factor = self._rand_range(self.lowest, self.highest)
        grey = image.dot(self.luma)[..., None]
        return T.BlendTransform(src_image=grey, src_weight=1 - factor, dst_weight=factor)


def color_jitter(strength: float, image_format: str) -> list[T.Augmentation]:
    """Brightness, contrast and saturation, each times a random factor from 1 - strength to 1 + strength.

    Args:
        strength: from 0 (none) to 1.
        image_format: of the images.

    Raises:
        ValueError: if the strength is outside that range, or the images are neither RGB nor BGR.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"INPUT.COLOR_JITTER must be from 0 to 1, but is {strength:g}")
    if strength == 0:
        return []
    if image_format not in ("RGB", "BGR"):
        raise ValueError(f'INPUT.COLOR_JITTER needs INPUT.FORMAT "RGB" or "BGR", but it is {image_format!r}')
    factors = (1 - strength, 1 + strength)
    return [T.RandomBrightness(*factors), T.RandomContrast(*factors), RandomSaturation(*factors, image_format)]


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
