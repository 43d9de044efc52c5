"""From backbone channels to the transformer's width."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from torch import Tensor, nn


class Projection(nn.Module):
    """A 1x1 convolution on one feature map (paper: Carion et al. 2020, Sec. 3.2, "Transformer encoder").

    Args:
        in_channels: channels of the backbone's map.
        out_channels: C.
    """

    @configurable
    def __init__(self, *, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.input_proj = nn.Conv2d(in_channels, out_channels, kernel_size=1)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        if len(input_shape) != 1:
            raise ValueError(
                f"MODEL.DETR.IN_FEATURES is {list(cfg.MODEL.DETR.IN_FEATURES)}: DETR reads exactly one feature map."
            )
        return {"in_channels": input_shape[0].channels, "out_channels": cfg.MODEL.DETR.TRANSFORMER.HIDDEN_DIM}

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Projects [(B, C_in, H, W)] to [(B, C, H, W)]."""
        return [self.input_proj(features[0])]
