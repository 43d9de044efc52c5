"""The position encoding that a config asks for."""

from __future__ import annotations

from detectron2.config import CfgNode
from torch import nn

from ..layers import LearnedPositionEncoding, SinePositionEncoding


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
