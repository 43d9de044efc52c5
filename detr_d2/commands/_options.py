"""Options that several commands have."""

from __future__ import annotations

import argparse


def add_coco_and_import(parser: argparse.ArgumentParser, *, datasets: str, import_help: str) -> None:
    """Adds --coco, --coco-panoptic and --import, which may all be repeated.

    Args:
        parser: to add to.
        datasets: config keys that the names of --coco and --coco-panoptic are for.
        import_help: what --import is for.
    """
    parser.add_argument(
        "--coco",
        action="append",
        default=[],
        metavar="NAME=JSON:IMAGES",
        help=f"register COCO-format data under a name for {datasets} (may be repeated)",
    )
    parser.add_argument(
        "--coco-panoptic",
        action="append",
        default=[],
        metavar="NAME=JSON:PNGS:IMAGES[:INSTANCES]",
        help="the same for COCO panoptic data: panoptic JSON, folder of its PNGs, folder of the images, and optionally "
        "a JSON file with the instances of the things, for box and mask AP (may be repeated)",
    )
    add_import(parser, import_help)


def add_import(parser: argparse.ArgumentParser, import_help: str) -> None:
    """Adds --import, which may be repeated, for what `detr_d2.engine.startup.setup.import_user_modules` imports.

    Args:
        parser: to add to.
        import_help: what it is for.
    """
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help=f"module or .py file to import first, {import_help} (may be repeated)",
    )


def add_detr_options(parser: argparse.ArgumentParser, *, data: bool) -> None:
    """Adds the options of commands that look inside a DETR, see `_run.read_detr_config` and `_run.prepare_outputs`.

    Args:
        parser: to add to.
        data: whether a dataset is asked for, too, see `_run.find_images`.
    """
    if data:
        group = parser.add_mutually_exclusive_group(required=True)
        group.add_argument(
            "--dataset", metavar="NAME", help="a registered dataset, or one of the config's DATASETS.COCO"
        )
        group.add_argument(
            "--coco", metavar="NAME=annotations.json:image_root", help="an annotation file and its images"
        )
        parser.add_argument("--limit", type=int, metavar="N", help="the first N images only")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument("--overwrite", action="store_true", help="replace files of an earlier run in that folder")
    parser.add_argument(
        "--config-file", required=True, metavar="FILE", help="YAML file of a DETR, or name of a shipped config"
    )
    add_import(parser, "such as one that registers a transformer")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="config overrides KEY VALUE ..., last")


def check_numbers(args: argparse.Namespace) -> None:
    """Raises ValueError for a --score-threshold outside of 0 to 1, and for less than one of --limit and the like."""
    given = {name: value for name, value in vars(args).items() if value is not None}
    if not 0 <= given.get("score_threshold", 0) <= 1:
        raise ValueError(f"--score-threshold is {args.score_threshold:g}, expected 0 to 1")
    for name in ("limit", "show", "max_detections"):
        if given.get(name, 1) < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {given[name]}, expected 1 or more")
