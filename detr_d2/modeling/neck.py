"""From backbone channels to the transformer's width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.utils.registry import Registry
from torch import Tensor, nn

NECK_REGISTRY = Registry("NECK")
NECK_REGISTRY.__doc__ = """
Necks: the backbone's maps in, the `MODEL.DETR.NUM_FEATURE_LEVELS` maps (B, C, H, W) of the transformer out. A
registered class is called with `cfg` and the list of the maps' `ShapeSpec`; see `Projection` and `ChannelMapper`.
"""


def build_neck(cfg: CfgNode, input_shape: list[ShapeSpec]) -> nn.Module:
    """Builds `MODEL.DETR.NECK.NAME` from the registry."""
    return NECK_REGISTRY.get(cfg.MODEL.DETR.NECK.NAME)(cfg, input_shape)


@NECK_REGISTRY.register()
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
        if cfg.MODEL.DETR.NUM_FEATURE_LEVELS != 1:
            raise ValueError(
                f"MODEL.DETR.NUM_FEATURE_LEVELS is {cfg.MODEL.DETR.NUM_FEATURE_LEVELS}, but MODEL.DETR.NECK.NAME "
                "Projection makes one map: use ChannelMapper."
            )
        return {"in_channels": input_shape[0].channels, "out_channels": cfg.MODEL.DETR.TRANSFORMER.HIDDEN_DIM}

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Projects [(B, C_in, H, W)] to [(B, C, H, W)]."""
        return [self.input_proj(features[0])]


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
                f"MODEL.DETR.TRANSFORMER.HIDDEN_DIM is {out_channels}, expected a multiple of the {self.GROUPS} groups "
                "of ChannelMapper's norms."
            )
        if num_levels < len(in_channels):
            raise ValueError(
                f"MODEL.DETR.NUM_FEATURE_LEVELS is {num_levels}, but MODEL.DETR.IN_FEATURES names {len(in_channels)} "
                "maps: expected at least as many levels."
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
