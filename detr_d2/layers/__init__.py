"""Tensor in, tensor out: building blocks that know nothing of detectron2."""

from .attention import MLP, MultiHeadAttention, attention
from .box_ops import (
    at_least_float32,
    box_cxcywh_to_xyxy,
    box_xyxy_to_cxcywh,
    elementwise_giou,
    elementwise_iou,
)
from .deformable_attention.attention import (
    DEFORMABLE_BACKENDS,
    MultiScaleDeformableAttention,
    SpatialShapes,
    deformable_attention,
)
from .padding import downsample_mask, padding_mask, valid_ratios
from .position_encoding import LearnedPositionEncoding, SinePositionEncoding

__all__ = [
    "DEFORMABLE_BACKENDS",
    "MLP",
    "LearnedPositionEncoding",
    "MultiHeadAttention",
    "MultiScaleDeformableAttention",
    "SinePositionEncoding",
    "SpatialShapes",
    "at_least_float32",
    "attention",
    "box_cxcywh_to_xyxy",
    "box_xyxy_to_cxcywh",
    "deformable_attention",
    "downsample_mask",
    "elementwise_giou",
    "elementwise_iou",
    "padding_mask",
    "valid_ratios",
]
