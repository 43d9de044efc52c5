"""Random first weights of large layers at the cost of copies: most of what a test of a small model would wait for."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import init

PERIOD = 65_521
"""How many values are drawn, again and again the same; a prime, so that no two rows of a weight are equal."""


def draw_less(patch: pytest.MonkeyPatch) -> None:
    """Lets PyTorch's initialisers repeat the first `PERIOD` values of a large weight; their spread stays what it is."""

    def kaiming_gain(tensor: Tensor, a: float = 0, mode: Any = "fan_in", nonlinearity: Any = "leaky_relu") -> float:
        return init.calculate_gain(nonlinearity, a) / math.sqrt(init._calculate_correct_fan(tensor, mode))

    def xavier_gain(tensor: Tensor, gain: float = 1.0) -> float:
        return gain * math.sqrt(2 / sum(init._calculate_fan_in_and_fan_out(tensor)))

    patch.setattr(init, "kaiming_normal_", _repeating(init.kaiming_normal_, kaiming_gain, Tensor.normal_))
    patch.setattr(init, "kaiming_uniform_", _repeating(init.kaiming_uniform_, kaiming_gain, _uniform))
    patch.setattr(init, "xavier_uniform_", _repeating(init.xavier_uniform_, xavier_gain, _uniform))


def _uniform(values: Tensor) -> Tensor:
    return values.uniform_(-math.sqrt(3), math.sqrt(3))


def _repeating(
    original: Callable[..., Tensor], gain_of: Callable[..., float], draw: Callable[[Tensor], Tensor]
) -> Callable[..., Tensor]:
    @functools.wraps(original)
    def initialise(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        plain = tensor.device.type == "cpu" and tensor.is_contiguous() and kwargs.get("generator") is None
        if tensor.numel() < 2 * PERIOD or not plain:
            return original(tensor, *args, **kwargs)
        kwargs.pop("generator", None)
        with torch.no_grad():
            values = draw(tensor.new_empty(PERIOD)).mul_(gain_of(tensor, *args, **kwargs))
            flat = tensor.view(-1)
            whole = tensor.numel() // PERIOD * PERIOD
            flat[:whole].view(-1, PERIOD).copy_(values)
            flat[whole:].copy_(values[: len(flat) - whole])
        return tensor

    return initialise
