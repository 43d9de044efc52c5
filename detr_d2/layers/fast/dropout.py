"""Dropout that keeps less for the backward pass, with the random numbers, values and gradients of PyTorch's own.

On CPUs PyTorch keeps a float for each element that may be dropped: its mask, already divided by the rate of those that
stay. One byte is enough, and after a ReLU nothing: where the result is positive, neither of the two has cut.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .acceleration import Accelerated, does_only, forwards_of

_RELU = forwards_of(nn.ReLU)


class Dropout(Accelerated, nn.Dropout):
    """`torch.nn.Dropout` with less memory in training."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps a tensor of any shape to the same."""
        if not self._saves_memory() or x.device.type != "cpu":
            return super().forward(x)
        return _Dropout.apply(x, self.p)

    def after(self, activation: nn.Module, x: Tensor) -> Tensor:
        """The activation, then this dropout."""
        if does_only(activation, _RELU) and does_only(self, _DROPOUT) and self._saves_memory():
            return _OfRelu.apply(x, self.p)
        return self(activation(x))

    def _saves_memory(self) -> bool:
        return self.training and 0 < self.p < 1 and self.is_accelerated()


_DROPOUT = forwards_of(Dropout)


def random_mask(like: Tensor, dropout: float) -> Tensor:
    """Which elements stay, as 0 and 1 in bytes: those that `torch.nn.functional.dropout` would have drawn on a CPU."""
    return torch.empty_like(like, dtype=torch.uint8).bernoulli_(1 - dropout)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        kept = random_mask(x, p)
        ctx.save_for_backward(kept)
        ctx.rate = 1 - p
        return kept.to(x.dtype).div_(ctx.rate).mul_(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return kept.to(grad.dtype).div_(ctx.rate) * grad, None


class _OfRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        y = F.dropout(x.relu(), p, training=True)
        ctx.save_for_backward(y)
        ctx.rate = 1 - p
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(grad, y, 0) * grad.new_ones(()).div_(ctx.rate), None
