"""The tests' own initialisers give what PyTorch's give, but for repetitions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from quick_init import PERIOD
from torch.nn import init


@pytest.mark.parametrize("shape", [(512, 256, 3, 3), (700, 300), (16, 8)], ids=str)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("kaiming_normal_", {"mode": "fan_out", "nonlinearity": "relu"}),
        ("kaiming_uniform_", {"a": 1}),
        ("kaiming_uniform_", {"a": 5**0.5}),
        ("xavier_uniform_", {"gain": 0.5}),
    ],
)
def test_spread_and_seed(name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
    ours = getattr(init, name)
    first, again = torch.empty(shape), torch.empty(shape)
    torch.manual_seed(1)
    ours(first, **options)
    torch.manual_seed(1)
    ours(again, **options)
    theirs = ours.__wrapped__(torch.empty(shape), **options)
    assert torch.equal(first, again)
    assert float(first.std()) == pytest.approx(float(theirs.std()), rel=0.02 if first.numel() > PERIOD else 0.3)
    assert float(first.mean()) == pytest.approx(0, abs=0.2 * float(first.std()))
    assert len(first.flatten(1).unique(dim=0)) == shape[0]
