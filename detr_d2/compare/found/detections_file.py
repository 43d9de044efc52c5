"""The detections of models as files in COCO's results format, for whatever other program goes on with them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog

from ...data import category_ids
from ...data.checks.records import json_id
from ...evaluation.arrays import Detections, GroundTruth
from ...files import write_file
from ...prediction.output_names import OutputNames, file_stem
from ..masks import Segmentation
from ..records.comparison import ShippedSettings
from .nms import Candidates, OfflineNms

FOLDER = "detections"
"""Folder of the files in the output of a comparison."""

RAW_SCORE = 0.001
"""The least score in files of detections without NMS."""

_Row = dict[str, Any]


class DetectionFiles:
    """Writes a file for each model of a comparison: what it returns in normal use.

    Args:
        output: folder of the comparison.
        truth: N images.
        raw: the most detections of an image in a second file of those without NMS; None for no such file.
    """

    def __init__(self, output: Path, truth: GroundTruth, *, raw: int | None = None) -> None:
        self._folder, self._truth, self._raw = output / FOLDER, truth, raw
        self._names = OutputNames()

    def write(
        self,
        label: str,
        shipped: ShippedSettings,
        images: Sequence[Candidates],
        class_map: np.ndarray,
        segmented: Sequence[Segmentation] = (),
    ) -> list[Path]:
        """Writes the files of a model, whose names are made of its label.

        Args:
            label: of the model.
            shipped: its settings.
            images: what it knows of each image.
            class_map: see `OfflineNms`.
            segmented: what it segments in each image as it is used; () for boxes alone.

        Returns:
            Their paths.
        """
        layer = OfflineNms(images, limit=shipped.max_detections, class_map=class_map)
        rows = map(partial(_masks, class_map), segmented) if segmented else _boxes(layer(shipped.nms_threshold)[0])
        paths = [self._write(file_stem(label), rows)]
        if self._raw is not None and shipped.nms_switched_off:
            layer = OfflineNms(images, limit=self._raw, class_map=class_map)
            paths.append(self._write(f"{file_stem(label)}-raw", _boxes(layer(None)[0], RAW_SCORE)))
        return paths

    def _write(self, stem: str, images: Iterable[Iterable[_Row]]) -> Path:
        path = self._folder / self._names.claim(Path(f"{stem}.json"))
        write_results(path, self._truth, images)
        return path


def write_results(path: Path, truth: GroundTruth, images: Iterable[Iterable[_Row]]) -> None:
    """Writes a file, detection after detection, with the ids that images and classes have in the data.

    Args:
        path: of the file.
        truth: N images.
        images: the detections of each, whose `category_id` is the class index.
    """
    ids = [json_id(x) for x in category_ids(MetadataCatalog.get(truth.name))]

    def write(file: Any) -> None:
        separator = "[\n"
        for image_id, rows in zip(truth.image_ids, images, strict=True):
            for row in rows:
                named = {"image_id": json_id(image_id), **row, "category_id": ids[row["category_id"]]}
                file.write((separator + json.dumps(named)).encode())
                separator = ",\n"
        file.write(b"[]\n" if separator == "[\n" else b"\n]\n")

    write_file(path, write)


def _boxes(found: Detections, least_score: float = 0.0) -> Iterator[Iterator[_Row]]:
    """Rows of each image."""
    boxes = found.boxes_xywh
    for index in range(len(found.offsets) - 1):
        own = found.of_image(index)
        columns = (x[own].tolist() for x in (found.classes, boxes, found.scores))
        yield (
            {"category_id": k, "bbox": box, "score": score}
            for k, box, score in zip(*columns, strict=True)
            if score >= least_score
        )


def _masks(class_map: np.ndarray, image: Segmentation) -> Iterator[_Row]:
    """Rows of an image."""
    boxes = np.array(image.boxes, np.float32).reshape(-1, 4)
    found = Detections.join([(boxes, np.array(image.scores), np.array(image.classes, np.int64))])
    columns = (found.classes.tolist(), found.boxes_xywh.tolist(), image.scores, image.counts)
    for k, box, score, counts in zip(*columns, strict=True):
        if class_map[k] >= 0:
            rle = {"size": image.size, "counts": counts}
            yield {"category_id": int(class_map[k]), "bbox": box, "score": score, "segmentation": rle}
