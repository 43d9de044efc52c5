"""Where the sampling points of deformable attention lie: their four cells, the weights of these, and the slopes.

Rows of the value table are numbered image by image, level by level, cell by cell, the M heads of a cell side by side:
(B, S, M) flattened. The tables of points have a row for each head of each query, in it the L P points: (B Q M, L P).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_POINTS_PER_PIECE = 2**16
"""For each thread; 256 KB for every float32 of a point, of which there are about twenty."""

_ROWS_PER_PIECE = 2**14
"""Of the values, for each thread; 2 MB for 32 channels of float32."""


@dataclass(frozen=True)
class PointLevels:
    """Constants of all images and of the L P points of a row, in their order.

    Attributes:
        sizes: (2, L P), width and height of each point's level.
        gaps: (2, L P), distance between a point's two cells on each axis: 1, or infinite where there is one cell only.
        first: (M, L P) int32, row of the level's first cell for each head.
        below: (L P) int32, rows from a cell to the one below it.
        queries: Q.
        rows: of one image, S M.
        segments: for each level of an image, its first row, the row after its last, and the rows in one line of cells.
    """

    sizes: Tensor
    gaps: Tensor
    first: Tensor
    below: Tensor
    queries: int
    rows: int
    segments: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, spatial_shapes: Sequence[tuple[int, int]], locations: Tensor) -> PointLevels:
        queries, heads, _, points, _ = locations.shape[1:]
        segments, start = [], 0
        for height, width in spatial_shapes:
            line = width * heads
            segments.append((start, start + height * line, line))
            start += height * line
        sizes = locations.new_tensor([(w, h) for h, w in spatial_shapes]).T.repeat_interleave(points, dim=1)
        first = torch.tensor([x for x, _, _ in segments], dtype=torch.int32).repeat_interleave(points)
        return cls(
            sizes=sizes,
            gaps=torch.where(sizes > 1, 1.0, torch.inf),
            first=first + torch.arange(heads, dtype=torch.int32)[:, None],
            # One row of cells has none below: the weight is 0, and the index must only exist.
            below=torch.where(sizes[1] > 1, sizes[0] * heads, 0).int(),
            queries=queries,
            rows=start,
            segments=tuple(segments),
        )

    def point_pieces(self, rows: int) -> Iterator[slice]:
        """Slices of whole queries that cover the rows."""
        heads, points = self.first.shape
        step = max(1, _POINTS_PER_PIECE * torch.get_num_threads() // (heads * points)) * heads
        return (slice(start, start + step) for start in range(0, rows, step))

    def table_pieces(self, rows: int) -> Iterator[tuple[int, int]]:
        """Ranges, first and last + 1, that cover the rows of the value table."""
        step = _ROWS_PER_PIECE * torch.get_num_threads()
        return ((start, min(start + step, rows)) for start in range(0, rows, step))

    def segments_between(self, first: int, last: int) -> Iterator[tuple[int, int, int, int]]:
        """Cuts a range of rows at the levels of all images: first, last + 1, end of the level, rows of a line."""
        for image in range(first // self.rows, -(-last // self.rows)):
            origin = image * self.rows
            for start, end, line in self.segments:
                begin, stop = max(first, origin + start), min(last, origin + end)
                if begin < stop:
                    yield begin, stop, origin + end, line


@dataclass(frozen=True)
class Axis:
    """Where points are between two neighbouring cells on one axis; all (n, L P).

    Attributes:
        cell: the first of the two, both of them on the map; a float.
        offset: position relative to that cell, between 0 and 1 unless the point is at the rim or beyond.
        rest: position relative to the other cell.
        near, far: bilinear weights of the two: 1 - distance, 0 from a distance of 1 on, so also beyond the rim.
    """

    cell: Tensor
    offset: Tensor
    rest: Tensor
    near: Tensor
    far: Tensor

    @classmethod
    def of(cls, locations: Tensor, size: Tensor, gap: Tensor) -> Axis:
        position = torch.mul(locations, size).sub_(0.5)
        cell = position.floor().clamp_min_(0).minimum((size - 2).clamp_min_(0))
        offset = position.sub_(cell)
        rest = offset - gap
        return cls(cell=cell, offset=offset, rest=rest, near=_tent(offset), far=_tent(rest))

    def slopes(self) -> tuple[Tensor, Tensor]:
        """Derivatives of the two weights by the position."""
        return _tent_slope(self.offset), _tent_slope(self.rest)


def _tent(x: Tensor) -> Tensor:
    return x.abs().neg_().add_(1).clamp_min_(0)


def _tent_slope(x: Tensor) -> Tensor:
    """1 between -1 and 0, -1 between 0 and 1, at a whole number as on its right."""
    step = x.floor()
    return _tent(step + 1).sub_(_tent(step))  # a tent is 1 at 0 and 0 at all other whole numbers


@dataclass(frozen=True)
class Corners:
    """The four cells around each point, in the order upper left, upper right, lower left, lower right.

    Attributes:
        x, y: the axes.
        index: (n, 4, L P) int32, their rows.
    """

    x: Axis
    y: Axis
    index: Tensor

    @classmethod
    def of(cls, locations: Tensor, levels: PointLevels, piece: slice) -> Corners:
        """Of a piece of whole queries; locations are (B Q M, L P, 2)."""
        locations = locations[piece]
        x, y = (Axis.of(locations[..., i], levels.sizes[i], levels.gaps[i]) for i in (0, 1))
        heads, points = levels.first.shape
        # float32 counts cells exactly up to 16 million. Where a location is NaN the cell is arbitrary, but on the map.
        cell = torch.addcmul(x.cell, y.cell, levels.sizes[0]).int().clamp_min_(0).mul_(heads)
        query = torch.arange(len(cell) // heads) + piece.start // heads
        origin = query.div(levels.queries, rounding_mode="floor").mul_(levels.rows).int()
        upper = cell.view(-1, heads, points).add_(levels.first).add_(origin[:, None, None]).view(-1, points)
        lower = upper + levels.below
        right = torch.where(levels.sizes[0] > 1, heads, 0).int()
        return cls(x=x, y=y, index=torch.stack([upper, upper + right, lower, lower + right], dim=1))

    def weights(self, attention: Tensor, dim: int) -> Tensor:
        """(n, L P) attention times the bilinear weights of the four corners, stacked at `dim`."""
        top, bottom = attention * self.y.near, attention * self.y.far
        left, right = self.x.near, self.x.far
        return torch.stack([top * left, top * right, bottom * left, bottom * right], dim=dim)
