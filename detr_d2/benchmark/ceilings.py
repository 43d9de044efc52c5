"""What a machine can do at most, measured: a large matrix product, a 3x3 convolution, a memory copy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from ..compare.cost.timing import Timing

_MATRIX = 2048
_IMAGES, _CHANNELS, _SIDE = 1, 256, 96
_COPIED = 64 * 2**20  # floats: more than caches hold


def ceilings_work(
    device: str, dtype: torch.dtype = torch.float32, scale: float = 1.0
) -> tuple[dict[str, Callable[[], object]], dict[str, float]]:
    """The three works and how much each does.

    Args:
        device: where.
        dtype: of the numbers.
        scale: of every side; below 1 for tests.

    Returns:
        name -> work, and name -> its 10^9 multiply-adds, or 10^9 bytes read and written for the copy.
    """
    side, channels, cells = (max(8, int(scale * x)) for x in (_MATRIX, _CHANNELS, _SIDE))
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    image = torch.randn(_IMAGES, channels, cells, cells, device=device, dtype=dtype)
    convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False, device=device, dtype=dtype)
    convolution = convolution.to(memory_format=torch.channels_last)
    source = torch.randn(max(8, int(scale * _COPIED)), device=device)
    target = torch.empty_like(source)
    work: dict[str, Callable[[], object]] = {
        "matrix product": partial(torch.mm, a, b),
        "3x3 convolution": partial(convolution, image.to(memory_format=torch.channels_last)),
        "memory copy": partial(target.copy_, source),
    }
    amounts = {
        "matrix product": side**3 / 1e9,
        "3x3 convolution": 9 * (channels * cells) ** 2 * _IMAGES / 1e9,
        "memory copy": 2 * source.numel() * source.element_size() / 1e9,
    }
    return work, amounts


def rates(timings: list[Timing], amounts: dict[str, float]) -> dict[str, float]:
    """name -> amount in a second: 10^9 multiply-adds, or 10^9 bytes; the fastest round counts, as for any ceiling."""
    return {timing.name: amounts[timing.name] / min(timing.seconds) for timing in timings}
