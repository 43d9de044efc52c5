"""Panoptic PNGs before training: all exist, and a sample is read. The mapper checks each of the others when it is read.

Reading the 118,287 PNGs of COCO would take longer than most people wait for a first step.
"""

from __future__ import annotations

import os

import numpy as np
from detectron2.data import DatasetCatalog

from .panoptic_file import read_segment_ids

_SAMPLE = 16  # PNGs read per dataset
_MOST_NAMED = 10  # files named in one message


def check_panoptic_pngs(name: str) -> None:
    """Checks the panoptic PNGs of a registered dataset; one whose dicts name none is not looked at.

    Raises:
        ValueError: if one is missing; or one of the sample is broken, of another size than its image, or has ids that
            `segments_info` does not list.
    """
    records = [record for record in DatasetCatalog.get(name) if "pan_seg_file_name" in record]
    folders = {os.path.dirname(record["pan_seg_file_name"]) for record in records}
    present = {os.path.join(folder, file_name) for folder in folders for file_name in _files_of(folder)}
    missing = [r["pan_seg_file_name"] for r in records if r["pan_seg_file_name"] not in present]
    if missing:
        raise ValueError(
            f"{name}: {len(missing)} of {len(records)} panoptic PNGs are missing, among them "
            f"{', '.join(missing[:_MOST_NAMED])}: check the folder of the PNGs and the file names in the panoptic file"
        )
    for index in np.unique(np.linspace(0, len(records) - 1, min(_SAMPLE, len(records))).astype(int)).tolist():
        record = records[index]
        size = (record["height"], record["width"]) if "height" in record and "width" in record else None
        read_segment_ids(record["pan_seg_file_name"], record["segments_info"], size)


def _files_of(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
