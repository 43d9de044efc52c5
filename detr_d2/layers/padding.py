"""Padding masks, True on padding, and what follows from them.

The only code that knows where images end inside a padded batch.
"""

from __future__ import annotations

from collections.abc import Sequence

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


def valid_ratios(masks: Sequence[Tensor | None]) -> Tensor | None:
    """Fraction of each feature map that an image fills.

    Args:
        masks: of each of the L levels (B, H, W), True on padding, or None when nothing is padded on any level.

    Returns:
        (B, L, 2) float32: fraction of the width, of the height; None when there are no masks.
    """
    ratios = [_valid_ratio(mask) for mask in masks if mask is not None]
    return torch.stack(ratios, dim=1) if ratios else None


def _valid_ratio(mask: Tensor) -> Tensor:
    """(B, 2). Images stand in the top left corner: the first row and the first column tell."""
    valid = ~mask
    return torch.stack([valid[:, 0, :].float().mean(1), valid[:, :, 0].float().mean(1)], dim=-1)
