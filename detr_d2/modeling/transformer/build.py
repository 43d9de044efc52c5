"""The registry of transformers."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.utils.registry import Registry
from torch import nn

TRANSFORMER_REGISTRY = Registry("TRANSFORMER")
TRANSFORMER_REGISTRY.__doc__ = """
Transformers: feature maps in, a `TransformerOutput` of object queries out. A registered class is called with `cfg`
(give it a `from_config`) and must have `forward(features, padding_masks, positions, all_layers, head)`;
`DETRTransformer` is the model. Through `head`, a `LayerHead`, it can ask for the predictions of single layers. One that
gives `reference_logits` says so by an attribute `gives_references = True`.
"""


def build_transformer(cfg: CfgNode) -> nn.Module:
    """Builds `MODEL.DETR.TRANSFORMER.NAME` from the registry."""
    return TRANSFORMER_REGISTRY.get(cfg.MODEL.DETR.TRANSFORMER.NAME)(cfg)
