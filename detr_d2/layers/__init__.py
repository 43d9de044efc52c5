"""Tensor in, tensor out: building blocks that know nothing of detectron2."""

from .attention import MultiHeadAttention
from .box_ops import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh, elementwise_giou, inverse_sigmoid
from .deformable_attention.attention import (
    DEFORMABLE_BACKENDS,
    MultiScaleDeformableAttention,
    SpatialShapes,
    deformable_attention,
)
from .mlp import MLP
from .padding import downsample_mask, padding_mask, valid_ratios
from .position_encoding import LearnedPositionEncoding, SinePositionEncoding, sine_of_coordinates
from .precision import at_least_float32
from .recompute import run_layer

__all__ = [
    "DEFORMABLE_BACKENDS",
    "MLP",
    "LearnedPositionEncoding",
    "MultiHeadAttention",
    "MultiScaleDeformableAttention",
    "SinePositionEncoding",
    "SpatialShapes",
    "at_least_float32",
    "box_cxcywh_to_xyxy",
    "box_xyxy_to_cxcywh",
    "deformable_attention",
    "downsample_mask",
    "elementwise_giou",
    "inverse_sigmoid",
    "padding_mask",
    "run_layer",
    "sine_of_coordinates",
    "valid_ratios",
]
