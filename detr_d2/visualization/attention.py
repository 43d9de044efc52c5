"""Weights of dense attention, recomputed from the inputs of a module that never computes them itself.

The fused attention returns no weights. They are computed here for the rows that somebody looks at only: those of all
3,400 tokens of a DC5 model at COCO's size would take 370 MB a layer.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layers import MultiHeadAttention
from .recording import Call


@torch.no_grad()
def attention_weights(call: Call, rows: Tensor) -> Tensor:
    """How much each of some queries reads from each key.

    Args:
        call: of a `MultiHeadAttention`.
        rows: (R,) indices of queries.

    Returns:
        (B, heads, R, S), float32 or wider; every row sums to 1 and is 0 at padded keys.

    Paper: Vaswani et al. 2017, Sec. 3.2.1.
    """
    module = call.module
    assert isinstance(module, MultiHeadAttention)
    width = module.in_proj_weight.shape[1]
    weight, bias = module.in_proj_weight.split(width), module.in_proj_bias.split(width)
    query = F.linear(call["query"][:, rows], weight[0], bias[0]).unflatten(-1, (module.num_heads, -1))
    key = F.linear(call["key"], weight[1], bias[1]).unflatten(-1, (module.num_heads, -1))
    scores = torch.einsum("brhd,bshd->bhrs", query, key) / math.sqrt(query.shape[-1])
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    attend = call["attend"]
    if attend is not None:
        scores = scores.masked_fill(~(attend[..., rows, :] if attend.shape[-2] > 1 else attend), -math.inf)
    return scores.softmax(-1)
