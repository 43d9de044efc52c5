"""Attention with dropout that does not keep the attention weights for the backward pass.

PyTorch has such an attention for GPUs. On CPUs, `scaled_dot_product_attention` with dropout keeps three floats for each
pair of a query and a key; here it is one byte, which says whether the pair was dropped. The weights are computed
again from queries and keys, which costs little beside the projections.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..box_ops import at_least_float32
from .dropout import random_mask


def attention_with_dropout(query: Tensor, key: Tensor, value: Tensor, attend: Tensor | None, dropout: float) -> Tensor:
    """`scaled_dot_product_attention` with dropout: the same random numbers, values and gradients, up to rounding.

    Args:
        query: (B, heads, Q, D).
        key, value: (B, heads, S, D).
        attend: what (B, heads, Q, S) can be broadcast from, True where a key is read, at least one of each query; or
            None for all of them.
        dropout: probability of dropping a weight, in (0, 1).

    Returns:
        (B, heads, Q, D) of the type of `query`; computed in float32 at least.
    """
    return _AttentionWithDropout.apply(query, key, value, attend, dropout)


def _weights(query: Tensor, key: Tensor, attend: Tensor | None) -> Tensor:
    """(B, heads, Q, S), every row of which sums up to 1; of a query that is scaled already."""
    logits = query @ key.transpose(-2, -1)
    return (logits if attend is None else logits.masked_fill(~attend, float("-inf"))).softmax(-1)


class _AttentionWithDropout(torch.autograd.Function):
    """Its backward is made of operators that have derivatives themselves, so that there are second ones as well."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, attend: Tensor | None, dropout: float) -> Tensor:
        with torch.autocast(query.device.type, enabled=False):
            q, k, v = map(at_least_float32, (query, key, value))
            weights = _weights(q * q.shape[-1] ** -0.5, k, attend)
            kept = random_mask(weights, dropout)
            result = weights.mul_(kept.to(weights.dtype)) @ v
        ctx.save_for_backward(query, key, value, attend, kept)
        ctx.rate = 1 - dropout
        return result.div_(ctx.rate).to(query.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, attend, kept = ctx.saved_tensors
        with torch.autocast(query.device.type, enabled=False):
            q, k, v = map(at_least_float32, (query, key, value))
            scale = q.shape[-1] ** -0.5
            q, grad = q * scale, at_least_float32(grad) / ctx.rate
            weights, mask = _weights(q, k, attend), kept.to(q.dtype)
            by_value = (weights * mask).transpose(-2, -1) @ grad
            by_weights = (grad @ v.transpose(-2, -1)) * mask
            product = by_weights * weights
            by_logits = torch.addcmul(product, weights, product.sum(-1, keepdim=True), value=-1)  # through the softmax
            by_query, by_key = by_logits @ (k * scale), by_logits.transpose(-2, -1) @ q
        return by_query.to(query.dtype), by_key.to(key.dtype), by_value.to(value.dtype), None, None
