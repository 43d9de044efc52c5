"""Deformable attention written as its definition reads, random inputs for it, and cases for its Triton kernels.

Run as a script with TRITON_INTERPRET=1, it compares the kernels with the CPU implementation and prints the result.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from detr_d2.layers import deformable_attention

KERNEL_CASES: dict[str, dict[str, Any]] = {
    "several levels": {"spatial_shapes": [(4, 6), (2, 3)]},
    "single cells": {"spatial_shapes": [(1, 1), (3, 1), (1, 2)], "points": 1},
    "many rows": {"spatial_shapes": [(3, 4)], "queries": 23, "heads": 3, "channels": 16},  # 138 rows, 32 a program
    "wide": {"spatial_shapes": [(3, 4)], "images": 1, "heads": 1, "channels": 130},
    "one channel": {"spatial_shapes": [(3, 4)], "channels": 1, "heads": 1},
    "no queries": {"spatial_shapes": [(3, 4)], "queries": 0},
}
NAMES = ("output", "value", "locations", "weights")


class Case(NamedTuple):
    """Arguments of `deformable_attention`, in their order."""

    value: Tensor
    spatial_shapes: Sequence[tuple[int, int]]
    locations: Tensor
    weights: Tensor

    @property
    def leaves(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.value, self.locations, self.weights


def random_case(
    spatial_shapes: Sequence[tuple[int, int]],
    *,
    images: int = 2,
    queries: int = 3,
    heads: int = 2,
    channels: int = 5,
    points: int = 2,
    dtype: torch.dtype = torch.float64,
) -> Case:
    """Leaves that want gradients; a third of the points lies beyond the maps."""
    tokens, levels = sum(height * width for height, width in spatial_shapes), len(spatial_shapes)
    value = torch.randn(images, tokens, heads, channels, dtype=dtype)
    at_least_float = torch.promote_types(dtype, torch.float32)
    locations = 1.5 * torch.rand(images, queries, heads, levels, points, 2, dtype=at_least_float) - 0.25
    weights = torch.randn(images, queries, heads, levels * points, dtype=dtype).softmax(-1)
    weights = weights.unflatten(-1, (levels, points))
    return Case(
        value.requires_grad_(), spatial_shapes, locations.requires_grad_(), weights.detach().clone().requires_grad_()
    )


def naive_attention(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """(B, Q, M D): point by point, cell by cell."""
    images, queries, heads, levels, points = weights.shape
    output = value.new_zeros(images, queries, heads, value.shape[-1])
    for b in range(images):
        for q in range(queries):
            for m in range(heads):
                for level in range(levels):
                    for p in range(points):
                        x, y = locations[b, q, m, level, p].tolist()
                        read = _interpolate(value[b, :, m], spatial_shapes, level, x, y)
                        output[b, q, m] += weights[b, q, m, level, p] * read
    return output.flatten(2)


def _interpolate(tokens: Tensor, spatial_shapes: Sequence[tuple[int, int]], level: int, x: float, y: float) -> Tensor:
    """(D,) value at a point of one level; tokens (S, D)."""
    height, width = spatial_shapes[level]
    first = sum(h * w for h, w in spatial_shapes[:level])
    column, row = x * width - 0.5, y * height - 0.5
    result = torch.zeros_like(tokens[0])
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < height and 0 <= j < width:
                share = (1 - abs(row - i)) * (1 - abs(column - j))
                result = result + share * tokens[first + i * width + j]
    return result


def with_gradients(case: Case, backend: str) -> dict[str, Tensor]:
    """Output, and the gradients of its cosine's sum."""
    output = deformable_attention(*case, backend=backend)
    gradients = torch.autograd.grad(output.float().cos().sum(), case.leaves)
    return dict(zip(NAMES, (output, *gradients), strict=True))


def kernel_differences(dtype: torch.dtype, device: str) -> dict[str, dict[str, float]]:
    """Case -> name -> largest difference between "triton" and "torch", relative to the largest number."""
    result = {}
    for name, arguments in KERNEL_CASES.items():
        case = random_case(**arguments, dtype=dtype)
        there = Case(*(x.detach().to(device).requires_grad_() if isinstance(x, Tensor) else x for x in case))  # type: ignore[arg-type]
        expected, actual = with_gradients(case, "torch"), with_gradients(there, "triton")
        result[name] = {key: _difference(actual[key], expected[key]) for key in NAMES}
    return result


def _difference(actual: Tensor, expected: Tensor) -> float:
    if (actual.shape, actual.dtype) != (expected.shape, expected.dtype):
        return math.inf
    if expected.numel() == 0:
        return 0.0
    scale = expected.double().abs().max().clamp(min=1e-30)
    difference = (actual.cpu().double() - expected.double()).abs().max() / scale
    return difference.item() if math.isfinite(difference) else math.inf


def accumulated(dtype: torch.dtype, device: str) -> float:
    """Gradient of the one value that 3000 queries read with a weight of 1."""
    value = torch.ones(1, 1, 1, 1, dtype=dtype, device=device, requires_grad=True)
    weights = torch.ones(1, 3000, 1, 1, 1, dtype=dtype, device=device)
    locations = torch.full((1, 3000, 1, 1, 1, 2), 0.5, device=device)
    output = deformable_attention(value, [(1, 1)], locations, weights, backend="triton")
    (gradient,) = torch.autograd.grad(output.sum(dtype=torch.float32), value)
    return gradient.item()


def _refusals() -> list[str]:
    """What the kernels say to second derivatives and to deterministic algorithms."""
    case = random_case([(2, 2)], queries=1, dtype=torch.float32)
    output = deformable_attention(*case, backend="triton")
    (gradient,) = torch.autograd.grad(output.sum(), case.locations, create_graph=True)
    torch.use_deterministic_algorithms(True)
    messages = [_refusal(gradient), _refusal(output)]
    torch.use_deterministic_algorithms(True, warn_only=True)
    output.sum().backward()
    return messages


def _refusal(tensor: Tensor) -> str:
    try:
        tensor.sum().backward(retain_graph=True)
    except RuntimeError as error:
        return str(error)
    return ""


def _lost_locations() -> list[bool]:
    """Which heads of one image's three queries give NaN when a location of the second one's first head is NaN."""
    case = random_case([(2, 2)], images=1, dtype=torch.float32)
    locations = case.locations.detach().clone()
    locations[0, 1, 0, 0, 0, 1] = math.nan
    output = deformable_attention(*case._replace(locations=locations), backend="triton")
    return output.view(6, 5).isnan().all(1).tolist()


if __name__ == "__main__":
    torch.manual_seed(0)
    report = {
        "differences": {name: kernel_differences(getattr(torch, name), "cpu") for name in ("float32", "float16")},
        "accumulated": accumulated(torch.float16, "cpu"),
        "refusals": _refusals(),
        "lost": _lost_locations(),
    }
    print(json.dumps(report))
