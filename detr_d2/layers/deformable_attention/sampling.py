"""Deformable attention by `grid_sample`, level by level: plain operators, on every device and in every export."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def grid_sample_attention(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Deformable attention with the arguments and the result of `deformable_attention`, on any device.

    Half precision is computed in float32 and rounded once, at the end: a location of 11 bits misses its cell on a wide
    map. `torch.export` and ONNX (from opset 16 on, which has GridSample) take it, with a dynamic batch and number of
    queries; the sizes of the levels become constants.

    Paper: Deformable DETR (Zhu et al. 2021), Eq. 3.
    """
    dtype = torch.promote_types(value.dtype, torch.float32)
    images, _, heads, _ = value.shape
    grids = (2 * sampling_locations.to(dtype) - 1).transpose(1, 2).flatten(0, 1)  # (B M, Q, L, P, 2) in -1..1
    weights = attention_weights.to(dtype).transpose(1, 2).flatten(0, 1)  # (B M, Q, L, P)
    tokens = value.to(dtype).split([height * width for height, width in spatial_shapes], dim=1)
    levels = []
    for level, (height, width) in enumerate(spatial_shapes):
        maps = tokens[level].permute(0, 2, 3, 1).flatten(0, 1).unflatten(-1, (height, width))  # (B M, D, H, W)
        sampled = F.grid_sample(
            maps, grids[:, :, level], mode="bilinear", padding_mode="zeros", align_corners=False
        )  # (B M, D, Q, P)
        levels.append((sampled * weights[:, None, :, level]).sum(-1))
    output = sum(levels[1:], start=levels[0])  # (B M, D, Q)
    return output.unflatten(0, (images, heads)).flatten(1, 2).transpose(1, 2).to(value.dtype)
