"""Augmentation that detectron2's config cannot name, for images without an up and a down and for varying light."""

from __future__ import annotations

import numpy as np
from detectron2.data import transforms as T

_LUMA = np.array([0.299, 0.587, 0.114])  # of red, green and blue (ITU-R BT.601)


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
