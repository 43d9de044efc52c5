"""Heads that read classes and boxes off the object queries."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from ..layers import MLP
from .transformer import TransformerOutput

QUERY_HEAD_REGISTRY = Registry("QUERY_HEAD")
QUERY_HEAD_REGISTRY.__doc__ = """
Heads: a `TransformerOutput` in, class logits (L, B, Q, .) and normalised boxes_cxcywh (L, B, Q, 4) out. A registered
class is called with `cfg`; see `DETRHead`.
"""


def build_query_head(cfg: CfgNode) -> nn.Module:
    """Builds `MODEL.DETR.HEAD.NAME` from the registry."""
    return QUERY_HEAD_REGISTRY.get(cfg.MODEL.DETR.HEAD.NAME)(cfg)


@QUERY_HEAD_REGISTRY.register()
class DETRHead(nn.Module):
    """One linear classifier and one three-layer box perceptron, shared by all decoder layers.

    Args:
        hidden_dim: C.
        num_classes: K; the classifier has K + 1 rows, "no object" last.

    Paper: Carion et al. 2020, Sec. 3.2, "Prediction feed-forward networks".
    """

    @configurable
    def __init__(self, *, hidden_dim: int, num_classes: int) -> None:
        super().__init__()
        self.class_embed = nn.Linear(hidden_dim, num_classes + 1)
        self.bbox_embed = MLP(input_dim=hidden_dim, hidden_dim=hidden_dim, output_dim=4, num_layers=3)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {"hidden_dim": cfg.MODEL.DETR.TRANSFORMER.HIDDEN_DIM, "num_classes": cfg.MODEL.DETR.NUM_CLASSES}

    def forward(self, queries: TransformerOutput) -> tuple[Tensor, Tensor]:
        """Returns logits (L, B, Q, K + 1) and boxes_cxcywh (L, B, Q, 4) in (0, 1), by the unpadded image.

        Boxes are float32 or wider under autocast too: bfloat16 numbers near 1 are 1/256 apart, 5 pixels of 1333.
        """
        logits = self.class_embed(queries.hidden_states)
        boxes = self.bbox_embed(queries.hidden_states)
        return logits, boxes.to(torch.promote_types(boxes.dtype, torch.float32)).sigmoid()
