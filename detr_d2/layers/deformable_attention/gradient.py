"""What the hand-written gradients of deformable attention share: their own derivative is refused, not forgotten."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

Backward = Callable[[Any, Tensor], tuple[Tensor | None, ...]]


def first_derivative_only(backward: Backward) -> Backward:
    """Decorates the `backward` of an autograd function that saves its tensor arguments, which come first.

    A gradient of a gradient raises RuntimeError. (`once_differentiable` would do so only where the incoming gradient
    has a history, and leave out the terms of the arguments otherwise.)
    """

    @wraps(backward)
    def wrapper(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            gradients = backward(ctx, grad_output)
        if not torch.is_grad_enabled():
            return gradients
        arguments = ctx.saved_tensors
        count = len(arguments)
        return *_Refusal.apply(count, *gradients[:count], *arguments, grad_output), *gradients[count:]

    return wrapper


class _Refusal(torch.autograd.Function):
    """The first `count` tensors, as if they were a function of the others that has no derivative."""

    @staticmethod
    def forward(_: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.clone() for x in tensors[:count])

    @staticmethod
    def backward(_: Any, *__: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError("Deformable attention has no second derivative.")
