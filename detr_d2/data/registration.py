"""COCO-format data of one's own, `NAME=annotations.json:image_root`, and the number of classes that follows from it."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

from ..class_names import checked_names, listed
from ..panoptic_classes import PanopticClasses
from .checks.record_table import table_of_dicts
from .checks.records import registered_records
from .coco.annotation_table import AnnotationTable, read_coco_table
from .coco.dataset import CocoDataset, coco_dataset, is_registered
from .coco.json_file import absolute
from .panoptic.registration import register_coco_panoptic
from .panoptic.targets import segment_annotations

logger = logging.getLogger(__name__)

# Where a meta-architecture reads its number of classes.
_CLASS_KEYS = {
    "DETR": "MODEL.DETR.NUM_CLASSES",
    "GeneralizedRCNN": "MODEL.ROI_HEADS.NUM_CLASSES",
    "PanopticFPN": "MODEL.ROI_HEADS.NUM_CLASSES",
    "RetinaNet": "MODEL.RETINANET.NUM_CLASSES",
}

# Tables of datasets that are not COCO files, with the function that is registered under their name.
_tables: dict[tuple[str, bool], tuple[object, AnnotationTable]] = {}


def register_coco(spec: str) -> str:
    """Registers a COCO instances file with detectron2, its classes included.

    Args:
        spec: "NAME=annotations.json:image_root".

    Returns:
        NAME, which `DATASETS.TRAIN` and `DATASETS.TEST` can then hold.

    Raises:
        ValueError: if the spec, the file or the folder is wrong, or NAME stands for other data already.
    """
    name, json_file, image_root = _parse_spec(spec)
    sources = {"json_file": json_file, "image_root": image_root}
    if is_registered(name, sources, f"--coco {spec}"):
        return name
    dataset = CocoDataset(name, json_file, image_root, cure="check the path given to --coco")
    table = read_coco_table(json_file, dataset.cure)
    DatasetCatalog.register(name, dataset)
    MetadataCatalog.get(name).set(**sources, evaluator_type="coco")
    dataset.set_classes(table.class_names.tolist(), table.class_ids.tolist())
    return name


def category_ids(metadata: Metadata) -> list[int]:
    """The K category ids of a dataset's annotation file, in the order of the class indices that models predict.

    Args:
        metadata: of a dataset with class names; where it holds no ids, they are the indices 0..K-1.

    Raises ValueError if only some of the classes have an id.
    """
    names = metadata.get("thing_classes") or ()
    to_index = metadata.get("thing_dataset_id_to_contiguous_id")
    if not to_index:
        return list(range(len(names)))
    to_id = {index: category_id for category_id, index in to_index.items()}
    if missing := [name for index, name in enumerate(names) if index not in to_id]:
        raise ValueError(
            f"thing_dataset_id_to_contiguous_id of dataset {metadata.name} has no id of class {missing[0]}: map an id "
            "to each class, or leave it out"
        )
    return [to_id[index] for index in range(len(names))]


def _parse_spec(spec: str) -> tuple[str, str, str]:
    """Name, absolute path of the file, absolute path of the image folder; a folder's name may hold colons."""
    name, _, paths = spec.partition("=")
    end = paths.lower().rfind(".json:")
    if not name.strip() or end < 0 or not paths[end + 6 :]:
        raise ValueError(
            f'--coco {spec}: expected NAME=annotations.json:image_root, such as "cells=data/train.json:data/images"'
        )
    json_file, image_root = paths[: end + 5], paths[end + 6 :]
    return name.strip(), absolute(json_file), absolute(image_root)


def register_datasets(cfg: CfgNode, *, evaluation_only: bool = False) -> None:
    """Registers those of `DATASETS.COCO` and `DATASETS.COCO_PANOPTIC` that `DATASETS.TRAIN` or `DATASETS.TEST` name.

    Every process calls it, and calling it again changes nothing. The others may name files that are not there: a
    config can be used with other data than its own. COCO files that are registered otherwise are read by this package
    from now on.

    Args:
        cfg: the config.
        evaluation_only: do without those of `DATASETS.TRAIN` that cannot be registered, with a line that says so.

    Raises:
        ValueError: as `register_coco` and `register_coco_panoptic`; it says that the config names the data.
    """
    used = {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST}
    for key, register in (("COCO", register_coco), ("COCO_PANOPTIC", register_coco_panoptic)):
        for spec in cfg.DATASETS.get(key, []):
            name = spec.partition("=")[0]
            if name not in used and "=" in spec:
                continue
            try:
                register(spec)
            except ValueError as error:
                if evaluation_only and name in cfg.DATASETS.TRAIN and name not in cfg.DATASETS.TEST:
                    logger.info("The evaluation does without the training data: %s", error)
                    continue
                raise ValueError(
                    f"{error} (DATASETS.{key} of the config names these data; DATASETS.TRAIN and DATASETS.TEST "
                    "choose others)"
                ) from error
    for name in used & set(DatasetCatalog):
        coco_dataset(name)


def require_registered(names: Sequence[str]) -> None:
    """Raises ValueError if detectron2 does not know one of the dataset names; the message lists similar names.

    COCO files among them are read by this package from now on.
    """
    for name in names:
        if name not in DatasetCatalog:
            similar = difflib.get_close_matches(name, DatasetCatalog.list(), n=3)
            hint = f"; similar names: {', '.join(similar)}" if similar else ""
            raise ValueError(
                f"dataset {name} is not registered{hint}; register COCO-format data with "
                f"--coco {name}=annotations.json:image_root"
            )
        coco_dataset(name)


def is_coco_file(name: str) -> bool:
    """Whether a registered dataset is a COCO instances file, given by --coco or registered with detectron2."""
    return coco_dataset(name) is not None


def is_panoptic(cfg: CfgNode) -> bool:
    """Whether the config is of a model that is trained on things and stuff alike."""
    return cfg.MODEL.META_ARCHITECTURE == "DETR" and cfg.MODEL.DETR.PANOPTIC.ENABLED


def dataset_table(name: str, *, panoptic: bool = False) -> AnnotationTable | None:
    """The annotations of a registered dataset; None where it is not a list of dicts and cannot be looked through.

    A dataset that is not a COCO file is loaded for this, once in a process.

    Args:
        name: of the dataset.
        panoptic: of a dataset with panoptic ground truth, the segments in place of the annotations.

    Raises:
        ValueError: if its annotations cannot be used.
    """
    if (dataset := coco_dataset(name)) is not None:
        return dataset.table()
    loader, key = DatasetCatalog[name], (name, panoptic)
    if key not in _tables or _tables[key][0] is not loader:
        records = registered_records(name)
        if records is None:
            return None
        if panoptic and (classes := PanopticClasses.from_metadata(MetadataCatalog.get(name), name=name)) is not None:
            records = [segment_annotations(record, classes) for record in records]
        _tables[key] = (loader, table_of_dicts(name, records, classes_of(name, panoptic=panoptic, load=False) or ()))
    return _tables[key][1]


def classes_of(name: str, *, panoptic: bool = False, load: bool = True) -> list[str] | None:
    """Class names of a registered dataset, None if they are never known.

    Args:
        name: of the dataset.
        panoptic: things and stuff, where it has both.
        load: load the dataset if only then they are known.
    """
    metadata = MetadataCatalog.get(name)
    if panoptic and (classes := PanopticClasses.from_metadata(metadata, name=name)) is not None:
        return list(classes.names) or [f"class {row}" for row in range(len(classes))]
    if metadata.get("thing_classes") is None and load:
        dataset_table(name)
    return checked_names(metadata.get("thing_classes"), name)


def resolve_num_classes(cfg: CfgNode) -> CfgNode:
    """Puts the number of classes of the training data wherever the config says 0, and checks it where it does not.

    The data are `DATASETS.TRAIN`, or `DATASETS.TEST` if that is empty. Without either nothing changes.

    Args:
        cfg: the config; changed in place, also where it is frozen.

    Returns:
        The same config.

    Raises:
        ValueError: if datasets are unknown or disagree on the classes, or the config has another number than the data.
    """
    names = list(cfg.DATASETS.TRAIN) or list(cfg.DATASETS.TEST)
    if not names:
        return cfg
    require_registered(names)
    panoptic = is_panoptic(cfg)
    found = {name: classes_of(name, panoptic=panoptic) for name in names}
    first = names[0]
    for name, classes in found.items():
        if classes != found[first]:
            raise ValueError(
                f"datasets {first} and {name} have different classes, {listed(found[first] or ['unknown'])} and "
                f"{listed(classes or ['unknown'])}: datasets that are used together need the same classes in the same "
                "order"
            )
    classes = found[first]
    key = _CLASS_KEYS.get(cfg.MODEL.META_ARCHITECTURE)
    if classes is None:
        if key is not None and _get(cfg, key) == 0:
            raise ValueError(f"dataset {first} does not say its classes: set {key}, or thing_classes in its metadata")
        return cfg
    for candidate in dict.fromkeys(_CLASS_KEYS.values()):
        if _get(cfg, candidate) == 0:
            cfg.merge_from_list([candidate, len(classes)])  # frozen or not
    if panoptic:
        _resolve_things(cfg, names)
    if key is not None and _get(cfg, key) != len(classes):
        raise ValueError(
            f"dataset {first} has {len(classes)} classes ({listed(classes)}), but {key} is {_get(cfg, key)}: "
            f"set {key} to {len(classes)}, or to 0 to take it from the data"
        )
    return cfg


def _resolve_things(cfg: CfgNode, names: Sequence[str]) -> None:
    """Puts the number of things, and the layout of ids, into the config of a panoptic model, or checks them."""
    first: PanopticClasses | None = None
    for name in dict.fromkeys([*names, *(x for x in cfg.DATASETS.TEST if x in DatasetCatalog)]):
        classes = PanopticClasses.from_metadata(MetadataCatalog.get(name), name=name)
        if classes is None and name in names:
            raise ValueError(
                f"dataset {name} has no stuff classes, which MODEL.DETR.PANOPTIC.ENABLED needs: register it with "
                f"--coco-panoptic {name}=panoptic.json:png_root:image_root"
            )
        first = first or classes
        if first is not None and classes is not None and classes.layout != first.layout:
            raise ValueError(
                f"datasets {names[0]} and {name} number their stuff differently, in detectron2's {first.layout} and "
                f"{classes.layout} layout: use two of the same layout"
            )
    assert first is not None
    keys = cfg.MODEL.DETR.PANOPTIC
    if keys.NUM_THINGS == 0:
        node = "MODEL.DETR.PANOPTIC"
        cfg.merge_from_list([f"{node}.NUM_THINGS", first.num_things, f"{node}.LAYOUT", first.layout])
    elif (first.num_things, first.layout) != (keys.NUM_THINGS, keys.LAYOUT):
        raise ValueError(
            f"dataset {names[0]} has {first.num_things} things in the {first.layout} layout, but "
            f"MODEL.DETR.PANOPTIC.NUM_THINGS is {keys.NUM_THINGS} and LAYOUT {keys.LAYOUT!r}: set NUM_THINGS to 0 to "
            "take both from the data"
        )


def _get(cfg: CfgNode, key: str) -> Any:
    """The value of a key; None where the config has no such node."""
    node: Any = cfg
    for part in key.split("."):
        node = None if node is None else node.get(part)
    return node
