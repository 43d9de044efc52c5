"""What every transformer hands to the query head."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class TransformerOutput:
    """Decoded object queries and the encoded image.

    Attributes:
        hidden_states: (L, B, Q, C), the decoder layers asked for, the last one at the end.
        memory: (B, S, C), the encoder's output tokens of all levels.
    """

    hidden_states: Tensor
    memory: Tensor
