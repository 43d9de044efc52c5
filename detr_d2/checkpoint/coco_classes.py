"""Rows of class heads: the authors count COCO's category ids, detectron2 the 80 classes that have one.

In the authors' files row `i` of a class head stands for category id `i`, and 0 and ten gaps stand for nothing; in
detectron2 the 80 categories are numbered from 0 in the order of their ids. The row for "no object", where there is one
(softmax), is the last.
"""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from torch import Tensor

_THINGS = [category for category in COCO_CATEGORIES if category["isthing"]]
COCO_IDS: tuple[int, ...] = tuple(category["id"] for category in _THINGS)
COCO_NAMES: tuple[str, ...] = tuple(category["name"] for category in _THINGS)
NUM_IDS = COCO_IDS[-1] + 1  # 91: ids 0 to 90
UNNAMED = "N/A"  # as the authors and transformers call an id without a category
NAMES_BY_ID: tuple[str, ...] = tuple(
    dict(zip(COCO_IDS, COCO_NAMES, strict=True)).get(i, UNNAMED) for i in range(NUM_IDS)
)

# Logit of rows that no class stands for, far enough down for a probability of exactly 0, and within float16.
UNUSED_LOGIT = -1e4


def are_coco_ids(num_classes: int, class_names: Sequence[str] | None) -> bool:
    """Whether so many classes are the ids from 0 to 90; their names, where known, must not say otherwise."""
    if num_classes != NUM_IDS:
        return False
    return class_names is None or list(class_names) == list(NAMES_BY_ID) or "person" in class_names[1:2]


def are_coco_classes(num_classes: int, class_names: Sequence[str] | None) -> bool:
    """Whether so many classes are COCO's 80 in detectron2's order; their names, where known, must not say otherwise."""
    return num_classes == len(COCO_IDS) and (class_names is None or list(class_names) == list(COCO_NAMES))


def select_classes(rows: Tensor) -> Tensor:
    """(91, ...) rows by category id -> the (80, ...) rows of the classes; a last row of "no object" is kept in both."""
    return rows[[*COCO_IDS, *range(NUM_IDS, len(rows))]]


def spread_classes(rows: Tensor) -> Tensor:
    """(80, ...) rows of the classes -> (91, ...) rows by category id; a last row of "no object" is kept in both.

    Rows without a class, see `unused_ids`, get weight 0 and, where `rows` is a bias, `UNUSED_LOGIT`: they are never
    predicted.
    """
    others = len(rows) - len(COCO_IDS)
    spread = rows.new_full((NUM_IDS + others, *rows.shape[1:]), UNUSED_LOGIT if rows.dim() == 1 else 0.0)
    spread[[*COCO_IDS, *range(NUM_IDS, NUM_IDS + others)]] = rows
    return spread


def select_proposal_rows(rows: Tensor) -> Tensor:
    """As `select_classes` for the head of a two-stage encoder, whose row 0 tells objects from background.

    All objects are of class 0 there, so row 0 stays row 0, and the row of the first class is given up.
    """
    selected = select_classes(rows)
    selected[0] = rows[0]
    return selected


def spread_proposal_rows(rows: Tensor) -> Tensor:
    """As `spread_classes` for the head of a two-stage encoder; see `select_proposal_rows`."""
    spread = spread_classes(rows)
    spread[0], spread[COCO_IDS[0]] = rows[0], spread[0].clone()
    return spread


def unused_ids() -> list[int]:
    """The ids below 91 that no category has."""
    return sorted(set(range(NUM_IDS)) - set(COCO_IDS))
