"""The head of Deformable DETR, whose boxes are relative to what a query looks around."""

from __future__ import annotations

import copy
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from ..layers.attention import MLP
from ..layers.box_ops import at_least_float32
from .classification import Classification, build_classification
from .interface import Predictions, TransformerOutput
from .query_head import QUERY_HEAD_REGISTRY


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
        proposals: one more pair of heads for the tokens of a two-stage encoder.

    Paper: Zhu et al. 2021, Sec. 4.1, Sec. 4.2 and appendix A.4.
    """

    FIRST_SIZE_LOGIT = -2.0  # boxes of sigmoid(-2) = 12 % of the image

    reads_references = True

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
        self.num_layers = num_layers
        classifier = nn.Linear(hidden_dim, classification.num_logits(num_classes))
        classification.initialise(classifier)
        perceptron = MLP(input_dim=hidden_dim, hidden_dim=hidden_dim, output_dim=4, num_layers=3)
        for parameter in perceptron.layers[-1].parameters():
            nn.init.zeros_(parameter)
        self.num_heads = num_layers if per_layer else 1
        # Copies: the authors let all layers start alike.
        copies = range(self.num_heads + proposals)
        self.class_embed = nn.ModuleList(copy.deepcopy(classifier) for _ in copies)
        self.bbox_embed = nn.ModuleList(copy.deepcopy(perceptron) for _ in copies)
        if not proposals:
            last = f"0.layers.{len(perceptron.layers) - 1}.bias"
            nn.init.constant_(self.bbox_embed.get_parameter(last)[2:], self.FIRST_SIZE_LOGIT)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        transformer = cfg.MODEL.DETR.TRANSFORMER
        if transformer.DEFORMABLE.BOX_REFINEMENT and not cfg.MODEL.DETR.AUX_LOSS:
            raise ValueError(
                "MODEL.DETR.TRANSFORMER.DEFORMABLE.BOX_REFINEMENT needs MODEL.DETR.AUX_LOSS: True: the heads of the "
                "layers before the last learn from their own losses only."
            )
        return {
            "hidden_dim": transformer.HIDDEN_DIM,
            "num_classes": cfg.MODEL.DETR.NUM_CLASSES,
            "num_layers": transformer.NUM_DECODER_LAYERS,
            "classification": build_classification(cfg),
            "per_layer": transformer.DEFORMABLE.BOX_REFINEMENT,
            "proposals": transformer.DEFORMABLE.TWO_STAGE,
        }

    def forward(self, output: TransformerOutput) -> Predictions:
        """Reads classes and boxes off every query of every layer."""
        if output.reference_logits is None:
            raise ValueError(
                "ReferenceHead predicts boxes relative to references, which this transformer does not give: use a "
                "transformer that does, or DETRHead (MODEL.DETR.TRANSFORMER.NAME, MODEL.DETR.HEAD.NAME)."
            )
        first = self.num_layers - len(output.hidden_states)
        layers = list(zip(range(first, self.num_layers), output.hidden_states, output.reference_logits, strict=True))
        logits = torch.stack([self.classify(x, layer) for layer, x, _ in layers])
        boxes = torch.stack([self.box_logits(x, layer, reference) for layer, x, reference in layers])
        return Predictions(logits, boxes.sigmoid())

    def classify(self, hidden_states: Tensor, layer: int) -> Tensor:
        """Class logits (..., num_logits) of hidden states (..., C); see `LayerHead`."""
        return self._of_layer(self.class_embed, layer)(hidden_states)

    def box_logits(self, hidden_states: Tensor, layer: int, reference_logits: Tensor) -> Tensor:
        """Logits of boxes_cxcywh (..., 4) relative to references (..., 2 or 4), float32 or wider; see `LayerHead`."""
        boxes = at_least_float32(self._of_layer(self.bbox_embed, layer)(hidden_states))
        known = reference_logits.shape[-1]
        return torch.cat([boxes[..., :known] + reference_logits, boxes[..., known:]], dim=-1)

    def _of_layer(self, modules: nn.ModuleList, layer: int) -> nn.Module:
        """The decoder layer's own or the shared one, or for the layer after the last the one of the proposals."""
        return modules[-1 if layer == self.num_layers else min(layer, self.num_heads - 1)]
