"""The neck of Deformable DETR, which makes maps of several levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from .neck import NECK_REGISTRY


@NECK_REGISTRY.register()
class ChannelMapper(nn.Module):
    """A 1x1 convolution and a GroupNorm for each map, and coarser maps by 3x3 convolutions of stride 2.

    The first extra map is made from the backbone's last one as it is, the next from the extra map before.

    Args:
        in_channels: channels of the backbone's maps.
        out_channels: C, a multiple of 32.
        num_levels: number of maps to make; those beyond the backbone's are the extra ones.

    Paper: Zhu et al. 2021, Sec. 4.1, "Deformable Transformer Encoder", and appendix A.2, Fig. 4.
    """

    GROUPS = 32

    @configurable
    def __init__(self, *, in_channels: Sequence[int], out_channels: int, num_levels: int) -> None:
        super().__init__()
        if out_channels % self.GROUPS:
            raise ValueError(
                f"out_channels is {out_channels}, expected a multiple of the {self.GROUPS} groups of the norms "
                "(MODEL.DETR.TRANSFORMER.HIDDEN_DIM)."
            )
        if num_levels < len(in_channels):
            raise ValueError(
                f"num_levels is {num_levels}, expected at least one for each of {len(in_channels)} maps "
                "(MODEL.DETR.NUM_FEATURE_LEVELS, MODEL.DETR.IN_FEATURES)."
            )
        maps = [nn.Conv2d(channels, out_channels, kernel_size=1) for channels in in_channels]
        channels = in_channels[-1]
        for _ in range(num_levels - len(in_channels)):
            maps.append(nn.Conv2d(channels, out_channels, kernel_size=3, stride=2, padding=1))
            channels = out_channels
        self.num_inputs = len(in_channels)
        self.input_proj = nn.ModuleList(nn.Sequential(x, nn.GroupNorm(self.GROUPS, out_channels)) for x in maps)
        for convolution in maps:
            nn.init.xavier_uniform_(convolution.weight)
            nn.init.constant_(convolution.get_parameter("bias"), 0)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        return {
            "in_channels": [shape.channels for shape in input_shape],
            "out_channels": cfg.MODEL.DETR.TRANSFORMER.HIDDEN_DIM,
            "num_levels": cfg.MODEL.DETR.NUM_FEATURE_LEVELS,
        }

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Projects the backbone's maps (B, C_in, H, W), finest first, to all levels (B, C, H, W)."""
        maps = [project(x) for project, x in zip(self.input_proj, features, strict=False)]
        source = features[-1]
        for project in self.input_proj[self.num_inputs :]:
            source = project(source)
            maps.append(source)
        return maps
