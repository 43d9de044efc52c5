"""What a comparison keeps of a model that it has measured, for what needs several of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .found.nms import Candidates
from .measure.everything import Measured
from .models import Contestant


@dataclass(frozen=True)
class Finished:
    """A model that did not fail.

    Args:
        measured: its figures.
        candidates: index of an image -> what the model found there before NMS; None if it crashed on it.
        class_map: (model's K,) index in the dataset of each of the model's classes, -1 for those it does not have.
        folder: of what the cache holds of it.
        contestant: None for detections that another program made.
    """

    measured: Measured
    candidates: Callable[[int], Candidates | None]
    class_map: np.ndarray
    folder: Path
    contestant: Contestant | None = None
