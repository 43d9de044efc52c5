"""From what a model knows of a dataset to its figures, all but the cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from ...evaluation.arrays import MAX_DETECTIONS, Detections, GroundTruth
from ..records.comparison import ModelComparison, ShippedSettings
from ..records.sets import NmsPoint
from .coco import coco_metrics
from .errors import error_kinds
from .intervals import Observed, bootstrap, interval, limits_of
from .matching import PrecisionCurves, match
from .sets import MATCH_IOU, count_duplicates, count_errors, counting, crowding_bins, query_limit, same_class_pairs

NMS_SWEEP = tuple(x / 100 for x in range(30, 100, 5))
"""IoU thresholds, 0.30 to 0.95."""

USUAL_NMS = 0.5


class Layer(Protocol):
    """The detections of a decoder layer under any NMS; of a model without decoder, those that it has."""

    def __call__(self, threshold: float | None, *, limited: bool = True) -> tuple[Detections, float]:
        """The detections that are left, and how many NMS leaves per image before the model's limit on detections.

        Args:
            threshold: IoU of class-wise NMS; None: no NMS.
            limited: whether that limit is applied.
        """


@dataclass(frozen=True)
class Measured:
    """Figures of one model, and what comparing it with others needs.

    Args:
        record: everything but `cost`.
        samples: metric -> its value in every resample of the images.
        f1_per_image: (N,) F1 at IoU 0.5, 0-1; 1 where there is nothing to find and nothing was found.
    """

    record: ModelComparison
    samples: dict[str, list[float]] = field(default_factory=dict)
    f1_per_image: list[float] = field(default_factory=list)


def measure(
    identity: ModelComparison,
    ground_truth: GroundTruth,
    layers: Sequence[Layer],
    draws: np.ndarray,
    *,
    score_threshold: float,
    progress: Callable[[], object] = lambda: None,
) -> Measured:
    """Computes all figures of a model.

    Args:
        identity: the record with names, hashes and `shipped`, without figures.
        ground_truth: N images.
        layers: of the same images, what the model ships at the end.
        draws: see `intervals.image_draws`.
        score_threshold: of duplicates, crowding, counting and F1.
        progress: called after each of `num_steps` steps.
    """
    settings = identity.shipped
    assert settings is not None
    shipped = layers[-1](settings.nms_threshold)[0]
    # A limit would be filled with duplicates, and objects that only it has lost would not be seen to be found.
    without = layers[-1](None, limited=False)[0] if settings.nms_switched_off else shipped
    limit = coco_limit(settings)
    coco, curves = coco_metrics(ground_truth, shipped, max_detections=limit)
    progress()
    seen = shipped.select(shipped.scores >= score_threshold)
    observed = Observed(
        curves=PrecisionCurves(match(ground_truth, shipped, max_detections=limit)),
        pairs_50=same_class_pairs(seen)[:, 0],
        count_error=count_errors(ground_truth, seen),
    )
    samples = bootstrap(observed, draws)
    progress()
    cases = [("shipped", settings.nms_threshold, shipped)]
    if settings.nms_switched_off:
        cases += [("without NMS", None, without), ("with NMS", USUAL_NMS, layers[-1](USUAL_NMS)[0])]
    per_class = {x.name: x.ap for x in coco.per_class}
    record = replace(
        identity,
        run=replace(identity.run, ap=coco.ap, ap50=coco.ap50, ap75=coco.ap75, per_class=per_class),
        coco=coco,
        confidence={
            name: interval(value, samples[name], drawn_from=len(ground_truth), limits=limits_of(name))
            for name, value in observed.metrics().items()
        },
        curves=curves,
        num_layers=len(layers),
        nms=_sweep(ground_truth, layers, settings, progress),
        duplicates=[
            count_duplicates(
                ground_truth,
                found,
                setting=setting,
                nms_threshold=threshold,
                score_threshold=score_threshold,
                without_nms=without,
            )
            for setting, threshold, found in cases
        ],
        crowding=crowding_bins(
            ground_truth, shipped, without if settings.nms_switched_off else None, score_threshold=score_threshold
        ),
        counting=counting(ground_truth, shipped, score_threshold=score_threshold),
        query_limit=query_limit(ground_truth, shipped, settings.num_queries, settings.max_detections)
        if settings.num_queries
        else None,
        errors=error_kinds(ground_truth, shipped),
    )
    progress()
    return Measured(record=record, samples=samples, f1_per_image=f1_per_image(ground_truth, seen).tolist())


def num_steps(settings: ShippedSettings, num_layers: int) -> int:
    """How often `measure` calls `progress`."""
    return 3 + num_layers * len(nms_thresholds(settings))


def nms_thresholds(settings: ShippedSettings) -> list[float | None]:
    """No NMS, the sweep's thresholds and the model's own; only this if it cannot be switched off."""
    if not settings.nms_switched_off:
        return [settings.nms_threshold]
    own = [] if settings.nms_threshold is None else [settings.nms_threshold]
    return [None, *sorted({*NMS_SWEEP, *own})]


def coco_limit(settings: ShippedSettings) -> int:
    """COCO's 100 detections per image and class; all that a DETR returns where it has more queries than that."""
    if settings.num_queries is not None and settings.num_queries > MAX_DETECTIONS:
        return max(MAX_DETECTIONS, settings.max_detections)
    return MAX_DETECTIONS


def _sweep(
    ground_truth: GroundTruth, layers: Sequence[Layer], settings: ShippedSettings, progress: Callable[[], object]
) -> list[NmsPoint]:
    points = []
    for number, layer in enumerate(layers, start=1):
        for threshold in nms_thresholds(settings):
            detections, kept = layer(threshold)
            matches = match(ground_truth, detections, max_detections=coco_limit(settings))
            ap = PrecisionCurves(matches).average_precision()
            points.append(
                NmsPoint(
                    layer=number,
                    nms_threshold=threshold,
                    shipped=number == len(layers) and threshold == settings.nms_threshold,
                    ap=float(ap.mean()),
                    ap50=float(ap[0]),
                    kept_per_image=kept,
                    detections_per_image=len(detections.scores) / len(ground_truth),
                )
            )
            progress()
    return points


def f1_per_image(ground_truth: GroundTruth, detections: Detections) -> np.ndarray:
    """(N,) F1 at IoU 0.5 of each image, 0-1."""
    matches = match(ground_truth, detections, ious=np.array([MATCH_IOU]))
    hits = np.bincount(matches.image[matches.correct[0]], minlength=len(ground_truth))
    counted = np.bincount(matches.image[~matches.ignored[0]], minlength=len(ground_truth))
    total = counted + matches.objects.sum(1)
    return np.divide(2 * hits, total, out=np.ones(len(ground_truth)), where=total > 0)
