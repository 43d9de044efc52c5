"""What a transformer and a query head know of each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass
class TransformerOutput:
    """Decoded object queries and the encoded image.

    Attributes:
        hidden_states: (L, B, Q, C), the decoder layers asked for, the last one at the end.
        memory: (B, S, C), the encoder's output tokens of all levels.
        reference_logits: of each of these layers the points (B, Q, 2) or boxes_cxcywh (B, Q, 4) around which it looked
            at the image, as logits of coordinates normalised by the unpadded image; predicted boxes are relative to
            them. None for transformers without references.
        proposals: logits (B, S, num_logits) and boxes_cxcywh (B, S, 4) that a two-stage encoder gives to its tokens.
    """

    hidden_states: Tensor
    memory: Tensor
    reference_logits: Sequence[Tensor] | None = None
    proposals: tuple[Tensor, Tensor] | None = None


class LayerHead(Protocol):
    """What a transformer may ask of the head, which it is handed in `forward` and does not own.

    Layers are counted from 0; the one after the last stands for the proposals of a two-stage encoder.
    """

    def classify(self, hidden_states: Tensor, layer: int) -> Tensor:
        """Class logits (..., num_logits) of hidden states (..., C) of a layer."""

    def box_logits(self, hidden_states: Tensor, layer: int, reference_logits: Tensor) -> Tensor:
        """Logits of boxes_cxcywh (..., 4) relative to references (..., 2 or 4), float32 or wider."""
