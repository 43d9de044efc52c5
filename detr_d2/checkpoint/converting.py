"""From a checkpoint of one library to a checkpoint of another: names by rules, class heads by category."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor

from ..files import new_folder, write_file, write_json
from .class_head import (
    Numbering,
    coco_ids_of,
    keep_coco_classes,
    map_class_rows,
    num_classes,
    num_rows,
    numbering_of_classes,
)
from .layouts.identify import Layout, convert, layout_of, unknown_layout
from .layouts.rules import ConversionError
from .layouts.transformers_config import model_config, preprocessor_config
from .renaming import PANOPTIC_KEYS, to_detectron2

FOLDER_FILES = ("config.json", "preprocessor_config.json", "model.safetensors", "pytorch_model.bin")
"""What may stand in a folder of `transformers` that is replaced."""

_FACTS = ("class_names", "category_ids", "architecture", *PANOPTIC_KEYS)

TARGETS = ("detectron2", "official", "huggingface")


@dataclass
class Converted:
    """A converted checkpoint.

    Args:
        state: name -> tensor, in `layout`.
        layout: the target.
        source_layout: what the file was.
        notes: sentences on what happened to the class head.
        facts: what the file tells beside its tensors, where it does: see `to_detectron2`, and `PANOPTIC_KEYS`.
    """

    state: dict[str, Tensor]
    layout: Layout
    source_layout: Layout
    notes: list[str]
    facts: Mapping[str, Any]


def convert_checkpoint(
    content: Mapping[str, Any], path: str, target: str, *, keep_all_rows: bool = False, timm: bool = True
) -> Converted:
    """Converts a DETR of any known library.

    Towards detectron2 a class head by category id is reduced to the 80 classes of COCO, or the 133 of COCO panoptic;
    from there it is spread over the ids again, with rows that are never predicted for ids without a class.

    Args:
        content: of the file.
        path: its name, for messages; `config.json` beside it names the classes of a model of `transformers`.
        target: one of `TARGETS`.
        keep_all_rows: leave the class head as it is.
        timm: name the backbone as timm does, where the target is "huggingface".

    Raises:
        ConversionError: if the file is not a DETR in a known layout, is incomplete, or has tensors left over.
    """
    content, source_layout = to_detectron2(content, path)
    if source_layout is None:
        raise ConversionError(unknown_layout(content["model"], path))
    _check_exists_elsewhere(content, target, path)
    library = "huggingface-native" if target == "huggingface" and not timm else target
    layout = layout_of(library, source_layout.family)
    notes = []
    by_id = coco_ids_of(content)
    classes = numbering_of_classes(num_classes(content), content.get("class_names"))
    if target == "detectron2" and by_id is not None and not keep_all_rows:
        content = keep_coco_classes(content)
        count = len(by_id.ids)
        notes.append(f"The class head keeps the rows of {by_id.title}'s {count} classes, out of those by category id.")
    elif target != "detectron2" and classes is not None and not keep_all_rows:
        notes += _notes_on_spreading(classes, named=content.get("class_names") is not None)
        content = _by_coco_id(content, classes)
    return Converted(
        state=convert(content["model"], layout, source=path),
        layout=layout,
        source_layout=source_layout,
        notes=notes,
        facts={key: value for key, value in content.items() if key in _FACTS},
    )


def _check_exists_elsewhere(content: Mapping[str, Any], target: str, path: str) -> None:
    if target != "detectron2" and not any(name.startswith("backbone.res5.") for name in content["model"]):
        raise ConversionError(
            f"{path} is a model whose backbone ends before res5 (MODEL.RESNETS.OUT_FEATURES), as the small ones of the "
            "quickstart do; no other library has such a DETR."
        )
    plain = "head.class_embed.weight" in content["model"]
    if target != "detectron2" and plain and num_rows(content["model"]) == len(content.get("class_names") or ()):
        raise ConversionError(
            f'{path} is a DETR with focal loss (its class head has no row for "no object"), which no other library has.'
        )


def _by_coco_id(content: Mapping[str, Any], numbering: Numbering) -> dict[str, Any]:
    model = map_class_rows(content["model"], numbering.spread, numbering.spread_proposals)
    names = {"class_names": list(numbering.names_by_id), "category_ids": list(range(numbering.num_ids))}
    return {**content, "model": model, **names}


def _notes_on_spreading(numbering: Numbering, *, named: bool) -> list[str]:
    unnamed = (
        f"The file does not name its {len(numbering.ids)} classes: they are taken for {numbering.title}'s "
        "(--keep-all-rows does not)."
    )
    ids = _as_ranges(numbering.unused_ids())
    spread = f"The class head has a row for each category id; these have no class and bias -1e4: {ids}."
    return [spread] if named else [unnamed, spread]


def _as_ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as text; three or more in a row as the first and the last of them."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts = [f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return ", ".join(texts)


def write_checkpoint(converted: Converted, path: str, cfg: CfgNode | None) -> None:
    """Writes a converted checkpoint, whole or not at all.

    Args:
        converted: the checkpoint.
        path: a file, or for "huggingface" a folder, which is replaced if it exists.
        cfg: of the model; needed for "huggingface", which asks for what the tensors do not tell.
    """
    if converted.layout.name.startswith("huggingface"):
        assert cfg is not None
        _write_folder(converted, path, cfg)
        return
    data: dict[str, Any] = {"model": converted.state}
    if converted.layout.name == "detectron2":
        data.update({key: value for key, value in converted.facts.items() if value and key != "architecture"})
    write_file(path, lambda file: torch.save(data, file))


def _write_folder(converted: Converted, path: str, cfg: CfgNode) -> None:
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise ModuleNotFoundError('writing safetensors needs safetensors: pip install "detr_d2[hf]".') from error
    timm = converted.layout.name == "huggingface"
    config = model_config(cfg, converted.state, class_names=converted.facts.get("class_names"), timm=timm)
    with new_folder(path, replaces=FOLDER_FILES) as folder:
        write_json(folder / "config.json", config)
        write_json(folder / "preprocessor_config.json", preprocessor_config(cfg))
        state = {name: tensor.contiguous() for name, tensor in converted.state.items()}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
