"""What the commands that look inside a DETR share: their options, the model, the output folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils.logger import setup_logger

from ..commands._options import add_import
from ..commands._run import claim_files
from ..data import register_coco, register_datasets
from ..data.checks.records import registered_records
from ..data.registration import dataset_table, require_registered
from ..engine.startup.device import choose_device
from ..engine.startup.setup import import_user_modules, load_config
from ..modeling import DETR
from ..prediction.predictor import Categories
from ..prediction.trained_model import load_trained_model


def add_config_options(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Adds --config-file, --import and --opts."""
    parser.add_argument(
        "--config-file", required=required, metavar="FILE", help="YAML file of a DETR, or name of a shipped config"
    )
    add_import(parser, "such as one that registers a transformer")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="config overrides KEY VALUE ..., last")


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Adds --output and --overwrite."""
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument("--overwrite", action="store_true", help="replace files of an earlier run in that folder")


def add_data_options(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Adds --dataset or --coco, and --limit."""
    data = parser.add_mutually_exclusive_group(required=required)
    data.add_argument("--dataset", metavar="NAME", help="a registered dataset, or one of the config's DATASETS.COCO")
    data.add_argument("--coco", metavar="NAME=annotations.json:image_root", help="an annotation file and its images")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N images only")


def read_detr_config(config_file: str, opts: Sequence[str], imports: Sequence[str]) -> CfgNode:
    """Reads the config of a DETR, and settles the device; before that, imports what --import names.

    Raises:
        ValueError: the config is of another architecture.
    """
    cfg = load_config(config_file, opts, import_user_modules(imports))
    setup_logger(name="detr_d2")
    if cfg.MODEL.META_ARCHITECTURE != "DETR":
        raise ValueError(
            f"{config_file} is a {cfg.MODEL.META_ARCHITECTURE}, which has no object queries and no attention to look "
            "at; give a config whose MODEL.META_ARCHITECTURE is DETR"
        )
    choose_device(cfg)
    return cfg


def load_detr(cfg: CfgNode, weights: str, given: Categories | None = None) -> tuple[DETR, Categories]:
    """A trained DETR and its classes; see `load_trained_model`."""
    model, categories = load_trained_model(cfg, weights, given)
    assert isinstance(model, DETR)
    return model, categories


def find_dataset(cfg: CfgNode, dataset: str | None, coco: str | None) -> tuple[str, Categories | None]:
    """Registers what --dataset or --coco names.

    Args:
        cfg: whose `DATASETS.COCO` a dataset may stand in.
        dataset, coco: the options; one of them is given.

    Returns:
        The dataset's name, and its classes where it knows them.

    Raises:
        ValueError: there is no such dataset.
    """
    if coco is not None:
        name = register_coco(coco)
    else:
        assert dataset is not None
        name = dataset
        own = cfg.clone()
        own.defrost()
        own.DATASETS.TRAIN, own.DATASETS.TEST = (), (name,)
        register_datasets(own)
        require_registered([name])
    return name, Categories.from_metadata(MetadataCatalog.get(name))


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


def prepare_outputs(folder: str, names: Sequence[str], *, overwrite: bool) -> list[Path]:
    """Makes the output folder before the work starts.

    Args:
        folder: to make.
        names: of the files that will be written.
        overwrite: whether they may exist already.

    Returns:
        The paths of the files.

    Raises:
        ValueError: a file exists.
        OSError: the folder cannot be written to.
    """
    paths = [Path(folder, name) for name in names]
    claim_files(paths, output=Path(folder), overwrite=overwrite)
    return paths


def take_images(dataset: str, limit: int | None) -> list[dict[str, Any]]:
    """The first images of a dataset, in detectron2's format.

    Args:
        dataset: its name.
        limit: how many; None for all.

    Raises:
        ValueError: its records cannot be used, it has none, or fewer than one is asked for.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"--limit is {limit}, expected 1 or more")
    records = None if dataset_table(dataset) is None else registered_records(dataset)
    if not records:
        raise ValueError(f"the dataset {dataset} holds no images, or is no list of dicts")
    return records[:limit]
