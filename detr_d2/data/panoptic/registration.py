"""COCO panoptic data of one's own: `NAME=panoptic.json:png_root:image_root`, with `:instances.json` for AP as well."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from itertools import count
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.colormap import colormap

from ...class_names import listed
from ...panoptic_classes import PanopticClasses
from ..coco.annotation_table import read_coco_table
from ..coco.dataset import CocoDataset, is_registered
from ..coco.json_file import absolute
from ..coco.json_values import Id, plain_id, shown
from .file import PanopticFile, panoptic_records, read_panoptic_file

_CURE = "check the path given to --coco-panoptic"
_FORM = "NAME=panoptic.json:png_root:image_root[:instances.json]"


@dataclass(frozen=True)
class PanopticSpec:
    """What `--coco-panoptic` says; all paths absolute, `instances_json` "" where it was not given."""

    name: str
    panoptic_json: str
    png_root: str
    image_root: str
    instances_json: str

    @classmethod
    def parse(cls, spec: str) -> PanopticSpec:
        """Raises ValueError if the spec is not of the form NAME=panoptic.json:png_root:image_root[:instances.json]."""
        name, _, paths = spec.partition("=")
        parts = re.split(r":(?!//)", paths)
        instances = parts.pop() if len(parts) == 4 and parts[-1].lower().endswith(".json") else ""
        if not name.strip() or len(parts) != 3 or not all(parts) or not parts[0].lower().endswith(".json"):
            raise ValueError(
                f'--coco-panoptic {spec}: expected {_FORM}, such as "rooms=rooms/panoptic.json:rooms/panoptic:'
                'rooms/images"; paths cannot hold colons'
            )
        return cls(name.strip(), *(absolute(path) if path else "" for path in (*parts, instances)))


def register_coco_panoptic(spec: str) -> str:
    """Registers a COCO panoptic file with detectron2, its classes included, in the "separated" layout of ids.

    Its dicts have `pan_seg_file_name` and `segments_info`, and with instances.json also the `annotations` of the
    things, for models that know things only and for box and mask AP.

    Args:
        spec: "NAME=panoptic.json:png_root:image_root[:instances.json]".

    Returns:
        NAME, which `DATASETS.TRAIN` and `DATASETS.TEST` can then hold.

    Raises:
        ValueError: if the spec, a file or a folder is wrong, the two files disagree on classes or images, or NAME
            stands for other data already.
    """
    parsed = PanopticSpec.parse(spec)
    sources = {
        "panoptic_json": parsed.panoptic_json,
        "panoptic_root": parsed.png_root,
        "image_root": parsed.image_root,
        **({"json_file": parsed.instances_json} if parsed.instances_json else {}),
    }
    if is_registered(parsed.name, sources, f"--coco-panoptic {spec}"):
        return parsed.name
    file = read_panoptic_file(parsed.panoptic_json)
    if parsed.instances_json:
        _check_instances(parsed, file)
    metadata = _metadata(file)
    DatasetCatalog.register(parsed.name, lambda: _load(parsed))
    MetadataCatalog.get(parsed.name).set(evaluator_type="coco_panoptic_seg", ignore_label=255, **sources, **metadata)
    return parsed.name


def _metadata(file: PanopticFile) -> dict[str, Any]:
    """What detectron2's evaluators and `Visualizer` ask for."""
    palette = colormap(rgb=True, maximum=255).round().astype(int).tolist()
    colors = [palette[index % len(palette)] for index in range(len(file.things) + len(file.stuff) + 1)]
    stuff_ids = {dataset_id: index for index, dataset_id in enumerate(file.stuff, start=1)}
    unused = next(i for i in count(0, -1) if i not in file.is_thing)  # every contiguous id has an id of the data
    return {
        "thing_classes": list(file.things.values()),
        "thing_colors": colors[: len(file.things)],
        "thing_dataset_id_to_contiguous_id": {dataset_id: index for index, dataset_id in enumerate(file.things)},
        "stuff_classes": ["things", *file.stuff.values()],
        "stuff_colors": colors[len(file.things) :],
        "stuff_dataset_id_to_contiguous_id": {unused: 0, **stuff_ids},
    }


def _check_instances(spec: PanopticSpec, file: PanopticFile) -> None:
    """Raises ValueError unless the instances are of the same things."""
    table = read_coco_table(spec.instances_json, _CURE)
    things = dict(zip(table.class_ids.tolist(), table.class_names.tolist(), strict=True))
    if things != file.things:
        raise ValueError(
            f"{spec.instances_json} has the classes {_first(things)}, but the things of {spec.panoptic_json} are "
            f"{_first(file.things)}: both files need the same ids and names"
        )
    if not len(table.classes):
        raise ValueError(f"{spec.instances_json} has no annotations: expected those of the things of the panoptic file")


def _first(classes: dict[Id, str]) -> str:
    return listed([f"{shown(class_id)} {name}" for class_id, name in classes.items()])


def _load(spec: PanopticSpec) -> list[dict[str, Any]]:
    """detectron2's dicts of the dataset."""
    file = read_panoptic_file(spec.panoptic_json)
    classes = PanopticClasses.from_metadata(MetadataCatalog.get(spec.name), name=spec.name)
    assert classes is not None
    records = panoptic_records(file, classes, spec.png_root, spec.image_root)
    if not spec.instances_json:
        return records
    instances = CocoDataset(spec.name, spec.instances_json, spec.image_root, _CURE)()
    annotations = {(plain_id(x["image_id"]), x["file_name"]): x.get("annotations", []) for x in instances}
    for record in records:
        key = plain_id(record["image_id"]), record["file_name"]
        if key not in annotations:
            raise ValueError(
                f"{spec.instances_json} has no image {key[0]} with the file {os.path.basename(key[1])}, which "
                f"{spec.panoptic_json} has: both files need the same images under the same ids"
            )
        record["annotations"] = annotations[key]
    return records
