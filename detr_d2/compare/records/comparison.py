"""What `python -m detr_d2 compare` measures, as records: the schema of its `results.json`.

`Comparison` is the whole file; the figures of a model are in `figures`, `sets` and
`cost`. AP, AR, recall and precision
are on the 0-100 scale, times in milliseconds, boxes xyxy in pixels of the original image, IoU and scores 0-1. What was
not measured, or cannot be (no object of a class), is NaN in Python and null in the file; a part that does not apply to
a model is None and null.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import Any

from .cost import Cost
from .figures import (
    CocoMetrics,
    ConfusionMatrix,
    ErrorKind,
    Interval,
    MaskMetrics,
    PanopticMetrics,
    PrecisionRecall,
)
from .files import load_record, save_record
from .pictures import GalleryImage, Removal
from .results import RunResult
from .sets import (
    FEWEST_OBJECTS,
    Counting,
    CrowdBin,
    CrowdingBin,
    Cure,
    Duplicates,
    ExtraBoxes,
    NmsPoint,
    OperatingPoint,
    QueryLimit,
)

COMPARISON_FORMAT = 2
"""Version of the file layout; a file of another version is refused."""

UNLIMITED = 10**6
"""Detections of an image, of a model without a limit. Not -1: RetinaNet would drop the last detection."""


@dataclass(frozen=True)
class DatasetSummary:
    """The data that all models were run on.

    Args:
        name: registered name.
        annotations: path of the annotation file, "" for data that is not a COCO file.
        image_root: folder of the images, "" if unknown.
        num_images: images that were used.
        limited: whether `--limit` left images out.
        num_objects: objects, crowd regions not counted.
        num_crowd: crowd regions; detections on them count neither way.
        class_names: K names, in the order of the class indices used everywhere in the file.
        objects_per_class: K numbers.
        max_objects: most objects of one image.
        fingerprint: hash of annotations, image list, sizes and times.
        overlapped_share: objects that another of their class overlaps by an IoU of more than 0.5, which NMS at 0.5 must
            lose, in percent.
    """

    name: str
    annotations: str
    image_root: str
    num_images: int
    limited: bool
    num_objects: int
    num_crowd: int
    class_names: list[str]
    objects_per_class: list[int]
    max_objects: int
    fingerprint: str
    overlapped_share: float = math.nan

    @property
    def rare_classes(self) -> list[str]:
        """Classes of so few objects that the intervals of what depends on them are too narrow."""
        counts = zip(self.class_names, self.objects_per_class, strict=True)
        return [name for name, count in counts if 0 < count < FEWEST_OBJECTS]


@dataclass(frozen=True)
class ShippedSettings:
    """How the model decides what to return when it is used as its config says.

    Args:
        nms_threshold: IoU of its class-wise NMS; None for a model without NMS.
        score_threshold: detections below are dropped (also from everything said of the model without NMS).
        max_detections: most detections per image.
        num_queries: N of a DETR, else None.
        nms_switched_off: whether the model could be run without its NMS; if not, every figure is with it.
    """

    nms_threshold: float | None
    score_threshold: float
    max_detections: int
    num_queries: int | None
    nms_switched_off: bool


@dataclass(frozen=True)
class CrashedImage:
    """An image that the model could not process; it counts as an image without detections.

    Args:
        file_name: of the image.
        error: one sentence.
    """

    file_name: str
    error: str


@dataclass(frozen=True)
class CheckpointSummary:
    """One of several checkpoints of a model.

    Args:
        weights: as given.
        weights_sha256: of the file.
        ap: its AP.
    """

    weights: str
    weights_sha256: str
    ap: float


@dataclass(frozen=True)
class PredictionsFile:
    """Detections that another program made (`--predictions`).

    Args:
        path: as given.
        sha256: of the file.
        said: "raw" or "nms" if the user said that they are so, else "".
        largest_iou: of two boxes of a class in an image.
        looks: "looks filtered at M", or "cannot be told"; "" where the user said it.
    """

    path: str
    sha256: str
    said: str
    largest_iou: float
    looks: str


@dataclass(frozen=True)
class ModelComparison:
    """One model.

    Args:
        label: as the user named it; unique in a comparison.
        family: "DETR", "R-CNN", "dense" (RetinaNet, FCOS) or "other".
        run: its main figures as the record that this package's other commands write.
        weights: as given; "" for random ones.
        weights_sha256: of the file, "" for random weights.
        config_sha256: of the part of the config that a prediction depends on.
        failed: "" or one sentence why there are no figures; then all parts below are None or empty.
        notes: sentences the reader has to know, such as classes that the model does not know.
        crashed_images: images that failed.
        shipped: settings of normal use.
        coco: COCO's figures.
        confidence: "ap", "ap50", "ap75", "ar_max" of `coco`, "recall", "extra" and "count_error" of `operating`, as
            shipped -> the figure with its interval.
        curves: precision over recall at IoU 0.5, 0.75 and the mean.
        num_layers: decoder layers in `nms`; 1 for models without decoder.
        nms: AP and number of detections for every layer and NMS threshold.
        duplicates: as shipped, without NMS, with NMS.
        crowding: bins, ascending.
        counting: number of objects.
        query_limit: None for models without queries.
        errors: six kinds; in AP50 of `run`.
        cost: None with `--skip-cost`.
        masks: None for models or data without masks.
        panoptic: None for models or data without panoptic maps.
        operating: the score from which its detections count, and all that depends on it.
        extra_boxes: as shipped, without NMS, with NMS.
        crowds: bins, ascending.
        cures: what removes duplicates at test time and is not used.
        confusion: None where no class occurs.
        removals: those in which the right detection was scored highest; empty for models without NMS.
        checkpoints: where there are several, all of them; gallery, removals and cost are those of the first.
        predictions: None for a model that was run.
    """

    label: str
    family: str
    run: RunResult
    weights: str
    weights_sha256: str
    config_sha256: str
    failed: str = ""
    notes: list[str] = field(default_factory=list)
    crashed_images: list[CrashedImage] = field(default_factory=list)
    shipped: ShippedSettings | None = None
    coco: CocoMetrics | None = None
    confidence: dict[str, Interval] = field(default_factory=dict)
    curves: list[PrecisionRecall] = field(default_factory=list)
    num_layers: int = 1
    nms: list[NmsPoint] = field(default_factory=list)
    duplicates: list[Duplicates] = field(default_factory=list)
    crowding: list[CrowdingBin] = field(default_factory=list)
    counting: Counting | None = None
    query_limit: QueryLimit | None = None
    errors: list[ErrorKind] = field(default_factory=list)
    cost: Cost | None = None
    masks: MaskMetrics | None = None
    panoptic: PanopticMetrics | None = None
    operating: OperatingPoint | None = None
    extra_boxes: list[ExtraBoxes] = field(default_factory=list)
    crowds: list[CrowdBin] = field(default_factory=list)
    cures: list[Cure] = field(default_factory=list)
    confusion: ConfusionMatrix | None = None
    removals: list[Removal] = field(default_factory=list)
    checkpoints: list[CheckpointSummary] = field(default_factory=list)
    predictions: PredictionsFile | None = None


@dataclass(frozen=True)
class Difference:
    """How far apart two models are, with the bootstrap's resamples shared by both.

    Args:
        first, second: labels.
        metric: a key of `ModelComparison.confidence`, or "latency_ms", the median time of one image, resampled by
            rounds in which all models ran.
        difference: the first's figure minus the second's; if the interval holds 0, no winner is to be named.
    """

    first: str
    second: str
    metric: str
    difference: Interval


@dataclass(frozen=True)
class Comparison:
    """All of it.

    Args:
        dataset: the data.
        models: in the order the user named them, failed ones too.
        differences: every pair of models that did not fail.
        gallery: the images of largest disagreement, largest first.
        machine: what ran it: "processor", "threads", "torch", "device", ...
        versions: package -> version.
        command: the command line that made it.
        created: ISO time, UTC.
        settings: options that matter, such as "resamples", "score_threshold", "limit", "repeat".
    """

    dataset: DatasetSummary
    models: list[ModelComparison]
    differences: list[Difference] = field(default_factory=list)
    gallery: list[GalleryImage] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    command: str = ""
    created: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


def save_comparison(comparison: Comparison, path: str | os.PathLike[str]) -> None:
    """Writes the file; it appears whole or not at all."""
    save_record(comparison, path, version=COMPARISON_FORMAT)


def load_comparison(path: str | os.PathLike[str]) -> Comparison:
    """Reads a file written by `save_comparison`.

    Raises:
        ValueError: it is not such a file; names the file and the key.
        OSError: it cannot be read.
    """
    return load_record(Comparison, path, version=COMPARISON_FORMAT, what="a result of `compare`", cure="make it again")
