"""Multi-head attention, batch first, on PyTorch's fused `scaled_dot_product_attention`.

Differs from `torch.nn.MultiheadAttention`: attention weights are never computed for return, keys and values can be
projected once and reused, and masks are boolean with True on padding. Parameter names and initialisation are the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter, init


class MultiHeadAttention(nn.Module):
    """Attention with `num_heads` heads (Vaswani et al. 2017, Sec. 3.2).

    Args:
        embed_dim: C, width of queries, keys, values and output; a multiple of `num_heads`.
        num_heads: number of heads.
        dropout: probability of dropping an attention weight in training.
    """

    def __init__(self, *, embed_dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"The width {embed_dim} is not a multiple of the number of heads {num_heads}.")
        self.num_heads = num_heads
        self.dropout = dropout
        self.in_proj_weight = Parameter(torch.empty(3 * embed_dim, embed_dim))
        self.in_proj_bias = Parameter(torch.zeros(3 * embed_dim))
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        init.xavier_uniform_(self.in_proj_weight)  # over the stacked matrix, as the authors' module has it
        init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Lets each query read the values.

        Args:
            query: (B, Q, C).
            key, value: (B, S, C).
            padding_mask: (B, S), True where a key must not be read, or None.

        Returns:
            (B, Q, C).
        """
        if query is key:
            q, k = self._project(query, 0, 2).chunk(2, dim=-1)
        else:
            q, k = self._project(query, 0, 1), self._project(key, 1, 2)
        v = self._project(value, 2, 3)
        attend = None if padding_mask is None else ~padding_mask[:, None, None, :]  # (B, 1, 1, S)
        heads = self._attend(self._split(q), self._split(k), self._split(v), attend)
        return self.out_proj(heads.transpose(1, 2).flatten(2))  # (B, heads, Q, C / heads) -> (B, Q, C)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, attend: Tensor | None) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, attn_mask=attend, dropout_p=dropout)

    def _project(self, x: Tensor, first: int, last: int) -> Tensor:
        """Applies the rows of the stacked projection that belong to blocks first..last of (q, k, v)."""
        width = self.in_proj_weight.shape[1]
        rows = slice(first * width, last * width)
        return F.linear(x, self.in_proj_weight[rows], self.in_proj_bias[rows])

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, S, C) -> (B, heads, S, C / heads)
