"""A file's weights under this package's names, with what the file tells about its classes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .architecture import stated_architecture
from .coco_classes import NUMBERINGS, Numbering, numbering_by_id
from .layouts.identify import Layout, convert, identify

CLASS_HEAD = re.compile(r"head\.class_embed(\.\d+)?\.(weight|bias)")
"""Names of the tensors with a row for each class."""

PANOPTIC_KEYS = ("num_things", "panoptic_layout")
"""What files of this package's panoptic models tell beside the names: see `PanopticClasses`."""


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
    if layout is None or layout.name == "detectron2":
        return dict(content), layout
    config = _transformers_config(path) if layout.name.startswith("huggingface") else None
    content = {
        "model": convert(content["model"], "detectron2", source=path),
        "architecture": stated_architecture(content, config),
        **_classes(content, config),
    }
    numbering = numbering_by_id(num_classes(content), content.get("class_names"))
    if numbering is not None:
        content.update(class_names=list(numbering.names_by_id), category_ids=list(range(numbering.num_ids)))
    return content, layout


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


def is_by_coco_id(content: Mapping[str, Any]) -> bool:
    """Whether the class head of a checkpoint has a row for each category id of COCO, or of COCO panoptic."""
    return coco_ids_of(content) is not None


def keep_coco_classes(content: Mapping[str, Any]) -> dict[str, Any]:
    """Reduces a class head by category id to the classes that detectron2 counts; see `is_by_coco_id`."""
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


def _classes(content: Mapping[str, Any], config: Mapping[str, Any] | None) -> dict[str, Any]:
    """Class names in the checkpoint, else in the config of `transformers`."""
    known = {key: content[key] for key in ("class_names", "category_ids") if key in content}
    names = (config or {}).get("id2label") or {}
    return known or ({"class_names": [names[str(i)] for i in range(len(names))]} if names else {})


def _transformers_config(path: str) -> dict[str, Any] | None:
    """The config.json beside the weights of a model of `transformers`, if it is there."""
    file = Path(path).with_name("config.json")
    if not file.is_file():
        return None
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        names = config.get("id2label") or {}
        if set(names) != {str(i) for i in range(len(names))}:
            raise ValueError("id2label does not count from 0")
        if not all(isinstance(name, str) for name in names.values()):
            raise ValueError("id2label holds something else than names")
        if not isinstance(config.get("backbone_config") or {}, dict):
            raise ValueError("backbone_config has no keys of its own")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} is not a config of transformers ({error}): restore or remove it.") from error
    return dict(config)
