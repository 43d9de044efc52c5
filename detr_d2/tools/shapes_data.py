"""The shapes dataset for commands that train on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..data.synthetic import ShapesPaths, make_shapes

VAL_SEED_OFFSET = 10_000
"""Training and validation pictures come from different seeds."""


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
