"""The dataset of a comparison: its ground truth, its summary, and a fingerprint that changes when the data do."""

from __future__ import annotations

import hashlib
import os

import numpy as np
from detectron2.data import MetadataCatalog

from ..data.checks.records import registered_records
from ..data.registration import dataset_table, require_registered
from ..evaluation.arrays import GroundTruth
from ..evaluation.ground_truth import ground_truth_of
from .measure.crowds import overlapped_share
from .records.comparison import DatasetSummary


def load_ground_truth(name: str) -> GroundTruth:
    """Reads a registered dataset that models are compared on.

    Raises:
        ValueError: it is not registered, has no class names, no image or no annotated boxes, or is no list of dicts; or
            a record cannot be used.
    """
    require_registered([name])
    dataset_table(name)  # whose checks come first
    records = registered_records(name)
    if records is None:
        raise ValueError(f"dataset {name} is no list of dicts, which a comparison needs")
    if not records:
        raise ValueError(f"dataset {name} holds no images; a comparison needs some")
    if not MetadataCatalog.get(name).get("thing_classes"):
        raise ValueError(f"dataset {name} has no class names (thing_classes in its metadata); a comparison needs them")
    without = next((x for x in records if "annotations" not in x), None)
    if without is not None:
        hint = ": add :instances.json to --coco-panoptic" if "segments_info" in without else ""
        raise ValueError(
            f"dataset {name} has no annotations for {without.get('file_name')}; a comparison needs them{hint}"
        )
    unsized = next((x for x in records if not (x.get("height") and x.get("width"))), None)
    if unsized is not None:
        raise ValueError(
            f"dataset {name} has no height and width for {unsized.get('file_name')}; a comparison needs them"
        )
    return ground_truth_of(name, records)


def fingerprint(ground_truth: GroundTruth) -> str:
    """Hash of annotations, image list, and size and time of every image file and of the PNGs of panoptic data."""
    digest = hashlib.sha256(repr((ground_truth.class_names, ground_truth.image_ids)).encode())
    metadata = MetadataCatalog.get(ground_truth.name)
    if not os.path.isfile(metadata.get("json_file", "")):  # whose bytes hold the masks
        digest.update(repr(ground_truth.segmentations).encode())
    for path in (metadata.get("json_file"), metadata.get("panoptic_json")):
        if path and os.path.isfile(path):
            with open(path, "rb") as file:
                digest.update(file.read())
    pngs = metadata.get("panoptic_root")
    if pngs and os.path.isdir(pngs):
        with os.scandir(pngs) as entries:
            digest.update(repr(sorted((x.name, x.stat().st_size, x.stat().st_mtime_ns) for x in entries)).encode())
    for array in (ground_truth.boxes_xywh, ground_truth.classes, ground_truth.crowd, ground_truth.areas):
        digest.update(np.ascontiguousarray(array).tobytes())
    for path in ground_truth.file_names:
        status = os.stat(path) if os.path.exists(path) else None
        digest.update(repr((path, status and (status.st_size, status.st_mtime_ns))).encode())
    return digest.hexdigest()[:32]


def summarise(ground_truth: GroundTruth, *, limited: bool, fingerprint: str) -> DatasetSummary:
    """What a reader has to know of the data."""
    metadata = MetadataCatalog.get(ground_truth.name)
    real = ~ground_truth.crowd
    per_class = np.bincount(ground_truth.classes[real], minlength=len(ground_truth.class_names))
    return DatasetSummary(
        name=ground_truth.name,
        annotations=str(metadata.get("json_file", "")),
        image_root=str(metadata.get("image_root", "")),
        num_images=len(ground_truth),
        limited=limited,
        num_objects=int(real.sum()),
        num_crowd=int(ground_truth.crowd.sum()),
        class_names=list(ground_truth.class_names),
        objects_per_class=per_class.tolist(),
        max_objects=int(ground_truth.objects_per_image().max(initial=0)),
        fingerprint=fingerprint,
        overlapped_share=overlapped_share(ground_truth),
    )
