"""Two-dimensional position encodings of a feature map, (B, C, H, W) each.

Paper: Carion et al. 2020, appendix A.4, "Spatial positional encoding".
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class SinePositionEncoding(nn.Module):
    """Sines and cosines of the cell position in the unpadded image, y channels first.

    Positions count valid cells from 1 and are divided by their number, so that they lie in (0, 1] whatever the size.
    Computed in float32, as the authors do, and independent of autocast.

    Args:
        num_channels: C, half of it for each axis; a multiple of 4.
        temperature: base of the frequencies.
        offset: added to the count before dividing (-0.5 puts positions on cell centres).
    """

    def __init__(self, *, num_channels: int, temperature: float = 10000.0, offset: float = 0.0) -> None:
        super().__init__()
        if num_channels % 4:
            raise ValueError(f"The sine position encoding needs a multiple of 4 channels, got {num_channels}.")
        self.num_channels = num_channels
        self.temperature = temperature
        self.offset = offset

    def forward(self, size: tuple[int, int], padding_mask: Tensor | None, device: torch.device) -> Tensor:
        """Encodes a map of `size` (H, W).

        Args:
            size: height and width in cells.
            padding_mask: (B, H, W), True on padding, or None when nothing is padded.

        Returns:
            (B, C, H, W) float32; B is 1, to be broadcast, without a mask.
        """
        if padding_mask is None:  # y is one number for a row and x one for a column
            y, x = (torch.arange(1, n + 1, dtype=torch.float32, device=device) for n in size)
            y, x = y[None, :, None], x[None, None, :]
        else:
            y, x = ((~padding_mask).cumsum(axis).float() for axis in (1, 2))  # integers: deterministic on GPUs, too
        rows = self._encode(self._normalise(y, y[:, -1:])).expand(-1, -1, size[1], -1)
        columns = self._encode(self._normalise(x, x[:, :, -1:])).expand(-1, size[0], -1, -1)
        return torch.cat([rows, columns], dim=3).permute(0, 3, 1, 2)

    def _normalise(self, count: Tensor, last: Tensor) -> Tensor:
        return (count + self.offset) / (last + 1e-6) * (2 * math.pi)

    def _encode(self, angle: Tensor) -> Tensor:
        channels = self.num_channels // 2
        exponent = torch.arange(channels // 2, dtype=torch.float32, device=angle.device) * 2 / channels
        phase = angle[..., None] / self.temperature**exponent  # (..., C / 4)
        return torch.stack([phase.sin(), phase.cos()], dim=-1).flatten(-2)  # interleaved: sin, cos, sin, ...


class LearnedPositionEncoding(nn.Module):
    """A learned vector per row and per column, x channels first.

    Args:
        num_channels: C, half of it for each axis.
        max_size: rows and columns that have a vector.
    """

    def __init__(self, *, num_channels: int, max_size: int = 50) -> None:
        super().__init__()
        self.max_size = max_size
        self.row_embed = nn.Embedding(max_size, num_channels // 2)
        self.col_embed = nn.Embedding(max_size, num_channels // 2)
        nn.init.uniform_(self.row_embed.weight)
        nn.init.uniform_(self.col_embed.weight)

    def forward(self, size: tuple[int, int], padding_mask: Tensor | None, device: torch.device) -> Tensor:  # noqa: ARG002
        """Encodes a map of `size` (H, W) as (1, C, H, W); padding plays no part.

        Raises:
            ValueError: if the map is larger than the number of learned rows or columns.
        """
        height, width = size
        if max(size) > self.max_size:
            raise ValueError(
                f"The learned position encoding has {self.max_size} rows and columns, the feature map {height} x "
                f"{width}: use smaller images or the sine encoding."
            )
        x = self.col_embed.weight[:width].expand(height, -1, -1)
        y = self.row_embed.weight[:height, None].expand(-1, width, -1)
        return torch.cat([x, y], dim=-1).permute(2, 0, 1)[None]
