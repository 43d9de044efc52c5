"""Whether detections look as if NMS had gone over them, which nobody may have written down.

NMS leaves no two boxes of a class whose IoU is above its threshold and many just below it, so that the IoUs of pairs
end abruptly. Those of a detector without NMS thin out instead: the nearer to the largest, the fewer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..measure.matching import box_iou_xywh
from .nms import Candidates

FEWEST_PAIRS = 30
NEAR = 0.1
"""How far below the largest IoU pairs are looked at."""

HIGHEST = 0.95
"""No NMS is so lenient; a largest IoU of this or more says nothing."""

THINNING = 0.6
"""Mean distance of those pairs from the largest IoU, in units of `NEAR`, from which on they thin out towards it.

It is 0.5 for an even spread, which NMS leaves, up to 0.57 after a lenient one. It is 1 - 1 / ln(n) for n pairs that are
the tail of a distribution that falls off exponentially, 0.71 for 30. The mean has to be below by three standard errors
of an even spread, as NMS must not be seen where there is none.
"""

NOT_TOLD = "cannot be told"


def largest_overlap(images: Sequence[Candidates]) -> tuple[float, str]:
    """The largest IoU of two boxes of a class in an image, and what it says of NMS.

    Args:
        images: detections of each image.

    Returns:
        NaN where no two boxes of a class overlap; and "looks filtered at 0.70", or `NOT_TOLD`.
    """
    largest, near = 0.0, np.zeros(0)
    for image in images:
        found = overlaps(image)
        largest = max(largest, float(found.max(initial=0)))
        near = np.concatenate([near[near > largest - NEAR], found[found > largest - NEAR]])
    if not largest:
        return float("nan"), NOT_TOLD
    distance = ((largest - near) / NEAR).mean() + 3 / np.sqrt(12 * len(near))
    filtered = len(near) >= FEWEST_PAIRS and distance < THINNING and largest < HIGHEST
    return largest, f"looks filtered at {largest:.2f}" if filtered else NOT_TOLD


def overlaps(image: Candidates) -> np.ndarray:
    """(P,) IoU of each two boxes of a class that overlap."""
    found = [np.zeros(0)]
    boxes = image.boxes_xyxy.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    few = len(boxes) <= _ROWS  # then it is faster to compare those of all classes
    for rows in [np.arange(len(boxes))] if few else [np.flatnonzero(image.classes == k) for k in set(image.classes)]:
        own, classes = boxes[rows], image.classes[rows]
        for start in range(0, len(own), _ROWS):
            part = slice(start, start + _ROWS)
            iou = box_iou_xywh(own[part], own, np.zeros(len(own), dtype=bool))
            pairs = np.triu(classes[part, None] == classes, k=start + 1) & (iou > 0)
            found.append(iou[pairs])
    return np.concatenate(found)


_ROWS = 512  # boxes compared with others at once, of which there may be thousands
