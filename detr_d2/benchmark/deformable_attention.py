"""Multi-scale deformable attention on random inputs: ours against the usual way of computing it."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layers import deformable_attention
from .report import differ, measure, relative_difference, report

AttentionFunction = Callable[["AttentionProblem"], Tensor]
"""Computes (B, Q, M D)."""

FIRST_STRIDE = 8
"""Of the finest level, in pixels; each further one halves the resolution."""


@dataclass(frozen=True)
class AttentionProblem:
    """Arguments of deformable attention; the tensors are leaves that want gradients.

    Attributes:
        value: (B, S, M, D).
        spatial_shapes: (H, W) of the L levels.
        sampling_locations: (B, Q, M, L, P, 2).
        attention_weights: (B, Q, M, L, P).
    """

    value: Tensor
    spatial_shapes: Sequence[tuple[int, int]]
    sampling_locations: Tensor
    attention_weights: Tensor

    @property
    def leaves(self) -> tuple[Tensor, Tensor, Tensor]:
        """What gradients are taken of."""
        return self.value, self.sampling_locations, self.attention_weights


def random_attention_problem(
    *,
    batch: int,
    height: int,
    width: int,
    queries: int = 0,
    heads: int = 8,
    channels: int = 32,
    levels: int = 4,
    points: int = 4,
    seed: int = 0,
    device: str = "cpu",
) -> AttentionProblem:
    """What a layer of Deformable DETR works on for images of a size in pixels.

    Args:
        batch: number of images.
        height, width: of the padded images, in pixels.
        queries: number of queries anywhere in the image, as in the decoder; 0 for one query at each cell of each level,
            as in the encoder.
        heads: M.
        channels: D.
        levels: L, of strides 8, 16, 32, ...
        points: P.
        seed: of the random numbers.
        device: of the tensors.

    Raises:
        ValueError: a size that is not positive.
    """
    sizes = {"batch": batch, "height": height, "width": width, "heads": heads, "channels": channels, "levels": levels}
    for name, size in {**sizes, "points": points}.items():
        if size < 1:
            raise ValueError(f"{name} is {size}, expected at least 1")
    if queries < 0:
        raise ValueError(f"queries is {queries}, expected 0 (one for each token) or more")
    generator = torch.Generator().manual_seed(seed)
    strides = [FIRST_STRIDE * 2**level for level in range(levels)]
    shapes = [(math.ceil(height / stride), math.ceil(width / stride)) for stride in strides]
    tokens = sum(h * w for h, w in shapes)
    centres = torch.rand(batch, queries, 2, generator=generator) if queries else _cell_centres(shapes)[None]
    shape = (batch, centres.shape[1], heads, levels, points)
    value = torch.randn(batch, tokens, heads, channels, generator=generator)
    weights = torch.randn(*shape[:3], levels * points, generator=generator).softmax(-1).view(shape)
    offsets = 3 * torch.randn(*shape, 2, generator=generator)  # in cells
    locations = _off_the_edges(centres[:, :, None, None, None], offsets, shapes)
    value, locations, weights = (x.to(device).requires_grad_() for x in (value, locations, weights))
    return AttentionProblem(value, shapes, locations, weights)


def _cell_centres(shapes: Sequence[tuple[int, int]]) -> Tensor:
    """(S, 2) centres (x, y) of the cells of all levels, from 0 to 1."""
    levels = []
    for height, width in shapes:
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        levels.append(torch.stack([x / width, y / height], dim=-1).flatten(0, 1))
    return torch.cat(levels)


def _off_the_edges(centres: Tensor, offsets: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
    """Locations of points, none of them so near to the edge between two cells that rounding decides on its derivative.

    Args:
        centres: (B or 1, Q, 1, 1, 1, 2), from 0 to 1.
        offsets: (B, Q, M, L, P, 2), in cells.
        shapes: (H, W) of the levels.
    """
    sizes = torch.tensor([(width, height) for height, width in shapes], dtype=torch.float32)[:, None]
    position = centres * sizes - 0.5 + offsets
    cell = position.floor()
    return (cell + 0.05 + 0.9 * (position - cell) + 0.5) / sizes


def package_attention(problem: AttentionProblem, backend: str = "auto") -> Tensor:
    """Ours."""
    value, shapes, locations, weights = vars(problem).values()
    return deformable_attention(value, shapes, locations, weights, backend=backend)


def textbook_attention(problem: AttentionProblem) -> Tensor:
    """The usual loop of pure PyTorch: `grid_sample` per level; the samples of all levels are kept, weighted, summed."""
    value, weights = problem.value, problem.attention_weights
    batch, _, heads, channels = value.shape
    tokens = value.split([height * width for height, width in problem.spatial_shapes], dim=1)
    grids = 2 * problem.sampling_locations - 1
    samples = []
    for level, (height, width) in enumerate(problem.spatial_shapes):
        maps = tokens[level].flatten(2).transpose(1, 2).reshape(batch * heads, channels, height, width)
        grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)  # (B M, Q, P, 2)
        samples.append(F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    per_head = weights.transpose(1, 2).flatten(3).flatten(0, 1)[:, None]  # (B M, 1, Q, L P)
    output = (torch.cat(samples, dim=-1) * per_head).sum(-1)  # (B M, D, Q)
    return output.view(batch, heads * channels, -1).transpose(1, 2).contiguous()


def attention_differences(
    problem: AttentionProblem, ours: AttentionFunction, theirs: AttentionFunction
) -> dict[str, float]:
    """Largest difference of the outputs and of each gradient, absolute or relative to the largest, whichever is less.

    Returns:
        "output", "value", "locations", "weights" -> difference.
    """
    results = []
    for function in (ours, theirs):
        output = function(problem)
        grad = torch.linspace(-1, 1, output.numel(), dtype=output.dtype, device=output.device).view_as(output)
        results.append((output.detach(), *torch.autograd.grad(output, problem.leaves, grad)))
    names = ("output", "value", "locations", "weights")
    pairs = zip(*results, strict=True)
    return {name: relative_difference(a, b) for name, (a, b) in zip(names, pairs, strict=True)}


def deformable_attention_work(args: argparse.Namespace) -> int:
    """The attention function alone, against the usual loop of `grid_sample`."""
    sizes = ("batch", "height", "width", "queries", "heads", "channels", "levels", "points")
    problem = random_attention_problem(
        **{name: getattr(args, name) for name in sizes}, seed=args.seed, device=args.device
    )
    ours = partial(package_attention, backend=args.backend)
    functions: dict[str, AttentionFunction] = {"ours": ours, "grid_sample loop": textbook_attention}
    queries, tokens = problem.attention_weights.shape[1], problem.value.shape[1]
    print(
        f"deformable attention of {args.batch} x {queries} queries to {tokens} tokens of {args.levels} levels, "
        f"{args.heads} heads, {args.channels} channels, {args.points} points; "
        f"{'forward and backward' if args.backward else 'forward'}"
    )
    differences = attention_differences(problem, ours, textbook_attention)
    whats = {"output": "the output", **{x: f"the gradient of the {x}" for x in ("value", "locations", "weights")}}
    if differ({"grid_sample loop": {whats[name]: x for name, x in differences.items()}}):
        return 1
    with torch.set_grad_enabled(args.backward):
        work = {
            name: _attention_work(partial(function, problem), problem.leaves, args.backward)
            for name, function in functions.items()
        }
        timings = measure(work, args.repeat)
    report(timings, {"differences": differences}, args)
    return 0


def _attention_work(function: Callable[[], Tensor], leaves: Sequence[Tensor], backward: bool) -> Callable[[], object]:
    return (lambda: torch.autograd.grad(function().sum(), leaves)) if backward else function
