"""`python -m detr_d2 quickstart`: two detectors trained on shapes or on real images, or masks on shapes, compared."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..cli import quiet_libraries
from ..experiments.own_folders import settle_output
from ..experiments.quickstarts import IMAGES, QUICKSTARTS, TRAIN_FILE, VAL_FILE
from ..experiments.side_by_side import SideBySide
from ..experiments.timed_training import TrainingError
from ..files import hold_folder

OWN_OPTIONS: dict[str, dict[str, Any]] = {
    "shapes": {"output": "output/quickstart", "train_images": 2000, "val_images": 500},
    "real": {"output": "output/quickstart_real", "data": None, "same_time": False},
    "segmentation": {
        "output": "output/quickstart_segmentation",
        "base": "output/quickstart",
        "train_images": 2000,
        "val_images": 500,
    },
}
"""Quickstart -> its defaults of the options that not all of them have, or not with the same default."""


def build_parser() -> argparse.ArgumentParser:
    """The command line of quickstart."""
    parser = argparse.ArgumentParser(
        prog="python -m detr_d2 quickstart",
        description="Trains two detectors on the same data and compares them on one page. On `shapes`, which it makes: "
        "DETR and, for the same time, Faster R-CNN, about 15 minutes on two CPU cores. On `real` images: Deformable "
        "DETR and Faster R-CNN from scratch, each by the schedule of its own config, about 45 minutes on two cores "
        "where the processor computes in bfloat16; the configs are made for the BCCD blood cells and take any data of "
        "this form. `segmentation` begins with the models of `shapes`: mask heads for DETR and for Faster R-CNN (Mask "
        "R-CNN), and DETR on panoptic maps of shapes in front of sky, ground and water, about half an hour of one "
        "core. Run again, each continues where it was stopped.",
    )
    parser.add_argument("which", nargs="?", choices=list(QUICKSTARTS), default="shapes", help="default: shapes")
    parser.add_argument(
        "--data",
        metavar="DIR",
        help=f"real: folder with {TRAIN_FILE} and {VAL_FILE} in COCO format, and the images of both in {IMAGES}/",
    )
    parser.add_argument(
        "--base", metavar="DIR", help="segmentation: output of a finished quickstart on shapes (output/quickstart)"
    )
    defaults = ", ".join(x["output"] for x in OWN_OPTIONS.values())
    parser.add_argument("--output", metavar="DIR", help=f"default: {defaults}")
    parser.add_argument("--seed", type=int, default=0, help="of data, initialisation and training (default: 0)")
    parser.add_argument("--fresh", action="store_true", help="delete what was trained there, and train again")
    parser.add_argument(
        "--max-iter",
        type=int,
        metavar="N",
        help="iterations of each model that is not trained for the time of another one (default: its config's)",
    )
    parser.add_argument(
        "--same-time",
        action="store_true",
        default=None,
        help="real: train Faster R-CNN for the time that Deformable DETR has taken",
    )
    for split, number in (("train", 2000), ("val", 500)):
        parser.add_argument(
            f"--{split}-images", type=int, metavar="N", help=f"images of shapes, with segmentation panoptic ({number})"
        )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs all of it; returns 1 when a training or a model's comparison fails."""
    argv = sys.argv[1:] if argv is None else argv
    args = build_parser().parse_args(argv)
    defaults = _complete(args)
    for name, least in (("train_images", 1), ("val_images", 1), ("max_iter", 1), ("seed", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise ValueError(f"--{name.replace('_', '-')} is {value}, expected at least {least}")
    quiet_libraries()
    quickstart = QUICKSTARTS[args.which]
    quickstart.check(args)
    settings = {name: value for name, value in vars(args).items() if name in defaults}
    args.output = str(settle_output(Path(args.output), quickstart.name, settings, defaults, fresh=args.fresh))
    try:
        with hold_folder(Path(args.output)):
            run = SideBySide(args, ["quickstart", *argv], steps=quickstart.steps, shown_width=quickstart.shown_width)
            return quickstart.work(run)
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        raise


def _complete(args: argparse.Namespace) -> dict[str, Any]:
    """Fills in what the user has not given, and returns the defaults of all that decides about what is made.

    Raises:
        ValueError: an option of another quickstart is given.
    """
    own = OWN_OPTIONS[args.which]
    for name in sorted({name for options in OWN_OPTIONS.values() for name in options}):
        if getattr(args, name) is None:
            setattr(args, name, own.get(name))
        elif name not in own:
            others = " and ".join(which for which, options in OWN_OPTIONS.items() if name in options)
            raise ValueError(f"--{name.replace('_', '-')} is an option of quickstart {others}, not of {args.which}")
    return {"seed": 0, "max_iter": None, **{name: own[name] for name in own if name != "output"}}
