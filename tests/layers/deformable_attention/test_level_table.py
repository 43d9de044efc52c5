"""The table of levels that is kept on GPUs."""

from __future__ import annotations

import torch

from detr_d2.layers.deformable_attention.attention import _kept_table


def test_tables_kept_in_inference_mode_serve_in_training() -> None:
    with torch.inference_mode():
        table = _kept_table(((5, 3), (2, 1)), torch.device("cpu"))
    assert not table.is_inference()
    assert table.tolist() == [[5, 3, 0], [2, 1, 15]]
    assert _kept_table(((5, 3), (2, 1)), torch.device("cpu")) is table
