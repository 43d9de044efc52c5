"""A file's weights under this package's names, with what the file tells about its classes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .coco_classes import COCO_IDS, COCO_NAMES, NAMES_BY_ID, NUM_IDS, rows_are_coco_ids, select_classes
from .layouts import DETECTRON2, Layout, convert, identify

CLASS_HEAD = DETECTRON2.class_head


def to_detectron2(content: Mapping[str, Any], path: str) -> tuple[dict[str, Any], Layout | None]:
    """Renames the weights of a checkpoint, if they are a DETR in a layout that is known.

    Args:
        content: checkpoint with "model".
        path: of its file; `config.json` beside it names the classes of a model of `transformers`.

    Returns:
        The checkpoint with renamed weights and, where they are known, "class_names" and "category_ids"; and the layout
        it had, None if it is not known.

    Raises:
        ConversionError: if the file is incomplete, or has tensors that no DETR has.
    """
    layout = identify(content["model"])
    if layout is None or layout is DETECTRON2:
        return dict(content), layout
    content = {"model": convert(content["model"], DETECTRON2, source=path), **_classes(content, path)}
    if rows_are_coco_ids(num_rows(content["model"]), content.get("class_names")):
        content.update(class_names=list(NAMES_BY_ID), category_ids=list(range(NUM_IDS)))
    return content, layout


def num_rows(state: Mapping[str, Tensor]) -> int:
    """Rows of the class head, "no object" among them."""
    return int(state[f"{CLASS_HEAD}.bias"].shape[0])


def is_by_coco_id(content: Mapping[str, Any]) -> bool:
    """Whether the class head of a checkpoint has a row for each category id of COCO."""
    return list(content.get("class_names") or ()) == list(NAMES_BY_ID)


def keep_coco_classes(content: Mapping[str, Any]) -> dict[str, Any]:
    """Reduces a class head by category id to the 80 classes of detectron2's COCO; see `is_by_coco_id`."""
    model = dict(content["model"])
    for name in (f"{CLASS_HEAD}.weight", f"{CLASS_HEAD}.bias"):
        model[name] = select_classes(model[name])
    return {**content, "model": model, "class_names": list(COCO_NAMES), "category_ids": list(COCO_IDS)}


def _classes(content: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Class names in the checkpoint, else in the config of `transformers` beside it."""
    known = {key: content[key] for key in ("class_names", "category_ids") if key in content}
    config = Path(path).with_name("config.json")
    if known or not config.is_file():
        return known
    try:
        names = json.loads(config.read_text(encoding="utf-8")).get("id2label") or {}
        return {"class_names": [names[str(i)] for i in range(len(names))]} if names else {}
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{config} is not a config of transformers ({error}): restore or remove it.") from error
