"""Number formats."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """The same numbers in float32, or as they are if that is wider already: what float16 and bfloat16 cannot hold."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
