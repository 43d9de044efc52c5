"""Where each query attends in the image, as maps.

Paper: Carion et al. 2020, Sec. 4.4 and Fig. 8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...layers.box_ops import at_least_float32


class AttentionMaps(nn.Module):
    """Attention of queries to tokens, one map per head, without values.

    The softmax of a query runs over all heads and tokens together, so a head without anything to say fades.

    Args:
        hidden_dim: C.
        num_heads: n, the number of maps.
    """

    def __init__(self, *, hidden_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_linear = nn.Linear(hidden_dim, hidden_dim)
        self.k_linear = nn.Linear(hidden_dim, hidden_dim)
        for linear in (self.q_linear, self.k_linear):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, queries: Sequence[Tensor], memory: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Attends, in float32 or wider whatever autocast says: the weights of a large map are tiny.

        Args:
            queries: (N_b, C) of each of the B images.
            memory: (B, S, C).
            padding_mask: (B, S), True on tokens that get no weight, or None.

        Returns:
            (N, n, S), the queries of the first image first; the sum over heads and tokens is 1.
        """
        query = self.q_linear(torch.cat(list(queries)))  # (N, C)
        key = self.k_linear(memory)  # (B, S, C)
        with torch.autocast(memory.device.type, enabled=False):
            query, key = (at_least_float32(x).unflatten(-1, (self.num_heads, -1)) for x in (query, key))
            query = query * query.shape[-1] ** -0.5
            per_image = zip(query.split([len(x) for x in queries]), key, strict=True)
            scores = [torch.einsum("qnc,snc->qns", q, k) for q, k in per_image]
            if padding_mask is not None:
                scores = [x.masked_fill(mask, -math.inf) for x, mask in zip(scores, padding_mask, strict=True)]
            packed = torch.cat(scores)
            return packed.flatten(1).softmax(1).view_as(packed)
