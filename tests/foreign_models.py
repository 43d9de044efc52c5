"""Checkpoints of other libraries, made from a small DETR of this one."""

from __future__ import annotations

from typing import Any

import torch
from tiny_models import tiny_detr
from torch import Tensor

from detr_d2.checkpoint.layouts import Layout, convert
from detr_d2.modeling import DETR


def small_detr(*options: Any) -> DETR:
    """A tiny DETR on the whole of ResNet-18, as other libraries want it, with random statistics."""
    model = tiny_detr("MODEL.RESNETS.OUT_FEATURES", ["res5"], "MODEL.DETR.IN_FEATURES", ["res5"], *options)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.startswith("backbone"):
                buffer.uniform_(0.5, 1.5)
    return model


def foreign_state(model: DETR, layout: Layout) -> dict[str, Tensor]:
    """Its state dict under the names of another library."""
    return convert(model.state_dict(), layout, source="a small DETR")


def assert_same_state(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    """Same names, same values bit by bit."""
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
