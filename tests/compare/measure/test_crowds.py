"""Objects by how much they overlap: bins, recall, and average precision that the size of a bin does not change."""

from __future__ import annotations

import math

import numpy as np
import pytest
from detection_cases import Box, detections, ground_truth, perfect
from offline_nms import with_nms

from detr_d2.compare.measure.crowds import BINS, Crowds, bins_of, crowd_key, largest_overlaps, overlapped_share
from detr_d2.compare.measure.found import find
from detr_d2.evaluation.arrays import Detections, GroundTruth

A: Box = (0, 0, 40, 40)
A_60: Box = (0, 10, 40, 50)  # IoU with A: 30 / 50 = 0.6
A_33: Box = (0, 20, 40, 60)  # IoU with A: 20 / 60; with A_60: 30 / 50 = 0.6
FAR: Box = (100, 50, 140, 90)
NOTHING: Box = (150, 0, 190, 40)


def in_bins(
    truth: GroundTruth, found: Detections, without: Detections | None, name: str, *, weights: np.ndarray | None = None
) -> list[float]:
    crowds = Crowds(truth, find(truth, found), None if without is None else find(truth, without), None)
    weights = np.ones(len(truth), dtype=np.int64) if weights is None else weights
    values = crowds.metrics(np.full(len(truth), 0.5), weights)
    return [values.get(crowd_key(i, name), math.nan) for i in range(len(BINS))]


def test_bins() -> None:
    truth = ground_truth([[(A, 0), (A_60, 0), (FAR, 0)], [(A, 0), (A_33, 0), (A_60, 1)], [(A, 0)]], crowd=[(2, 0)])
    np.testing.assert_allclose(largest_overlaps(truth), [0.6, 0.6, 0, 1 / 3, 1 / 3, 0, math.nan])
    assert BINS == ((0, 0), (0, 0.1), (0.1, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 1))
    assert bins_of(truth).tolist() == [4, 4, 0, 3, 3, 0, -1]


def test_an_overlap_on_the_edge_of_a_bin_is_in_the_upper_one() -> None:
    truth = ground_truth([[(A, 0), ((0, 0, 40, 20), 0)], [(A, 1), (A, 1)]])  # IoU 1/2, and 1
    assert bins_of(truth).tolist() == [4, 4, 5, 5]


def test_share_of_objects_that_nms_must_lose() -> None:
    half: Box = (0, 0, 40, 20)  # exactly 0.5 is not more than 0.5
    truth = ground_truth([[(A, 0), (A_60, 0)], [(A, 0), (half, 0)], [(A, 0), (A, 1)], [(A, 0), (A, 0)]], crowd=[(3, 0)])
    assert overlapped_share(truth) == pytest.approx(100 * 2 / 7)
    assert math.isnan(overlapped_share(ground_truth([[]])))


def test_recall_in_bins() -> None:
    truth = ground_truth([[(A, 0), (A_60, 0), (FAR, 0)], [(A, 0), (A_33, 0), (A_60, 1)]])
    every = perfect(truth)
    shipped = with_nms(every, 0.5)
    nan = math.nan
    assert in_bins(truth, shipped, every, "recall") == pytest.approx([100, nan, nan, 100, 50, nan], nan_ok=True)
    expected = [100, nan, nan, 100, 100, nan]
    assert in_bins(truth, shipped, every, "recall_without_nms") == pytest.approx(expected, nan_ok=True)
    assert all(math.isnan(x) for x in in_bins(truth, shipped, None, "recall_without_nms"))
    first = in_bins(truth, shipped, every, "recall", weights=np.array([2, 0]))
    assert first == pytest.approx([100, nan, nan, nan, 50, nan], nan_ok=True)


def test_lower_scored_detections_are_not_there() -> None:
    truth = ground_truth([[(A, 0), (FAR, 0)]])
    found = detections([[(A, 0, 0.5), (FAR, 0, 0.4)]])
    assert in_bins(truth, found, None, "recall")[0] == 50


def test_normalised_precision_by_hand() -> None:
    truth = ground_truth([[(A, 0), (A_60, 0), (FAR, 0)]], num_classes=1)
    found = detections([[(NOTHING, 0, 0.99), (A, 0, 0.9), (A_60, 0, 0.8), (FAR, 0, 0.7)]])
    # N = 3 and F = 1. Alone: R = 1. At 0.6: R = 1/2, then 1. At scores below 0.5, too, as for any AP.
    ap = in_bins(truth, found, None, "ap")
    assert ap[0] == pytest.approx(100 * 3 / 4)
    assert ap[4] == pytest.approx(100 * (1.5 / 2.5 + 3 / 4) / 2)
    assert math.isnan(ap[1])
    low = detections([[(NOTHING, 0, 0.4), (A, 0, 0.3), (A_60, 0, 0.2), (FAR, 0, 0.1)]])
    np.testing.assert_allclose(in_bins(truth, low, None, "ap"), ap)


def test_extra_boxes_are_wrong_and_ignored_ones_are_not() -> None:
    truth = ground_truth([[(A, 0), (FAR, 0), (NOTHING, 0)]], num_classes=1, crowd=[(0, 2)])
    found = detections([[(NOTHING, 0, 0.99), (A, 0, 0.9), (A, 0, 0.8), (FAR, 0, 0.7)]])
    # N = 2: R N is 1 with no mistake, then 2 with one.
    assert in_bins(truth, found, None, "ap")[0] == pytest.approx(100 * (1 + 2 / 3) / 2)


def test_classes_are_averaged_over_those_in_the_bin() -> None:
    truth = ground_truth([[(A, 0), (FAR, 1)], [(A, 1), (A_60, 1)]], num_classes=3)
    wrong = [(NOTHING, 2, 0.8), (NOTHING, 1, 0.7), (NOTHING, 0, 0.3)]
    found = detections([[(A, 0, 0.9), *wrong], [(A, 1, 0.6), (A_60, 1, 0.5)]])
    ap = in_bins(truth, found, None, "ap")
    assert ap[0] == pytest.approx((100 + 0) / 2)
    assert ap[4] == pytest.approx(100 * (1.5 / 2.5 + 3 / 4) / 2)  # N = 3 of class 1


def test_weights_are_copies_of_images() -> None:
    images = [[(A, 0), (A_60, 0)], [(FAR, 0), (NOTHING, 0)], [(A, 0)]]
    rows = [[(A, 0, 0.91), (FAR, 0, 0.7)], [(FAR, 0, 0.83), (A, 0, 0.6)], [(A_60, 0, 0.8), (A, 0, 0.55)]]
    once = in_bins(ground_truth(images), detections(rows), None, "ap", weights=np.array([1, 1, 0]))
    part = in_bins(ground_truth(images[:2]), detections(rows[:2]), None, "ap")
    assert once == pytest.approx(part, nan_ok=True)
    assert in_bins(ground_truth(images), detections(rows), None, "ap", weights=np.array([2, 2, 2])) == pytest.approx(
        in_bins(ground_truth(images), detections(rows), None, "ap"), nan_ok=True
    )


@pytest.mark.slow
def test_ap_does_not_depend_on_the_size_of_a_bin() -> None:
    """Of a detector for which overlap makes no difference, in bins of 40 to 640 objects; mean of 300 seeds."""
    numbers = (640, 320, 160, 80, 40, 40)
    cells: list[list[Box]] = []
    for number, iou in zip(numbers, (0.0, 0.05, 0.2, 0.4, 0.6, 0.8), strict=True):
        shift = 20 * (1 - iou) / (1 + iou)
        pair: list[Box] = [(2, 2, 22, 22), (2 + shift, 2, 22 + shift, 22)]
        cells += [[pair[0]]] * number if iou == 0 else [pair] * (number // 2)
    truth = ground_truth([[(box, 0) for box in cell] for cell in cells], num_classes=1)
    exact = perfect(truth)
    total = np.zeros(len(BINS))
    for seed in range(300):
        random = np.random.default_rng(seed)
        images = []
        for i in range(len(truth)):
            boxes = exact.boxes_xyxy[exact.of_image(i)]
            seen = [tuple(box) for box in boxes[random.random(len(boxes)) < 0.8].tolist()]
            wrong = [(2.0, 60.0, 22.0, 80.0)] * int(random.random() < 0.6)
            images.append(
                [(box, 0, random.beta(4, 2)) for box in seen] + [(box, 0, random.beta(2, 3)) for box in wrong]
            )
        total += in_bins(truth, detections(images), None, "ap")
    assert np.bincount(bins_of(truth)).tolist() == list(numbers)
    mean = total / 300
    assert mean.max() - mean.min() < 1
