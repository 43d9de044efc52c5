"""Transformers, one file per paper, chosen by `MODEL.DETR.TRANSFORMER.NAME`."""

from .build import TRANSFORMER_REGISTRY, build_transformer
from .detr import DETRTransformer
from .output import TransformerOutput

__all__ = ["TRANSFORMER_REGISTRY", "DETRTransformer", "TransformerOutput", "build_transformer"]
