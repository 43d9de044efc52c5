"""Writes the shapes dataset: circles, rectangles and triangles with COCO files for detection, instances and panoptic.

Layout of a dataset folder:

    annotations.json            detection and instances: RLE of the visible pixels, and their box
    images/000000.png ...
    panoptic.json, panoptic/000000.png ...      with `panoptic=True`; a segment's id is R + 256 G + 65536 B
    parameters.json             what it was made with: the same call again finds the folder complete and reuses it
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pycocotools.mask
from PIL import Image

from ...files import check_writable, new_folder, write_text
from .synthetic_scene import DIFFICULTIES, STUFF_CLASSES, THING_CLASSES, Scene, ShapesConfig, draw_scene, mask_box

__all__ = ["DIFFICULTIES", "STUFF_CLASSES", "THING_CLASSES", "ShapesConfig", "ShapesPaths", "make_shapes"]

_FORMAT = 1  # raised whenever the same parameters would give other pictures or files
_ADDED = {"stacking": 0.0}  # parameters that older folders do not name, with the value they were made with


class ShapesPaths(NamedTuple):
    """Where a shapes dataset lies.

    Attributes:
        root: the dataset folder.
        annotations: COCO detection and instance file.
        images: folder of the pictures.
        panoptic: COCO panoptic file, None without panoptic.
        panoptic_root: folder of the panoptic PNGs, None without panoptic.
        reused: True when the folder was complete already and nothing was written.
        left_out: number of shapes that found no place in their picture (0 when reused).
    """

    root: Path
    annotations: Path
    images: Path
    panoptic: Path | None
    panoptic_root: Path | None
    reused: bool
    left_out: int

    def coco_spec(self, name: str) -> str:
        """As for `train_net.py --coco`."""
        return f"{name}={self.annotations}:{self.images}"

    def panoptic_spec(self, name: str) -> str:
        """As for `train_net.py --coco-panoptic`."""
        return f"{name}={self.panoptic}:{self.panoptic_root}:{self.images}:{self.annotations}"


def make_shapes(
    out_dir: str | os.PathLike[str],
    num_images: int,
    seed: int,
    *,
    difficulty: str = "easy",
    on_image: Callable[[int], None] | None = None,
    **parameters: Any,
) -> ShapesPaths:
    """Makes a shapes dataset, or finds it there already.

    The folder appears complete or not at all: it is built beside `out_dir` and renamed.

    Args:
        out_dir: folder to make; must not exist, be empty, or hold a dataset made by an equal call.
        num_images: number of pictures; picture i does not depend on it.
        seed: seed of the dataset, at least 0.
        difficulty: preset that `parameters` start from, a key of `DIFFICULTIES`.
        on_image: called with the number of pictures done, after each.
        parameters: fields of `ShapesConfig`.

    Returns:
        The paths of the dataset.

    Raises:
        ValueError: on bad parameters, or when the folder holds something else.
        OSError: when the folder cannot be written.
    """
    if num_images < 1 or seed < 0:
        raise ValueError(
            f"a shapes dataset needs at least one image and a seed >= 0, but got {num_images} images and seed {seed}"
        )
    config = ShapesConfig.preset(difficulty, **parameters)
    root = Path(out_dir).absolute()
    made_with = {"format": _FORMAT, "num_images": num_images, "seed": seed, **asdict(config)}
    left_out = 0
    reused = _holds_same(root, made_with)
    if not reused:
        check_writable(root.parent, "cannot write into {folder}: {reason}; choose a folder you may write to")
        with new_folder(root) as partial:
            left_out = _write_dataset(partial, made_with, config, on_image)
    return ShapesPaths(
        root=root,
        annotations=root / "annotations.json",
        images=root / "images",
        panoptic=root / "panoptic.json" if config.panoptic else None,
        panoptic_root=root / "panoptic" if config.panoptic else None,
        reused=reused,
        left_out=left_out,
    )


def _holds_same(root: Path, made_with: dict[str, Any]) -> bool:
    """Whether `root` holds the dataset that would be made; False when there is nothing in the way."""
    if not root.exists():
        return False
    if not root.is_dir():
        raise ValueError(f"{root} is a file: give a folder that does not exist yet")
    if not any(root.iterdir()):
        return False
    try:
        found = {**_ADDED, **json.loads((root / "parameters.json").read_text())}
    except (OSError, ValueError, TypeError):
        raise ValueError(
            f"{root} is not empty and was not made by make-shapes: give another folder, or remove this one"
        ) from None
    if found == made_with:
        present = sum(1 for _ in (root / "images").glob("*.png"))
        if present != made_with["num_images"] or not (root / "annotations.json").is_file():
            raise ValueError(
                f"{root} was made by make-shapes, but files of it are missing now: remove it and try again"
            )
        return True
    differing = sorted(key for key in {*made_with, *found} if made_with.get(key) != found.get(key))
    detail = ", ".join(f"{key} {found.get(key)} (asked: {made_with.get(key)})" for key in differing)
    raise ValueError(
        f"{root} holds shapes made with other parameters: {detail}; give another folder, or remove this one"
    )


def _write_dataset(
    folder: Path, made_with: dict[str, Any], config: ShapesConfig, on_image: Callable[[int], None] | None
) -> int:
    """Draws and writes all pictures and files into an existing empty folder."""
    (folder / "images").mkdir()
    if config.panoptic:
        (folder / "panoptic").mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    panoptic: list[dict[str, Any]] = []
    left_out = 0
    for index in range(made_with["num_images"]):
        scene = draw_scene(config, made_with["seed"], index)
        left_out += scene.left_out
        name = f"{index:06d}.png"
        _write_png(folder / "images" / name, scene.image)
        images.append({"id": index + 1, "file_name": name, "width": config.width, "height": config.height})
        annotations += instance_annotations(scene, image_id=index + 1, first_id=len(annotations) + 1)
        if config.panoptic:
            ids, segments = panoptic_segments(scene)
            _write_png(folder / "panoptic" / name, ids)
            panoptic.append({"image_id": index + 1, "file_name": name, "segments_info": segments})
        if on_image is not None:
            on_image(index + 1)
    things = [{"id": k + 1, "name": name, "supercategory": "shape"} for k, name in enumerate(THING_CLASSES)]
    common = {"info": {"description": "shapes made by detr_d2", "parameters": made_with}, "images": images}
    _write_json(folder / "annotations.json", {**common, "annotations": annotations, "categories": things})
    if config.panoptic:
        categories = _panoptic_categories(things)
        _write_json(folder / "panoptic.json", {**common, "annotations": panoptic, "categories": categories})
    _write_json(folder / "parameters.json", made_with)
    return left_out


def instance_annotations(scene: Scene, *, image_id: int, first_id: int) -> list[dict[str, Any]]:
    """COCO annotations of a scene: xywh box, area and compressed RLE of the visible pixels of each shape."""
    annotations: list[dict[str, Any]] = []
    for number, (kind, mask) in enumerate(zip(scene.classes, scene.masks, strict=True)):
        rle = pycocotools.mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        segmentation = {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}
        entry = _region(first_id + number, kind + 1, mask)
        annotations.append({**entry, "image_id": image_id, "segmentation": segmentation})
    return annotations


def _region(number: int, category_id: int, mask: np.ndarray) -> dict[str, Any]:
    """What annotations of instances and of segments have in common."""
    x0, y0, x1, y1 = mask_box(mask)
    box = [x0, y0, x1 - x0, y1 - y0]
    return {"id": number, "category_id": category_id, "bbox": box, "area": int(mask.sum()), "iscrowd": 0}


def panoptic_segments(scene: Scene) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """COCO panoptic truth of a scene: an (H, W, 3) uint8 picture of segment ids, and its `segments_info`."""
    assert scene.stuff is not None
    ids = np.zeros(scene.stuff.shape, dtype=np.int64)
    covered = scene.masks.any(axis=0)
    regions = [(kind + 1, mask) for kind, mask in zip(scene.classes, scene.masks, strict=True)]
    regions += [(len(THING_CLASSES) + k + 1, (scene.stuff == k) & ~covered) for k in range(len(STUFF_CLASSES))]
    segments: list[dict[str, Any]] = []
    for category_id, mask in regions:
        if mask.any():
            segments.append(_region(len(segments) + 1, category_id, mask))
            ids[mask] = len(segments)
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8), segments


def _panoptic_categories(things: list[dict[str, Any]]) -> list[dict[str, Any]]:
    stuff = [
        {"id": len(THING_CLASSES) + k + 1, "name": name, "supercategory": "background", "isthing": 0}
        for k, name in enumerate(STUFF_CLASSES)
    ]
    return [{**category, "isthing": 1} for category in things] + stuff


def _write_png(path: Path, image: np.ndarray) -> None:
    Image.fromarray(image).save(path, compress_level=1)  # within a folder that appears as a whole


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content))
