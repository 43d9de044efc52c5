"""What comparisons with `transformers` in double precision need."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from detr_d2.layers import SinePositionEncoding


@pytest.fixture
def our_sine_in_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets `transformers` add our encodings, which are computed in float32 as the authors' are."""
    from transformers.models.detr import modeling_detr

    def forward(
        self: Any, shape: torch.Size, device: torch.device, dtype: torch.dtype, mask: Tensor | None = None
    ) -> Tensor:
        ours = SinePositionEncoding(num_channels=2 * self.num_position_features, temperature=self.temperature)
        encoding = ours((shape[-2], shape[-1]), None if mask is None else ~mask.bool(), device)
        return encoding.expand(shape[0], -1, -1, -1).to(dtype)

    monkeypatch.setattr(modeling_detr.DetrSinePositionEmbedding, "forward", forward)
