"""Multi-scale deformable attention: every query reads a few sampled points of each level (Zhu et al. 2021, Sec. 4.1).

One function with several backends that give the same result; none of them is compiled at installation:

* `torch`: one gather over all levels, for CPUs (`deformable_gather`), the fastest there.
* `triton`: a kernel each for forward and backward, for float32, float16, bfloat16 on CUDA (`deformable_triton`).
* `grid_sample`: `torch.nn.functional.grid_sample` level by level, for every device and type (`deformable_sampling`).
* `export`: the same, by the name of its promise: operators that `torch.export` and ONNX (opset >= 16) know.

Differs from the reference implementation in:

* no CUDA operator to compile; levels are given as Python integers, from which their offsets follow;
* locations are computed in float32 under mixed precision, where float16 would miss cells of large maps;
* reference points are 2-D or 4-D per level, already multiplied by the valid ratios, as there.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import init

from ..box_ops import at_least_float32
from ..fast.calls import is_captured
from .gather import gather_attention
from .sampling import grid_sample_attention

SpatialShapes: TypeAlias = Sequence[tuple[int, int]]
"""(H, W) of each level."""

DEFORMABLE_BACKENDS = ("auto", "torch", "grid_sample", "triton", "export")

OUTSIDE = -1.0  # a location beyond every map, where nothing is read

_TRITON_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def deformable_attention(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    *,
    backend: str = "auto",
) -> Tensor:
    """Weighted sums of the values at sampled points, interpolated bilinearly, 0 beyond the maps.

    Args:
        value: (B, S, M, D), the levels one after the other, each row by row; M heads of D channels.
        spatial_shapes: (H, W) of the L levels, whose products sum up to S.
        sampling_locations: (B, Q, M, L, P, 2) as (x, y), from 0 to 1 over the whole, padded map of the level: the
            position in cells is location * size - 0.5, cell centres being whole numbers.
        attention_weights: (B, Q, M, L, P), which sum up to 1 over L and P together.
        backend: one of `DEFORMABLE_BACKENDS`. "auto": "export" while a graph is being traced, "torch" on the CPU,
            "triton" on CUDA where triton is installed and takes the type, else "grid_sample".

    Returns:
        (B, Q, M * D), of the type of `value`. Gradients are summed in float32 (float64 for float64).

    Raises:
        ValueError: shapes that do not fit together, an unknown backend, or one that cannot run here.

    Paper: Deformable DETR (Zhu et al. 2021), Eq. 3.
    """
    _check_shapes(value, spatial_shapes, sampling_locations, attention_weights)
    function = _implementation(_choose(value) if backend == "auto" else backend, value)
    return function(value, spatial_shapes, sampling_locations, attention_weights)


def _check_shapes(value: Tensor, spatial_shapes: SpatialShapes, locations: Tensor, weights: Tensor) -> None:
    if value.ndim != 4 or weights.ndim != 5 or tuple(locations.shape) != (*weights.shape, 2):
        raise ValueError(
            "Deformable attention takes values (B, S, M, D), weights (B, Q, M, L, P) and locations (B, Q, M, L, P, 2), "
            f"got {tuple(value.shape)}, {tuple(weights.shape)}, {tuple(locations.shape)}."
        )
    tokens = sum(height * width for height, width in spatial_shapes)
    images, _, heads, levels, _ = weights.shape
    if tuple(value.shape[:3]) != (images, tokens, heads) or levels != len(spatial_shapes):
        raise ValueError(
            f"The levels {list(spatial_shapes)} have {tokens} tokens, and the weights {tuple(weights.shape)} are for "
            f"{levels} levels and {heads} heads: values {tuple(value.shape)} do not fit."
        )
    if any(height < 1 or width < 1 for height, width in spatial_shapes):
        raise ValueError(f"Every level must have a cell, got the sizes {list(spatial_shapes)}.")


def _choose(value: Tensor) -> str:
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export():
        return "export"
    if value.device.type == "cpu":
        return "torch"
    return "grid_sample" if _why_no_triton(value) else "triton"


def _implementation(backend: str, value: Tensor) -> Callable[[Tensor, SpatialShapes, Tensor, Tensor], Tensor]:
    if backend not in DEFORMABLE_BACKENDS:
        raise ValueError(
            f"The backend of deformable attention is {backend!r}, expected one of {', '.join(DEFORMABLE_BACKENDS)}."
        )
    if backend == "triton":
        reason = _why_no_triton(value)
        if reason:
            raise ValueError(f"The backend 'triton' of deformable attention cannot run here: {reason}; use 'auto'.")
        from .triton_kernels import triton_attention

        return triton_attention
    if backend == "torch":
        if value.device.type != "cpu":
            raise ValueError(
                f"The backend 'torch' of deformable attention is for the CPU, the tensors are on {value.device}; use "
                "'auto'."
            )
        return gather_attention
    return grid_sample_attention


def _why_no_triton(value: Tensor) -> str:
    """Empty where the kernel can run: on CUDA, or on the CPU in triton's interpreter."""
    if not value.is_cuda and not (value.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"):
        return f"the tensors are on {value.device} and not on a CUDA device"
    if value.dtype not in _TRITON_DTYPES:
        return f"it takes float32, float16 and bfloat16, not {str(value.dtype).removeprefix('torch.')}"
    return "" if importlib.util.find_spec("triton") else "triton is not installed (pip install triton)"


def level_table(spatial_shapes: SpatialShapes, like: Tensor) -> Tensor:
    """(L, 3) int32: width, height, first cell of each level; written by the device of `like`, nothing is copied there.

    On GPUs it is kept, as every layer needs it.
    """
    sizes = tuple((int(width), int(height)) for height, width in spatial_shapes)
    is_kept = like.is_cuda and type(like) is Tensor and not is_captured()
    return (_kept_table if is_kept else _table)(sizes, like.device)


def _table(sizes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    numbers, first = [], 0
    for width, height in sizes:
        numbers += [width, height, first]
        first += width * height
    with torch.inference_mode(False):  # an inference tensor could not take part in a later training step
        filled = [torch.full((1,), x, dtype=torch.int32, device=device) for x in numbers]
        return torch.cat(filled).view(-1, 3)


_kept_table = lru_cache(maxsize=256)(_table)


class MultiScaleDeformableAttention(nn.Module):
    """Deformable attention whose points and weights are linear functions of the query (Zhu et al. 2021, Sec. 4.1).

    Args:
        embed_dim: C, width of queries, values and output; a multiple of `num_heads`.
        num_heads: M.
        num_levels: L.
        num_points: P, sampling points for each head and level; or one number for each level.
        backend: of `deformable_attention`.

    Raises:
        ValueError: a width that the heads do not divide, no number of points for a level, or an unknown backend.
    """

    def __init__(
        self, *, embed_dim: int, num_heads: int, num_levels: int, num_points: int | Sequence[int], backend: str = "auto"
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"The width {embed_dim} is not a multiple of the number of heads {num_heads}.")
        if backend not in DEFORMABLE_BACKENDS:
            raise ValueError(
                f"The backend of deformable attention is {backend!r}, expected one of {', '.join(DEFORMABLE_BACKENDS)}."
            )
        self.num_heads = num_heads
        self.num_levels = num_levels
        self.num_points = (num_points,) * num_levels if isinstance(num_points, int) else tuple(num_points)
        if len(self.num_points) != num_levels or min(self.num_points) < 1:
            raise ValueError(f"num_points is {num_points}, expected one positive number, or {num_levels}.")
        self.backend = backend
        points = num_heads * sum(self.num_points)
        self.sampling_offsets = nn.Linear(embed_dim, 2 * points)
        self.attention_weights = nn.Linear(embed_dim, points)
        self.value_proj = nn.Linear(embed_dim, embed_dim)
        self.output_proj = nn.Linear(embed_dim, embed_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialises as the paper does: uniform weights, points in rows along evenly spread directions, one per head.

        An initialisation of a whole transformer must call it again afterwards, or the zeros are lost.

        Paper: Deformable DETR (Zhu et al. 2021), appendix A.2.
        """
        for layer in (self.sampling_offsets, self.attention_weights):
            init.zeros_(layer.weight)
            init.zeros_(layer.bias)
        angles = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)  # (M, 2)
        directions = directions / directions.abs().amax(-1, keepdim=True)  # onto a square: whole cells
        steps = torch.cat([torch.arange(1, points + 1) for points in self.num_points])
        offsets = directions[:, None] * steps[:, None]  # (M, sum of P, 2)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.flatten())
        for layer in (self.value_proj, self.output_proj):
            init.xavier_uniform_(layer.weight)
            init.zeros_(layer.bias)

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        value_tokens: Tensor,
        spatial_shapes: SpatialShapes,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Lets each query read its points.

        Args:
            query: (B, Q, C).
            reference_points: (B, Q, L, 2) points (x, y), or (B, Q, L, 4) boxes_cxcywh, from 0 to 1 over each level's
                padded map. Offsets are in cells for points, in units of half the box / P for boxes.
            value_tokens: (B, S, C), the tokens of all levels.
            spatial_shapes: (H, W) of the L levels.
            padding_mask: (B, S), True on padding, where the values are 0; or None.

        Returns:
            (B, Q, C).

        Raises:
            ValueError: another number of levels than this module was built for, or tensors that do not fit together.
        """
        if len(spatial_shapes) != self.num_levels or reference_points.shape[-2] != self.num_levels:
            raise ValueError(
                f"Deformable attention was built for {self.num_levels} levels, got {len(spatial_shapes)} and reference "
                f"points for {reference_points.shape[-2]}."
            )
        value = self.value_proj(value_tokens)
        if padding_mask is not None:
            value = value.masked_fill(padding_mask[..., None], 0)
        output = deformable_attention(
            value.unflatten(-1, (self.num_heads, -1)),
            spatial_shapes,
            self.locations(query, reference_points, spatial_shapes),
            self.weights(query),
            backend=self.backend,
        )
        return self.output_proj(output)

    def weights(self, query: Tensor) -> Tensor:
        """(B, Q, M, L, P), softmax over the points of all levels."""
        weights = self.attention_weights(query).unflatten(-1, (self.num_heads, -1)).softmax(-1)
        return self._by_level(weights[..., None], 0.0)[..., 0]

    def locations(self, query: Tensor, reference_points: Tensor, spatial_shapes: SpatialShapes) -> Tensor:
        """(B, Q, M, L, P, 2), at least float32."""
        offsets = at_least_float32(
            self.sampling_offsets(query).unflatten(-1, (self.num_heads, -1))
        )  # (B, Q, M, 2 points)
        reference = reference_points.to(offsets.dtype)
        if reference.shape[-1] == 2:
            shift = offsets / self._by_point(level_table(spatial_shapes, offsets)[:, :2])
        elif reference.shape[-1] == 4:
            reference, size = reference.chunk(2, dim=-1)
            per_point = [level * (0.5 / points) for level, points in zip(size.unbind(-2), self.num_points, strict=True)]
            shift = offsets * self._by_point(torch.stack(per_point, dim=-2)).unsqueeze(-2)
        else:
            raise ValueError(
                f"Reference points end in 2 (x, y) or 4 (x, y, w, h) numbers, got {tuple(reference.shape)}."
            )
        locations = self._by_point(reference).unsqueeze(-2) + shift
        return self._by_level(locations.unflatten(-1, (-1, 2)), OUTSIDE)

    def _by_point(self, x: Tensor) -> Tensor:
        """Repeats what each level has for its points: (..., L, 2) -> (..., 2 points), the points of all levels.

        Left to broadcasting, the arithmetic would run in loops over 2 coordinates.
        """
        levels = zip(x.unbind(-2), self.num_points, strict=True)
        return torch.cat(
            [level.unsqueeze(-2).expand(*level.shape[:-1], n, 2).flatten(-2) for level, n in levels], dim=-1
        )

    def _by_level(self, x: Tensor, fill: float) -> Tensor:
        """(..., points of all levels, D) -> (..., L, P, D), with `fill` where a level has fewer than P points."""
        most = max(self.num_points)
        if min(self.num_points) == most:
            return x.unflatten(-2, (self.num_levels, most))
        parts = x.split(self.num_points, dim=-2)
        return torch.stack([F.pad(part, (0, 0, 0, most - part.shape[-2]), value=fill) for part in parts], dim=-3)
