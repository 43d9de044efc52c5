"""The transformer of Deformable DETR.

Paper: Zhu et al. 2021, Deformable DETR: Deformable Transformers for End-to-End Object Detection, Sec. 4 and appendix A.

In short: attention to the image samples a few points around a reference instead of reading every cell, on several
feature levels at once. In the encoder the reference of a token is its own cell; in the decoder it is a point that the
query predicts, or a box: one that every layer corrects (iterative refinement), and that the encoder proposes
(two-stage).

Differs from the authors' code in form, and where that fails:

* batch first; the learned queries live here; the head is handed to `forward` instead of being stored a second time;
* proposals of cells that must not be used get a large finite logit instead of infinity: the same boxes, and nothing
  that can turn into NaN when an image has fewer usable cells than there are queries;
* an image with fewer cells than queries yields one query per cell;
* mixed query selection is not theirs: it is H-DETR's (Jia et al. 2023), which follows DINO (Zhang et al. 2023, Sec.
  3.4) but ranks proposals by the first class, and makes positions of them, as two stages do.

Parameter names are the authors'.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from ...layers.box_ops import at_least_float32
from ...layers.deformable_attention.attention import MultiScaleDeformableAttention
from ..interface import TRANSFORMER_REGISTRY, LayerHead, Proposals, TransformerInputs, TransformerOutput
from .deformable_layers import (
    DeformableDecoder,
    DeformableDecoderLayer,
    DeformableEncoder,
    DeformableEncoderLayer,
    Levels,
    sine_of_coordinates,
)
from .detr import DETRTransformer

UNUSABLE_LOGIT = 100.0  # its sigmoid is 1 in float32, as that of the authors' infinity
PROPOSAL_SIZE = 0.05  # width and height of the proposals of the finest level; doubled from level to level


@TRANSFORMER_REGISTRY.register()
class DeformableTransformer(nn.Module):
    """Deformable encoder over several feature levels, deformable decoder over learned or proposed queries.

    Args:
        hidden_dim: C.
        num_queries: Q.
        num_heads, feedforward_dim, dropout, activation: see `Layer` of DETR.
        num_encoder_layers, num_decoder_layers: depth.
        num_levels: feature levels.
        num_points: points that a head samples on a level; or one number for each level.
        box_refinement: every decoder layer corrects the boxes of the one before.
        two_stage: the encoder proposes the queries.
        mixed_selection: it proposes their places, while the content of the i-th best is learned.
        sampling_backend: see `MultiScaleDeformableAttention`.
        recompute: see `Stack`.
    """

    gives_references = True  # see `check_references`

    @configurable
    def __init__(
        self,
        *,
        hidden_dim: int,
        num_queries: int,
        num_heads: int,
        feedforward_dim: int,
        num_encoder_layers: int,
        num_decoder_layers: int,
        num_levels: int,
        dropout: float = 0.1,
        activation: str = "relu",
        num_points: int | Sequence[int] = 4,
        box_refinement: bool = False,
        two_stage: bool = False,
        mixed_selection: bool = False,
        sampling_backend: str = "auto",
        recompute: bool = False,
    ) -> None:
        super().__init__()
        if two_stage and not box_refinement:
            raise ValueError("two_stage needs box_refinement: True.")
        if mixed_selection and not two_stage:
            raise ValueError("mixed_selection needs two_stage: True.")
        attention: dict[str, Any] = {
            "embed_dim": hidden_dim,
            "num_heads": num_heads,
            "num_levels": num_levels,
            "num_points": num_points,
            "backend": sampling_backend,
        }
        layer: dict[str, Any] = {
            "attention": attention,
            "feedforward_dim": feedforward_dim,
            "dropout": dropout,
            "activation": activation,
        }
        self.num_levels = num_levels
        self.num_queries = num_queries
        self.two_stage = two_stage
        self.mixed_selection = mixed_selection
        decoder_layers = [DeformableDecoderLayer(**layer) for _ in range(num_decoder_layers)]
        self.encoder = DeformableEncoder(
            (DeformableEncoderLayer(**layer) for _ in range(num_encoder_layers)), recompute=recompute
        )
        self.decoder = DeformableDecoder(decoder_layers, box_refinement, recompute)
        self.level_embed = nn.Parameter(torch.empty(num_levels, hidden_dim))
        if two_stage:
            self.enc_output = nn.Linear(hidden_dim, hidden_dim)
            self.enc_output_norm = nn.LayerNorm(hidden_dim)
            self.pos_trans = nn.Linear(2 * hidden_dim, 2 * hidden_dim)
            self.pos_trans_norm = nn.LayerNorm(2 * hidden_dim)
        else:
            self.reference_points = nn.Linear(hidden_dim, 2)
        self._reset_parameters()
        if not two_stage:  # after the reset, as the authors keep it outside the transformer: N(0, 1)
            self.query_embed = nn.Embedding(num_queries, 2 * hidden_dim)
        elif mixed_selection:
            self.query_embed = nn.Embedding(num_queries, hidden_dim)

    def _reset_parameters(self) -> None:
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, MultiScaleDeformableAttention):
                module.reset_parameters()  # the loop above has overwritten its zeros
        if not self.two_stage:
            nn.init.zeros_(self.reference_points.bias)
        nn.init.normal_(self.level_embed)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        deformable = cfg.MODEL.DETR.TRANSFORMER.DEFORMABLE
        shared = DETRTransformer.from_config(cfg)
        del shared["pre_norm"]  # the layers have post-norm only
        return {
            **shared,
            "num_levels": cfg.MODEL.DETR.NUM_FEATURE_LEVELS,
            "num_points": deformable.NUM_POINTS,
            "box_refinement": deformable.BOX_REFINEMENT,
            "two_stage": deformable.TWO_STAGE,
            "mixed_selection": deformable.MIXED_SELECTION,
            "sampling_backend": deformable.SAMPLING_BACKEND,
        }

    def forward(self, inputs: TransformerInputs) -> TransformerOutput:
        """Turns feature maps into object queries; the head is asked for boxes between layers, and for proposals.

        Raises:
            ValueError: if the number of maps is not that of the levels, or the head cannot answer.
        """
        maps, head = inputs.maps, inputs.head
        if len(maps) != self.num_levels:
            raise ValueError(
                f"DeformableTransformer has {self.num_levels} feature levels (MODEL.DETR.NUM_FEATURE_LEVELS), but the "
                f"neck gives {len(maps)} maps: make MODEL.DETR.NECK and MODEL.DETR.IN_FEATURES agree with it."
            )
        if self.decoder.refine and not hasattr(head, "box_logits"):
            raise ValueError(
                "box_refinement needs a head that can be asked for the boxes of every layer: ReferenceHead."
            )
        levels = Levels.of(maps, inputs.padding_masks)
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)  # (B, S, C)
        position = self._position(inputs.positions).to(tokens.dtype)
        memory = self.encoder(tokens, position, levels)
        proposals = None
        if self.two_stage:
            assert head is not None
            logits, box_logits = self._propose(memory, levels, head)
            proposals = Proposals(logits, box_logits.sigmoid())
            references, query_position, content = self._proposed_queries(logits, box_logits)
        else:
            references, query_position, content = self._learned_queries(tokens.shape[0])
        outputs, reference_logits = self.decoder(content, query_position, references, memory, levels, head)
        first = 0 if inputs.all_layers else -1
        return TransformerOutput(torch.stack(outputs[first:]), memory, reference_logits[first:], proposals)

    def _position(self, positions: Sequence[Tensor]) -> Tensor:
        """(B or 1, S, C): where in its map a token is, plus which map that is."""
        levels = zip(positions, self.level_embed, strict=True)
        return torch.cat([x.flatten(2).transpose(1, 2) + embedding for x, embedding in levels], dim=1)

    def _learned_queries(self, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        """References (B, Q, 2), positions and contents (B, Q, C) of queries that are the same for all images."""
        position, content = self.query_embed.weight.expand(batch, -1, -1).chunk(2, dim=-1)
        points = self.reference_points(position)
        return at_least_float32(points).sigmoid(), position, content

    def _propose(self, memory: Tensor, levels: Levels, head: LayerHead) -> tuple[Tensor, Tensor]:
        """Logits of classes (B, S, num_logits) and boxes_cxcywh (B, S, 4) of every cell (paper, appendix A.4)."""
        centres = levels.cell_centres()
        sizes = [centres.new_full((h * w, 2), PROPOSAL_SIZE * 2**i) for i, (h, w) in enumerate(levels.shapes)]
        boxes = torch.cat([centres, torch.cat(sizes).expand_as(centres)], dim=-1)  # (B or 1, S, 4)
        usable = ((boxes > 0.01) & (boxes < 0.99)).all(-1, keepdim=True)  # padding is not: it lies beyond 1
        box_logits = torch.where(usable, boxes.logit(), UNUSABLE_LOGIT)
        tokens = self.enc_output_norm(self.enc_output(memory.masked_fill(~usable, 0.0)))
        last = len(self.decoder.layers)
        return head.classify(tokens, last), head.box_logits(tokens, last, box_logits)

    def _proposed_queries(self, logits: Tensor, box_logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """References (B, Q, 4), positions and contents (B, Q, C) of the proposals with the best first class."""
        best = logits[..., 0].topk(min(self.num_queries, logits.shape[1]), dim=1).indices  # (B, Q)
        references = box_logits.detach().gather(1, best[..., None].expand(-1, -1, 4)).sigmoid()
        embedding = sine_of_coordinates(references, num_channels=self.pos_trans.in_features // 4)
        position, content = self.pos_trans_norm(self.pos_trans(embedding)).chunk(2, dim=-1)
        if self.mixed_selection:  # (B, Q, C), in the order of the proposals' scores
            content = self.query_embed.weight[: best.shape[1]].expand(best.shape[0], -1, -1)
        return references, position, content
