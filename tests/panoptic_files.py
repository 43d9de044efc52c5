"""A tiny COCO panoptic dataset made by hand, with the instances of its things."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
from PIL import Image

CATEGORIES = {3: ("cup", 1), 17: ("sky", 0), 20: ("dog", 1), 31: ("sand", 0)}
"""Category id -> name and isthing. Rows of the class head: cup, dog, sky, sand."""

# image id, height, width, (segment id, category id, top, bottom, left, right, iscrowd); the rest of the image is void
_IMAGES: list[tuple[int, int, int, list[tuple[int, ...]]]] = [
    (
        4,
        30,
        40,
        [
            (70000, 17, 0, 10, 0, 40, 0),
            (300, 3, 12, 22, 2, 12, 0),
            (301, 3, 12, 22, 14, 30, 0),
            (9, 20, 24, 30, 0, 20, 1),
        ],
    ),
    (7, 36, 24, [(5, 31, 20, 36, 0, 24, 0), (6, 20, 2, 18, 4, 20, 0)]),
    (9, 20, 20, []),
]


@dataclass(frozen=True)
class PanopticFiles:
    """Image 4 (40 x 30): sky, two cups, a crowd of dogs; image 7 (24 x 36): sand and a dog; image 9 (20 x 20): void.

    Attributes:
        panoptic: the JSON file.
        pngs: folder of the PNGs.
        images: folder of the pictures.
        instances: JSON file with the things.
    """

    panoptic: Path
    pngs: Path
    images: Path
    instances: Path

    def spec(self, name: str, *, with_instances: bool = True) -> str:
        """The argument of `--coco-panoptic` that registers it under this name."""
        end = f":{self.instances}" if with_instances else ""
        return f"{name}={self.panoptic}:{self.pngs}:{self.images}{end}"

    def change(self, edit: Any) -> None:
        """Edits the content of the panoptic JSON file in place."""
        content = json.loads(self.panoptic.read_text())
        edit(content)
        self.panoptic.write_text(json.dumps(content))


def segment_mask(segment: tuple[int, ...], height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    mask[segment[2] : segment[3], segment[4] : segment[5]] = True
    return mask


def make_tiny_panoptic(root: Path) -> PanopticFiles:
    """Writes the dataset of `PanopticFiles` into a folder."""
    files = PanopticFiles(root / "panoptic.json", root / "pngs", root / "images", root / "instances.json")
    files.pngs.mkdir(parents=True)
    files.images.mkdir()
    images: list[dict[str, Any]] = []
    panoptic: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    for image_id, height, width, segments in _IMAGES:
        name = f"{image_id:03d}.png"
        pixels = np.random.default_rng(image_id).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(files.images / name)
        ids, infos = np.zeros((height, width), dtype=np.int64), []
        for segment in segments:
            mask = segment_mask(segment, height, width)
            ids[mask] = segment[0]
            box = [segment[4], segment[2], segment[5] - segment[4], segment[3] - segment[2]]
            info = {"category_id": segment[1], "bbox": box, "area": int(mask.sum()), "iscrowd": segment[6]}
            infos.append({"id": segment[0], **info})
            if CATEGORIES[segment[1]][1]:
                rle = pycocotools.mask.encode(np.asfortranarray(mask, dtype=np.uint8))
                rle = {"size": list(rle["size"]), "counts": rle["counts"].decode()}
                instances.append({"id": len(instances) + 1, "image_id": image_id, **info, "segmentation": rle})
        rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
        Image.fromarray(rgb).save(files.pngs / name)
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        panoptic.append({"image_id": image_id, "file_name": name, "segments_info": infos})
    categories = [{"id": i, "name": name, "isthing": isthing} for i, (name, isthing) in CATEGORIES.items()]
    things = [category for category in categories if category["isthing"]]
    files.panoptic.write_text(json.dumps({"images": images, "annotations": panoptic, "categories": categories}))
    files.instances.write_text(json.dumps({"images": images, "annotations": instances, "categories": things}))
    return files
