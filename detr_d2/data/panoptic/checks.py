"""Panoptic PNGs before training: all exist and have the size of their image, and a sample is read. The mapper checks
each of the others when it is read.

Reading the pixels of the 118,287 PNGs of COCO would take longer than most people wait for a first step.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..checks.images import check_images
from .file import read_segment_ids

_SAMPLE = 16  # PNGs read per dataset

logger = logging.getLogger(__name__)


def check_panoptic_pngs(name: str, *, seconds: float | None = None) -> None:
    """Checks the panoptic PNGs of a registered dataset; one whose dicts name none is not looked at.

    Args:
        name: of the dataset.
        seconds: for the sizes, as in `check_images`.

    Raises:
        ValueError: if one is missing, broken or of another size than its image; or one of the sample has ids that
            `segments_info` does not list.
    """
    records = [record for record in DatasetCatalog.get(name) if "pan_seg_file_name" in record]
    check_images(
        name,
        [record["pan_seg_file_name"] for record in records],
        np.array([(record.get("width", 0), record.get("height", 0)) for record in records]).reshape(-1, 2),
        root=MetadataCatalog.get(name).get("panoptic_root") or "",
        seconds=seconds,
        pngs=True,
    )
    sample = np.unique(np.linspace(0, len(records) - 1, min(_SAMPLE, len(records))).astype(int)).tolist()
    unseen = {records[index]["pan_seg_file_name"]: _without_pixels(records[index]) for index in sample}
    if any(unseen.values()):
        path = next(path for path, ids in unseen.items() if ids)
        logger.warning(
            "%s: %d segments of the %d panoptic PNGs that were read have no pixel, such as segment %s of %s: they are "
            "not trained on, and count as missed in the panoptic quality; correct segments_info, or the PNGs.",
            name, sum(map(len, unseen.values())), len(unseen), unseen[path][0], path,
        )  # fmt: skip


def _without_pixels(record: dict[str, Any]) -> list[int]:
    """Ids of the segments that the PNG does not show."""
    size = (record["height"], record["width"]) if "height" in record and "width" in record else None
    shown = np.unique(read_segment_ids(record["pan_seg_file_name"], record["segments_info"], size)).tolist()
    return [segment["id"] for segment in record["segments_info"] if segment["id"] not in shown]
