"""Comparing state dicts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def assert_same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    """Same names, and the same values to the last bit."""
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
