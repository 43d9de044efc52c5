"""A DETR of any library under this package's names, with what its file tells of its classes and its architecture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from torch import nn

from .class_head import num_classes, numbering_by_id
from .layouts.identify import Layout, convert, identify

HEADS, DILATED = "num_heads", "dilated"
"""Keys of what the tensors do not show: see `check_architecture`."""

PANOPTIC_KEYS = ("num_things", "panoptic_layout")
"""What files of this package's panoptic models tell beside the names: see `PanopticClasses`."""


class _Config(msgspec.Struct):
    """What counts in the config.json of a model of `transformers`."""

    id2label: dict[str, str] | None = None
    encoder_attention_heads: int | None = None
    dilation: bool | None = None
    backbone_config: dict[str, Any] | None = None


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
        "architecture": _architecture(content, config),
        **_classes(content, config),
    }
    numbering = numbering_by_id(num_classes(content), content.get("class_names"))
    if numbering is not None:
        content.update(class_names=list(numbering.names_by_id), category_ids=list(range(numbering.num_ids)))
    return content, layout


def check_architecture(content: Mapping[str, Any], model: nn.Module, source: str) -> None:
    """Compares what a checkpoint says of its model ("architecture") with a model.

    Raises:
        ValueError: they differ; the tensors would fit all the same, and the predictions be wrong.
    """
    stated = content.get("architecture", {})
    found = {getattr(module, "num_heads", None) for module in model.get_submodule("transformer").modules()}
    heads = [x for x in found if isinstance(x, int)]
    if HEADS in stated and heads and heads != [stated[HEADS]]:
        raise ValueError(
            f"{source} is a model with {stated[HEADS]} attention heads, but MODEL.DETR.TRANSFORMER.NUM_HEADS is "
            f"{heads[0]}."
        )
    convolutions = [x for x in model.get_submodule("backbone").modules() if isinstance(x, nn.Conv2d)]
    dilated = any(max(x.dilation) > 1 for x in convolutions)
    if DILATED in stated and convolutions and dilated != bool(stated[DILATED]):
        raise ValueError(
            f"{source} is a model {'with' if stated[DILATED] else 'without'} a dilated backbone (DC5): set "
            f"MODEL.RESNETS.RES5_DILATION to {2 if stated[DILATED] else 1}, or take the config of that model."
        )


def _architecture(content: Mapping[str, Any], config: _Config | None) -> dict[str, Any]:
    """Number of heads and whether the backbone is dilated (DC5), where they are known.

    Args:
        content: checkpoint; "args" is the command line in the authors' training files.
        config: `config.json` of transformers.
    """
    args = vars(content["args"]) if hasattr(content.get("args"), "__dict__") else {}
    stated: dict[str, Any] = {HEADS: args.get("nheads"), DILATED: args.get("dilation")}
    if config is not None:
        backbone = config.backbone_config or {}
        stated[HEADS] = config.encoder_attention_heads or stated[HEADS]
        stated[DILATED] = bool(config.dilation) or backbone.get("output_stride") == 16
    return {key: value for key, value in stated.items() if value is not None}


def _classes(content: Mapping[str, Any], config: _Config | None) -> dict[str, Any]:
    """Class names in the checkpoint, else in the config of `transformers`."""
    known = {key: content[key] for key in ("class_names", "category_ids") if key in content}
    names = (config.id2label if config else None) or {}
    return known or ({"class_names": [names[str(i)] for i in range(len(names))]} if names else {})


def _transformers_config(path: str) -> _Config | None:
    """The config.json beside the weights of a model of `transformers`, if it is there."""
    file = Path(path).with_name("config.json")
    if not file.is_file():
        return None
    try:
        told = msgspec.json.decode(file.read_bytes(), type=_Config)
        names = told.id2label or {}
        if set(names) != {str(i) for i in range(len(names))}:
            raise ValueError("id2label does not count from 0")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not a config of transformers ({error}): restore or remove it.") from error
    return told
