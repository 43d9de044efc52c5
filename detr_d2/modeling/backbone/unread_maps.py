"""Whether a backbone computes maps that nobody reads."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import torch
from detectron2.modeling import Backbone

_SMALLEST_IMAGE = 64


def check_maps_are_read(backbone: Backbone, names: Collection[str], num_channels: int = 3) -> None:
    """Raises `ValueError` if parameters of the backbone serve nothing but maps that nobody reads.

    They would get no gradients, which DistributedDataParallel takes for an error in the second step.

    Args:
        backbone: any; it sees one small black image, in evaluation mode, if there are unread maps.
        names: of the maps that are read.
        num_channels: of the image.
    """
    unread = [name for name in backbone.output_shape() if name not in names]
    idle = _idle_parameters(backbone, names, num_channels) if unread else []
    if idle:
        raise ValueError(
            f"The backbone outputs {unread}, which nobody reads, and {len(idle)} of its trainable parameters, such as "
            f"{idle[0]}, serve nothing else: training in several processes would stop. Let the backbone output "
            f"{[x for x in backbone.output_shape() if x in names]} only (MODEL.RESNETS.OUT_FEATURES or that of the "
            "backbone in use), or read the others (MODEL.DETR.IN_FEATURES)."
        )


def _idle_parameters(backbone: Backbone, names: Collection[str], num_channels: int) -> list[str]:
    """Names of the trainable parameters that no map of these names depends on."""
    backbone = copy.deepcopy(backbone).eval()  # whatever it counts or caches
    trainable = {name: x for name, x in backbone.named_parameters() if x.requires_grad}
    if not trainable:
        return []
    constraints: dict[str, Any] = backbone.padding_constraints
    side = constraints.get("square_size") or max(backbone.size_divisibility, _SMALLEST_IMAGE)
    with torch.enable_grad():
        maps = backbone(next(iter(trainable.values())).new_zeros(1, num_channels, side, side))
        total = sum(maps[name].sum() for name in names)
    if not isinstance(total, torch.Tensor) or not total.requires_grad:
        return list(trainable)
    gradients = torch.autograd.grad(total, list(trainable.values()), allow_unused=True)
    return [name for name, gradient in zip(trainable, gradients, strict=True) if gradient is None]
