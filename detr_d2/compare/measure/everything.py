"""From what a model knows of a dataset to its figures, all but the cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from ...evaluation.arrays import MAX_DETECTIONS, Detections, GroundTruth
from ..records.comparison import ModelComparison, ShippedSettings
from ..records.sets import USUAL_NMS, ExtraBoxes, NmsPoint
from .coco import coco_metrics
from .confusion import confusion_matrix
from .errors import error_kinds
from .found import find
from .intervals import METRICS, Observed, bootstrap, interval, limits_of
from .matching import PrecisionCurves, limit_per_class, match
from .sets import SetFigures, counting, extra_boxes, query_limit

NMS_SWEEP = tuple(x / 100 for x in range(30, 100, 5))
"""IoU thresholds, 0.30 to 0.95."""


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
        samples: metric, or `crowd_key` -> its value in every resample of the images.
        f1_per_image: (N,) F1 at the operating point, 0-1; 1 where there is nothing to find and nothing was found.
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
    score_threshold: float | None = None,
    progress: Callable[[], object] = lambda: None,
) -> Measured:
    """Computes all figures of a model.

    Args:
        identity: the record with names, hashes and `shipped`, without figures.
        ground_truth: N images.
        layers: of the same images, what the model ships at the end.
        draws: see `intervals.image_draws`.
        score_threshold: from which detections count; None: the model's own, see `operating`.
        progress: called after each of `num_steps` steps.
    """
    settings = identity.shipped
    assert settings is not None
    limit, drawn_from = coco_limit(settings), len(ground_truth)
    shipped = layers[-1](settings.nms_threshold)[0]
    coco, curves = coco_metrics(ground_truth, shipped, max_detections=limit)
    progress()
    sets = SetFigures.of(
        ground_truth,
        limit_per_class(shipped, limit),
        # A limit would be filled with extra boxes, and objects that only it has lost would not be seen to be found.
        layers[-1](None, limited=False)[0] if settings.nms_switched_off else None,
        score_threshold=score_threshold,
    )
    operating, found = sets.operating, find(ground_truth, shipped)  # all of them, whatever COCO counts
    seen = shipped.select(shipped.scores >= operating.thresholds()[shipped.image_of])
    observed = Observed(PrecisionCurves(match(ground_truth, shipped, max_detections=limit)), sets)
    values, samples = observed.metrics(), bootstrap(observed, draws)
    intervals = {
        name: interval(x, samples[name], drawn_from=drawn_from, limits=limits_of(name)) for name, x in values.items()
    }
    progress()
    per_class = {x.name: x.ap for x in coco.per_class}
    record = replace(
        identity,
        run=replace(identity.run, ap=coco.ap, ap50=coco.ap50, ap75=coco.ap75, per_class=per_class),
        notes=[*identity.notes, *_no_score(operating.scores().tolist())],
        coco=coco,
        confidence={name: intervals[name] for name in METRICS},
        curves=curves,
        num_layers=len(layers),
        nms=_sweep(ground_truth, layers, settings, progress),
        operating=operating.record(),
        confusion=confusion_matrix(ground_truth, seen),
        extra_boxes=_extra_boxes(ground_truth, layers[-1], settings, sets),
        crowds=sets.crowds.records(values, intervals),
        counting=counting(ground_truth, operating),
        query_limit=query_limit(ground_truth, found, settings.num_queries, settings.max_detections)
        if settings.num_queries
        else None,
        errors=error_kinds(ground_truth, shipped, max_detections=limit),
    )
    progress()
    return Measured(record=record, samples=samples, f1_per_image=operating.f1_per_image().tolist())


def _no_score(scores: Sequence[float]) -> list[str]:
    """A note if detections count on half of the images at most."""
    unknown = sum(math.isnan(x) for x in scores)
    if not unknown:
        return []
    half, other = ("", "") if unknown == 2 else (" on one half of the images", " on the other half")
    return [f"no score gives an F1 above 0{half}, so none of its detections counts{other}"]


def _extra_boxes(
    ground_truth: GroundTruth, layer: Layer, settings: ShippedSettings, sets: SetFigures
) -> list[ExtraBoxes]:
    """As shipped, without NMS, and with the usual NMS, each where it is no copy of another."""
    shipped, without = sets.operating.shipped, sets.operating.without_nms
    cases = [("shipped", settings.nms_threshold, shipped)]
    if without is not None and settings.nms_threshold is not None:
        cases.append(("without NMS", None, without))
    if without is not None and settings.nms_threshold != USUAL_NMS:
        found = find(ground_truth, limit_per_class(layer(USUAL_NMS)[0], coco_limit(settings)))
        cases.append(("with NMS", USUAL_NMS, found))
    reference = shipped if without is None else without
    return [
        extra_boxes(ground_truth, sets.operating, found, reference, setting=setting, nms_threshold=threshold)
        for setting, threshold, found in cases
    ]


def num_steps(settings: ShippedSettings, num_layers: int) -> int:
    """How often `measure` calls `progress`."""
    return 3 + num_layers * len(nms_thresholds(settings))


def nms_thresholds(settings: ShippedSettings) -> list[float | None]:
    """No NMS, or none besides what cannot be switched off; the sweep's thresholds; and the model's own."""
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
