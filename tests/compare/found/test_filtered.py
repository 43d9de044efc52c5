"""Telling NMS from its absence by the IoUs of boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from detr_d2.compare.found.filtered import NOT_TOLD, largest_overlap, overlaps
from detr_d2.compare.found.nms import Candidates, nms_order

SIZE = 640.0


def image(boxes: np.ndarray, scores: np.ndarray | None = None, classes: np.ndarray | None = None) -> Candidates:
    count = len(boxes)
    scores = np.linspace(0.9, 0.1, count) if scores is None else scores
    classes = np.zeros(count, np.int64) if classes is None else classes
    return Candidates(boxes.astype(np.float32), scores.astype(np.float32), classes, None, (640, 640))


def pair(iou: float) -> Candidates:
    """Two boxes of 100 x 100 with this IoU, one below the other."""
    shift = 100 * (1 - iou) / (1 + iou)
    return image(np.array([[0, 0, 100, 100], [0, shift, 100, 100 + shift]]))


def test_pairs_by_hand() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 5, 10, 15], [0, 0, 10, 10], [50, 50, 60, 60], [7, 7, 7, 9]])
    found = image(boxes, classes=np.array([0, 0, 1, 0, 0]))
    assert overlaps(found).tolist() == pytest.approx([1 / 3])  # other class, apart, without area
    assert largest_overlap([found, pair(0.8), found])[0] == pytest.approx(0.8)
    nothing = largest_overlap([image(np.zeros((0, 4))), image(boxes[2:4])])
    assert math.isnan(nothing[0])
    assert nothing[1] == NOT_TOLD


def test_more_boxes_than_are_compared_at_once() -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 500, (1200, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(10, 140, (1200, 2))], axis=1)
    classes = rng.integers(0, 2, 1200)
    iou = box_iou(*[torch.from_numpy(boxes.astype(np.float32)).double()] * 2).numpy()
    pairs = iou[np.triu((classes[:, None] == classes) & (iou > 0), k=1)]
    found = overlaps(image(boxes, classes=classes))
    np.testing.assert_allclose(np.sort(found), np.sort(pairs), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("ious", "looks"),
    [
        (np.linspace(0.6, 0.7, 80), "looks filtered at 0.70"),  # evenly up to an end
        (0.6 + 0.1 * np.linspace(0.01, 1, 30) ** 0.5, "looks filtered at 0.70"),  # and more of them there
        (0.6 + 0.1 * np.linspace(0.01, 1, 29) ** 0.5, NOT_TOLD),  # too few
        (np.linspace(0.86, 0.96, 80), NOT_TOLD),  # more than any NMS leaves
        (np.append(np.linspace(0.61, 0.63, 80), 0.7), NOT_TOLD),  # the end is not abrupt
        (0.7 - 0.1 * np.linspace(0, 1, 300) ** 0.5, NOT_TOLD),  # they thin out
    ],
)
def test_what_an_end_looks_like(ious: np.ndarray, looks: str) -> None:
    assert largest_overlap([pair(x) for x in ious])[1] == looks


def jittered(rng: np.random.Generator, boxes: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Boxes (N, 4), xyxy, with centre and size off by so many of their sizes (N, 1), and sizes by so many e-folds."""
    size = boxes[:, 2:] - boxes[:, :2]
    centre = (boxes[:, 2:] + boxes[:, :2]) / 2 + rng.normal(size=size.shape) * noise * size
    size = size * np.exp(rng.normal(size=size.shape) * noise)
    return np.concatenate([centre - size / 2, centre + size / 2], axis=1)


def objects(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    corner = rng.uniform(0, SIZE * 0.8, (count, 2))
    size = np.exp(rng.uniform(np.log(20), np.log(300), (count, 2)))
    return np.concatenate([corner, corner + size], axis=1), rng.integers(0, 5, count)


def set_predictor(rng: np.random.Generator, images: int, queries: int, spread: float) -> list[Candidates]:
    """What DETRs return: a good box for each object; the other queries are around objects, too, but worse.

    Args:
        rng: of the draws.
        images, queries: how many.
        spread: noise of the other queries' boxes; each has its own, from a tenth of this on.
    """
    found = []
    for _ in range(images):
        boxes, classes = objects(rng, int(rng.integers(1, 12)))
        near = np.concatenate([np.arange(len(boxes)), rng.integers(0, len(boxes), queries - len(boxes))])
        first = np.arange(queries) < len(boxes)
        noise = np.where(first, 0.03, spread * rng.uniform(0.1, 1, queries))[:, None]
        scores = np.where(first, rng.beta(8, 2, queries), rng.beta(1, 12, queries))
        labels = np.where(rng.random(queries) < 0.9, classes[near], rng.integers(0, 5, queries))
        found.append(image(jittered(rng, boxes[near], noise), scores, labels))
    return found


def dense_detector(rng: np.random.Generator, images: int, threshold: float) -> list[Candidates]:
    """What detectors with anchors return: thirty boxes around each object, and NMS over them."""
    found = []
    for _ in range(images):
        boxes, classes = objects(rng, int(rng.integers(1, 12)))
        near = np.repeat(np.arange(len(boxes)), 30)
        noise = rng.uniform(0.02, 0.3, (len(near), 1))
        raw = image(jittered(rng, boxes[near], noise), rng.beta(2, 4, len(near)), classes[near])
        left = nms_order(raw, threshold)
        found.append(image(raw.boxes_xyxy[left], raw.scores[left], raw.classes[left]))
    return found


def told(cases: Sequence[list[Candidates]]) -> list[str]:
    return [largest_overlap(x)[1] for x in cases]


@pytest.mark.parametrize("threshold", [0.45, 0.5, 0.6, 0.7])
def test_nms_is_seen(threshold: float) -> None:
    found = told([dense_detector(np.random.default_rng(seed), 30, threshold) for seed in range(3)])
    assert found == [f"looks filtered at {threshold:.2f}"] * 3


@pytest.mark.parametrize("spread", [0.1, 0.3, 0.8, 2.0])
@pytest.mark.parametrize("images", [1, 4, 16])
def test_the_raw_file_of_a_set_predictor_is_never_called_filtered(spread: float, images: int) -> None:
    rng = np.random.default_rng(0)
    assert set(told([set_predictor(rng, images, 40, spread) for _ in range(12)])) == {NOT_TOLD}


@pytest.mark.slow
@pytest.mark.parametrize("queries", [15, 60, 300])
@pytest.mark.parametrize("spread", [0.1, 0.2, 0.4, 0.8, 1.5, 3.0])
def test_no_raw_file_of_many_is_called_filtered(spread: float, queries: int) -> None:
    rng = np.random.default_rng(1)
    for images in (1, 2, 5, 10, 20, 50):
        assert set(told([set_predictor(rng, images, queries, spread) for _ in range(20)])) == {NOT_TOLD}
