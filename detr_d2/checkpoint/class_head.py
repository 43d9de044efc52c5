"""Rows of class heads, and which class each is: the authors count COCO's category ids, detectron2 the classes.

In the authors' files row `i` of a class head stands for category id `i`, and 0 and the gaps stand for nothing. Box and
instance models have the 80 things, ids 1 to 90; panoptic models have the 53 kinds of stuff as well, ids 92 to 200, and
rows up to 249. In detectron2 the things are numbered from 0 in the order of their ids; in this package stuff follows
them in the order of its ids. The row for "no object", where there is one (softmax), is the last.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from torch import Tensor

from ..class_names import STUFF_NAMES

CLASS_HEAD = re.compile(r"head\.class_embed(\.\d+)?\.(weight|bias)")
"""Names of the tensors with a row for each class."""

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


def num_rows(state: Mapping[str, Tensor]) -> int:
    """Rows of the class head, with that of "no object" where there is one."""
    return next(len(tensor) for name, tensor in state.items() if CLASS_HEAD.fullmatch(name))


def num_classes(content: Mapping[str, Any]) -> int:
    """K of a checkpoint; where it does not name its classes, DETR's own head counts as one with "no object"."""
    if content.get("class_names"):
        return len(content["class_names"])
    return num_rows(content["model"]) - int("head.class_embed.weight" in content["model"])


def coco_ids_of(content: Mapping[str, Any]) -> Numbering | None:
    """Whose category ids the rows of the class head of a checkpoint are; None if they are classes, or not COCO's."""
    names = tuple(content.get("class_names") or ())
    return next((x for x in NUMBERINGS if names == x.names_by_id), None)


def keep_coco_classes(content: Mapping[str, Any]) -> dict[str, Any]:
    """Reduces a class head by category id to the classes that detectron2 counts; see `coco_ids_of`."""
    numbering = coco_ids_of(content)
    assert numbering is not None
    names = {"class_names": list(numbering.names), "category_ids": list(numbering.ids)}
    return {**content, "model": map_class_rows(content["model"], numbering.select, numbering.select_proposals), **names}


def map_class_rows(
    state: Mapping[str, Tensor],
    classes: Callable[[Tensor], Tensor],
    proposals: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """Applies one function of rows to every class head, and another to that of a two-stage encoder."""
    changed = dict(state)
    for name, tensor in state.items():
        if CLASS_HEAD.fullmatch(name):
            changed[name] = proposals(tensor) if is_of_proposals(name, state) else classes(tensor)
    return changed


def is_of_proposals(name: str, state: Container[str]) -> bool:
    """Whether a tensor belongs to the class head of a two-stage encoder, which is the last one."""
    match = re.fullmatch(r"head\.class_embed\.(\d+)\.\w+", name)
    if match is None or "transformer.enc_output.weight" not in state:
        return False
    return f"head.class_embed.{int(match[1]) + 1}.weight" not in state
