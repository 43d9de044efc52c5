"""Kinds of errors in the manner of TIDE, one case for each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from detection_cases import Box, detections, ground_truth, perfect, random_case

from detr_d2.compare.measure import matching
from detr_d2.compare.measure.errors import KINDS, error_kinds
from detr_d2.compare.records.figures import ErrorKind

A: Box = (0, 0, 40, 40)
A_33: Box = (0, 20, 40, 60)  # IoU with A: 1/3
B: Box = (60, 0, 100, 40)
FAR: Box = (150, 50, 190, 90)


def kinds(*arguments: object) -> dict[str, ErrorKind]:
    return {x.kind: x for x in error_kinds(*arguments)}  # type: ignore[arg-type]


def counts(*arguments: object) -> dict[str, int]:
    return {name: x.count for name, x in kinds(*arguments).items() if x.count}


def test_perfect_detections_have_no_errors() -> None:
    truth = ground_truth([[(A, 0), (B, 1)]])
    result = error_kinds(truth, perfect(truth))
    assert [x.kind for x in result] == list(KINDS)
    assert [(x.count, x.delta_ap50) for x in result] == [(0, 0.0)] * 6


@pytest.mark.parametrize(
    ("box", "k", "expected"),
    [
        (A, 1, {"classification": 1}),
        (A_33, 0, {"localisation": 1}),
        (A_33, 1, {"both": 1, "missed": 1}),
        (FAR, 0, {"background": 1, "missed": 1}),
    ],
)
def test_one_wrong_detection(box: Box, k: int, expected: dict[str, int]) -> None:
    truth = ground_truth([[(A, 0)]])
    assert counts(truth, detections([[(box, k, 0.9)]])) == expected


def test_a_second_detection_of_a_found_object_is_a_duplicate() -> None:
    truth = ground_truth([[(A, 0)]], num_classes=1)
    found = detections([[(A, 0, 0.9), ((0, 0, 40, 38), 0, 0.8)]])
    assert counts(truth, found) == {"duplicate": 1}
    assert kinds(truth, found)["duplicate"].delta_ap50 == pytest.approx(0)  # it comes after full recall


def test_repairing_gives_back_what_the_error_cost() -> None:
    truth = ground_truth([[(A, 0), (B, 0)]], num_classes=1)
    found = detections([[(FAR, 0, 0.95), (A, 0, 0.9), ((60, 20, 100, 60), 0, 0.8)]])
    result = kinds(truth, found)
    base = 100 * 0.5 * 51 / 101  # precision 1/2 up to recall 1/2
    assert result["background"].delta_ap50 == pytest.approx(100 * 51 / 101 - base)
    assert result["localisation"].delta_ap50 == pytest.approx(100 * 2 / 3 - base)  # precision 2/3 up to recall 1
    assert result["missed"].count == 0  # the badly placed box is about the other object
    assert result["missed"].delta_ap50 == 0


def test_a_missed_object_is_taken_from_the_objects() -> None:
    truth = ground_truth([[(A, 0), (B, 0)]], num_classes=1)
    result = kinds(truth, detections([[(A, 0, 0.9)]]))
    assert result["missed"].count == 1
    assert result["missed"].delta_ap50 == pytest.approx(100 - 100 * 51 / 101)


def test_only_the_best_of_several_errors_about_an_object_becomes_a_hit() -> None:
    truth = ground_truth([[(A, 0)]])
    found = detections([[(A, 1, 0.9), ((0, 0, 40, 39), 1, 0.8)]])
    result = kinds(truth, found)
    assert result["classification"].count == 2
    assert result["classification"].delta_ap50 == pytest.approx(100)


def test_an_object_is_given_to_the_better_scored_of_two_kinds_of_error() -> None:
    truth = ground_truth([[(A, 0)]])
    result = kinds(truth, detections([[(A, 1, 0.9), (A_33, 0, 0.8)]]))
    assert (result["classification"].count, result["localisation"].count) == (1, 1)
    assert result["classification"].delta_ap50 == pytest.approx(100)
    assert result["localisation"].delta_ap50 == 0


def test_an_error_about_an_object_that_is_found_is_removed() -> None:
    truth = ground_truth([[(A, 0), (FAR, 0)]], num_classes=1)
    result = kinds(truth, detections([[(A, 0, 0.9), (A_33, 0, 0.8)]]))
    assert (result["localisation"].count, result["missed"].count) == (1, 1)
    assert result["localisation"].delta_ap50 == pytest.approx(0)


def test_crowd_regions_make_no_errors() -> None:
    truth = ground_truth([[(A, 0), (B, 0)]], crowd=[(0, 1)])
    assert counts(truth, detections([[(A, 0, 0.9), (B, 0, 0.8), ((60, 0, 80, 40), 0, 0.7)]])) == {}


def test_the_limit_is_that_of_the_average_precision_beside_it() -> None:
    """102 objects of a class in an image, all found: two are beyond COCO's limit, and none with that of the model."""
    boxes: list[Box] = [(10 * i, 0, 10 * i + 8, 8) for i in range(102)]
    truth = ground_truth([[(box, 0) for box in boxes]], num_classes=1)
    found = detections([[(box, 0, 0.9 - 0.001 * i) for i, box in enumerate(boxes)]])
    assert counts(truth, found) == {"missed": 2}
    assert {x.kind: x.count for x in error_kinds(truth, found, max_detections=300) if x.count} == {}


def test_a_class_that_nobody_finds_leaves_the_mean_when_its_misses_are_repaired() -> None:
    truth = ground_truth([[(A, 0), (B, 1)]])
    found = detections([[(A, 0, 0.9), (FAR, 1, 0.8)]])
    assert kinds(truth, found)["missed"].delta_ap50 == pytest.approx(50)
    assert kinds(truth, found)["background"].delta_ap50 == pytest.approx(0)


def test_detections_of_a_class_without_objects_are_errors_that_cost_nothing() -> None:
    truth = ground_truth([[(A, 0)]], num_classes=2)
    result = kinds(truth, detections([[(A, 0, 0.9), (FAR, 1, 0.95)]]))
    assert (result["background"].count, result["background"].delta_ap50) == (1, 0)


def corners(boxes_xywh: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], 1)


NAMES_IN_TIDE = {
    "classification": "Cls",
    "localisation": "Loc",
    "both": "Both",
    "duplicate": "Dupe",
    "background": "Bkg",
    "missed": "Miss",
}


@pytest.mark.parametrize("seed", range(5))
def test_counts_and_gains_are_those_of_tide(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where both have the same rules: no crowd regions, no equal scores, every class among the objects."""
    tidecv = pytest.importorskip("tidecv")
    monkeypatch.setattr(matching, "RECALLS", np.arange(101) / 100)  # ten of them are rounded otherwise by COCO
    truth, found = random_case(seed)
    truth = replace(truth, crowd=np.zeros_like(truth.crowd))
    place = np.arange(len(found.scores), dtype=np.float32)
    boxes = found.boxes_xyxy + 400 * (place % 7 == 0)[:, None]  # some are far from everything
    found = replace(found, boxes_xyxy=boxes, scores=found.scores - 1e-5 * place)
    assert len(np.unique(found.scores)) == len(found.scores)
    assert set(truth.classes.tolist()) == {0, 1, 2}
    theirs, guesses = tidecv.Data("truth"), tidecv.Data("found")
    for image, k, box in zip(truth.image_of, truth.classes, corners(truth.boxes_xywh), strict=True):
        theirs.add_ground_truth(int(image), int(k), box.tolist())
    rows = zip(found.image_of, found.classes, found.scores, corners(found.boxes_xywh), strict=True)
    for image, k, score, box in rows:
        guesses.add_detection(int(image), int(k), float(score), box.tolist())
    run = tidecv.TIDE().evaluate(theirs, guesses, mode=tidecv.TIDE.BOX)
    gains = {error.short_name: gain for error, gain in run.fix_main_errors().items()}
    numbers = {error.short_name: len(cases) for error, cases in run.error_dict.items()}
    ours = kinds(truth, found)
    assert {NAMES_IN_TIDE[x]: ours[x].count for x in KINDS} == {x: numbers[x] for x in NAMES_IN_TIDE.values()}
    assert min(numbers[x] for x in ("Cls", "Loc", "Dupe", "Bkg")) > 0
    measured = {NAMES_IN_TIDE[x]: ours[x].delta_ap50 for x in KINDS}
    assert measured == pytest.approx({x: gains[x] for x in NAMES_IN_TIDE.values()}, abs=1e-9)
