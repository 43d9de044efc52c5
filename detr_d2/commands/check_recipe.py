"""`python -m detr_d2 check-recipe`: a config beside the recipe of its paper, every difference marked."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
from detectron2.config import CfgNode

from ..data import register_datasets
from ..data.coco.annotation_table import AnnotationTable
from ..data.registration import dataset_table, require_registered
from ..engine.startup.setup import add_coco_datasets, import_user_modules, load_config
from ..files import write_json
from ..recipes.recipe import DIFFERS, NOTE, Row, compare, known_training_images, paper_of, table
from ._options import add_coco_and_import


def build_parser() -> argparse.ArgumentParser:
    """The command line of check-recipe."""
    parser = argparse.ArgumentParser(
        prog="python -m detr_d2 check-recipe",
        description="Shows a config beside the recipe of its paper and says what every difference does. "
        "Nothing is trained, and no data is needed.",
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="YAML file, or name of a shipped config")
    parser.add_argument("--num-images", type=int, metavar="N", help="training images (default: those of the data)")
    add_coco_and_import(parser, datasets="DATASETS.TRAIN", import_help="as for train")
    parser.add_argument("--json", metavar="FILE", help="also write the comparison to this file")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="config overrides KEY VALUE ..., last")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the comparison; differences are no error."""
    args = build_parser().parse_args(argv)
    modules = import_user_modules(args.imports)
    cfg = load_config(args.config_file, args.opts, modules)
    paper = paper_of(cfg)
    add_coco_datasets(cfg, args.coco, args.coco_panoptic)
    num_images, images = args.num_images, f"training images: {args.num_images}"
    if num_images is None:
        num_images, images = _training_images(cfg)
    rows = compare(cfg, num_images=num_images)
    print(f"{args.config_file} against {paper.title}; {images}\n")
    print(table(rows))
    print("\n" + _describe(rows))
    if args.json:
        content = {
            "config_file": args.config_file,
            "recipe": paper.title,
            "num_images": num_images,
            "settings": [asdict(row) for row in rows],
        }
        write_json(args.json, content)
    return 0


def _training_images(cfg: CfgNode) -> tuple[int | None, str]:
    """Number of images in `DATASETS.TRAIN`, None where it cannot be known; and a text that says so."""
    known = known_training_images(cfg)
    if known is not None:
        return known, f"training images: {known:,}"
    try:
        register_datasets(cfg)
        require_registered(cfg.DATASETS.TRAIN)
        tables = [dataset_table(name) for name in cfg.DATASETS.TRAIN]
    except (ValueError, OSError) as error:
        return None, f"the number of training images is unknown ({error}); --num-images gives it"
    known_tables = [found for found in tables if found is not None]
    if not tables or len(known_tables) < len(tables):
        return None, "the number of training images is unknown; --num-images gives it"
    total = sum(_images_used(cfg, found) for found in known_tables)
    return total, f"training images: {total:,}"


def _images_used(cfg: CfgNode, annotations: AnnotationTable) -> int:
    """Images that training draws from."""
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        return len(np.unique(annotations.image_of[~annotations.crowd]))
    return len(annotations.file_names)


def _describe(rows: Sequence[Row]) -> str:
    """One line for each difference, then one for each note."""
    differences, notes = ([f"{x.setting}: {x.effect}" for x in rows if x.mark == mark] for mark in (DIFFERS, NOTE))
    few = {0: "No setting differs", 1: "1 setting differs"}
    count = few.get(len(differences), f"{len(differences)} settings differ")
    lines = [f"{count} from the recipe" + (":" if differences else "."), *(f"  {line}" for line in differences)]
    if notes:
        lines += ["Worth knowing, no departure from it:", *(f"  {line}" for line in notes)]
    return "\n".join(lines)
