"""Augmentation that detectron2's config cannot name, for images without an up and a down and for varying light."""

from __future__ import annotations

import numpy as np
from detectron2.data import transforms as T


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


def color_jitter(strength: float) -> list[T.Augmentation]:
    """Brightness, contrast and saturation, each times a random factor from 1 - strength to 1 + strength.

    Raises:
        ValueError: if the strength is not between 0 (none) and 1.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"INPUT.COLOR_JITTER must be from 0 to 1, but is {strength:g}")
    if strength == 0:
        return []
    factors = (1 - strength, 1 + strength)
    return [T.RandomBrightness(*factors), T.RandomContrast(*factors), T.RandomSaturation(*factors)]
