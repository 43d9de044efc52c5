"""Whether the images, classes and boxes of a file of predictions are those of the data; what cannot be is refused."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...data.checks.likely_mistakes import FAR, other_form
from ...data.coco.entries import Entries, match_ids
from ...data.coco.json_values import Id, listed, shown
from ...evaluation.arrays import GroundTruth
from ..measure.found import FOUND_IOU
from ..measure.matching import box_iou_xywh
from .nms import Candidates

_NAMED = 3  # entries
_ENOUGH = 20  # objects
_HARDLY = 0.05  # of them


def images_of(given: Entries, image_ids: Sequence[Id], truth: GroundTruth) -> np.ndarray:
    """(D,) index of the image of each detection.

    Args:
        given: D detections.
        image_ids: of the N images of the data.
        truth: the data.

    Raises:
        ValueError: a detection is of no image of the data.
    """
    ids = given.ids("image_id")
    found = match_ids(image_ids, ids)
    unknown = np.flatnonzero(found < 0)
    if len(unknown):
        files = {str(x).rpartition("/")[2] for x in truth.file_names}
        stems = {x.rpartition(".")[0] for x in files}
        if str(ids[unknown[0]]).rpartition("/")[2] in files | stems:
            cure = "these are file names; write the ids that the images have in the annotations"
        else:
            cure = _shift(ids, image_ids) or "remove them, or give the data that they were made on"
        raise ValueError(_unknown(given, "image", "image_id", unknown, ids, image_ids) + f": {cure}")
    return found


def classes_of(given: Entries, category_ids: Sequence[Id]) -> np.ndarray:
    """(D,) class index of each detection.

    Args:
        given: D detections.
        category_ids: of the K classes of the data.

    Raises:
        ValueError: a detection is of no class of the data.
    """
    ids = given.ids("category_id")
    found = match_ids(category_ids, ids)
    unknown = np.flatnonzero(found < 0)
    if len(unknown):
        used, places = set(ids), len(category_ids)
        first = next((x for x in (0, 1) if used <= set(range(x, x + places))), None)
        cure = _shift(ids, category_ids)
        if not cure and first is not None:
            cure = f"they look like the places of the classes, counted from {first}; write the ids of the annotations"
        cure = cure or "write the ids of the annotations, and remove detections of other classes"
        raise ValueError(_unknown(given, "class", "category_id", unknown, ids, category_ids) + f": {cure}")
    return found


def require_classes(given: Entries, images: Sequence[Candidates], truth: GroundTruth) -> None:
    """Raises ValueError if the ids of classes are known, but off by one.

    Where objects are taken for the class beside their own: the best scored of the detections that overlap an object by
    an IoU of 0.5 or more says what it is taken for.

    Args:
        given: the detections, for messages.
        images: of the first images of the data, best first; in pixels of those.
        truth: the data.
    """
    steps = [_steps(image, truth, truth.of_image(i)) for i, image in enumerate(images) if len(image.scores)]
    found = np.concatenate([np.zeros(0, np.int64), *steps])
    right = int((found == 0).sum())
    for step, which, cure in ((-1, "before", "add 1 to each"), (1, "after", "subtract 1 from each")):
        beside = int((found == step).sum())
        if len(found) >= _ENOUGH and beside > len(found) / 2 and right < _HARDLY * len(found):
            raise ValueError(
                f"{given.source}: {beside} of {len(found)} objects are taken for the class {which} their own, and "
                f'{right} for their own: each "category_id", such as {shown(given.values("category_id")[0])} of '
                f"{given.label(0)}, seems to be off by one; {cure}, or write the ids of the annotations"
            )


def _steps(image: Candidates, truth: GroundTruth, own: slice) -> np.ndarray:
    """What each object of an image is taken for that a detection lies on: places from its own class."""
    boxes, real = image.boxes_xyxy.astype(np.float64), ~truth.crowd[own]
    boxes[:, 2:] -= boxes[:, :2]
    overlap = box_iou_xywh(boxes, truth.boxes_xywh[own][real], np.zeros(int(real.sum()), dtype=bool)) >= FOUND_IOU
    seen = overlap.any(0)
    return image.classes[overlap[:, seen].argmax(0)] - truth.classes[own][real][seen]


def _unknown(given: Entries, kind: str, key: str, unknown: np.ndarray, ids: Sequence[Id], known: Sequence[Id]) -> str:
    named = [f"{given.label(i)} has {shown(ids[i])}" for i in unknown[:_NAMED].tolist()]
    return (
        f'{given.source}: "{key}" has ids {_range(ids)} where the data has {_range(known)}, so that {len(unknown)} of '
        f"{len(ids)} detections are of an unknown {kind} ({listed(named, len(unknown))})"
    )


def _range(ids: Sequence[Id]) -> str:
    """ "0..79", or the first few of ids that are no numbers."""
    if all(isinstance(x, int | float) for x in ids):
        return f"{min(ids)}..{max(ids)}"
    return shown(sorted({str(x) for x in ids}))


def _shift(ids: Sequence[Id], known: Sequence[Id]) -> str:
    """What to do with whole numbers that are known once 1 is added or taken away; "" if that is not all of them."""
    used = set(ids)
    if not all(isinstance(x, int) for x in used):
        return ""
    for step, cure in ((1, "add 1 to each"), (-1, "subtract 1 from each")):
        if {int(x) + step for x in used} <= set(known):
            return f"they are off by one; {cure}"
    return ""


def require_form(given: Entries, boxes_xywh: np.ndarray, sizes: np.ndarray) -> None:
    """Raises ValueError if boxes are not x, y, width, height in pixels but in another form.

    Detectors may reach a little beyond an image, so that only boxes count that reach far.

    Args:
        given: D detections.
        boxes_xywh: (D, 4), as they should be.
        sizes: (D, 2), width and height of their images.
    """
    text = other_form(boxes_xywh, sizes, FAR * sizes.max(axis=1))
    if text:
        beyond = (boxes_xywh[:, :2] + boxes_xywh[:, 2:] > (1 + FAR) * sizes).any(axis=1)
        i = int(np.flatnonzero(beyond)[0]) if beyond.any() else 0
        first = f"{given.label(i)}, with bbox {shown(boxes_xywh[i].tolist())} in an image of {_size(sizes[i])}"
        raise ValueError(f"{given.source}: {text}: convert them, the first of them {first}")


def _size(size: np.ndarray) -> str:
    return "x".join(str(x) for x in size.tolist())
