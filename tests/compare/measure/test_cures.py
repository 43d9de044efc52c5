"""What NMS, or one label per query, would give a model that has neither."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from detection_cases import Box, detections, ground_truth
from offline_nms import offline

from detr_d2.compare.measure.cures import cures, one_label
from detr_d2.compare.records.comparison import ModelComparison, PredictionsFile, ShippedSettings
from detr_d2.compare.records.results import RunResult
from detr_d2.evaluation.arrays import Detections, GroundTruth

A: Box = (0, 0, 40, 40)
A_90: Box = (0, 2, 40, 42)  # IoU with A: 38 / 42
A_60: Box = (0, 10, 40, 50)  # IoU with A: 30 / 50
FAR: Box = (100, 50, 140, 90)
DETR = ShippedSettings(None, 0.0, 100, 100, nms_switched_off=True)
RUN = RunResult("M", "m.yaml", "d", math.nan, math.nan, math.nan)
MODEL = ModelComparison("M", "DETR", RUN, "", "", "", shipped=DETR)


def case() -> tuple[GroundTruth, Detections]:
    """Eight images with an object each: found, found again by a worse box, and the first query names another class."""
    truth = ground_truth([[(A, 0)]] * 8)
    return truth, detections([[(A, 0, 0.9), (A, 1, 0.8), (A_90, 0, 0.7)]] * 8)


def test_the_cures_by_hand() -> None:
    truth, found = case()
    nms, one = cures(MODEL, truth, offline(found))
    assert (nms.name, nms.setting) == ("NMS", "MODEL.DETR.NMS_THRESH_TEST 0.7")
    assert (one.name, one.setting) == ("one label per query", "MODEL.DETR.ONE_CLASS_PER_QUERY True")
    # The second box of the object, scored below the first, costs no AP: recall is complete before it.
    assert (nms.ap, nms.ap50, one.ap, one.ap50) == pytest.approx((100, 100, 100, 100))
    # From 0.9 on, the best F1, nothing is wrong in either.
    assert (nms.at.f1, nms.at.extra, nms.at.other_label, nms.at.count_error) == (100, 0, 0, 0)
    # At a score that the user gives, NMS leaves the other label, and one label leaves the worse box.
    nms, one = cures(MODEL, truth, offline(found), score_threshold=0.5)
    assert (nms.at.extra, nms.at.other_label, nms.at.count_error) == (0, 100, 1)
    assert (one.at.extra, one.at.other_label, one.at.count_error) == (100, 0, 1)


def test_duplicates_that_cost_ap() -> None:
    truth = ground_truth([[(A, 0), (FAR, 0)]] * 8)
    found = detections([[(A, 0, 0.9), (A_90, 0, 0.8), (A_60, 0, 0.75), (FAR, 0, 0.7)]] * 8)
    (nms,) = cures(MODEL, truth, offline(found))  # every query has one label
    # Without: the last object is found with a precision of 2 / 4; with NMS at 0.7, which leaves A_60, of 2 / 3.
    # 51 recalls of 101 are reached with a precision of 1, 50 with the lower.
    assert nms.ap50 == pytest.approx((51 * 100 + 50 * 200 / 3) / 101)
    assert nms.at.recall == 100
    assert nms.at.extra == pytest.approx(50)


def test_the_limit_comes_after_the_cure() -> None:
    truth, found = case()
    few = replace(MODEL, shipped=replace(DETR, max_detections=2))
    nms, one = cures(few, truth, offline(found, limit=2), score_threshold=0.0)
    assert nms.at.count_error == one.at.count_error == 1  # two detections are left of each image
    one_only = replace(MODEL, shipped=replace(DETR, max_detections=1))
    assert [x.at.count_error for x in cures(one_only, truth, offline(found, limit=1), score_threshold=0.0)] == [0, 0]


def test_one_label_of_each_box_of_each_image() -> None:
    found = detections([[(A, 0, 0.3), (A, 1, 0.9), (FAR, 0, 0.5), (A_90, 0, 0.4)], [], [(A, 0, 0.2)]])
    left = one_label(found)
    assert left.offsets.tolist() == [0, 3, 3, 4]
    assert left.classes.tolist() == [1, 0, 0, 0]
    assert left.scores.tolist() == pytest.approx([0.9, 0.5, 0.4, 0.2])
    assert len(one_label(found.select(found.scores > 1)).scores) == 0


@pytest.mark.parametrize(
    ("said", "looks", "names"),
    [
        ("raw", "", ["NMS", "one label per query"]),
        ("", "cannot be told", ["NMS", "one label per query"]),
        ("", "looks filtered at 0.50", []),
        ("nms", "", []),
    ],
)
def test_cures_of_predictions(said: str, looks: str, names: list[str]) -> None:
    given = PredictionsFile("a.json", "", said, 0.9, looks)
    shipped = ShippedSettings(None, math.nan, 10**6, None, nms_switched_off=said == "raw")
    found = cures(replace(MODEL, predictions=given, shipped=shipped), case()[0], offline(case()[1]))
    assert [x.name for x in found] == names
    assert {x.setting for x in found} <= {""}


@pytest.mark.parametrize("changes", [{"nms_threshold": 0.5}, {"nms_switched_off": False}])
def test_models_that_need_no_cure_or_may_have_one(changes: dict[str, Any]) -> None:
    truth, found = case()
    assert cures(replace(MODEL, shipped=replace(DETR, **changes)), truth, offline(found)) == []
