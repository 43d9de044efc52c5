"""Gradient checkpointing: less memory in training, for a second forward pass of every layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def run_layer(layer: Callable[..., Tensor], *inputs: Any, checkpointed: bool) -> Tensor:
    """Calls a layer; if `checkpointed`, nothing inside it is kept for the backward pass, which runs it again.

    Result and gradients are the same either way, dropout included.

    Paper: Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost.
    """
    if checkpointed and torch.is_grad_enabled():
        return checkpoint(layer, *inputs, use_reentrant=False)
    return layer(*inputs)
