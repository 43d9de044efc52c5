"""Deformable attention as two Triton kernels, forward and backward. The only file that imports triton.

triton is part of PyTorch's CUDA builds and compiles its kernels itself when they are first used, so nothing has to be
built by whoever installs this package. Import this file where it is needed, not at the top of another.

Each program serves a few rows, a row being one head of one query with its D channels. Sums are kept in float32 whatever
the type of the tensors. Every sampling point belongs to one row, which writes its gradients; the gradient of the values
is added up with atomics in a float32 buffer, in no particular order, so it may differ in the last bits between runs.

What was run: values and gradients against the CPU implementation in triton's interpreter (`TRITON_INTERPRET=1`), in
float32 and float16; and the compiler, down to machine code for three generations of GPUs, in those types and bfloat16,
for which the interpreter of triton 3.9 is broken. The compiled kernels themselves have not run yet, so nothing is known
of their speed: the tests that need a GPU are skipped where there is none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .attention import level_table
from .gradient import first_derivative_only

_TILE = 512
"""Rows times channels of one program: four numbers for each of 128 threads."""


def triton_attention(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Deformable attention with the arguments and the result of `deformable_attention`, on a GPU.

    Values are float32, float16 or bfloat16; locations are taken as float32. A second derivative raises RuntimeError,
    and so does the first under `torch.use_deterministic_algorithms`.

    Paper: Deformable DETR (Zhu et al. 2021), Eq. 3.
    """
    return _TritonAttention.apply(
        value.contiguous(),
        sampling_locations.float().contiguous(),
        attention_weights.contiguous(),
        tuple((int(height), int(width)) for height, width in spatial_shapes),
    )


class _TritonAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, value: Tensor, locations: Tensor, attention: Tensor, spatial_shapes: tuple[tuple[int, int], ...]
    ) -> Tensor:
        ctx.save_for_backward(value, locations, attention)
        ctx.spatial_shapes = spatial_shapes
        output = value.new_empty(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])
        _launch(_forward_kernel, value, locations, attention, spatial_shapes, output)
        return output

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        if torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled():
            raise RuntimeError(
                "The gradient of the Triton kernel of deformable attention adds in no fixed order, and "
                "torch.use_deterministic_algorithms(True) forbids that: turn it off, or train on the CPU."
            )
        value, locations, attention = ctx.saved_tensors
        by_value = torch.zeros_like(value, dtype=torch.float32)
        by_location, by_attention = torch.empty_like(locations), torch.empty_like(attention)
        _launch(
            _backward_kernel,
            *(value, locations, attention, ctx.spatial_shapes),
            *(grad_output.contiguous(), by_value, by_location, by_attention),
        )
        return by_value.to(value.dtype), by_location, by_attention, None


def _launch(
    kernel: Any,
    value: Tensor,
    locations: Tensor,
    attention: Tensor,
    spatial_shapes: tuple[tuple[int, int], ...],
    *more: Tensor,
) -> None:
    """Runs a kernel over all rows; all tensors are contiguous."""
    images, cells, heads, channels = value.shape
    queries, levels, points = attention.shape[1], attention.shape[3], attention.shape[4]
    rows = images * queries * heads
    if rows == 0 or channels == 0:
        return
    block_channels = triton.next_power_of_2(channels)
    block_rows = max(1, _TILE // block_channels)
    device = torch.cuda.device(value.device) if value.is_cuda else contextlib.nullcontext()
    with device:
        kernel[(triton.cdiv(rows, block_rows),)](
            *(value, level_table(spatial_shapes, value), locations, attention, *more),
            *(rows, queries, cells),
            HEADS=heads,
            CHANNELS=channels,
            LEVELS=levels,
            POINTS=points,
            BLOCK_ROWS=block_rows,
            BLOCK_CHANNELS=block_channels,
            num_warps=4,
            enable_fp_fusion=True,  # one rounding of location * size - 0.5; triton 3.9 warns where nothing is said
        )


@triton.jit
def _rows_of_program(  # type: ignore[no-untyped-def]
    rows: tl.tensor, queries: tl.tensor, cells: tl.tensor, HEADS: tl.constexpr, BLOCK_ROWS: tl.constexpr
):
    """The rows of this program, which of them exist, and the row of the value table of cell 0 for each; int64."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    image = row // (queries * HEADS)
    return row, row < rows, image * cells * HEADS + row % HEADS


@triton.jit
def _position(locations: tl.tensor, point: tl.tensor, axis: tl.constexpr, size: tl.tensor, exists: tl.tensor):  # type: ignore[no-untyped-def]
    """Position of a point on an axis in cells, 0 at the centre of the first one, and the cell before it."""
    position = tl.load(locations + 2 * point + axis, mask=exists, other=0.0) * size - 0.5
    return position, tl.floor(position)


@triton.jit
def _corner(x: tl.tensor, y: tl.tensor, cell_x: tl.tensor, cell_y: tl.tensor, width: tl.tensor, height: tl.tensor):  # type: ignore[no-untyped-def]
    """Bilinear weights on the two axes, whether the cell is on the map, and its number.

    A location that is NaN is on no map: nothing is read, and the weights carry the NaN on.
    """
    on_map = (cell_x >= 0) & (cell_x < width) & (cell_y >= 0) & (cell_y < height)
    cell = tl.where(on_map, cell_y * width + cell_x, 0.0).to(tl.int64)
    return 1 - tl.abs(x - cell_x), 1 - tl.abs(y - cell_y), on_map, cell


@triton.jit
def _forward_kernel(  # type: ignore[no-untyped-def]
    value: tl.tensor,  # (B, S, M, D)
    table: tl.tensor,  # (L, 3), see `level_table`
    locations: tl.tensor,  # (B, Q, M, L, P, 2)
    attention: tl.tensor,  # (B, Q, M, L, P)
    output: tl.tensor,  # (B, Q, M, D)
    rows: tl.tensor,
    queries: tl.tensor,
    cells: tl.tensor,
    HEADS: tl.constexpr,
    CHANNELS: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    row, exists, origin = _rows_of_program(rows, queries, cells, HEADS, BLOCK_ROWS)
    channel = tl.arange(0, BLOCK_CHANNELS)[None, :]
    is_channel = channel < CHANNELS
    total = tl.zeros((BLOCK_ROWS, BLOCK_CHANNELS), dtype=tl.float32)
    for level in range(LEVELS):
        width = tl.load(table + 3 * level)
        height = tl.load(table + 3 * level + 1)
        first = tl.load(table + 3 * level + 2)
        for i in tl.static_range(POINTS):
            point = (row * LEVELS + level) * POINTS + i
            weight = tl.load(attention + point, mask=exists, other=0.0).to(tl.float32)
            x, left = _position(locations, point, 0, width, exists)
            y, top = _position(locations, point, 1, height, exists)
            for corner in tl.static_range(4):
                weight_x, weight_y, on_map, cell = _corner(x, y, left + corner % 2, top + corner // 2, width, height)
                address = (origin + (first + cell) * HEADS)[:, None] * CHANNELS + channel
                mask = (on_map & exists)[:, None] & is_channel
                read = tl.load(value + address, mask=mask, other=0.0).to(tl.float32)
                total += (weight * weight_x * weight_y)[:, None] * read
    address = row[:, None] * CHANNELS + channel
    tl.store(output + address, total.to(output.dtype.element_ty), mask=exists[:, None] & is_channel)


@triton.jit
def _backward_kernel(  # type: ignore[no-untyped-def]
    value: tl.tensor,  # (B, S, M, D)
    table: tl.tensor,  # (L, 3), see `level_table`
    locations: tl.tensor,  # (B, Q, M, L, P, 2)
    attention: tl.tensor,  # (B, Q, M, L, P)
    grad_output: tl.tensor,  # (B, Q, M, D)
    by_value: tl.tensor,  # float32, zeros before the first program
    by_location: tl.tensor,
    by_attention: tl.tensor,
    rows: tl.tensor,
    queries: tl.tensor,
    cells: tl.tensor,
    HEADS: tl.constexpr,
    CHANNELS: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    row, exists, origin = _rows_of_program(rows, queries, cells, HEADS, BLOCK_ROWS)
    channel = tl.arange(0, BLOCK_CHANNELS)[None, :]
    is_channel = channel < CHANNELS
    address = row[:, None] * CHANNELS + channel
    grad = tl.load(grad_output + address, mask=exists[:, None] & is_channel, other=0.0).to(tl.float32)
    for level in range(LEVELS):
        width = tl.load(table + 3 * level)
        height = tl.load(table + 3 * level + 1)
        first = tl.load(table + 3 * level + 2)
        for i in tl.static_range(POINTS):
            point = (row * LEVELS + level) * POINTS + i
            weight = tl.load(attention + point, mask=exists, other=0.0).to(tl.float32)
            x, left = _position(locations, point, 0, width, exists)
            y, top = _position(locations, point, 1, height, exists)
            by_weight = tl.zeros((BLOCK_ROWS,), dtype=tl.float32)
            by_x = tl.zeros((BLOCK_ROWS,), dtype=tl.float32)
            by_y = tl.zeros((BLOCK_ROWS,), dtype=tl.float32)
            for corner in tl.static_range(4):
                weight_x, weight_y, on_map, cell = _corner(x, y, left + corner % 2, top + corner // 2, width, height)
                address = (origin + (first + cell) * HEADS)[:, None] * CHANNELS + channel
                mask = (on_map & exists)[:, None] & is_channel
                read = tl.load(value + address, mask=mask, other=0.0).to(tl.float32)
                dot = tl.sum(read * grad, axis=1)
                by_weight += weight_x * weight_y * dot
                by_x += (2 * (corner % 2) - 1) * weight_y * dot
                by_y += (2 * (corner // 2) - 1) * weight_x * dot
                tl.atomic_add(
                    by_value + address, (weight * weight_x * weight_y)[:, None] * grad, mask=mask, sem="relaxed"
                )
            tl.store(by_attention + point, by_weight.to(by_attention.dtype.element_ty), mask=exists)
            tl.store(by_location + 2 * point, by_x * weight * width, mask=exists)
            tl.store(by_location + 2 * point + 1, by_y * weight * height, mask=exists)
