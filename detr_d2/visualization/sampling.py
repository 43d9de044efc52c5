"""Points that deformable attention samples, and their weights, recomputed from the inputs of a module."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..layers import MultiScaleDeformableAttention
from .recording import Call


@dataclass(frozen=True)
class SamplingPoints:
    """What some queries of a batch sample.

    Attributes:
        locations: (B, R, heads, levels, points, 2), (x, y) from 0 to 1 over the padded maps.
        weights: (B, R, heads, levels, points); those of a head sum to 1.
    """

    locations: Tensor
    weights: Tensor


@torch.no_grad()
def sampling_points(call: Call, rows: Tensor) -> SamplingPoints:
    """The points that some queries sample.

    Args:
        call: of a `MultiScaleDeformableAttention`.
        rows: (R,) indices of queries.

    Paper: Zhu et al. 2021, Eq. 3 and appendix A.3.
    """
    module = call.module
    assert isinstance(module, MultiScaleDeformableAttention)
    query, reference = call["query"][:, rows], call["reference_points"][:, rows]  # (B, R, C), (B, R, levels, 2 or 4)
    grid = (module.num_heads, module.num_levels, module.num_points)
    weights = module.attention_weights(query).unflatten(-1, (grid[0], -1)).softmax(-1).unflatten(-1, grid[1:])
    offsets = module.sampling_offsets(query).unflatten(-1, (*grid, 2))
    offsets = offsets.to(torch.promote_types(offsets.dtype, torch.float32))
    around = reference[:, :, None, :, None].to(offsets.dtype)  # (B, R, 1, levels, 1, 2 or 4)
    if around.shape[-1] == 2:  # in cells
        sizes = offsets.new_tensor([(width, height) for height, width in call["spatial_shapes"]])
        shift = offsets / sizes[:, None]
    else:  # in halves of the box, shared by the points of a ray
        shift = offsets * around[..., 2:] * (0.5 / module.num_points)
    return SamplingPoints(locations=around[..., :2] + shift, weights=weights)
