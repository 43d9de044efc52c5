"""The shapes dataset for commands that train on it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..data.shapes.synthetic import ShapesPaths, make_shapes

VAL_SEED_OFFSET = 10_000
"""Training and validation pictures come from different seeds."""


def add_image_counts(parser: argparse.ArgumentParser, *, which: str = "") -> None:
    """Adds --train-images and --val-images; `which` says of what, for the help."""
    for split, number in (("train", 2000), ("val", 500)):
        parser.add_argument(f"--{split}-images", type=int, default=number, metavar="N", help=f"{which}%(default)s")


def make_both(
    make: Callable[[str, Path, int, int], str], prefix: str, data: Path, args: argparse.Namespace
) -> tuple[str, str]:
    """Training and validation data of the options of `add_image_counts` and `--seed`.

    Args:
        make: `shapes_spec` or `shapes_panoptic_spec`.
        prefix: of their names, before "_train" and "_val".
        data: folder of their folders.
        args: what the user chose.
    """
    val_seed = args.seed + VAL_SEED_OFFSET
    train_folder = data / f"train-seed-{args.seed}-{args.train_images}"
    val_folder = data / f"val-seed-{val_seed}-{args.val_images}"
    return (
        make(f"{prefix}_train", train_folder, args.train_images, args.seed),
        make(f"{prefix}_val", val_folder, args.val_images, val_seed),
    )


def shapes_spec(name: str, folder: Path, num_images: int, seed: int) -> str:
    """Makes pictures of shapes, or takes those that are there.

    Args:
        name: of the dataset.
        folder: for its files.
        num_images: in it.
        seed: of its pictures.

    Returns:
        NAME=annotations.json:image_root, as for `train_net.py --coco`.

    Raises:
        ValueError: the folder holds something else.
    """
    paths = _make(folder, num_images, seed)
    return f"{name}={paths.annotations}:{paths.images}"


def shapes_panoptic_spec(name: str, folder: Path, num_images: int, seed: int) -> str:
    """The same with sky, ground and water behind the shapes, and panoptic ground truth.

    Returns:
        NAME=panoptic.json:png_root:image_root:annotations.json, as for `train_net.py --coco-panoptic`.
    """
    paths = _make(folder, num_images, seed, panoptic=True)
    return f"{name}={paths.panoptic}:{paths.panoptic_root}:{paths.images}:{paths.annotations}"


def _make(folder: Path, num_images: int, seed: int, **parameters: Any) -> ShapesPaths:
    with tqdm(desc=folder.name, total=num_images, unit="image", leave=False, disable=None) as bar:
        paths = make_shapes(folder, num_images, seed, on_image=lambda _: bar.update(), **parameters)
    if paths.reused:
        print(f"{folder} is there already")
    return paths
