"""`python -m detr_d2 make-shapes`: writes a shapes dataset, deterministic by its seed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields

from tqdm import tqdm

from ..data.shapes.synthetic import DIFFICULTIES, ShapesConfig, make_shapes

# Field of ShapesConfig -> help text of its option; sizes and ranges have options of their own.
_LEVELS = {
    "max_overlap": "largest IoU between the boxes of two shapes (0-1)",
    "crowding": "probability that a shape stands next to an earlier one (0-1)",
    "stacking": "probability that a shape lies over an earlier one of its class (0-1)",
    "min_visible": "smallest visible fraction of a shape (0-1)",
    "contrast": "contrast of shapes against the background (0-1)",
    "texture": "strength of blotches on background and shapes (0-1)",
    "noise": "standard deviation of pixel noise, in grey levels",
    "translucency": "largest transparency of a shape (0-0.95)",
    "hidden": "largest fraction of a shape hidden by a band of background (0-0.95)",
    "rotation": "rectangles and triangles are turned by up to this many degrees",
}


def build_parser() -> argparse.ArgumentParser:
    """The command line of make-shapes."""
    parser = argparse.ArgumentParser(
        prog="python -m detr_d2 make-shapes",
        description="Make a dataset of circles, rectangles and triangles with COCO annotation files. "
        "The same seed gives the same pictures; picture i does not depend on the number of pictures.",
    )
    parser.add_argument("out", metavar="OUT", help="folder to make: OUT/annotations.json and OUT/images/")
    parser.add_argument("--images", type=int, required=True, metavar="N", help="number of pictures")
    parser.add_argument("--seed", type=int, required=True, metavar="S", help="seed of the dataset, 0 or more")
    parser.add_argument("--size", type=int, nargs=2, metavar=("W", "H"), help="picture size (default: 128 128)")
    parser.add_argument("--objects", type=int, nargs=2, metavar=("MIN", "MAX"), help="shapes per picture")
    parser.add_argument("--object-size", type=int, nargs=2, metavar=("MIN", "MAX"), help="longer side in pixels")
    parser.add_argument("--panoptic", action="store_true", help="also write panoptic.json and panoptic/")
    parser.add_argument("--difficulty", choices=list(DIFFICULTIES), default="easy", help="preset (default: easy)")
    for name, text in _LEVELS.items():
        preset = ", ".join(f"{key} {getattr(ShapesConfig.preset(key), name):g}" for key in DIFFICULTIES)
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, metavar="X", help=f"{text} ({preset})")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Makes the dataset; a dataset made by the same call before is kept."""
    args = build_parser().parse_args(argv)
    with tqdm(total=args.images, desc="make-shapes", unit="image", mininterval=0.5) as progress:
        paths = make_shapes(
            args.out,
            args.images,
            args.seed,
            difficulty=args.difficulty,
            on_image=lambda _: progress.update(),
            **_parameters(args),
        )
        if paths.reused:
            progress.update(args.images)
    if paths.reused:
        print(f"{paths.root} is there already, made with the same parameters")
    if paths.left_out:
        print(f"{paths.left_out} shapes found no place and were left out: fewer or smaller shapes would fit")
    print(f"--coco {paths.coco_spec('NAME')}")
    if args.panoptic:
        print(f"--coco-panoptic {paths.panoptic_spec('NAME')}")
    return 0


def _parameters(args: argparse.Namespace) -> dict[str, object]:
    """The fields of `ShapesConfig` that the user gave."""
    given = {name: getattr(args, name) for name in _LEVELS if getattr(args, name) is not None}
    pairs = {"size": ("width", "height"), "objects": ("min_objects", "max_objects")}
    pairs["object_size"] = ("min_size", "max_size")
    for option, names in pairs.items():
        if getattr(args, option) is not None:
            given.update(zip(names, getattr(args, option), strict=True))
    if args.panoptic:
        given["panoptic"] = True
    assert set(given) <= {field.name for field in fields(ShapesConfig)}
    return given
