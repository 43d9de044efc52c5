"""Augmentation inside Pillow: an image is decoded, flipped, resized and cropped there, and becomes an array once, at
the end.

detectron2's transforms work on arrays and resize through Pillow, so that every resize copies the image to Pillow and
back. The pixels are the same either way: the resize is Pillow's in both, and flips and crops only move pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from PIL import Image
from torch import Tensor

from .augmentation import AuthorsResize, RandomTranspose, Transpose

# Augmentations that look at nothing but the size of an image. A subclass may look at more. With one that looks at
# pixels, as those of INPUT.COLOR_JITTER, images are arrays from the beginning, which takes twice the time.
_BLIND = (T.RandomFlip, RandomTranspose, T.ResizeShortestEdge, T.Resize, T.RandomCrop, AuthorsResize)


def can_stay_in_pillow(augmentation: Any, image_format: str) -> bool:
    """Whether images of the format go through the augmentation without any of its parts looking at pixels."""
    if image_format not in ("RGB", "BGR"):
        return False
    if type(augmentation) is T.AugmentationList:
        return all(can_stay_in_pillow(x, image_format) for x in augmentation.augs)
    if type(augmentation) is T.RandomApply:
        return can_stay_in_pillow(augmentation.aug, image_format)
    return type(augmentation) in _BLIND


class PillowInput(T.AugInput):
    """Input of augmentations that need no pixels; `image` is an array of its height and width, without content.

    Args:
        pillow_image: RGB.
        boxes: (M, 4) xyxy in pixels.
        sem_seg: (H, W) or None.
    """

    def __init__(self, pillow_image: Image.Image, *, boxes: np.ndarray, sem_seg: np.ndarray | None) -> None:
        super().__init__(blank_array(pillow_image), boxes=boxes, sem_seg=sem_seg)
        self.boxes: np.ndarray | None = boxes
        self.sem_seg: np.ndarray | None = sem_seg
        self.pillow_image = pillow_image

    def transform(self, tfm: T.Transform) -> None:
        """Applies a transform to all that there is."""
        self.pillow_image = _apply(tfm, self.pillow_image)
        self.image = blank_array(self.pillow_image)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)


def blank_array(image: Image.Image) -> np.ndarray:
    """(H, W, 0): stands for the image where only its size matters."""
    return np.empty((image.height, image.width, 0), dtype=np.uint8)


def image_tensor(augmented: T.AugInput, image_format: str) -> Tensor:
    """(C, H, W), the channels in the order of the format."""
    if not isinstance(augmented, PillowInput):
        return torch.as_tensor(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
    width, height = augmented.pillow_image.size
    channels = np.empty((3, height * width), dtype=np.uint8)
    for channel, name in zip(channels, image_format, strict=True):
        channel[:] = np.frombuffer(augmented.pillow_image.tobytes("raw", name), dtype=np.uint8)
    return torch.from_numpy(channels.reshape(3, height, width))


def _apply(tfm: T.Transform, image: Image.Image) -> Image.Image:
    match tfm:
        case T.NoOpTransform():
            return image
        case T.HFlipTransform():
            return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        case T.VFlipTransform():
            return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        case Transpose():
            return image.transpose(Image.Transpose.TRANSPOSE)
        case T.ResizeTransform():
            return image.resize((tfm.new_w, tfm.new_h), tfm.interp)
        case T.CropTransform():
            return image.crop((tfm.x0, tfm.y0, tfm.x0 + tfm.w, tfm.y0 + tfm.h))
    raise AssertionError(f"{tfm} is of no augmentation that can stay in Pillow")
