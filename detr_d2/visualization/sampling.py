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
    locations = module.locations(query, reference, call["spatial_shapes"])
    return SamplingPoints(locations=locations, weights=module.weights(query))
