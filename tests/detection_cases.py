"""Ground truth and detections made by hand or at random, for tests of figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detr_d2.evaluation.arrays import Detections, GroundTruth

Box = tuple[float, float, float, float]
"""xyxy, pixels."""


def ground_truth(
    images: Sequence[Sequence[tuple[Box, int]]],
    *,
    num_classes: int = 2,
    crowd: Sequence[tuple[int, int]] = (),
    size: tuple[int, int] = (100, 200),
) -> GroundTruth:
    """Objects (box, class) of each image; `crowd` names (image, object) pairs that are crowd regions."""
    rows = [(image, box, k) for image, objects in enumerate(images) for box, k in objects]
    boxes = np.array([box for _, box, _ in rows], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] -= boxes[:, :2]
    offsets = np.concatenate([[0], np.cumsum([len(x) for x in images])])
    is_crowd = np.zeros(len(rows), dtype=bool)
    for image, index in crowd:
        is_crowd[offsets[image] + index] = True
    return GroundTruth(
        name="made by hand",
        class_names=tuple("abcdefgh"[:num_classes]),
        image_ids=tuple(range(10, 10 + len(images))),
        file_names=tuple(f"{i}.png" for i in range(len(images))),
        sizes=np.tile(size, (len(images), 1)),
        offsets=offsets.astype(np.int64),
        boxes_xywh=boxes,
        classes=np.array([k for _, _, k in rows], dtype=np.int64),
        crowd=is_crowd,
        areas=boxes[:, 2:].prod(1),
    )


def detections(images: Sequence[Sequence[tuple[Box, int, float]]]) -> Detections:
    """Detections (box, class, score) of each image, sorted by score here."""
    parts = []
    for found in images:
        rows = sorted(found, key=lambda x: -x[2])
        boxes = np.array([box for box, _, _ in rows], dtype=np.float32).reshape(-1, 4)
        scores = np.array([score for _, _, score in rows], dtype=np.float32)
        parts.append((boxes, scores, np.array([k for _, k, _ in rows], dtype=np.int64)))
    return Detections.join(parts)


def perfect(truth: GroundTruth) -> Detections:
    """Every object found exactly, with scores of its own; nothing else."""
    boxes = truth.boxes_xywh.copy()
    boxes[:, 2:] += boxes[:, :2]
    images = []
    for i in range(len(truth)):
        own = truth.of_image(i)
        rows = [(tuple(boxes[j]), int(truth.classes[j]), 0.9 - 0.001 * j) for j in range(own.start, own.stop)]
        images.append([x for x, crowd in zip(rows, truth.crowd[own], strict=True) if not crowd])
    return detections(images)


def random_case(seed: int, *, num_images: int = 12, num_classes: int = 3) -> tuple[GroundTruth, Detections]:
    """Crowded images with crowd regions, near misses, duplicates, wrong classes and equal scores."""
    random = np.random.default_rng(seed)
    truth, found, crowd = [], [], []
    for image in range(num_images):
        objects, predicted = [], []
        for index in range(random.integers(0, 9)):
            x, y, w, h = random.uniform((0, 0, 5, 5), (120, 60, 110, 90))
            box, k = (x, y, x + w, y + h), int(random.integers(num_classes))
            objects.append((box, k))
            if random.random() < 0.15:
                crowd.append((image, index))
            for _ in range(random.integers(0, 4)):
                shifted = np.array(box) + random.normal(0, 4, 4)
                shifted[2:] = np.maximum(shifted[2:], shifted[:2] + 1)
                guess = k if random.random() < 0.8 else int(random.integers(num_classes))
                predicted.append((tuple(shifted), guess, round(float(random.uniform(0.05, 1)), 2)))
        truth.append(objects)
        found.append(predicted)
    return ground_truth(truth, num_classes=num_classes, crowd=crowd), detections(found)
