"""Objects that a detector does not see and that boxes of the object beside them find by chance.

Without NMS a detector puts several boxes on what it sees, and where two objects overlap, some of them may lie nearer to
the other one. Then the rule of `found` says that the other is found without NMS and lost by it, though the detector
never saw it. How often this happens is measured on the model itself.

The model's boxes around an isolated object, with their offsets in units of its width and height, are put on either of
two overlapping objects, as if the detector saw only this one. Those that stay under NMS say which of the two such a
detector would find as shipped, for NMS treats them as it did around the isolated object, and those without NMS which it
would find without. Of all the cases in which one of the two is found as shipped and the other is not, as it is with the
real detections, the share in which the other is found without NMS is the chance of the other.

What biases it: it takes for granted that a detector scatters its boxes around one of two overlapping objects as it does
around isolated ones of their class and about their size, and that it sees either as often. Where it draws worse in
crowds, chance finds more than is said here, and the loss by NMS is overstated. Where it does see the other object, and
chance would have found it, too, the loss is understated: it is what NMS is sure to lose. An object neither of whose
boxes as shipped nor of its neighbours' finds anything counts as lost by NMS if it is found without.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...evaluation.arrays import Detections, GroundTruth
from .found import assign
from .matching import box_iou_xywh

DONORS = 16
"""Isolated objects whose boxes are put on each object."""


class Chance:
    """How likely it is that the boxes of found objects find others.

    Args:
        ground_truth: N images.
        shipped: the detections as shipped.
        without_nms: those without NMS.
    """

    def __init__(self, ground_truth: GroundTruth, shipped: Detections, without_nms: Detections) -> None:
        self._num_objects, image_of = len(ground_truth.classes), ground_truth.image_of
        pairs = _overlapping(ground_truth)
        isolated = ~ground_truth.crowd & (ground_truth.boxes_xywh[:, 2:] > 0).all(1)
        isolated[pairs] = False
        clouds = [_clouds(ground_truth, x, isolated) for x in (shipped, without_nms)]
        donors = _donors(ground_truth, isolated & (np.diff(clouds[1].offsets) > 0), np.unique(pairs))
        self.known = donors.shape[1] > 0
        if not self.known:
            return
        target, other = pairs.T
        best = np.full((2, self._num_objects, donors.shape[1]), -np.inf)  # filled below, for one object at a time
        # (P, 2, donors): boxes lie on the target or on the other one
        self._target_shipped, self._other_shipped, self._target_without = (
            np.full((len(pairs), 2, donors.shape[1]), -np.inf) for _ in range(3)
        )
        for place in np.unique(pairs).tolist():
            own = ground_truth.of_image(int(image_of[place]))
            near = own.start + np.flatnonzero(
                ~ground_truth.crowd[own] & (ground_truth.classes[own] == ground_truth.classes[place])
            )
            for i, cloud in enumerate(clouds):
                best[i, near] = _best_scores(ground_truth.boxes_xywh, cloud, donors[place], place, near).T
            for side, seen in enumerate((target, other)):
                rows = np.flatnonzero(seen == place)
                self._target_shipped[rows, side] = best[0, target[rows]]
                self._other_shipped[rows, side] = best[0, other[rows]]
                self._target_without[rows, side] = best[1, target[rows]]
        self._target, self._other = target, other
        self._donor_image = image_of[np.stack([donors[target], donors[other]], 1)]  # (P, 2, donors)

    def of_objects(self, found: np.ndarray, thresholds: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """(M,) probability, of an object that is not found as shipped, that boxes of found ones find it without NMS.

        It is NaN where no case says anything.

        Args:
            found: (M,) bool: as shipped.
            thresholds: (N,) score from which detections of each image count.
            weights: (N,) how often each image counts.
        """
        limit, weight = thresholds[self._donor_image], weights[self._donor_image]
        alike = np.where((self._other_shipped >= limit) & ~(self._target_shipped >= limit), weight, 0)
        cases = alike.sum((1, 2))
        hits = np.where(self._target_without >= limit, alike, 0).sum((1, 2))
        missed = 1 - np.divide(hits, cases, out=np.full(len(cases), np.nan), where=cases > 0)
        result = np.ones(self._num_objects)
        beside = found[self._other]
        np.multiply.at(result, self._target[beside], missed[beside])
        return 1 - result


@dataclass(frozen=True)
class _Clouds:
    """Boxes around isolated objects, best scored first for each object.

    Args:
        offsets: (M + 1,) those of object i are `offsets[i]` to `offsets[i + 1]`; none for objects that do overlap.
        boxes: (B, 4) xywh, relative to the object's corner, in units of its width and height.
        scores: (B,) float64.
    """

    offsets: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray


def _overlapping(ground_truth: GroundTruth) -> np.ndarray:
    """(P, 2) ordered pairs of objects of an image and class that overlap."""
    result = [np.zeros((0, 2), dtype=np.int64)]
    for image in range(len(ground_truth)):
        own = ground_truth.of_image(image)
        boxes, real, classes = (x[own] for x in (ground_truth.boxes_xywh, ~ground_truth.crowd, ground_truth.classes))
        iou = box_iou_xywh(boxes, boxes, np.zeros(len(boxes), dtype=bool))
        pair = (iou > 0) & (classes[:, None] == classes[None]) & real[:, None] & real[None]
        np.fill_diagonal(pair, False)
        result.append(own.start + np.argwhere(pair))
    return np.concatenate(result)


def _clouds(ground_truth: GroundTruth, detections: Detections, isolated: np.ndarray) -> _Clouds:
    """The boxes that overlap an isolated object, and no other object of their class more."""
    boxes, scores = detections.boxes_xywh, detections.scores.astype(np.float64)
    objects, rows = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for image in np.unique(ground_truth.image_of[isolated]).tolist():
        found, own = detections.of_image(image), ground_truth.of_image(image)
        iou = box_iou_xywh(boxes[found], ground_truth.boxes_xywh[own], np.zeros(own.stop - own.start, dtype=bool))
        same = detections.classes[found][:, None] == ground_truth.classes[own][None]
        iou = np.where(same & ~ground_truth.crowd[own], iou, 0.0)
        nearest = iou.argmax(1)
        use = (iou.max(1) > 0) & isolated[own][nearest]
        objects.append(own.start + nearest[use])
        rows.append(found.start + np.flatnonzero(use))
    of_box, row = np.concatenate(objects), np.concatenate(rows)
    order = np.argsort(of_box, kind="stable")
    of_box, row = of_box[order], row[order]
    origin = ground_truth.boxes_xywh[of_box]
    relative = boxes[row]
    relative[:, :2] -= origin[:, :2]
    return _Clouds(
        offsets=np.searchsorted(of_box, np.arange(len(isolated) + 1)),
        boxes=relative / np.tile(origin[:, 2:], 2),
        scores=scores[row],
    )


def _donors(ground_truth: GroundTruth, usable: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(M, D) the `DONORS` of each object of `places`, of those that are usable, or all of them where there are fewer.

    They are of its class, if there are enough, and nearest to it in the order of areas.
    """
    area = ground_truth.boxes_xywh[:, 2:].prod(1)
    every = np.flatnonzero(usable)
    every = every[np.argsort(area[every], kind="stable")]
    count = min(DONORS, len(every))
    result = np.zeros((len(area), count), dtype=np.int64)
    for k in np.unique(ground_truth.classes[places]).tolist():
        own = every[ground_truth.classes[every] == k]
        own = own if len(own) >= DONORS else every
        here = places[ground_truth.classes[places] == k]
        start = np.clip(np.searchsorted(area[own], area[here]) - count // 2, 0, len(own) - count)
        result[here] = own[start[:, None] + np.arange(count)]
    return result


def _best_scores(boxes: np.ndarray, cloud: _Clouds, donors: np.ndarray, place: int, near: np.ndarray) -> np.ndarray:
    """(D, near) best score of the boxes of each donor, put on an object, that count for each of the objects near it.

    Args:
        boxes: (M, 4) xywh, of all objects.
        cloud: boxes around donors.
        donors: (D,) objects.
        place: the object that they are put on.
        near: the objects of its class in its image, itself among them.
    """
    start, count = cloud.offsets[donors], np.diff(cloud.offsets)[donors]
    group = np.repeat(np.arange(len(donors)), count)
    rows = np.arange(len(group)) + np.repeat(start - np.cumsum(count) + count, count)
    x, y, w, h = boxes[place]
    placed = cloud.boxes[rows] * (w, h, w, h) + (x, y, 0, 0)
    column = assign(box_iou_xywh(placed, boxes[near], np.zeros(len(near), dtype=bool)), group=group)
    result = np.full((len(donors), len(near)), -np.inf)
    hit = column >= 0
    np.maximum.at(result, (group[hit], column[hit]), cloud.scores[rows[hit]])
    return result
