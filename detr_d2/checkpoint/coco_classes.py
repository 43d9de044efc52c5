"""Rows of class heads: the authors count COCO's category ids, detectron2 the classes that have one.

In the authors' files row `i` of a class head stands for category id `i`, and 0 and the gaps stand for nothing. Box and
instance models have the 80 things, ids 1 to 90; panoptic models have the 53 kinds of stuff as well, ids 92 to 200, and
rows up to 249. In detectron2 the things are numbered from 0 in the order of their ids; in this package stuff follows
them in the order of its ids. The row for "no object", where there is one (softmax), is the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from torch import Tensor

from ..class_names import STUFF_NAMES

UNNAMED = "N/A"  # as the authors and transformers call an id without a category

# Logit of rows that no class stands for, far enough down for a probability of exactly 0, and within float16.
UNUSED_LOGIT = -1e4


@dataclass(frozen=True)
class Numbering:
    """The same categories as rows by category id and as rows of K classes.

    Args:
        title: whose categories, for messages.
        ids: category id of each class.
        names: of the classes.
        num_ids: rows by category id.
    """

    title: str
    ids: tuple[int, ...]
    names: tuple[str, ...]
    num_ids: int

    @property
    def names_by_id(self) -> tuple[str, ...]:
        """A name for each id from 0; `UNNAMED` for those without a category."""
        names = dict(zip(self.ids, self.names, strict=True))
        return tuple(names.get(i, UNNAMED) for i in range(self.num_ids))

    def unused_ids(self) -> list[int]:
        """The ids below `num_ids` that no category has."""
        return sorted(set(range(self.num_ids)) - set(self.ids))

    def select(self, rows: Tensor) -> Tensor:
        """(num_ids, ...) rows -> the (K, ...) rows of the classes; a last row of "no object" is kept in both."""
        return rows[[*self.ids, *range(self.num_ids, len(rows))]]

    def spread(self, rows: Tensor) -> Tensor:
        """(K, ...) rows of the classes -> (num_ids, ...) rows; a last row of "no object" is kept in both.

        Rows without a class, see `unused_ids`, get weight 0 and, where `rows` is a bias, `UNUSED_LOGIT`: they are
        never predicted.
        """
        others = len(rows) - len(self.ids)
        spread = rows.new_full((self.num_ids + others, *rows.shape[1:]), UNUSED_LOGIT if rows.dim() == 1 else 0.0)
        spread[[*self.ids, *range(self.num_ids, self.num_ids + others)]] = rows
        return spread

    def select_proposals(self, rows: Tensor) -> Tensor:
        """As `select` for the head of a two-stage encoder, whose row 0 tells objects from background.

        All objects are of class 0 there, so row 0 stays row 0, and the row of the first class is given up.
        """
        selected = self.select(rows)
        selected[0] = rows[0]
        return selected

    def spread_proposals(self, rows: Tensor) -> Tensor:
        """As `spread` for the head of a two-stage encoder; see `select_proposals`."""
        spread = self.spread(rows)
        spread[0], spread[self.ids[0]] = rows[0], spread[0].clone()
        return spread

    def counts_ids(self, num_classes: int, class_names: Sequence[str] | None) -> bool:
        """Whether so many classes are the ids from 0; their names, where known, must not say otherwise.

        Files of `transformers` name some of the ids only, and those without a category in several ways.
        """
        if num_classes != self.num_ids:
            return False
        return class_names is None or list(class_names) == list(self.names_by_id) or "person" in class_names[1:2]

    def counts_classes(self, num_classes: int, class_names: Sequence[str] | None) -> bool:
        """Whether so many classes are these in this order; their names, where known, must not say otherwise.

        Stuff may be named as in COCO's files, as detectron2's metadata of the standard layout has it.
        """
        names = None if class_names is None else [STUFF_NAMES.get(name, name) for name in class_names]
        return num_classes == len(self.ids) and (names is None or names == list(self.names))


_THINGS = [category for category in COCO_CATEGORIES if category["isthing"]]
_STUFF = [category for category in COCO_CATEGORIES if not category["isthing"]]

DETECTION = Numbering(
    title="COCO",
    ids=tuple(category["id"] for category in _THINGS),
    names=tuple(category["name"] for category in _THINGS),
    num_ids=91,
)
"""COCO's things; detectron2's metadata of `coco_2017_val`."""

PANOPTIC = Numbering(
    title="COCO panoptic",
    ids=(*DETECTION.ids, *(category["id"] for category in _STUFF)),
    names=(*DETECTION.names, *STUFF_NAMES.values()),
    num_ids=250,
)
"""COCO's things, then its stuff; detectron2's metadata of `coco_2017_val_panoptic_separated`, whose stuff counts on
from 1: row k < 80 is thing k, a later one stuff k - 79."""

NUMBERINGS = (DETECTION, PANOPTIC)


def numbering_by_id(num_classes: int, class_names: Sequence[str] | None) -> Numbering | None:
    """Whose ids so many classes are; None if they are not."""
    return next((x for x in NUMBERINGS if x.counts_ids(num_classes, class_names)), None)


def numbering_of_classes(num_classes: int, class_names: Sequence[str] | None) -> Numbering | None:
    """Of which categories so many classes are; None if of none that is known."""
    return next((x for x in NUMBERINGS if x.counts_classes(num_classes, class_names)), None)
