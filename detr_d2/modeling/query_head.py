"""Heads that read classes and boxes off the object queries."""

from __future__ import annotations

import copy
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from ..layers import MLP, at_least_float32
from .classification import SOFTMAX, Classification, build_classification
from .transformer import TransformerOutput

QUERY_HEAD_REGISTRY = Registry("QUERY_HEAD")
QUERY_HEAD_REGISTRY.__doc__ = """
Heads: a `TransformerOutput` in, class logits (L, B, Q, num_logits) and normalised boxes_cxcywh (L, B, Q, 4) out. A
registered class is called with `cfg`; see `DETRHead`. Transformers that refine boxes or propose them also call its
`classify` and `box_logits`; see `LayerHead`. A head without `box_logits` that reads `reference_logits` says so by an
attribute `reads_references = True`; transformers that give references are refused with other heads.
"""


def build_query_head(cfg: CfgNode) -> nn.Module:
    """Builds `MODEL.DETR.HEAD.NAME` from the registry."""
    return QUERY_HEAD_REGISTRY.get(cfg.MODEL.DETR.HEAD.NAME)(cfg)


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

    def forward(self, queries: TransformerOutput) -> tuple[Tensor, Tensor]:
        """Returns logits (L, B, Q, num_logits) and boxes_cxcywh (L, B, Q, 4) in (0, 1), by the unpadded image.

        Boxes are float32 or wider under autocast too: bfloat16 numbers near 1 are 1/256 apart, 5 pixels of 1333.
        """
        logits = self.class_embed(queries.hidden_states)
        boxes = self.bbox_embed(queries.hidden_states)
        return logits, at_least_float32(boxes).sigmoid()


@QUERY_HEAD_REGISTRY.register()
class ReferenceHead(nn.Module):
    """Classifiers and box perceptrons whose boxes are relative to the queries' references.

    A box is the sigmoid of the perceptron's output plus the logit of the reference; a reference that is a point gives
    the centre only. Boxes start at their references: the perceptron's last layer is zero but for a bias that makes the
    first boxes small, where width and height do not come from a reference.

    Args:
        hidden_dim: C.
        num_classes: K.
        num_layers: L, decoder layers.
        classification: what the logits mean.
        per_layer: every decoder layer has heads of its own, as iterative refinement needs; otherwise all share one.
        proposals: one more pair of heads for the tokens of a two-stage encoder; needs `per_layer`.

    Paper: Zhu et al. 2021, Sec. 4.1, Sec. 4.2 and appendix A.4.
    """

    FIRST_SIZE_LOGIT = -2.0  # boxes of sigmoid(-2) = 12 % of the image

    @configurable
    def __init__(
        self,
        *,
        hidden_dim: int,
        num_classes: int,
        num_layers: int,
        classification: Classification,
        per_layer: bool = False,
        proposals: bool = False,
    ) -> None:
        super().__init__()
        if proposals and not per_layer:
            raise ValueError("MODEL.DETR.TRANSFORMER.TWO_STAGE needs MODEL.DETR.TRANSFORMER.BOX_REFINEMENT: True.")
        self.num_layers = num_layers
        classifier = nn.Linear(hidden_dim, classification.num_logits(num_classes))
        classification.initialise(classifier)
        perceptron = MLP(input_dim=hidden_dim, hidden_dim=hidden_dim, output_dim=4, num_layers=3)
        for parameter in perceptron.layers[-1].parameters():
            nn.init.zeros_(parameter)
        count = num_layers + int(proposals) if per_layer else 1
        # Copies: the authors let all layers start alike.
        self.class_embed = nn.ModuleList(copy.deepcopy(classifier) for _ in range(count))
        self.bbox_embed = nn.ModuleList(copy.deepcopy(perceptron) for _ in range(count))
        if not proposals:
            last = f"0.layers.{len(perceptron.layers) - 1}.bias"
            nn.init.constant_(self.bbox_embed.get_parameter(last)[2:], self.FIRST_SIZE_LOGIT)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        transformer = cfg.MODEL.DETR.TRANSFORMER
        if transformer.BOX_REFINEMENT and not cfg.MODEL.DETR.AUX_LOSS:
            raise ValueError(
                "MODEL.DETR.TRANSFORMER.BOX_REFINEMENT needs MODEL.DETR.AUX_LOSS: True: the heads of the layers before "
                "the last learn from their own losses only."
            )
        return {
            "hidden_dim": transformer.HIDDEN_DIM,
            "num_classes": cfg.MODEL.DETR.NUM_CLASSES,
            "num_layers": transformer.NUM_DECODER_LAYERS,
            "classification": build_classification(cfg),
            "per_layer": transformer.BOX_REFINEMENT,
            "proposals": transformer.TWO_STAGE,
        }

    def forward(self, queries: TransformerOutput) -> tuple[Tensor, Tensor]:
        """Returns logits (L, B, Q, num_logits) and boxes_cxcywh (L, B, Q, 4) in (0, 1), by the unpadded image."""
        references = queries.reference_logits
        if references is None:
            raise ValueError(
                "MODEL.DETR.HEAD.NAME ReferenceHead predicts boxes relative to references, which this transformer does "
                "not give: choose another MODEL.DETR.TRANSFORMER.NAME, or MODEL.DETR.HEAD.NAME DETRHead."
            )
        first = self.num_layers - len(queries.hidden_states)
        layers = list(zip(range(first, self.num_layers), queries.hidden_states, references, strict=True))
        logits = torch.stack([self.classify(x, layer) for layer, x, _ in layers])
        boxes = torch.stack([self.box_logits(x, layer, reference) for layer, x, reference in layers])
        return logits, boxes.sigmoid()

    def classify(self, hidden_states: Tensor, layer: int) -> Tensor:
        """Class logits (..., num_logits) of hidden states (..., C); see `LayerHead`."""
        return _of_layer(self.class_embed, layer)(hidden_states)

    def box_logits(self, hidden_states: Tensor, layer: int, reference_logits: Tensor) -> Tensor:
        """Logits of boxes_cxcywh (..., 4) relative to references (..., 2 or 4), float32 or wider; see `LayerHead`."""
        boxes = at_least_float32(_of_layer(self.bbox_embed, layer)(hidden_states))
        known = reference_logits.shape[-1]
        return torch.cat([boxes[..., :known] + reference_logits, boxes[..., known:]], dim=-1)


def _of_layer(modules: nn.ModuleList, layer: int) -> nn.Module:
    return modules[layer if len(modules) > 1 else 0]
