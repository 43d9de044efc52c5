"""Padding masks, True on padding, and what follows from them.

The only code that knows where images end inside a padded batch: in its top left corner each image begins.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def padding_mask(
    image_sizes: list[tuple[int, int]], padded_size: tuple[int, int], device: torch.device | str
) -> Tensor | None:
    """Marks the padding of a batch, without copying anything to the device.

    Args:
        image_sizes: (height, width) of each of the B images, in pixels.
        padded_size: (height, width) of the batch tensor.

    Returns:
        (B, H, W) bool, True on padding, or None when no image is padded, so that nothing has to be masked.
    """
    if all(tuple(size) == tuple(padded_size) for size in image_sizes):
        return None
    y, x = (torch.arange(size, device=device) for size in padded_size)
    below = torch.stack([y >= height for height, _ in image_sizes])  # (B, H)
    beside = torch.stack([x >= width for _, width in image_sizes])  # (B, W)
    return below[:, :, None] | beside[:, None, :]


def downsample_mask(mask: Tensor | None, size: tuple[int, int]) -> Tensor | None:
    """Resizes a (B, H, W) padding mask to a feature map of `size` (height, width) by nearest neighbour.

    The authors' checkpoints were trained with this rule; rounding sizes up by the stride differs from it by a cell now
    and then. The top left cell is valid for every image.
    """
    if mask is None:
        return None
    below, beside = mask[:, None, :, :1].float(), mask[:, None, :1].float()
    rows, columns = F.interpolate(below, size=(size[0], 1)), F.interpolate(beside, size=(1, size[1]))
    return (rows + columns)[:, 0] > 0


def valid_ratios(masks: Sequence[Tensor | None]) -> Tensor | None:
    """Fraction of each feature map that an image fills.

    Args:
        masks: of each of the L levels (B, H, W), True on padding, or None when nothing is padded on any level.

    Returns:
        (B, L, 2) float32: fraction of the width, of the height; None when there are no masks.
    """
    ratios = [
        torch.stack([(~x[:, 0]).float().mean(1), (~x[:, :, 0]).float().mean(1)], 1) for x in masks if x is not None
    ]
    return torch.stack(ratios, dim=1) if ratios else None
