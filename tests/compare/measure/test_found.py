"""Which object a detection counts for, on cases made by hand and against a slow implementation."""

from __future__ import annotations

import numpy as np
import pytest
from detection_cases import Box, detections, ground_truth, perfect, random_case
from naive_found import naive_count

from detr_d2.compare.measure.found import Found, find
from detr_d2.evaluation.arrays import Detections, GroundTruth

A: Box = (0, 0, 40, 40)
A_60: Box = (0, 10, 40, 50)  # IoU with A: 30 / 50 = 0.6
A_HALF: Box = (0, 0, 40, 20)  # IoU with A: exactly 1/2
FAR: Box = (100, 50, 140, 90)


def found_objects(found: Found) -> list[int]:
    return np.flatnonzero(np.isfinite(found.object_scores)).tolist()


def test_perfect_detections_find_every_object() -> None:
    truth = ground_truth([[(A, 0), (A_60, 0), (A, 1)], [], [(FAR, 1), (FAR, 1)]], crowd=[(2, 1)])
    found = find(truth, perfect(truth))
    assert found_objects(found) == [0, 1, 2, 3]
    assert found.finds.all()
    assert not (found.extra | found.other_label | found.ignored).any()
    assert found.object_scores[0] == pytest.approx(0.9)
    assert np.isneginf(found.object_scores[4])  # a crowd region is no object


def test_a_second_box_of_an_object_does_not_find_its_neighbour() -> None:
    truth = ground_truth([[(A, 0), (A_60, 0)]])
    found = find(truth, detections([[(A, 0, 0.9), ((0, 1, 40, 41), 0, 0.8), (A, 0, 0.7)]]))
    assert found.objects.tolist() == [0, 0, 0]
    assert found.finds.tolist() == [True, False, False]
    assert found.extra.tolist() == [False, True, True]
    assert found_objects(found) == [0]


def test_a_box_nearer_to_the_neighbour_finds_it() -> None:
    truth = ground_truth([[(A, 0), (A_60, 0)]])
    found = find(truth, detections([[(A, 0, 0.9), ((0, 6, 40, 46), 0, 0.8)]]))  # 36/44 against 34/46
    assert found.objects.tolist() == [0, 1]


def test_an_overlap_of_a_half_counts_and_less_does_not() -> None:
    truth = ground_truth([[(A, 0)], [(A, 0)]])
    found = find(truth, detections([[(A_HALF, 0, 0.9)], [((0, 0, 40, 19.5), 0, 0.9)]]))
    assert found.objects.tolist() == [0, -1]


def test_of_equally_overlapped_objects_the_one_not_yet_found_then_the_first() -> None:
    truth = ground_truth([[(A, 0), (FAR, 0), (A, 0)]])
    found = find(truth, detections([[(A, 0, 0.9), (A, 0, 0.8), (A, 0, 0.7), (FAR, 0, 0.6)]]))
    assert found.objects.tolist() == [0, 2, 0, 1]
    assert found.extra.tolist() == [False, False, True, False]


def test_one_object_under_two_names() -> None:
    truth = ground_truth([[(A, 0), (FAR, 1)]])
    found = find(truth, detections([[(A, 1, 0.9), (A, 0, 0.8), (A, 1, 0.7), (FAR, 1, 0.6)]]))
    assert found.objects.tolist() == [-1, 0, -1, 1]
    assert found.any_objects.tolist() == [0, 0, 0, 1]
    # Against the best scored box, whatever the object's own class: only the 0.8 is another name.
    assert found.other_label.tolist() == [False, True, False, False]
    assert not found.extra.any()


def test_objects_of_two_classes_in_one_place_are_not_one_under_two_names() -> None:
    truth = ground_truth([[(A, 0), (A, 1)]])
    found = find(truth, detections([[(A, 1, 0.9), (A, 1, 0.8), (A, 0, 0.7)]]))
    assert found.any_objects.tolist() == [1, 1, 0]
    assert not found.other_label.any()
    assert found.extra.tolist() == [False, True, False]


def test_what_lies_on_a_crowd_region_of_its_class_is_ignored_unless_it_counts() -> None:
    truth = ground_truth([[(A, 0), ((0, 0, 100, 60), 0), (FAR, 1)]], crowd=[(0, 1)])
    boxes = [
        (A, 0, 0.9),  # counts for the object
        ((50, 10, 70, 30), 0, 0.8),  # inside the region
        ((90, 10, 110, 30), 0, 0.7),  # half inside
        ((95, 10, 115, 30), 0, 0.6),  # a quarter
        ((50, 10, 70, 30), 1, 0.5),  # of another class
    ]
    found = find(truth, detections([boxes]))
    assert found.objects.tolist() == [0, -1, -1, -1, -1]
    assert found.ignored.tolist() == [False, True, True, False, False]


def test_an_ignored_detection_is_no_other_name() -> None:
    truth = ground_truth([[(A, 1), ((0, 0, 100, 60), 0)]], crowd=[(0, 1)])
    found = find(truth, detections([[(A, 1, 0.9), (A, 0, 0.8)]]))
    assert found.ignored.tolist() == [False, True]
    assert found.any_objects.tolist() == [0, -1]
    assert not found.other_label.any()


def test_without_detections_or_objects() -> None:
    empty = find(ground_truth([[(A, 0)], []]), detections([[], []]))
    assert (len(empty.finds), len(empty.extra), len(empty.other_label)) == (0, 0, 0)
    assert np.isneginf(empty.object_scores).all()
    assert find(ground_truth([[]]), detections([[(A, 0, 0.9)]])).objects.tolist() == [-1]


def test_scores_keep_their_precision() -> None:
    truth, found = ground_truth([[(A, 0)]]), detections([[(A, 0, 0.5)]])
    exact = Detections(found.offsets, found.boxes_xyxy, np.array([1 / 3]), found.classes)
    assert find(truth, exact).object_scores[0] == 1 / 3


@pytest.mark.parametrize("seed", range(6))
def test_equals_the_slow_implementation_from_any_score_on(seed: int) -> None:
    truth, boxes = random_case(seed)
    found = find(truth, boxes)
    for score in (0.0, 0.3, 0.55, 0.8):
        expected = naive_count(truth, boxes, [score] * len(truth), [1] * len(truth))
        kept = found.scores >= score
        assert np.flatnonzero(found.object_scores >= score).tolist() == list(expected.found_objects)
        assert int((found.extra & kept).sum()) == expected.extra
        assert int((found.other_label & kept).sum()) == expected.other_label
        assert int((~found.ignored & kept).sum()) == expected.detections
    assert found.extra.any()
    assert found.other_label.any()
    assert found.ignored.any()


@pytest.mark.parametrize("seed", range(3))
def test_lower_scored_detections_change_nothing(seed: int) -> None:
    truth, boxes = _with_twins(*random_case(seed))
    found = find(truth, boxes)
    for score in np.unique(boxes.scores)[::7]:
        kept = boxes.scores >= score
        part = find(truth, boxes.select(kept))
        for name in ("objects", "any_objects", "ignored", "finds", "extra", "other_label"):
            np.testing.assert_array_equal(getattr(part, name), getattr(found, name)[kept])


def _with_twins(truth: GroundTruth, found: Detections) -> tuple[GroundTruth, Detections]:
    """The same with every object annotated twice, so that overlaps are equal."""
    from dataclasses import replace

    twice = np.repeat(np.arange(len(truth.classes)), 2)
    parts = {name: getattr(truth, name)[twice] for name in ("boxes_xywh", "classes", "crowd", "areas")}
    return replace(truth, offsets=2 * truth.offsets, **parts), found
