"""The score from which detections count: chosen on one half of the images, used on the other."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest
from detection_cases import Box, detections, ground_truth, random_case
from naive_found import naive_best_score, naive_count

from detr_d2.compare.measure.found import find
from detr_d2.compare.measure.operating import FIXED_SCORES, Operating, halves
from detr_d2.evaluation.arrays import Detections, GroundTruth

A: Box = (0, 0, 40, 40)
FAR: Box = (100, 50, 140, 90)

HALF_OF = [0, 1, 1, 1, 1, 0]
"""Of images with the ids 10 to 15, as `ground_truth` numbers them."""


def operating(truth: GroundTruth, found: Detections, given: float | None = None) -> Operating:
    return Operating(truth, find(truth, found), None, given=given)


def test_halves_follow_from_the_text_of_the_id_alone() -> None:
    assert halves(range(10, 16)).tolist() == HALF_OF
    assert halves([str(x) for x in range(10, 16)]).tolist() == HALF_OF
    assert halves(np.arange(10, 16)).tolist() == HALF_OF
    assert halves(["cat.jpg", 15]).tolist() == [0, 0]
    assert 0.4 < halves(range(1000)).mean() < 0.6
    assert int(hashlib.sha256(b"11").hexdigest()[:2], 16) % 2 == 1


SIX = ground_truth([[(A, 0)]] * 6)
DETECTED = detections(
    [
        [(A, 0, 0.9)],
        [(A, 0, 0.8)],
        [(A, 0, 0.6)],
        [(FAR, 0, 0.55), (A, 0, 0.3)],
        [(FAR, 0, 0.2)],
        [(FAR, 0, 0.7), (A, 0, 0.5)],
    ]
)


def test_each_half_uses_the_best_score_of_the_other() -> None:
    # Half 0: F1 is 2/3 from 0.9, 2/4 from 0.7, 4/5 from 0.5. Half 1: 2/5, 4/6, 4/7, 6/8 from 0.3, 6/9.
    model = operating(SIX, DETECTED)
    assert model.scores() == pytest.approx([0.3, 0.5])
    assert model.thresholds() == pytest.approx([0.3, 0.5, 0.5, 0.5, 0.5, 0.3])
    record = model.record()
    assert not record.given
    assert record.scores == pytest.approx([0.3, 0.5])
    assert record.half_of == HALF_OF
    at = record.at  # kept: 0.9, 0.7, 0.5 of half 0, and 0.8, 0.6, 0.55 of half 1
    assert math.isnan(at.score)
    assert (at.precision, at.recall, at.f1) == pytest.approx((100 * 4 / 6, 100 * 4 / 6, 100 * 4 / 6))
    assert at.count_error == pytest.approx((0 + 0 + 0 + 0 + 1 + 1) / 6)
    assert (at.extra, at.other_label) == (0, 0)
    assert model.f1_per_image() == pytest.approx([1, 1, 1, 0, 0, 2 / 3])


def test_a_score_that_the_user_gives() -> None:
    record = operating(SIX, DETECTED, given=0.6).record()
    assert record.given
    assert record.scores == [0.6, 0.6]
    assert record.at.recall == pytest.approx(50)
    assert record.at.precision == pytest.approx(75)
    assert record.at.recall == record.others[11].recall
    assert record.others[11].score == 0.6


def test_of_equal_f1_the_higher_score() -> None:
    # Two objects of half 1: 2 * 1 / (1 + 2) from 0.9, 2 * 2 / (4 + 2) from 0.6.
    truth = ground_truth([[], [(A, 0)], [(A, 0)], []])
    found = detections([[], [(A, 0, 0.9)], [(FAR, 0, 0.8), (FAR, 0, 0.7), (A, 0, 0.6)], []])
    assert operating(truth, found).scores()[0] == pytest.approx(0.9)


def test_all_detections_of_a_score_count_or_none() -> None:
    # Were the first of the four at 0.5 to count alone, F1 would be 1; with all of them it is 4/7, less than 2/3.
    truth = ground_truth([[], [(A, 0)], [(A, 0)], []])
    equal = [(A, 0, 0.5), (FAR, 0, 0.5), (FAR, 0, 0.5), (FAR, 0, 0.5)]
    found = detections([[], [(A, 0, 0.9)], equal, []])
    assert operating(truth, found).scores()[0] == pytest.approx(0.9)


def test_a_detector_that_finds_nothing_keeps_nothing() -> None:
    found = detections([[(FAR, 0, 0.9), (A, 1, 0.8)]] * 6)
    model = operating(SIX, found)
    assert np.isnan(model.scores()).all()
    at = model.record().at
    assert (at.recall, at.f1, at.count_error) == (0, 0, 1)
    assert all(math.isnan(x) for x in (at.precision, at.extra, at.other_label))
    assert model.f1_per_image().tolist() == [0] * 6
    curve = model.record().curve
    assert (curve.f1, curve.recall) == ([0.0], [0.0])
    assert operating(SIX, detections([[]] * 6)).record().curve.scores == []


def test_one_half_may_have_no_score() -> None:
    found = detections([[(A, 0, 0.9)], *[[(FAR, 0, 0.8)]] * 4, []])
    scores = operating(SIX, found).scores()
    assert math.isnan(scores[0])  # of the other half, where nothing is right
    assert scores[1] == pytest.approx(0.9)


def test_detections_on_crowd_regions_do_not_count() -> None:
    truth = ground_truth([[(A, 0)], [(A, 0), (FAR, 0)]], crowd=[(1, 1)])
    found = detections([[(A, 0, 0.9)], [(A, 0, 0.9), (FAR, 0, 0.9)]])
    at = operating(truth, found).record().at
    assert (at.precision, at.recall, at.count_error) == (100, 100, 0)


def test_points_at_fixed_scores_and_extra_boxes() -> None:
    truth = ground_truth([[(A, 0), (FAR, 1)]] * 2)
    found = detections([[(A, 0, 0.9), (A, 0, 0.7), (A, 1, 0.5)], [(A, 0, 0.8), (FAR, 1, 0.6)]])
    points = {x.score: x for x in operating(truth, found).record().others}
    assert list(points) == list(FIXED_SCORES)
    assert points[0.65].extra == pytest.approx(100 * 1 / 2)
    assert points[0.6].recall == pytest.approx(75)
    assert points[0.6].precision == pytest.approx(75)
    assert points[0.6].extra == pytest.approx(100 / 3)
    assert points[0.6].other_label == 0
    assert points[0.5].other_label == pytest.approx(100 / 3)  # the score itself is in
    assert points[0.5].extra == pytest.approx(100 / 3)
    assert points[0.5].count_error == pytest.approx(0.5)


def test_the_curve_ascends_and_holds_the_best_f1() -> None:
    truth, found = random_case(3, num_images=60)
    model = operating(truth, found)
    curve = model.record().curve
    assert 50 < len(curve.scores) <= 101
    assert curve.scores == sorted(set(curve.scores))
    assert curve.scores[0] == pytest.approx(found.scores.min())
    for i in (0, 20, -1):
        expected = naive_count(truth, found, [curve.scores[i]] * len(truth), [1] * len(truth))
        assert curve.f1[i] == pytest.approx(100 * expected.f1)
        assert curve.recall[i] == pytest.approx(100 * expected.found / expected.objects)
        assert curve.precision[i] == pytest.approx(100 * expected.found / expected.detections)
    best = naive_best_score(truth, found, range(len(truth)), [1] * len(truth))
    expected = naive_count(truth, found, [best] * len(truth), [1] * len(truth))
    assert max(curve.f1) == pytest.approx(100 * expected.f1)


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_slow_implementation(seed: int) -> None:
    truth, found = random_case(seed, num_images=10)
    model = operating(truth, found)
    half_of = model.half_of.tolist()
    random = np.random.default_rng(seed)
    for weights in (None, random.multinomial(10, np.full(10, 0.1))):
        times = [1] * 10 if weights is None else weights.tolist()
        images = [[i for i in range(10) if half_of[i] == half] for half in (0, 1)]
        best = [naive_best_score(truth, found, images[1 - half], times) for half in (0, 1)]
        np.testing.assert_array_equal(model.scores(weights), best)
        expected = naive_count(truth, found, [best[x] for x in half_of], times)
        tally = model.tally(model.thresholds(weights), weights)
        for name in ("objects", "found", "detections", "extra", "other_label"):
            assert getattr(tally, name) == getattr(expected, name)
        assert tally.count_error == pytest.approx(expected.count_error / sum(times))
        assert tally.f1 == pytest.approx(100 * expected.f1)


def test_other_boxes_of_an_image_do_not_move_its_own_score() -> None:
    """What is changed in one half changes the other's score only."""
    truth, found = random_case(5)
    model = operating(truth, found)
    scores = found.scores.copy()
    of_half = model.half_of[found.image_of] == 1
    scores[of_half] = scores[of_half] / 2
    changed = operating(truth, replace(found, scores=scores)).scores()
    before = model.scores()
    assert changed[1] == before[1]
    assert changed[0] == before[0] / 2
