"""What NMS removed, on cases made by hand."""

from __future__ import annotations

import pytest
from detection_cases import Box, detections, ground_truth

from detr_d2.compare.records.files import to_json
from detr_d2.compare.removals import find_removals

A: Box = (0, 0, 40, 40)
A_60: Box = (0, 10, 40, 50)  # IoU with A: 30 / 50 = 0.6
FAR: Box = (100, 50, 140, 90)
FAR_60: Box = (100, 60, 140, 100)
TRUTH = ground_truth([[], [(A, 0), (A_60, 0), (FAR, 0)]])


def test_the_only_right_box_of_an_object_and_the_box_that_removed_it() -> None:
    kept = detections([[], [(A, 0, 0.9)]])
    without = detections([[], [(A, 0, 0.9), (A_60, 0, 0.8)]])
    (removal,) = find_removals(TRUTH, kept, without, 0.5)
    assert to_json(removal) == {
        "file_name": "1.png",
        "image_id": 11,
        "width": 200,
        "height": 100,
        "class_index": 0,
        "object_box": list(A_60),
        "removed_box": list(A_60),
        "removed_score": pytest.approx(0.8),
        "kept_box": list(A),
        "kept_score": pytest.approx(0.9),
        "iou": pytest.approx(0.6),
    }


def test_more_boxes_on_the_neighbour_find_nothing_that_could_be_lost() -> None:
    kept = detections([[], [(A, 0, 0.9)]])
    without = detections([[], [(A, 0, 0.9), ((0, 1, 40, 41), 0, 0.8), ((0, 4, 40, 44), 0, 0.7)]])
    # The last overlaps A by 36 / 44 and the second object by 34 / 46: both at least 0.5, but it counts for A.
    assert find_removals(TRUTH, kept, without, 0.5) == []


def test_an_object_that_another_box_still_finds_is_not_lost() -> None:
    other: Box = (0, 14, 40, 54)  # IoU with A: 26 / 54, with the second object 36 / 44
    kept = detections([[], [(A, 0, 0.9), (other, 0, 0.6)]])
    without = detections([[], [(A, 0, 0.9), (A_60, 0, 0.8), (other, 0, 0.6)]])
    assert find_removals(TRUTH, kept, without, 0.5) == []


@pytest.mark.parametrize(
    ("keeper", "threshold"),
    [((A, 0, 0.7), 0.5), ((A, 1, 0.9), 0.5), ((A, 0, 0.9), 0.65), ((FAR, 0, 0.9), 0.5)],
    ids=["scored lower", "of another class", "apart enough", "elsewhere"],
)
def test_what_nms_cannot_have_removed(keeper: tuple[Box, int, float], threshold: float) -> None:
    kept, without = detections([[], [keeper]]), detections([[], [keeper, (A_60, 0, 0.8)]])
    assert find_removals(TRUTH, kept, without, threshold) == []


def test_best_removed_box_and_nearest_kept_one() -> None:
    near: Box = (0, 8, 40, 48)  # IoU with the second object 38 / 42, with A 32 / 48: it counts for the second
    far: Box = (4, 0, 44, 40)  # IoU with `near`: 36 x 32 / (3200 - 1152)
    kept = detections([[], [(far, 0, 0.95), (A, 0, 0.9)]])
    without = detections([[], [(far, 0, 0.95), (A, 0, 0.9), (A_60, 0, 0.6), (near, 0, 0.8)]])
    (removal,) = find_removals(TRUTH, kept, without, 0.5)
    assert (removal.removed_box, removal.kept_box) == (list(near), list(A))
    assert removal.iou == pytest.approx(32 / 48)


def test_crowds_are_not_lost() -> None:
    truth = ground_truth([[(A, 0), (A_60, 0)]], crowd=[(0, 1)])
    assert find_removals(truth, detections([[(A, 0, 0.9)]]), detections([[(A, 0, 0.9), (A_60, 0, 0.8)]]), 0.5) == []


def test_best_first_and_not_all_of_one_image() -> None:
    objects = [(A, 0), (A_60, 0), (FAR, 0), (FAR_60, 0), (A, 1), (A_60, 1)]
    scores = [[0.9, 0.01 * (image + 1), 0.9, 0.2 + 0.01 * image, 0.9, 0.4] for image in range(9)]
    without = detections([[(*x, score) for x, score in zip(objects, row, strict=True)] for row in scores])
    kept = without.select(without.scores > 0.5)
    truth = ground_truth([objects] * 9)
    found = find_removals(truth, kept, without, 0.5)
    assert [round(x.removed_score, 2) for x in found] == [0.4] * 9 + [0.28, 0.27, 0.26]
    assert [x.file_name for x in found[8:]] == ["8.png", "8.png", "7.png", "6.png"]
    kept, without = (x.select(x.image_of == 0) for x in (kept, without))
    assert [round(x.removed_score, 2) for x in find_removals(truth, kept, without, 0.5)] == [0.4, 0.2]
