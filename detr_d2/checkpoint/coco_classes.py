"""Rows of class heads: the authors count COCO's category ids, detectron2 the 80 classes that have one.

In the authors' files row `i` of a class head stands for category id `i` (0 and ten gaps stand for nothing), and "no
object" is the last row; in detectron2 the 80 categories are numbered from 0 in the order of their ids.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from torch import Tensor

_THINGS = [category for category in COCO_CATEGORIES if category["isthing"]]
COCO_IDS: tuple[int, ...] = tuple(category["id"] for category in _THINGS)
COCO_NAMES: tuple[str, ...] = tuple(category["name"] for category in _THINGS)
NUM_IDS = COCO_IDS[-1] + 1  # 91: ids 0 to 90
NAMES_BY_ID: tuple[str, ...] = tuple(dict(zip(COCO_IDS, COCO_NAMES, strict=True)).get(i, "N/A") for i in range(NUM_IDS))

# Logit of rows that no class stands for, far enough down for a probability of exactly 0, and within float16.
UNUSED_LOGIT = -1e4


def rows_are_coco_ids(num_rows: int, class_names: Sequence[str] | None) -> bool:
    """Whether a class head of so many rows, "no object" among them, has one for each id from 0 to 90."""
    if num_rows != NUM_IDS + 1:
        return False
    return class_names is None or list(class_names) == list(NAMES_BY_ID) or "person" in class_names[1:2]


def rows_are_coco_classes(num_rows: int, class_names: Sequence[str] | None) -> bool:
    """Whether a class head of so many rows has one for each of the 80 classes in detectron2's order."""
    return num_rows == len(COCO_IDS) + 1 and (class_names is None or list(class_names) == list(COCO_NAMES))


def select_classes(rows: Tensor) -> Tensor:
    """(92, ...) rows by category id -> the (81, ...) rows of the 80 classes and of "no object"."""
    return rows[[*COCO_IDS, NUM_IDS]]


def spread_classes(rows: Tensor) -> Tensor:
    """(81, ...) rows of the 80 classes and of "no object" -> (92, ...) rows by category id; see `unused_ids`.

    Rows without a class get weight 0 and, where `rows` is a bias (81,), `UNUSED_LOGIT`: they are never predicted.
    """
    spread = rows.new_full((NUM_IDS + 1, *rows.shape[1:]), UNUSED_LOGIT if rows.dim() == 1 else 0.0)
    spread[torch.tensor([*COCO_IDS, NUM_IDS])] = rows
    return spread


def unused_ids() -> list[int]:
    """The ids below 91 that no category has."""
    return sorted(set(range(NUM_IDS)) - set(COCO_IDS))
