"""Layers, encoder and decoder of Deformable DETR.

Paper: Zhu et al. 2021, Deformable DETR: Deformable Transformers for End-to-End Object Detection, Sec. 4.

References (points or boxes around which attention samples) are normalised by the unpadded image; valid ratios turn them
into places in the padded map. Parameter names are the authors', and their trap is kept: in the decoder `norm1` follows
the cross-attention and `norm2` the self-attention, although self-attention runs first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...layers.deformable_attention.attention import MultiScaleDeformableAttention
from ...layers.padding import valid_ratios
from ..interface import LayerHead
from .detr import ACTIVATIONS, Layer, Stack


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Logit of numbers (...) in [0, 1], each of x and 1 - x taken as `eps` at least (1e-5 limits it to +-11.5)."""
    x = x.clamp(0, 1)
    return (x.clamp(min=eps) / (1 - x).clamp(min=eps)).log()


@dataclass
class Levels:
    """Geometry of the L feature levels whose cells stand in one row of S tokens.

    Attributes:
        shapes: (height, width) of each level.
        padding_mask: (B, S), True on padding, or None when nothing is padded.
        valid_ratios: (B or 1, L, 2), fraction of width and of height that the image fills.
    """

    shapes: list[tuple[int, int]]
    padding_mask: Tensor | None
    valid_ratios: Tensor

    @classmethod
    def of(cls, features: Sequence[Tensor], padding_masks: Sequence[Tensor | None]) -> Levels:
        """Reads it off the maps (B, C, H, W) and their masks (B, H, W)."""
        dtype = torch.promote_types(features[0].dtype, torch.float32)
        ratios = valid_ratios(padding_masks)
        if ratios is None:
            ratios = torch.ones(1, len(features), 2, device=features[0].device)
        masks = [mask.flatten(1) for mask in padding_masks if mask is not None]
        return cls(
            shapes=[(x.shape[-2], x.shape[-1]) for x in features],
            padding_mask=torch.cat(masks, dim=1) if masks else None,
            valid_ratios=ratios.to(dtype),
        )

    def cell_centres(self) -> Tensor:
        """Centres (x, y) of all cells, normalised by the unpadded image: (B or 1, S, 2)."""
        centres = []
        for (height, width), ratio in zip(self.shapes, self.valid_ratios.unbind(1), strict=True):
            y = torch.arange(height, dtype=ratio.dtype, device=ratio.device) + 0.5
            x = torch.arange(width, dtype=ratio.dtype, device=ratio.device) + 0.5
            cells = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], dim=-1).flatten(0, 1)
            valid_size = torch.stack([ratio[:, 0] * width, ratio[:, 1] * height], dim=-1)  # (B or 1, 2)
            centres.append(cells / valid_size[:, None])
        return torch.cat(centres, dim=1)

    def on_maps(self, references: Tensor) -> Tensor:
        """Places on each padded level (B, Q, L, 2 or 4) of references (B or 1, Q, 2 or 4) in the unpadded image."""
        scale = self.valid_ratios.repeat(1, 1, references.shape[-1] // 2)  # (B or 1, L, 2 or 4)
        return references[:, :, None] * scale[:, None]


def sine_of_coordinates(coordinates: Tensor, *, num_channels: int, temperature: float = 10000.0) -> Tensor:
    """Sines and cosines of points or boxes (..., D) in (0, 1), as (..., D * num_channels), in the order given.

    Args:
        coordinates: D numbers each, float32 or wider.
        num_channels: of each coordinate, even.
        temperature: base of the frequencies.

    Paper: Zhu et al. 2021 (Deformable DETR), appendix A.4.
    """
    exponent = torch.arange(num_channels // 2, dtype=coordinates.dtype, device=coordinates.device) * 2 / num_channels
    phase = coordinates[..., None] * (2 * math.pi) / temperature**exponent  # (..., D, num_channels / 2)
    return torch.stack([phase.sin(), phase.cos()], dim=-1).flatten(-3)  # interleaved: sin, cos, sin, ...


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention and feed-forward network (paper, Sec. 4.1, "Deformable Transformer Encoder").

    Args:
        attention: arguments of `MultiScaleDeformableAttention`.
        feedforward_dim, dropout, activation: see `Layer` of DETR.
    """

    def __init__(self, *, attention: dict[str, Any], feedforward_dim: int, dropout: float, activation: str) -> None:
        super().__init__()
        hidden_dim = attention["embed_dim"]
        self.self_attn = MultiScaleDeformableAttention(**attention)
        self.norm1 = nn.LayerNorm(hidden_dim)
        self.linear1 = nn.Linear(hidden_dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, hidden_dim)
        self.norm2 = nn.LayerNorm(hidden_dim)
        self.activation = ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, position: Tensor, references: Tensor, levels: Levels) -> Tensor:
        """Encodes tokens x (B, S, C) at `position` (B or 1, S, C), sampling around `references` (B, S, L, 2)."""
        read = self.self_attn(x + position, references, x, levels.shapes, levels.padding_mask)
        x = self.norm1(x + self.dropout(read))
        inner = self.dropout(self.activation(self.linear1(x)))
        return self.norm2(x + self.dropout(self.linear2(inner)))


class DeformableDecoderLayer(Layer):
    """DETR's self-attention among queries, deformable cross-attention, feed-forward network (paper, Sec. 4.1).

    Args: see `DeformableEncoderLayer`.
    """

    def __init__(self, *, attention: dict[str, Any], feedforward_dim: int, dropout: float, activation: str) -> None:
        super().__init__(
            hidden_dim=attention["embed_dim"],
            num_heads=attention["num_heads"],
            feedforward_dim=feedforward_dim,
            dropout=dropout,
            activation=activation,
            pre_norm=False,
        )
        self.cross_attn = MultiScaleDeformableAttention(**attention)
        self.norm3 = nn.LayerNorm(attention["embed_dim"])

    def forward(
        self,
        x: Tensor,
        query_position: Tensor,
        references: Tensor,
        memory: Tensor,
        levels: Levels,
        attend: Tensor | None = None,
    ) -> Tensor:
        """Updates queries x (B, Q, C), sampling memory (B, S, C) around `references` (B, Q, L, 2 or 4).

        `attend` is True where a query may read another, see `attention`.
        """
        x = self.norm2(x + self.dropout(self.attend_self(x, query_position, attend)))
        read = self.cross_attn(x + query_position, references, memory, levels.shapes, levels.padding_mask)
        x = self.norm1(x + self.dropout(read))
        return self.norm3(x + self.dropout(self.feed_forward(x)))


class DeformableEncoder(Stack):
    """A stack of encoder layers."""

    def forward(self, x: Tensor, position: Tensor, levels: Levels) -> Tensor:
        """Encodes (B, S, C) tokens, each sampling around its own cell on every level."""
        references = levels.on_maps(levels.cell_centres()).expand(x.shape[0], -1, -1, -1)
        for layer in self.layers:
            x = self.run(layer, x, position, references, levels)
        return x


class DeformableDecoder(Stack):
    """A stack of decoder layers; with refinement each one's boxes are the references of the next.

    Args:
        layers, recompute: see `Stack`.
        refine: iterative bounding box refinement.
    """

    def __init__(self, layers: Iterable[nn.Module], refine: bool, recompute: bool) -> None:
        super().__init__(layers, recompute=recompute)
        self.refine = refine

    def forward(
        self,
        x: Tensor,
        query_position: Tensor,
        references: Tensor,
        memory: Tensor,
        levels: Levels,
        head: LayerHead | None,
        attend: Tensor | None = None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Decodes queries.

        Args:
            x, query_position: (B, Q, C) content and position.
            references: (B, Q, 2) points or (B, Q, 4) boxes_cxcywh in (0, 1), normalised by the unpadded image.
            memory: (B, S, C).
            head: reads the boxes off each layer; needed with refinement only.
            attend: True where a query may read another, see `attention`; None for all.

        Returns:
            Of each layer its output (B, Q, C), and the logits of the references that it was given.
        """
        outputs, reference_logits = [], []
        for index, layer in enumerate(self.layers):
            logits = inverse_sigmoid(references)
            places = levels.on_maps(references)
            x = self.run(layer, x, query_position, places, memory, levels, attend)
            outputs.append(x)
            reference_logits.append(logits)
            if self.refine and index + 1 < len(self.layers):
                assert head is not None
                # No gradient from one layer's boxes to the layers before. `no_grad` would do less work, but under
                # autocast older releases of torch then cache weights without gradients, which the losses would use.
                references = head.box_logits(x.detach(), index, logits).sigmoid().detach()
        return outputs, reference_logits
