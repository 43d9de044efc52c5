"""What a comparison says of detections as a set, made up by simple rules, for `comparison_example`."""

from __future__ import annotations

from detr_d2.compare.records.figures import Interval
from detr_d2.compare.records.sets import CrowdBin, Cure, ExtraBoxes, OperatingPoint, ScoreCurve, ScorePoint

NAN = float("nan")
SCORES = [x / 20 for x in range(1, 20)]
"""Fixed scores of the slider, 0.05 to 0.95."""

BINS = [(0.0, 0.0, 25), (0.0, 0.1, 0), (0.1, 0.3, 20), (0.3, 0.5, 28), (0.5, 0.7, 22), (0.7, 1.0, 5)]
"""Bounds and number of objects: the second bin is empty, the last has too few."""

_FALL = (0.0, NAN, 2.0, 6.0, 20.0, 30.0)  # points of recall below that of objects that stand alone
_DETR_FALL = (0.0, NAN, 2.0, 4.0, 8.0, 10.0)


def operating_point(scores: tuple[float, float], *, nms: bool, lift: float = 0.0) -> OperatingPoint:
    """Precision rises and recall falls in a straight line from score 0 to 1.

    Args:
        scores: of the two halves of 40 images.
        nms: whether the model has an NMS that loses objects.
        lift: added to recall.
    """
    middle = sum(scores) / 2
    return OperatingPoint(
        given=False,
        scores=list(scores),
        half_of=[i % 2 for i in range(40)],
        at=score_point(middle, nms=nms, lift=lift, own=True),
        others=[score_point(x, nms=nms, lift=lift) for x in SCORES],
        curve=ScoreCurve(
            SCORES,
            [precision_at(x) for x in SCORES],
            [recall_at(x, lift) for x in SCORES],
            [_f1(precision_at(x), recall_at(x, lift)) for x in SCORES],
        ),
    )


def score_point(score: float, *, nms: bool, lift: float = 0.0, own: bool = False) -> ScorePoint:
    """See `operating_point`; with `own` that of a model, which has no one score."""
    precision, recall = precision_at(score), recall_at(score, lift)
    fall = _FALL if nms else _DETR_FALL
    return ScorePoint(
        score=NAN if own else score,
        precision=precision,
        recall=recall,
        f1=_f1(precision, recall),
        extra=(2 if nms else 20) * (1 - score),
        other_label=10 * (1 - score),
        count_error=abs(4 * score - 2) + 0.5,
        crowds=[max(0.0, recall - x) if x == x else NAN for x in fall],
        crowds_without_nms=[max(0.0, recall - x / (2 if nms else 1)) if x == x else NAN for x in fall],
    )


def precision_at(score: float) -> float:
    """60 to 100."""
    return 60 + 40 * score


def recall_at(score: float, lift: float = 0.0) -> float:
    """90 to 50."""
    return 90 - 40 * score + lift


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall)


def crowd_bins(point: ScorePoint, *, nms: bool) -> list[CrowdBin]:
    """The bins of a point; half of what is lost might be chance.

    Args:
        point: at the operating point.
        nms: whether the model has an NMS.
    """
    bins = []
    for place, (low, high, count) in enumerate(BINS):
        shipped, without = point.crowds[place], point.crowds_without_nms[place]
        lost = max(0.0, without - shipped) / 2
        bins.append(
            CrowdBin(
                low=low,
                high=high,
                num_objects=count,
                recall=around(shipped, 6.0),
                recall_without_nms=around(without, 5.0),
                chance=without - lost if nms else NAN,
                lost=around(lost, 2.0) if nms else None,
                ap=around(shipped - 10, 7.0),
            )
        )
    return bins


def around(value: float, half: float) -> Interval:
    """Value with an interval of this half width, from 0 to 100."""
    return (
        Interval(value, max(0.0, value - half), min(100.0, value + half)) if value == value else Interval(NAN, NAN, NAN)
    )


def extra_boxes(point: ScorePoint, *, nms: bool) -> list[ExtraBoxes]:
    """As shipped, and the one of the two other settings that differs from it, and NMS at 0.7."""
    shipped = ExtraBoxes("shipped", 0.5 if nms else None, 110, 90, point.extra, point.other_label, 4 if nms else 0)
    if nms:
        return [shipped, ExtraBoxes("without NMS", None, 412, 94, 338.3, 12.8, 0)]
    return [shipped, ExtraBoxes("with NMS", 0.5, 101, 88, 1.1, point.other_label, 2)]


def cures() -> list[Cure]:
    """Of a model without NMS."""
    return [
        Cure("NMS", "MODEL.DETR.NMS_THRESH_TEST 0.7", 65.4, 85.5, score_point(0.6, nms=True, own=True)),
        Cure("one label per query", "MODEL.DETR.ONE_CLASS_PER_QUERY True", 64.5, 84.5, score_point(0.6, nms=False)),
    ]
