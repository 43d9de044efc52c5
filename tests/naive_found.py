"""The rule by which objects are found, and the choice of a score, once more: slow, simple, on plain lists."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from detr_d2.evaluation.arrays import Detections, GroundTruth


@dataclass
class NaiveCount:
    """What the detections from some score on are, of some images."""

    objects: int = 0
    found: int = 0
    detections: int = 0
    extra: int = 0
    other_label: int = 0
    count_error: int = 0
    found_objects: tuple[int, ...] = ()

    @property
    def f1(self) -> float:
        total = self.detections + self.objects
        return 2 * self.found / total if total else 0.0


def naive_count(truth: GroundTruth, found: Detections, scores: Sequence[float], times: Sequence[int]) -> NaiveCount:
    """Counts images as often as `times` says, each from its own score on; NaN for no detection."""
    result = NaiveCount()
    for image, score in enumerate(scores):
        one = _of_image(truth, found, image, score)
        for name in ("objects", "found", "detections", "extra", "other_label", "count_error"):
            setattr(result, name, getattr(result, name) + times[image] * getattr(one, name))
        result.found_objects += one.found_objects
    return result


def naive_best_score(truth: GroundTruth, found: Detections, images: Sequence[int], times: Sequence[int]) -> float:
    """The score of a detection in these images with the best F1 there; NaN if no F1 is above 0."""
    inside = [times[i] if i in images else 0 for i in range(len(truth))]
    candidates = sorted({float(s) for i in images for s in found.scores[found.of_image(i)]}, reverse=True)
    best, chosen = 0.0, math.nan
    for score in candidates:
        f1 = naive_count(truth, found, [score] * len(truth), inside).f1
        if f1 > best:
            best, chosen = f1, score
    return chosen


def _of_image(truth: GroundTruth, found: Detections, image: int, score: float) -> NaiveCount:
    objects = [
        (index, truth.boxes_xywh[index].tolist(), int(truth.classes[index]), bool(truth.crowd[index]))
        for index in range(*_ends(truth.of_image(image)))
    ]
    boxes = found.boxes_xywh
    kept = [
        (boxes[row].tolist(), int(found.classes[row]))
        for row in range(*_ends(found.of_image(image)))
        if found.scores[row] >= score
    ]
    result = NaiveCount(objects=sum(not crowd for *_, crowd in objects))
    finders: dict[int, int] = {}  # object -> how many detections of its class count for it
    labels: dict[int, int] = {}  # object -> class of the best scored detection that counts for it, whatever the class
    for box, k in kept:
        own = _counts_for(box, [x for x in objects if x[2] == k and not x[3]], finders, k)
        if own is None and any(x[3] and x[2] == k and _overlap(box, x[1], crowd=True) >= 0.5 for x in objects):
            continue
        result.detections += 1
        if own is not None:
            finders[own] = finders.get(own, 0) + 1
        every = _counts_for(box, [x for x in objects if not x[3]], labels, k)
        if every is not None:
            result.other_label += labels.setdefault(every, k) != k
    result.found = len(finders)
    result.extra = sum(finders.values()) - len(finders)
    result.found_objects = tuple(sorted(finders))
    result.count_error = abs(result.detections - result.objects)
    return result


def _counts_for(box: list[float], objects: list[Any], taken: dict[int, int], k: int) -> int | None:
    """The object that it overlaps most; of equal ones one of its class, then one not yet taken, then the first."""
    ranked = [(-_overlap(box, other), label != k, index in taken, index) for index, other, label, _ in objects]
    best = min(ranked, default=(0.0, False, False, -1))
    return best[3] if -best[0] >= 0.5 else None


def _overlap(a: list[float], b: list[float], *, crowd: bool = False) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    inside = max(width, 0.0) * max(height, 0.0)
    union = a[2] * a[3] if crowd else a[2] * a[3] + b[2] * b[3] - inside
    return inside / union if union > 0 else 0.0


def _ends(part: slice) -> tuple[int, int]:
    return part.start, part.stop
