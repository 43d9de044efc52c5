"""Masks between detectron2's `Instances` and the mask head: sizes, padding and bitmaps.

The head's logits cover the padded images of a batch at a fraction of their size. Ground truth comes at the size of the
unpadded image, and predictions leave at the size that the input asks for.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.structures import BitMasks, Instances, PolygonMasks, polygons_to_bitmask
from torch import Tensor

from ...layers.box_ops import at_least_float32

PIXELS_AT_ONCE = 2**25  # float32 pixels that are resized together: 128 MiB


def pack_masks(instances: list[Instances], size: tuple[int, int]) -> Tensor:
    """The ground-truth masks of a batch, (M, H, W) bool, padded with False.

    Args:
        instances: with `gt_masks`, polygons or bitmaps at the size of the image; images without objects need none.
        size: H, W of the padded images.

    Raises:
        ValueError: if masks are missing, or not as large as their image.
    """
    packed = torch.zeros(sum(len(x) for x in instances), *size, dtype=torch.bool)
    start = 0
    for x in instances:
        if len(x):
            height, width = x.image_size
            packed[start : start + len(x), :height, :width] = _bitmaps(x)
            start += len(x)
    return packed


def _bitmaps(instances: Instances) -> Tensor:
    """(M, H, W) bool."""
    masks = instances.gt_masks if instances.has("gt_masks") else None
    if isinstance(masks, PolygonMasks):
        bitmaps = [torch.from_numpy(polygons_to_bitmask(x, *instances.image_size)) for x in masks.polygons]
        return torch.stack(bitmaps).bool()
    if not isinstance(masks, BitMasks):
        raise ValueError(
            "MODEL.MASK_ON is True, but an image with objects has no gt_masks of detectron2's types BitMasks and "
            f"PolygonMasks (it has {type(masks).__name__}): use a mapper that makes them, such as the one of detr_d2."
        )
    if tuple(masks.image_size) != tuple(instances.image_size):
        raise ValueError(
            f"the gt_masks of an image have height and width {tuple(masks.image_size)}, but the image has "
            f"{tuple(instances.image_size)}: transform masks and image alike."
        )
    return masks.tensor.bool().cpu()


def enlarge(logits: Tensor, padded_size: tuple[int, int], image_size: tuple[int, int]) -> Tensor:
    """Mask logits (N, h, w) of a padded image, as (N, H, W) of the image without its padding.

    Args:
        logits: cover the padded image at any resolution.
        padded_size: height and width of the padded image.
        image_size: H, W before padding.
    """
    height, width = image_size
    return resize(logits, padded_size)[:, :height, :width]


def resize(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear (N, h, w) -> (N, H, W), in float32 or wider."""
    return F.interpolate(at_least_float32(logits)[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def to_bitmaps(
    logits: Tensor, padded_size: tuple[int, int], image_size: tuple[int, int], output_size: tuple[int, int]
) -> Tensor:
    """Masks (N, H, W) bool at the output's size: pixels of probability above one half.

    The logits are enlarged to the padded image, cropped to the image, and resized to the output, a few masks at a time.

    Args:
        logits: (N, h, w), cover the padded image.
        padded_size, image_size, output_size: height and width in pixels.
    """
    pixels = max(padded_size[0] * padded_size[1], output_size[0] * output_size[1])
    masks = torch.empty(len(logits), *output_size, dtype=torch.bool, device=logits.device)
    step = max(PIXELS_AT_ONCE // pixels, 1)
    for start in range(0, len(logits), step):
        part = slice(start, start + step)
        masks[part] = resize(enlarge(logits[part], padded_size, image_size), output_size) > 0
    return masks
