"""Padding masks: True on padding. The only code that knows where images end inside a padded batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def padding_mask(
    image_sizes: list[tuple[int, int]], padded_size: tuple[int, int], device: torch.device | str
) -> Tensor | None:
    """Marks the padding of a batch whose images stand in the top left corner.

    Args:
        image_sizes: (height, width) of each of the B images, in pixels.
        padded_size: (height, width) of the batch tensor.

    Returns:
        (B, H, W) bool, True on padding, or None when no image is padded, so that nothing has to be masked.
    """
    if all(tuple(size) == tuple(padded_size) for size in image_sizes):
        return None
    heights, widths = torch.tensor(image_sizes, device=device).unbind(1)
    below = torch.arange(padded_size[0], device=device) >= heights[:, None]  # (B, H)
    beside = torch.arange(padded_size[1], device=device) >= widths[:, None]  # (B, W)
    return below[:, :, None] | beside[:, None, :]


def downsample_mask(mask: Tensor | None, size: tuple[int, int]) -> Tensor | None:
    """Resizes a (B, H, W) padding mask to a feature map of `size` (height, width) by nearest neighbour.

    The authors' checkpoints were trained with this rule; rounding sizes up by the stride differs from it by a cell now
    and then. The top left cell is valid for every image.
    """
    if mask is None:
        return None
    return F.interpolate(mask[:, None].float(), size=size, mode="nearest")[:, 0].bool()
