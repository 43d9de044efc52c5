"""What is taken for what, by hand and by an independent count."""

from __future__ import annotations

import pytest
from detection_cases import Box, detections, ground_truth, perfect, random_case

from detr_d2.compare.measure.confusion import confusion_matrix

A: Box = (0, 0, 40, 40)
A_60: Box = (0, 10, 40, 50)  # IoU with A: 30 / 50 = 0.6
FAR: Box = (100, 50, 140, 90)


Case = tuple[list[tuple[Box, int]], list[tuple[Box, int, float]]]


def counted(*images: Case) -> list[list[int]]:
    truth, found = ground_truth([x for x, _ in images]), detections([x for _, x in images])
    matrix = confusion_matrix(truth, found)
    assert matrix is not None
    assert matrix.names == ["a", "b"]
    return matrix.counts


def test_right_mistaken_missed_and_made_up() -> None:
    right = ([(A, 0), (FAR, 1)], [(A, 0, 0.9), (FAR, 1, 0.8)])
    mistaken = ([(A, 0)], [(A, 1, 0.9)])
    missed: Case = ([(FAR, 1)], [])
    made_up = ([(A, 1)], [(A, 1, 0.9), (FAR, 0, 0.8), (A, 1, 0.7)])  # elsewhere, and the object once more
    assert counted(right, mistaken, missed, made_up) == [[1, 1, 0], [0, 2, 1], [1, 1, 0]]


def test_the_better_scored_takes_the_object_whatever_its_class() -> None:
    assert counted(([(A, 0)], [(A, 0, 0.8), (A_60, 1, 0.9)])) == [[0, 1, 0], [0, 0, 0], [1, 0, 0]]


def test_a_taken_object_leaves_the_next_best() -> None:
    found: list[tuple[Box, int, float]] = [(A, 0, 0.9), (A, 0, 0.8)]
    assert counted(([(A, 0), (A_60, 1)], found)) == [[1, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_of_equal_overlaps_one_of_its_own_class() -> None:
    assert counted(([(A, 0), (A, 1)], [(A, 1, 0.9), (A, 0, 0.8)])) == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_too_far_away_is_no_match() -> None:
    apart: Box = (0, 14, 40, 54)  # 26 / 54 < 0.5
    half: Box = (0, 0, 40, 20)  # 20 / 40
    assert counted(([(A, 0)], [(apart, 1, 0.9)]), ([(A, 0)], [(half, 1, 0.9)])) == [[0, 1, 1], [0, 0, 0], [0, 1, 0]]


def test_on_a_crowd_of_its_class_a_detection_does_not_count() -> None:
    truth = ground_truth([[(A, 0), (FAR, 1)]], crowd=[(0, 0)])
    inside: Box = (0, 0, 10, 10)
    matrix = confusion_matrix(truth, detections([[(inside, 0, 0.9), (inside, 1, 0.8), (FAR, 1, 0.7)]]))
    assert matrix is not None
    assert (matrix.names, matrix.counts) == (["b"], [[1, 0], [1, 0]])


def test_classes_that_occur() -> None:
    truth = ground_truth([[(A, 2)]], num_classes=5)
    matrix = confusion_matrix(truth, detections([[(A, 2, 0.9), (FAR, 4, 0.8)]]))
    assert matrix is not None
    assert (matrix.names, matrix.counts) == (["c", "e"], [[1, 0, 0], [0, 0, 0], [0, 1, 0]])
    assert confusion_matrix(ground_truth([[], []]), detections([[], []])) is None


@pytest.mark.parametrize("seed", range(6))
def test_counts_of_an_independent_matching(seed: int) -> None:
    truth, found = random_case(seed)
    found = found.select(found.scores >= 0.3)
    expected = [[0] * 4 for _ in range(4)]
    for image in range(len(truth)):
        objects = [
            (_corners(truth.boxes_xywh[i]), int(truth.classes[i]), bool(truth.crowd[i])) for i in _range(truth, image)
        ]
        free = [i for i, (_, _, crowd) in enumerate(objects) if not crowd]
        for d in _range(found, image):
            box, k = tuple(found.boxes_xyxy[d].tolist()), int(found.classes[d])
            rated = sorted(((_iou(box, objects[i][0]), -i) for i in free), reverse=True)
            if rated and rated[0][0] >= 0.5:
                free.remove(-rated[0][1])
                expected[objects[-rated[0][1]][1]][k] += 1
            elif not any(crowd and j == k and _shared(box, b) >= 0.5 * _area(box) for b, j, crowd in objects):
                expected[3][k] += 1
        for i in free:
            expected[objects[i][1]][3] += 1
    matrix = confusion_matrix(truth, found)
    assert matrix is not None
    assert matrix.counts == expected
    right = confusion_matrix(truth, perfect(truth))
    assert right is not None
    assert sum(map(sum, right.counts)) == sum(right.counts[i][i] for i in range(3)) == (~truth.crowd).sum()


def _range(part: object, image: int) -> range:
    own = part.of_image(image)  # type: ignore[attr-defined]
    return range(own.start, own.stop)


def _corners(box_xywh: list[float]) -> Box:
    x, y, w, h = box_xywh
    return (x, y, x + w, y + h)


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _shared(a: Box, b: Box) -> float:
    return _area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))


def _iou(a: Box, b: Box) -> float:
    return _shared(a, b) / (_area(a) + _area(b) - _shared(a, b))
