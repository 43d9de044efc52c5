"""Multi-head attention and perceptrons, batch first: what transformers and heads are made of.

Attention differs from `torch.nn.MultiheadAttention`: weights are never computed for return, masks are True where a key
may be read, and its core works on whatever a paper projects to, keys and values of different widths included. Parameter
names and initialisation are the same.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def attention(
    query: Tensor, key: Tensor, value: Tensor, *, num_heads: int, attend: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Lets each query read the values by each of the heads (Vaswani et al. 2017, Sec. 3.2).

    Args:
        query, key: (B, Q, C_k) and (B, S, C_k); C_k is a multiple of the number of heads.
        value: (B, S, C_v); so is C_v.
        num_heads: each takes its share of the channels.
        attend: bool, two dimensions or more that broadcast to (B, heads, Q, S), True where a query may read a key, each
            one at least; None for all.
        dropout: probability of dropping an attention weight.

    Returns:
        (B, Q, C_v).
    """
    q, k, v = (
        x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query, key, value)
    )  # (B, heads, S, C / heads)
    heads = F.scaled_dot_product_attention(q, k, v, attn_mask=attend, dropout_p=dropout)
    return heads.transpose(1, 2).flatten(2)


class MultiHeadAttention(nn.Module):
    """Attention with learned projections of queries, keys, values and result.

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
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dim, embed_dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim))
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        nn.init.xavier_uniform_(self.in_proj_weight)  # over the stacked matrix, as the authors' module has it
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, attend: Tensor | None = None) -> Tensor:
        """Lets each query (B, Q, C) read the values (B, S, C) of the keys (B, S, C); `attend` as of `attention`."""
        if query is key:
            q, k = self._project(query, 0, 2).chunk(2, dim=-1)
        else:
            q, k = self._project(query, 0, 1), self._project(key, 1, 2)
        v = self._project(value, 2, 3)
        dropout = self.dropout if self.training else 0.0
        return self.out_proj(attention(q, k, v, num_heads=self.num_heads, attend=attend, dropout=dropout))

    def _project(self, x: Tensor, first: int, last: int) -> Tensor:
        """Applies the rows of the stacked projection that belong to blocks first..last of (q, k, v)."""
        width = self.in_proj_weight.shape[1]
        rows = slice(first * width, last * width)
        return F.linear(x, self.in_proj_weight[rows], self.in_proj_bias[rows])


class MLP(nn.Module):
    """Linear layers with ReLU between them (paper: Carion et al. 2020, Sec. 3.2, "Prediction feed-forward networks").

    Args:
        input_dim, hidden_dim, output_dim: widths.
        num_layers: number of linear layers, at least 1.
    """

    def __init__(self, *, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int) -> None:
        super().__init__()
        widths = [input_dim] + [hidden_dim] * (num_layers - 1) + [output_dim]
        self.layers = nn.ModuleList(nn.Linear(n, m) for n, m in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., input_dim) to (..., output_dim)."""
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)
