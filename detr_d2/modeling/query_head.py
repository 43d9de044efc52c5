"""Heads that read classes and boxes off the object queries; here, DETR's."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.utils.registry import Registry
from torch import nn

from ..layers.attention import MLP
from ..layers.box_ops import at_least_float32
from .classification import SOFTMAX, Classification, build_classification
from .interface import Predictions, TransformerOutput, build_part

QUERY_HEAD_REGISTRY = Registry("QUERY_HEAD")
QUERY_HEAD_REGISTRY.__doc__ = """
Heads: `forward(output: TransformerOutput) -> Predictions` with `logits`, `boxes_cxcywh` and perhaps `extra` of all
queries and layers of `hidden_states`; the rest of the predictions is the meta-architecture's to fill in, and denoising
queries are its to take apart. A registered class is an `nn.Module` that is called with `cfg`; see `DETRHead`.

A head may ignore `memory`, and `reference_logits` with transformers that give none. One that reads them says so by an
attribute `reads_references = True`. Transformers that refine boxes or propose them call its `classify` and
`box_logits`, too; see `LayerHead`.
"""


def build_query_head(cfg: CfgNode) -> nn.Module:
    """Builds `MODEL.DETR.HEAD.NAME` from the registry."""
    return build_part("MODEL.DETR.HEAD", QUERY_HEAD_REGISTRY.get(cfg.MODEL.DETR.HEAD.NAME), cfg)


@QUERY_HEAD_REGISTRY.register()
class DETRHead(nn.Module):
    """One linear classifier and one three-layer box perceptron, shared by all decoder layers.

    Args:
        hidden_dim: C.
        num_classes: K.
        classification: what the logits mean; with softmax the classifier has K + 1 rows, "no object" last.

    Paper: Carion et al. 2020, Sec. 3.2, "Prediction feed-forward networks".
    """

    @configurable
    def __init__(self, *, hidden_dim: int, num_classes: int, classification: Classification = SOFTMAX) -> None:
        super().__init__()
        self.class_embed = nn.Linear(hidden_dim, classification.num_logits(num_classes))
        self.bbox_embed = MLP(input_dim=hidden_dim, hidden_dim=hidden_dim, output_dim=4, num_layers=3)
        classification.initialise(self.class_embed)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {
            "hidden_dim": cfg.MODEL.DETR.TRANSFORMER.HIDDEN_DIM,
            "num_classes": cfg.MODEL.DETR.NUM_CLASSES,
            "classification": build_classification(cfg),
        }

    def forward(self, output: TransformerOutput) -> Predictions:
        """Reads classes and boxes off every query of every layer; boxes are float32 or wider, under autocast too."""
        boxes = at_least_float32(self.bbox_embed(output.hidden_states)).sigmoid()
        return Predictions(self.class_embed(output.hidden_states), boxes)
