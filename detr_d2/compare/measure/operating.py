"""The score from which a model's detections count, and what follows from it.

Scores of different models are not comparable, nor are those of one model after other trainings, so no fixed score is
fair. Each model is given the score with its best F1, chosen on one half of the images and used on the other, so that
it is not chosen on the images that it is judged by. A monotone change of the scores changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...evaluation.arrays import GroundTruth
from ..records.sets import OperatingPoint, ScoreCurve, ScorePoint
from .crowds import bins_of, mean_in_bins
from .found import Found

FIXED_SCORES = tuple(x / 100 for x in range(5, 100, 5))
"""0.05 to 0.95."""

CURVE_POINTS = 100


def halves(image_ids: Iterable[Any]) -> np.ndarray:
    """(N,) 0 or 1, the half that each image belongs to: a bit of the SHA-256 of its id as text."""
    return np.array([hashlib.sha256(str(x).encode()).digest()[0] % 2 for x in image_ids], dtype=np.int64)


@dataclass(frozen=True)
class Tally:
    """What is counted of the detections from some score on; images count as often as they are weighted.

    Args:
        objects, found: numbers of them.
        detections: number of those that are not ignored.
        extra, other_label: boxes, see `Found`.
        errors: (N,) detections minus objects of each image.
        count_error: mean size of those.
    """

    objects: float
    found: float
    detections: float
    extra: float
    other_label: float
    errors: np.ndarray
    count_error: float

    @property
    def recall(self) -> float:
        """In percent of the objects."""
        return _percent(self.found, self.objects)

    @property
    def precision(self) -> float:
        """In percent of the detections."""
        return _percent(self.found, self.detections)

    @property
    def f1(self) -> float:
        """The harmonic mean of both, 0-100; 0 where nothing is detected."""
        return _percent(2 * self.found, self.detections + self.objects)

    @property
    def extra_share(self) -> float:
        """Extra boxes in percent of the found objects."""
        return _percent(self.extra, self.found)

    @property
    def other_label_share(self) -> float:
        """Extra boxes of another label in percent of the found objects."""
        return _percent(self.other_label, self.found)


class Operating:
    """Chooses a model's score, and counts what its detections from there on are.

    Args:
        ground_truth: N images.
        shipped: the detections as shipped.
        without_nms: those without NMS, which the same scores serve; None if they are not known.
        given: a score that the user wants instead.
    """

    def __init__(
        self, ground_truth: GroundTruth, shipped: Found, without_nms: Found | None, *, given: float | None = None
    ) -> None:
        self.given = given
        self.half_of = halves(ground_truth.image_ids)
        self.shipped = shipped
        self.without_nms = without_nms
        self._objects = ground_truth.objects_per_image()
        self._image_of, self._bin_of = ground_truth.image_of, bins_of(ground_truth)
        self._ranked = [_Ranked(shipped, self._objects, self.half_of == half) for half in (0, 1)]

    def scores(self, weights: np.ndarray | None = None) -> np.ndarray:
        """(2,) the score that each half uses, which is the best of the other; NaN where none is better than any.

        Args:
            weights: (N,) how often each image counts; default once.
        """
        if self.given is not None:
            return np.full(2, self.given)
        weights = self._weights(weights)
        return np.array([self._ranked[1 - half].best_score(weights) for half in (0, 1)])

    def thresholds(self, weights: np.ndarray | None = None) -> np.ndarray:
        """(N,) the score that each image uses, see `scores`."""
        return self.scores(weights)[self.half_of]

    def tally(self, thresholds: np.ndarray, weights: np.ndarray | None = None, *, found: Found | None = None) -> Tally:
        """Counts.

        Args:
            thresholds: (N,) score from which detections of each image count; NaN for none of them.
            weights: (N,) how often each image counts; default once.
            found: detections; default: as shipped.
        """
        found, weights = self.shipped if found is None else found, self._weights(weights)
        counted = (found.scores >= thresholds[found.image]) & ~found.ignored
        weight = np.where(counted, weights[found.image], 0.0)
        errors = np.bincount(found.image[counted], minlength=len(self._objects)) - self._objects
        return Tally(
            objects=float(weights @ self._objects),
            found=float(weight @ found.finds),
            detections=float(weight.sum()),
            extra=float(weight @ found.extra),
            other_label=float(weight @ found.other_label),
            errors=errors,
            count_error=float(np.average(np.abs(errors), weights=weights)),
        )

    def f1_per_image(self) -> np.ndarray:
        """(N,) F1 of each image at the operating point, 0-1; 1 where there is nothing to find and nothing was found."""
        found, count = self.shipped, len(self._objects)
        counted = (found.scores >= self.thresholds()[found.image]) & ~found.ignored
        hits = np.bincount(found.image[counted & found.finds], minlength=count)
        total = np.bincount(found.image[counted], minlength=count) + self._objects
        return np.divide(2 * hits, total, out=np.ones(count), where=total > 0)

    def record(self) -> OperatingPoint:
        """All that depends on the score."""
        everywhere = np.ones(len(self._objects))
        return OperatingPoint(
            given=self.given is not None,
            scores=self.scores().tolist(),
            half_of=self.half_of.tolist(),
            at=self._point(self.thresholds(), float("nan")),
            others=[self._point(score * everywhere, score) for score in FIXED_SCORES],
            curve=self._curve(),
        )

    def _point(self, thresholds: np.ndarray, score: float) -> ScorePoint:
        tally = self.tally(thresholds)
        return ScorePoint(
            score=score,
            precision=tally.precision,
            recall=tally.recall,
            f1=tally.f1,
            extra=tally.extra_share,
            other_label=tally.other_label_share,
            count_error=tally.count_error,
            crowds=self._recall_in_bins(self.shipped, thresholds),
            crowds_without_nms=[] if self.without_nms is None else self._recall_in_bins(self.without_nms, thresholds),
        )

    def _recall_in_bins(self, found: Found, thresholds: np.ndarray) -> list[float]:
        return mean_in_bins(found.object_scores >= thresholds[self._image_of], self._bin_of).tolist()

    def _curve(self) -> ScoreCurve:
        ranked = _Ranked(self.shipped, self._objects, np.ones(len(self._objects), dtype=bool))
        scores, hits, detections = ranked.scores, *ranked.counts(self._weights(None))
        rising = np.flatnonzero(np.diff(hits, prepend=0) > 0)  # F1 falls from one of them to the next
        steps = np.linspace(0, len(rising) - 1, min(CURVE_POINTS, len(rising))).round().astype(np.int64)
        picked = np.unique(np.append(rising[steps], np.arange(len(scores))[-1:]))[::-1]  # ascending scores
        hits, detections, objects = hits[picked], detections[picked], self._objects.sum()
        return ScoreCurve(
            scores=scores[picked].tolist(),
            precision=(100 * hits / detections).tolist(),
            recall=(100 * hits / objects).tolist(),
            f1=(200 * hits / (detections + objects)).tolist(),
        )

    def _weights(self, weights: np.ndarray | None) -> np.ndarray:
        return np.ones(len(self._objects)) if weights is None else weights.astype(np.float64)


class _Ranked:
    """The detections of some images by falling score, to be counted at the end of each group of equal scores.

    Args:
        found: detections of N images.
        objects: (N,) of each image.
        inside: (N,) bool: the images.

    Attributes:
        scores: (G,) of the groups, falling.
    """

    def __init__(self, found: Found, objects: np.ndarray, inside: np.ndarray) -> None:
        rows = np.flatnonzero(inside[found.image] & ~found.ignored)
        rows = rows[np.argsort(-found.scores[rows], kind="stable")]
        self._image, self._finds = found.image[rows], found.finds[rows]
        self._ends = np.flatnonzero(np.diff(found.scores[rows], append=-np.inf))
        self.scores = found.scores[rows][self._ends]
        self._objects = np.where(inside, objects, 0)

    def counts(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(G,) found objects and (G,) detections down to each score, of images that count `weights`, (N,), times."""
        weight = weights[self._image]
        return np.cumsum(weight * self._finds)[self._ends], np.cumsum(weight)[self._ends]

    def best_score(self, weights: np.ndarray) -> float:
        """The score with the highest F1, of equal ones the highest; NaN if no F1 is above 0."""
        hits, detections = self.counts(weights)
        if not hits.any():
            return float("nan")
        f1 = 2 * hits / (detections + weights @ self._objects)  # of whole numbers, so that equal ones are exactly so
        return float(self.scores[f1.argmax()])


def _percent(part: float, whole: float) -> float:
    return 100 * part / whole if whole > 0 else float("nan")
