"""Single figures of masks and panoptic maps, for tables of all kinds."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..records import Comparison, ModelComparison


def has_masks(comparison: Comparison) -> bool:
    """Whether there is anything to say."""
    return any(model.masks is not None or model.panoptic is not None for model in comparison.models)


def mask_figure(key: str) -> Callable[[ModelComparison], float]:
    """A figure of `MaskMetrics`; NaN for models without masks."""
    return lambda model: math.nan if model.masks is None else float(getattr(model.masks, key))


def panoptic_figure(key: str) -> Callable[[ModelComparison], float]:
    """A figure of `PanopticMetrics`; NaN for models without panoptic maps."""
    return lambda model: math.nan if model.panoptic is None else float(getattr(model.panoptic, key))
