"""A tiny COCO dataset made by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw


@dataclass(frozen=True)
class CocoFiles:
    """A small dataset in COCO format.

    Image 1 (64 x 48) holds a red and a green rectangle, image 2 (48 x 64) a blue one and a crowd region, image 3
    (40 x 40) nothing. Boxes are xywh pixels, as in the file; category ids have gaps.
    """

    annotations: Path
    image_root: Path
    content: dict[str, Any]

    def spec(self, name: str) -> str:
        """The argument of `--coco` that registers it under this name."""
        return f"{name}={self.annotations}:{self.image_root}"


_CATEGORIES = {1: ("red", (220, 30, 30)), 23: ("green", (30, 200, 30)), 56: ("blue", (40, 40, 230))}
_SIZES = {1: (64, 48), 2: (48, 64), 3: (40, 40)}
# image id, category id, box xywh, iscrowd
_OBJECTS = [
    (1, 1, (4, 6, 20, 16), 0),
    (1, 23, (30, 20, 24, 22), 0),
    (2, 56, (10, 12, 18, 30), 0),
    (2, 1, (30, 40, 16, 20), 1),
]


def make_tiny_coco(root: Path) -> CocoFiles:
    """Writes the dataset of `CocoFiles` into a folder: `annotations.json` and `images/*.png`."""
    image_root = root / "images"
    image_root.mkdir(parents=True)
    for image_id, size in _SIZES.items():
        image = Image.new("RGB", size, (24, 24, 24))
        draw = ImageDraw.Draw(image)
        for owner, category, (x, y, w, h), _ in _OBJECTS:
            if owner == image_id:
                draw.rectangle((x, y, x + w - 1, y + h - 1), fill=_CATEGORIES[category][1])
        image.save(image_root / f"{image_id:03d}.png")
    content = {
        "images": [
            {"id": image_id, "file_name": f"{image_id:03d}.png", "width": width, "height": height}
            for image_id, (width, height) in _SIZES.items()
        ],
        "annotations": [
            _annotation(number, image_id, category, box, crowd)
            for number, (image_id, category, box, crowd) in enumerate(_OBJECTS, start=101)
        ],
        "categories": [{"id": key, "name": name} for key, (name, _) in _CATEGORIES.items()],
    }
    annotations = root / "annotations.json"
    annotations.write_text(json.dumps(content))
    return CocoFiles(annotations, image_root, content)


def _annotation(number: int, image_id: int, category: int, box: tuple[int, ...], crowd: int) -> dict[str, Any]:
    x, y, w, h = box
    polygon: Any = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    if crowd:
        width, height = _SIZES[image_id]
        polygon = {"size": [height, width], "counts": _rectangle_rle(x, y, w, h, width, height)}
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category,
        "bbox": list(box),
        "area": w * h,
        "iscrowd": crowd,
        "segmentation": polygon,
    }


def _rectangle_rle(x: int, y: int, w: int, h: int, width: int, height: int) -> list[int]:
    """Uncompressed RLE of a rectangle: runs of zeros and ones in turn, column by column."""
    runs = [x * height + y]
    for _ in range(w - 1):
        runs += [h, height - h]
    return [*runs, h, width * height - sum(runs) - h]
