"""What stands between backbone and transformer: a neck that makes the maps as wide as it, and position encodings."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from ..layers.position_encoding import LearnedPositionEncoding, SinePositionEncoding
from .interface import build_part

NECK_REGISTRY = Registry("NECK")
NECK_REGISTRY.__doc__ = """
Necks: `forward(features: list[Tensor]) -> list[Tensor]`, the backbone's maps to the `MODEL.DETR.NUM_FEATURE_LEVELS`
maps (B, C, H, W) of the transformer. A registered class is called with `cfg` and the list of the maps' `ShapeSpec`; see
`Projection` and `ChannelMapper`. What needs padding masks or positions belongs into the transformer.
"""


def build_neck(cfg: CfgNode, input_shape: list[ShapeSpec]) -> nn.Module:
    """Builds `MODEL.DETR.NECK.NAME` from the registry."""
    return build_part("MODEL.DETR.NECK", NECK_REGISTRY.get(cfg.MODEL.DETR.NECK.NAME), cfg, input_shape)


def build_position_encoding(cfg: CfgNode) -> nn.Module:
    """Builds `MODEL.DETR.POSITION_ENCODING`: (size, padding mask, device) -> encoding (B or 1, C, H, W) of a map.

    Raises:
        ValueError: on an unknown name.
    """
    encoding, channels = cfg.MODEL.DETR.POSITION_ENCODING, cfg.MODEL.DETR.TRANSFORMER.HIDDEN_DIM
    if encoding.NAME == "sine":
        return SinePositionEncoding(num_channels=channels, temperature=encoding.TEMPERATURE, offset=encoding.OFFSET)
    if encoding.NAME == "learned":
        return LearnedPositionEncoding(num_channels=channels)
    raise ValueError(f"MODEL.DETR.POSITION_ENCODING.NAME is {encoding.NAME!r}, expected 'sine' or 'learned'.")


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
