"""Which object each detection counts for: the rule by which objects are found and boxes are extra.

A detection counts for the object of its class that it overlaps most, if their IoU is 0.5 or more, and an object is
found if a detection counts for it. COCO's matching gives a detection the next object where the first is taken, so that
a second box of an object finds the neighbour that it overlaps; here it is an extra box of the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...evaluation.arrays import Detections, GroundTruth
from .matching import box_iou_xywh

FOUND_IOU = 0.5


@dataclass(frozen=True)
class Found:
    """What each of D detections is about; those of an image stand together, best first.

    What a detection counts for depends on better scored ones at most, so all of this holds for the detections from any
    score on as it does for all of them.

    Args:
        image, classes: (D,) of the detections.
        scores: (D,) float64.
        objects: (D,) the object of its class that each counts for, -1 for none.
        any_objects: (D,) the same among the objects of all classes; -1 where ignored.
        ignored: (D,) bool: counts for no object of its class, but lies on its crowd region; neither right nor wrong.
        num_objects: M, crowd regions among them.
    """

    image: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    objects: np.ndarray
    any_objects: np.ndarray
    ignored: np.ndarray
    num_objects: int

    @cached_property
    def finds(self) -> np.ndarray:
        """(D,) bool: the best scored detection of those that count for its object."""
        result = np.zeros(len(self.scores), dtype=bool)
        rows = _first_rows(self.objects, self.num_objects)
        result[rows[rows >= 0]] = True
        return result

    @cached_property
    def extra(self) -> np.ndarray:
        """(D,) bool: counts for an object that a better scored one counts for."""
        return (self.objects >= 0) & ~self.finds

    @cached_property
    def other_label(self) -> np.ndarray:
        """(D,) bool: of another class than the best scored detection of its object, whatever the object's own."""
        rows = _first_rows(self.any_objects, self.num_objects)
        best = np.append(rows, -1)[self.any_objects]  # (D,) row of the best scored one, -1 without an object
        return (best >= 0) & (self.classes != self.classes[best])

    @cached_property
    def object_scores(self) -> np.ndarray:
        """(M,) score of the detection that finds each object; minus infinity if none does."""
        result = np.full(self.num_objects, -np.inf)
        result[self.objects[self.finds]] = self.scores[self.finds]
        return result


def find(ground_truth: GroundTruth, detections: Detections) -> Found:
    """Says of every detection which object it counts for.

    Of objects that it overlaps equally it is one of its class, if there is one, then one that no better scored
    detection counts for, then the first.

    Args:
        ground_truth: N images.
        detections: of the same images.
    """
    boxes, count = detections.boxes_xywh, len(detections.scores)
    objects, any_objects = np.full(count, -1), np.full(count, -1)
    ignored = np.zeros(count, dtype=bool)
    for image in range(len(ground_truth)):
        rows, theirs = detections.of_image(image), ground_truth.of_image(image)
        crowd = ground_truth.crowd[theirs]
        iou = box_iou_xywh(boxes[rows], ground_truth.boxes_xywh[theirs], crowd)
        same = detections.classes[rows][:, None] == ground_truth.classes[theirs][None]
        own = assign(np.where(same & ~crowd, iou, -1.0))
        ignored[rows] = (own < 0) & (same & crowd & (iou >= FOUND_IOU)).any(1)
        every = assign(np.where(crowd | ignored[rows, None], -1.0, iou), first_of=same)
        objects[rows] = np.where(own >= 0, own + theirs.start, -1)
        any_objects[rows] = np.where(every >= 0, every + theirs.start, -1)
    return Found(
        image=detections.image_of,
        classes=detections.classes,
        scores=detections.scores.astype(np.float64),
        objects=objects,
        any_objects=any_objects,
        ignored=ignored,
        num_objects=len(ground_truth.classes),
    )


def assign(iou: np.ndarray, *, first_of: np.ndarray | None = None, group: np.ndarray | None = None) -> np.ndarray:
    """(D,) column that each detection counts for, -1 for none.

    Args:
        iou: (D, M), best scored detection first; negative where it cannot count.
        first_of: (D, M) bool: columns that come first among equal ones.
        group: (D,) detections know of better scored ones of their group only; default: all are of one.
    """
    if not iou.size:
        return np.full(len(iou), -1)
    best = iou.max(1)
    result = np.where(best >= FOUND_IOU, iou.argmax(1), -1)
    equal = iou == best[:, None]
    tied = (equal.sum(1) > 1) & (result >= 0)
    if tied.any():
        first_of = np.ones(iou.shape, dtype=bool) if first_of is None else first_of
        group = np.zeros(len(iou), dtype=np.int64) if group is None else group
        taken = np.zeros((int(group.max()) + 1, iou.shape[1]), dtype=bool)
        for row in np.flatnonzero(result >= 0):
            if tied[row]:
                columns = np.flatnonzero(equal[row])
                order = np.lexsort((columns, taken[group[row], columns], ~first_of[row, columns]))
                result[row] = columns[order[0]]
            taken[group[row], result[row]] = True
    return result


def _first_rows(objects: np.ndarray, count: int) -> np.ndarray:
    """(count,) first row that holds each of the objects, -1 where none does."""
    result = np.full(count, -1)
    known, rows = np.unique(objects, return_index=True)
    result[known[known >= 0]] = rows[known >= 0]
    return result
