"""What the commands that look inside a DETR have in common: the config, the model, the images, the output folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils.logger import setup_logger

from ..data import register_coco, register_datasets
from ..data.checks.records import registered_records
from ..data.registration import dataset_table, require_registered
from ..engine.startup.device import choose_device
from ..engine.startup.setup import import_user_modules, load_config
from ..files.output_folder import claim_files
from ..modeling import DETR
from ..prediction import Categories
from ..prediction.trained_model import load_trained_model


def prepare_outputs(args: argparse.Namespace, names: Sequence[str]) -> list[Path]:
    """Paths of files in --output, which is made before the work starts; see `claim_files` for what is refused."""
    paths = [Path(args.output, name) for name in names]
    claim_files(paths, output=Path(args.output), overwrite=args.overwrite)
    return paths


def read_detr_config(args: argparse.Namespace) -> CfgNode:
    """Imports what --import names, reads --config-file with --opts, and settles the device.

    Raises:
        ValueError: the config is of another architecture.
    """
    cfg = load_config(args.config_file, args.opts, import_user_modules(args.imports))
    setup_logger(name="detr_d2")
    if cfg.MODEL.META_ARCHITECTURE != "DETR":
        raise ValueError(
            f"{args.config_file} is a {cfg.MODEL.META_ARCHITECTURE}, which has no object queries and no attention to "
            "look at; give a config whose MODEL.META_ARCHITECTURE is DETR"
        )
    choose_device(cfg)
    return cfg


def load_detr(cfg: CfgNode, weights: str, given: Categories | None = None) -> tuple[DETR, Categories]:
    """A trained DETR and its classes; see `load_trained_model`."""
    model, categories = load_trained_model(cfg, weights, given)
    assert isinstance(model, DETR)
    return model, categories


def find_images(cfg: CfgNode, args: argparse.Namespace) -> tuple[str, Categories | None, list[dict[str, Any]]]:
    """What --dataset or --coco names, registered, and cut to --limit.

    Returns:
        Name of the dataset, its classes where it knows them, and its first images in detectron2's format.

    Raises:
        ValueError: there is no such dataset, its records cannot be used, or it has none.
    """
    if args.coco is not None:
        name = register_coco(args.coco)
    else:
        name = args.dataset
        own = cfg.clone()
        own.defrost()
        own.DATASETS.TRAIN, own.DATASETS.TEST = (), (name,)
        register_datasets(own)
        require_registered([name])
    records = None if dataset_table(name) is None else registered_records(name)
    if not records:
        raise ValueError(f"the dataset {name} holds no images, or is no list of dicts")
    return name, Categories.from_metadata(MetadataCatalog.get(name)), records[: args.limit]


def in_order_of_model(
    records: Sequence[dict[str, Any]], given: Categories | None, categories: Categories
) -> list[dict[str, Any]]:
    """Records whose annotations have the class indices that a model predicts.

    Args:
        records: in detectron2's format.
        given: classes of the dataset; None where it does not name them, and then the indices are left as they are.
        categories: the same in the order of the model, as `load_detr` returns them.
    """
    if given is None or given.ids == categories.ids:
        return list(records)
    index = {category_id: k for k, category_id in enumerate(categories.ids)}
    moved = [index[category_id] for category_id in given.ids]
    return [
        {
            **record,
            "annotations": [{**x, "category_id": moved[x["category_id"]]} for x in record.get("annotations", [])],
        }
        for record in records
    ]
