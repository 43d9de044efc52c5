"""Options of the commands that take a config as `train` does."""

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
