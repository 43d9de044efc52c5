"""Deformable attention for CPUs: one gather over all levels with fused weights, gradients written by hand.

A point lies between four cells, so reading it and weighting it by its attention is a weighted sum of four rows of the
values. What one head of one query reads is a weighted sum of 4 L P rows, whatever levels they are on.

* Forward: `embedding_bag` is that sum; no sampled value is ever stored.
* Gradient of the weights: dot products of those rows with the incoming gradient, which is `sampled_addmm`.
* Gradient of the values: with the points sorted by cell, each cell is a weighted sum of rows of the incoming gradient,
  `embedding_bag` again. Nothing is scattered, so the result does not depend on the number of threads.

The arithmetic on points runs in pieces that stay in the processor's cache.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .corners import Corners, PointLevels
from .gradient import first_derivative_only


def gather_attention(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Deformable attention on the CPU, with the arguments and the result of `deformable_attention`.

    Half precision is computed in float32 and rounded once, at the end. A second derivative raises RuntimeError. Where
    the bilinear surface has an edge, the derivative is the one to the right, as in `grid_sample`.

    Paper: Deformable DETR (Zhu et al. 2021), Eq. 3.
    """
    dtype = torch.promote_types(value.dtype, torch.float32)
    tensors = [x.to(dtype).contiguous() for x in (value, sampling_locations, attention_weights)]
    return _GatherAttention.apply(*tensors, tuple(spatial_shapes)).to(value.dtype)


class _GatherAttention(torch.autograd.Function):
    """Keeps its inputs only: the corners of the points are cheaper to compute again than to store."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, locations: Tensor, attention: Tensor, spatial_shapes: tuple[tuple[int, int], ...]
    ) -> Tensor:
        ctx.save_for_backward(value, locations, attention)
        ctx.levels = levels = PointLevels.of(spatial_shapes, locations)
        batch, queries, heads = attention.shape[:3]
        output = value.new_empty(batch * queries * heads, value.shape[-1])
        _read(*_tables(value, locations, attention), levels, out=output)
        return output.view(batch, queries, heads * value.shape[-1])

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        rows = grad_output.contiguous().view(-1, saved[0].shape[-1])
        gradients = [torch.zeros_like(saved[0]), *(torch.empty_like(x) for x in saved[1:])]
        _gradients(*_tables(*saved), rows, ctx.levels, out=_tables(*gradients))
        return *gradients, None


def _tables(value: Tensor, locations: Tensor, attention: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Views of the arguments as tables: (B S M, D), (B Q M, L P, 2), (B Q M, L P)."""
    points = attention.shape[3] * attention.shape[4]
    return value.view(-1, value.shape[-1]), locations.view(-1, points, 2), attention.view(-1, points)


def _read(table: Tensor, locations: Tensor, attention: Tensor, levels: PointLevels, *, out: Tensor) -> None:
    """Writes into out (B Q M, D) what each head of each query reads from the table (B S M, D)."""
    for piece in levels.point_pieces(len(locations)):
        corners = Corners.of(locations, levels, piece)
        weights = corners.weights(attention[piece], dim=1)
        out[piece] = F.embedding_bag(corners.index.flatten(1), table, per_sample_weights=weights.flatten(1), mode="sum")


def _gradients(
    table: Tensor,
    locations: Tensor,
    attention: Tensor,
    grad: Tensor,
    levels: PointLevels,
    *,
    out: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Writes the gradients of the first three arguments, the first one into zeros; grad is (B Q M, D)."""
    by_table, by_location, by_attention = out
    cells = torch.empty_like(attention, dtype=torch.int32)
    weights = attention.new_empty(4, *attention.shape)
    for piece in levels.point_pieces(len(locations)):
        corners = Corners.of(locations, levels, piece)
        dots = _dots(table, grad[piece], corners.index)
        by_location[piece], by_attention[piece] = _point_gradients(corners, attention[piece], dots, levels.sizes)
        cells[piece] = corners.index[:, 0]
        weights[:, piece] = corners.weights(attention[piece], dim=0)
    _add_by_cell(cells, weights, grad, levels, out=by_table)


def _dots(table: Tensor, grad: Tensor, index: Tensor) -> Tensor:
    """Dot products of each row of grad (n, D) with the rows of the table that index (n, 4, L P) names."""
    starts = torch.arange(0, index.numel() + 1, index[0].numel(), dtype=torch.int32)
    zeros = table.new_zeros(index.numel())
    missing = index[0].numel() - len(table)
    if missing > 0:  # a row of a sparse tensor holds no more numbers than it has places, even if some share a place
        table = F.pad(table, (0, 0, 0, missing))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        size = (len(grad), len(table))
        pattern = torch.sparse_csr_tensor(starts, index.flatten(), zeros, size=size, check_invariants=False)
        return torch.sparse.sampled_addmm(pattern, grad, table.T, beta=0).values().view(index.shape)


def _point_gradients(corners: Corners, attention: Tensor, dots: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the locations (n, L P, 2) and of the attention (n, L P), from the corners' dot products."""
    left, right, top, bottom = corners.x.near, corners.x.far, corners.y.near, corners.y.far
    (left_slope, right_slope), (top_slope, bottom_slope) = corners.x.slopes(), corners.y.slopes()
    upper_left, upper_right, lower_left, lower_right = dots.unbind(1)
    upper, lower = left * upper_left + right * upper_right, left * lower_left + right * lower_right
    by_x = top * (left_slope * upper_left + right_slope * upper_right)
    by_x += bottom * (left_slope * lower_left + right_slope * lower_right)
    by_y = top_slope * upper + bottom_slope * lower
    by_location = torch.stack([attention * sizes[0] * by_x, attention * sizes[1] * by_y], dim=-1)
    return by_location, top * upper + bottom * lower


def _add_by_cell(cells: Tensor, weights: Tensor, grad: Tensor, levels: PointLevels, *, out: Tensor) -> None:
    """Adds each point's rows of grad, weighted, to its four cells in out.

    Points are never sorted to the last column or line of a level, unless it is the only one and their weight beyond it
    is 0. So sums can be moved to the neighbours of the cells that they were sorted by all at once.

    Args:
        cells: (B Q M, L P) int32, row of the upper left cell.
        weights: (4, B Q M, L P), of the corners.
        grad: (B Q M, D).
        levels: the constants.
        out: (B S M, D).
    """
    heads, points = levels.first.shape
    ordered, order = cells.flatten().sort(stable=True)
    rows = order.div(points, rounding_mode="floor")
    sorted_weights = [x.index_select(0, order) for x in weights.flatten(1)]
    starts = F.pad(torch.bincount(ordered, minlength=len(out)).cumsum(0), (1, 0))
    for first, last in levels.table_pieces(len(out)):
        begin, stop = int(starts[first]), int(starts[last])
        if begin == stop:
            continue
        bags = starts[first:last] - begin
        upper_left, upper_right, lower_left, lower_right = (
            F.embedding_bag(rows[begin:stop], grad, bags, per_sample_weights=x[begin:stop], mode="sum")
            for x in sorted_weights
        )
        _add(upper_left, out[first:last])
        _add(upper_right, out[first + heads : last + heads])
        for start, end, level_end, line in levels.segments_between(first, last):
            part = slice(start - first, end - first)
            _add(lower_left[part], out[start + line : min(end + line, level_end)])
            _add(lower_right[part], out[start + line + heads : min(end + line + heads, level_end)])


def _add(sums: Tensor, target: Tensor) -> None:
    """Adds as many rows as the target has; what is left over is 0."""
    target += sums[: len(target)]
