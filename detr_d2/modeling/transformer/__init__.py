"""Transformers, one file per paper, chosen by `MODEL.DETR.TRANSFORMER.NAME`."""

from .build import TRANSFORMER_REGISTRY, build_transformer
from .deformable import DeformableTransformer
from .detr import DETRTransformer
from .output import LayerHead, TransformerOutput

__all__ = [
    "TRANSFORMER_REGISTRY",
    "DETRTransformer",
    "DeformableTransformer",
    "LayerHead",
    "TransformerOutput",
    "build_transformer",
]
