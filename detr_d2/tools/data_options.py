"""Options of the commands that take a config as `train` does."""

from __future__ import annotations

import argparse


def add_coco_and_import(parser: argparse.ArgumentParser, *, datasets: str, import_help: str) -> None:
    """Adds --coco and --import, which may both be repeated.

    Args:
        parser: to add to.
        datasets: config keys that the names of --coco are for.
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
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help=f"module or .py file to import first, {import_help} (may be repeated)",
    )
