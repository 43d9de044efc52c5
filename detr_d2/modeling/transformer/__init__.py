"""Transformers, one file per paper, chosen by `MODEL.DETR.TRANSFORMER.NAME`."""

from .deformable import DeformableTransformer
from .detr import DETRTransformer

__all__ = ["DETRTransformer", "DeformableTransformer"]
