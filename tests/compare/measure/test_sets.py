"""Duplicates, crowds, counts and the query limit on cases made by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from detection_cases import Box, detections, ground_truth, perfect

from detr_d2.compare.found.nms import Candidates, OfflineNms
from detr_d2.compare.measure.matching import PrecisionCurves, match
from detr_d2.compare.measure.sets import (
    count_duplicates,
    count_groups,
    counting,
    crowding_bins,
    largest_overlaps,
    objects_covered,
    query_limit,
    same_class_pairs,
)
from detr_d2.evaluation.arrays import Detections, GroundTruth

A: Box = (0, 0, 40, 40)
A_60: Box = (0, 10, 40, 50)  # IoU with A: 30 / 50 = 0.6
A_33: Box = (0, 20, 40, 60)  # IoU with A: 20 / 60; with A_60: 30 / 50 = 0.6
FAR: Box = (100, 50, 140, 90)


def with_nms(found: Detections, threshold: float | None) -> Detections:
    """Offline NMS of detections as if they were a model's candidates."""
    images = [
        Candidates(found.boxes_xyxy[x], found.scores[x], found.classes[x], (100, 200), (100, 200))
        for x in (found.of_image(i) for i in range(len(found.offsets) - 1))
    ]
    return OfflineNms(images, limit=100, class_map=np.arange(2))(threshold)[0]


def count(truth: GroundTruth, found: Detections, without: Detections | None = None, **changes: Any) -> Any:
    arguments: dict[str, Any] = {"setting": "shipped", "nms_threshold": None, "score_threshold": 0.5}
    return count_duplicates(truth, found, without_nms=without or found, **{**arguments, **changes})


def test_perfect_detections_have_no_duplicates_and_nms_hurts_the_overlapping_pair_only() -> None:
    truth = ground_truth([[(A, 0), (A_60, 0), (A, 1)], [(A, 0), (A_33, 0)], [(FAR, 1)]])
    found = perfect(truth)
    before = count(truth, found)
    assert (before.detections, before.covered, before.true_positives) == (6, 6, 6)
    assert before.removed_true_positives == 0
    # The two objects overlap by 0.6: a pair, and each is covered by both detections, though there is no mistake.
    assert (before.pairs_50, before.pairs_70) == (pytest.approx(1 / 3), 0)
    assert before.covered_twice == 2

    after = with_nms(found, 0.5)
    counted = count(truth, after, found, setting="with NMS", nms_threshold=0.5)
    assert counted.detections == 5
    assert counted.removed_true_positives == 1
    assert (counted.pairs_50, counted.covered_twice) == (0, 0)
    assert PrecisionCurves(match(truth, after)).average_precision()[0] < 100
    for harmless in (0.65, None):
        kept = with_nms(found, harmless)
        assert count(truth, kept, found).removed_true_positives == 0
        np.testing.assert_allclose(PrecisionCurves(match(truth, kept)).average_precision(), 100)


def test_an_object_that_is_never_found_is_not_removed_by_nms() -> None:
    truth = ground_truth([[(A, 0), (A_60, 0), (FAR, 0)]])
    found = detections([[(A, 0, 0.9), (A_60, 0, 0.8), (FAR, 0, 0.1)]])
    assert count(truth, with_nms(found, 0.5), found).removed_true_positives == 1


def test_pairs_are_counted_per_image_class_and_overlap() -> None:
    found = detections(
        [
            [(A, 0, 0.9), ((0, 0, 40, 36), 0, 0.8), (A_60, 0, 0.7), (A, 1, 0.9)],  # IoU 0.9; 0.6; (0.1 * 26 / 50)
            [(A, 0, 0.9), (A, 0, 0.2)],
        ]
    )
    pairs = same_class_pairs(found)
    assert pairs.tolist() == [[3, 1], [1, 1]]  # 0.9, 0.6 and 26 / 50 = 0.52 exceed 0.5
    truth = ground_truth([[(A, 0)], [(A, 0)]])
    counted = count(truth, found)
    assert counted.images_with_pairs == 1  # the second image's duplicate is scored too low
    assert counted.pairs_50 == pytest.approx(1.5)
    assert objects_covered(truth, found).tolist() == [3, 2]


def test_crowd_regions_are_no_objects() -> None:
    truth = ground_truth([[(A, 0), (A_60, 0)]], crowd=[(0, 1)])
    assert objects_covered(truth, detections([[(A_60, 0, 0.9)]])).tolist() == [1, 0]
    overlaps = largest_overlaps(truth)
    assert overlaps[0] == 0
    assert math.isnan(overlaps[1])


def test_crowding_bins() -> None:
    truth = ground_truth([[(A, 0), (A_60, 0), (FAR, 0)], [(A, 0), (A_33, 0), (A_60, 1)]])
    np.testing.assert_allclose(largest_overlaps(truth), [0.6, 0.6, 0, 1 / 3, 1 / 3, 0])
    found = perfect(truth)
    bins = crowding_bins(truth, with_nms(found, 0.5), found, score_threshold=0.5)
    assert [(x.low, x.high, x.num_objects) for x in bins] == [
        (0, 0, 2), (0, 0.1, 0), (0.1, 0.3, 0), (0.3, 0.5, 2), (0.5, 0.7, 2), (0.7, 1, 0),
    ]  # fmt: skip
    assert [x.recall for x in bins] == pytest.approx([100, math.nan, math.nan, 100, 50, math.nan], nan_ok=True)
    assert bins[4].recall_without_nms == 100
    unknown = crowding_bins(truth, with_nms(found, 0.5), None, score_threshold=0.5)
    assert [x.recall for x in unknown] == pytest.approx([x.recall for x in bins], nan_ok=True)
    assert all(math.isnan(x.recall_without_nms) for x in unknown)
    assert [bins[0].ap50, bins[3].ap50] == pytest.approx([100, 100])
    assert bins[4].ap50 == pytest.approx(100 * 51 / 101)  # one of two found, no mistake: recalls 0 to 0.5
    assert math.isnan(bins[1].ap50)


def test_an_overlap_on_the_edge_of_a_bin_is_in_the_upper_one() -> None:
    truth = ground_truth([[(A, 0), ((0, 0, 40, 20), 0)], [(A, 1), (A, 1)]])  # IoU 1/2, and 1
    bins = crowding_bins(truth, perfect(truth), perfect(truth), score_threshold=0.5)
    assert {x.low: x.num_objects for x in bins if x.num_objects} == {0.5: 2, 0.7: 2}


def test_false_positives_count_in_every_bin() -> None:
    truth = ground_truth([[(A, 0), (A_60, 0), (FAR, 0)]], num_classes=1)
    found = detections([[((150, 0, 190, 40), 0, 0.99), (A, 0, 0.9), (A_60, 0, 0.8), (FAR, 0, 0.7)]])
    bins = crowding_bins(truth, found, found, score_threshold=0.5)
    assert bins[0].ap50 == pytest.approx(50)
    assert bins[4].ap50 == pytest.approx(100 * 2 / 3)


def test_counting_error() -> None:
    truth = ground_truth([[(A, 0)], [(A, 0), (FAR, 1), (A_60, 0)], []])
    found = detections([[(A, 0, 0.9), (A, 0, 0.8), (A, 0, 0.1)], [(A, 0, 0.9)], []])
    result = counting(truth, found, score_threshold=0.5)
    assert result.mean_error == pytest.approx((1 - 2 + 0) / 3)
    assert result.mean_absolute_error == pytest.approx(1)
    assert result.exact_share == pytest.approx(100 / 3)
    assert [(x.low, x.high, x.num_images, x.true_mean, x.predicted_mean) for x in result.groups] == [
        (0, 0, 1, 0, 0), (1, 1, 1, 1, 2), (3, 3, 1, 3, 1),
    ]  # fmt: skip
    assert [x.mean_absolute_error for x in result.groups] == [0, 1, 2]


def test_query_limit() -> None:
    truth = ground_truth([[(A, 0), (FAR, 0), (A_60, 0)], [(A, 0)]])
    found = detections([[(A, 0, 0.01), (FAR, 0, 0.9)], [(A, 0, 0.5)]])
    limit = query_limit(truth, found, num_queries=2, max_detections=100)
    assert (limit.num_queries, limit.max_objects, limit.images_over, limit.objects_over) == (2, 3, 1, 1)
    assert [(x.low, x.num_images, x.num_objects, x.missed) for x in limit.groups] == [(1, 1, 1, 0), (3, 1, 3, 1)]


def test_fewer_detections_than_queries_are_the_limit() -> None:
    truth = ground_truth([[(A, 0), (FAR, 0), (A_60, 0)], [(A, 0)]])
    limit = query_limit(truth, perfect(truth), num_queries=300, max_detections=1)
    assert (limit.num_queries, limit.images_over, limit.objects_over) == (300, 1, 2)


def test_groups_of_many_numbers_cover_each_once() -> None:
    numbers = np.array([0, 0, 0, 0, *range(1, 60), 500])
    groups = count_groups(numbers)
    assert 2 <= len(groups) <= 8
    inside = np.array([[low <= x <= high for low, high in groups] for x in numbers])
    assert (inside.sum(1) == 1).all()
    assert groups[0][0] == 0
    assert groups[-1][1] == 500
