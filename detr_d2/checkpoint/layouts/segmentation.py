"""DETR with a mask head in the authors' layout (left) and in others (right).

The authors keep the whole box model behind "detr.", and the attention of the masks beside the convolutions, which here
belong together; `transformers` keeps the names of both in its files. A model with masks has every tensor of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from . import huggingface, official
from .rules import Rename, Rule, Stack

MASK_HEAD = "mask_head."
"""How the names of the mask head begin in this package."""

_ATTENTION = ("q_linear", "k_linear")
_CONVOLUTIONS = (
    *(f"{kind}{number}" for number in range(1, 6) for kind in ("lay", "gn")),
    "out_lay",
    *(f"adapter{number}" for number in range(1, 4)),
)


def _mask_head(attention: str, head: str) -> list[Rule]:
    """The authors' names on the left; on the right other parents of attention and convolutions."""
    pairs = [(f"bbox_attention.{x}", f"{attention}.{x}") for x in _ATTENTION]
    pairs += [(f"mask_head.{x}", f"{head}.{x}") for x in _CONVOLUTIONS]
    return [Rename(f"{left}.{{p}}", f"{right}.{{p}}") for left, right in pairs]


def _box_model(rules: Iterable[Rule], prefix: str = "") -> list[Rule]:
    """The rules of the model without masks, behind "detr." on the left and a prefix on the right."""
    behind: list[Rule] = []
    for rule in rules:
        if isinstance(rule, Rename):
            behind.append(replace(rule, left=f"detr.{rule.left}", right=f"{prefix}{rule.right}"))
        elif isinstance(rule, Stack):
            parts = tuple(f"{prefix}{part}" for part in rule.right)
            behind.append(replace(rule, left=f"detr.{rule.left}", right=parts))
        else:
            behind.append(rule)  # of something outside the model
    return behind


def _table(rules: Sequence[Rule], prefix: str, attention: str, head: str) -> list[Rule]:
    return [*_box_model(rules, prefix), *_mask_head(attention, head)]


DETECTRON2 = _table(official.DETECTRON2, "", f"{MASK_HEAD}bbox_attention", "mask_head")
WRAPPER = _table(official.WRAPPER, "detr.", "detr.bbox_attention", "detr.mask_head")
WITH_TIMM = _table(huggingface.WITH_TIMM, "detr.", "bbox_attention", "mask_head")
WITHOUT_TIMM = _table(huggingface.WITHOUT_TIMM, "detr.", "bbox_attention", "mask_head")
