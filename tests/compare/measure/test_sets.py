"""Extra boxes, counts and the query limit on cases made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from detection_cases import Box, detections, ground_truth, perfect, random_case
from offline_nms import with_nms

from detr_d2.compare.measure.found import find
from detr_d2.compare.measure.operating import Operating
from detr_d2.compare.measure.sets import SetFigures, count_groups, counting, extra_boxes, query_limit
from detr_d2.compare.records.sets import ExtraBoxes
from detr_d2.evaluation.arrays import Detections, GroundTruth

A: Box = (0, 0, 40, 40)
A_60: Box = (0, 10, 40, 50)  # IoU with A: 30 / 50 = 0.6
A_33: Box = (0, 20, 40, 60)  # IoU with A: 20 / 60
FAR: Box = (100, 50, 140, 90)


def extra(truth: GroundTruth, found: Detections, without: Detections) -> ExtraBoxes:
    model = Operating(truth, find(truth, found), find(truth, without), given=0.5)
    setting = {"setting": "with NMS", "nms_threshold": 0.5}
    return extra_boxes(truth, model, find(truth, found), find(truth, without), **setting)  # type: ignore[arg-type]


def test_perfect_detections_have_no_extra_boxes_and_nms_removes_one_of_an_overlapping_pair() -> None:
    truth = ground_truth([[(A, 0), (A_60, 0), (A, 1)], [(A, 0), (A_33, 0)], [(FAR, 1)]])
    every = perfect(truth)
    assert extra(truth, every, every) == ExtraBoxes("with NMS", 0.5, 6, 6, 0.0, 0.0, 0)
    assert extra(truth, with_nms(every, 0.5), every) == ExtraBoxes("with NMS", 0.5, 5, 5, 0.0, 0.0, 1)
    assert extra(truth, with_nms(every, 0.65), every).removed == 0


def test_extra_boxes_are_a_share_of_the_found_objects() -> None:
    truth = ground_truth([[(A, 0)], [(A, 0), (FAR, 0)]])
    found = detections([[(A, 0, 0.9), (A, 0, 0.8), (A, 0, 0.7), (A, 1, 0.6), (A, 0, 0.4)], [(A, 0, 0.9)]])
    # A badly placed box is none of them: it counts for no object.
    placed = detections([[(A_33, 0, 0.9)], [(FAR, 0, 0.9), ((100, 50, 140, 60), 0, 0.8)]])
    counted = extra(truth, found, found)
    assert (counted.detections, counted.found, counted.extra, counted.other_label) == (5, 2, 100, 50)
    assert extra(truth, placed, placed).extra == 0
    none = extra(truth, detections([[], [(A, 1, 0.9)]]), found)
    assert math.isnan(none.extra)
    assert math.isnan(none.other_label)
    assert none.removed == 2


def test_an_object_that_is_never_found_is_not_removed_by_nms() -> None:
    truth = ground_truth([[(A, 0), (A_60, 0), (FAR, 0)]])
    found = detections([[(A, 0, 0.9), (A_60, 0, 0.8), (FAR, 0, 0.1)]])
    assert extra(truth, with_nms(found, 0.5), found).removed == 1


def test_a_second_box_of_the_neighbour_is_nothing_that_nms_could_remove() -> None:
    truth = ground_truth([[(A, 0), (A_60, 0)]] * 3)
    found = detections([[(A, 0, 0.9), (A, 0, 0.8), (A, 0, 0.7), (A, 0, 0.6)]] * 3)
    counted = extra(truth, with_nms(found, 0.5), found)
    assert (counted.found, counted.removed) == (3, 0)


def test_counting_error() -> None:
    truth = ground_truth([[(A, 0)], [(A, 0), (FAR, 1), (A_60, 0)], []])
    found = detections([[(A, 0, 0.9), (A, 0, 0.8), (A, 0, 0.1)], [(A, 0, 0.9)], []])
    result = counting(truth, Operating(truth, find(truth, found), None, given=0.5))
    assert result.mean_error == pytest.approx((1 - 2 + 0) / 3)
    assert result.mean_absolute_error == pytest.approx(1)
    assert result.exact_share == pytest.approx(100 / 3)
    assert [(x.low, x.high, x.num_images, x.true_mean, x.predicted_mean) for x in result.groups] == [
        (0, 0, 1, 0, 0), (1, 1, 1, 1, 2), (3, 3, 1, 3, 1),
    ]  # fmt: skip
    assert [x.mean_absolute_error for x in result.groups] == [0, 1, 2]


def test_query_limit() -> None:
    truth = ground_truth([[(A, 0), (FAR, 0), (A_60, 0)], [(A, 0)]])
    found = find(truth, detections([[(A, 0, 0.02), (FAR, 0, 0.9), (A, 0, 0.01)], [(A, 0, 0.5)]]))
    limit = query_limit(truth, found, num_queries=2, max_detections=100)
    assert (limit.num_queries, limit.max_objects, limit.images_over, limit.objects_over) == (2, 3, 1, 1)
    assert [(x.low, x.num_images, x.num_objects, x.missed) for x in limit.groups] == [(1, 1, 1, 0), (3, 1, 3, 1)]


def test_fewer_detections_than_queries_are_the_limit() -> None:
    truth = ground_truth([[(A, 0), (FAR, 0), (A_60, 0)], [(A, 0)]])
    limit = query_limit(truth, find(truth, perfect(truth)), num_queries=300, max_detections=1)
    assert (limit.num_queries, limit.images_over, limit.objects_over) == (300, 1, 2)


def test_groups_of_many_numbers_cover_each_once() -> None:
    numbers = np.array([0, 0, 0, 0, *range(1, 60), 500])
    groups = count_groups(numbers)
    assert 2 <= len(groups) <= 8
    inside = np.array([[low <= x <= high for low, high in groups] for x in numbers])
    assert (inside.sum(1) == 1).all()
    assert groups[0][0] == 0
    assert groups[-1][1] == 500


def test_each_resample_chooses_its_own_score() -> None:
    truth, found = random_case(2, num_images=30)
    sets = SetFigures.of(truth, found, found)
    draws = np.random.default_rng(0).multinomial(30, np.full(30, 1 / 30), size=5)
    samples = sets.resampled(draws)
    for i, weights in enumerate(draws):
        thresholds = sets.operating.thresholds(weights)
        tally = sets.operating.tally(thresholds, weights)
        assert samples["recall"][i] == tally.recall
        assert samples["extra"][i] == tally.extra_share
        assert samples["count_error"][i] == tally.count_error
        crowds = sets.crowds.metrics(thresholds, weights)
        assert all(samples[name][i] == x or math.isnan(x) for name, x in crowds.items())
    assert len({tuple(sets.operating.scores(weights)) for weights in draws}) > 1
