"""Tensor in, tensor out: building blocks that know nothing of detectron2."""

from .attention import MultiHeadAttention
from .box_ops import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh, elementwise_giou
from .mlp import MLP
from .padding import downsample_mask, padding_mask
from .position_encoding import LearnedPositionEncoding, SinePositionEncoding

__all__ = [
    "MLP",
    "LearnedPositionEncoding",
    "MultiHeadAttention",
    "SinePositionEncoding",
    "box_cxcywh_to_xyxy",
    "box_xyxy_to_cxcywh",
    "downsample_mask",
    "elementwise_giou",
    "padding_mask",
]
