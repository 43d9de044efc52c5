"""Predictions in COCO's results formats, as they are written: predictions.json, images.json and panoptic.json."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.evaluation.coco_evaluation import instances_to_coco_json

from ..data.checks.records import json_id
from ..files import write_json, write_picture
from ..panoptic_classes import PanopticClasses
from .categories import Categories

PREDICTIONS, IMAGES, PANOPTIC = "predictions.json", "images.json", "panoptic.json"
MAPS = Path("panoptic")


@dataclass
class CocoOutput:
    """Predictions on any number of images.

    Args:
        folder: of the files; panoptic maps are written into `MAPS` in there at once, the rest by `save`.
        categories: of the model; they give the category ids.
        panoptic: classes of a model whose panoptic maps are written.

    Attributes:
        images: the "images" of a COCO file.
        results: one dict per detection: `image_id`, `category_id`, `bbox` (x, y, width, height in pixels), `score`, and
            `segmentation` (RLE) where there are masks.
        maps: the "annotations" of a panoptic file.
    """

    folder: Path
    categories: Categories
    panoptic: PanopticClasses | None
    images: list[dict[str, Any]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)
    maps: list[dict[str, Any]] = field(default_factory=list)

    def add(self, image: dict[str, Any], outputs: dict[str, Any], map_name: Path | None) -> None:
        """Keeps what a model has found in an image.

        Args:
            image: its entry in the "images", with the `id` that its annotation file gives it.
            outputs: of `ImagePredictor.outputs`.
            map_name: of the PNG of a panoptic map, in which an id is R + 256 G + 65536 B.
        """
        self.images.append(image)
        for row in instances_to_coco_json(outputs["instances"], json_id(image["id"])):
            self.results.append({**row, "category_id": self.categories.ids[row["category_id"]]})
        if self.panoptic is None or map_name is None:
            return
        segment_map, segments = outputs["panoptic_seg"]
        places = [self.panoptic.row(x["category_id"], is_thing=x["isthing"]) for x in segments]
        infos = [
            {**x, "category_id": self.categories.ids[place], "isthing": int(x["isthing"])}
            for x, place in zip(segments, places, strict=True)
        ]
        self.maps.append({"image_id": json_id(image["id"]), "file_name": map_name.as_posix(), "segments_info": infos})
        ids = segment_map.cpu().numpy()
        picture = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
        write_picture(self.folder / MAPS / map_name, picture)

    def save(self) -> None:
        """Writes predictions.json (COCO results), images.json (what their ids mean), and panoptic.json."""
        categories = [
            {"id": x, "name": name} for x, name in zip(self.categories.ids, self.categories.names, strict=True)
        ]
        write_json(self.folder / PREDICTIONS, self.results)
        write_json(self.folder / IMAGES, {"images": self.images, "categories": categories})
        if self.panoptic is not None:
            rows = [{**x, "isthing": int(self.panoptic.is_thing(row))} for row, x in enumerate(categories)]
            write_json(self.folder / PANOPTIC, {"images": self.images, "annotations": self.maps, "categories": rows})
