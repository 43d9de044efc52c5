"""From detections to a filled record; and scores of another scale give the same figures."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from detection_cases import Box, detections, ground_truth, random_case
from offline_nms import offline

from detr_d2.compare.measure.everything import Measured, measure, num_steps
from detr_d2.compare.measure.intervals import METRICS, image_draws
from detr_d2.compare.records.comparison import ModelComparison, ShippedSettings
from detr_d2.compare.records.files import to_json
from detr_d2.compare.records.results import RunResult
from detr_d2.evaluation.arrays import Detections, GroundTruth

WITH_NMS = ShippedSettings(0.5, 0.0, 100, None, nms_switched_off=True)
DETR = ShippedSettings(None, 0.0, 100, 100, nms_switched_off=True)
UNKNOWN = ShippedSettings(None, math.nan, 10**6, None, nms_switched_off=False)

A: Box = (0, 0, 40, 40)
FAR: Box = (100, 50, 140, 90)


def measured(truth: GroundTruth, found: Detections, shipped: ShippedSettings, **options: Any) -> Measured:
    run = RunResult("M", "m.yaml", "d", math.nan, math.nan, math.nan)
    identity = ModelComparison("M", "other", run, "", "", "", shipped=shipped)
    return measure(
        identity, truth, [offline(found, limit=shipped.max_detections)], image_draws(len(truth), 12), **options
    )


def test_a_model_with_nms() -> None:
    steps: list[int] = []
    result = measured(*random_case(1, num_images=30), WITH_NMS, progress=lambda: steps.append(1))
    record = result.record
    assert len(steps) == num_steps(WITH_NMS, 1)
    assert list(record.confidence) == list(METRICS)
    assert record.operating is not None
    assert record.counting is not None
    assert record.confidence["recall"].value == record.operating.at.recall
    assert record.confidence["extra"].value == record.operating.at.extra
    assert record.confidence["count_error"].value == record.counting.mean_absolute_error
    assert [x.setting for x in record.extra_boxes] == ["shipped", "without NMS"]
    shipped, without = record.extra_boxes
    assert without.found == shipped.found + shipped.removed
    assert without.extra > shipped.extra
    assert [x.recall.value for x in record.crowds] == pytest.approx(record.operating.at.crowds, nan_ok=True)
    assert all(x.lost is not None and not x.lost.low < 0 for x in record.crowds)
    assert len(result.f1_per_image) == 30
    assert {len(x) for x in result.samples.values()} == {12}
    assert record.query_limit is None


def test_a_detr_ships_what_it_has_and_loses_nothing() -> None:
    record = measured(*random_case(1, num_images=30), DETR).record
    assert [x.setting for x in record.extra_boxes] == ["shipped", "with NMS"]
    assert record.query_limit is not None
    for x in record.crowds:
        assert x.recall_without_nms is not None
        assert x.recall_without_nms.value == pytest.approx(x.recall.value, nan_ok=True)
        assert x.lost is not None
        assert x.lost.value == 0 or math.isnan(x.lost.value)


def test_a_model_whose_nms_stays() -> None:
    record = measured(*random_case(1, num_images=30), UNKNOWN).record
    assert [x.setting for x in record.extra_boxes] == ["shipped"]
    assert record.operating is not None
    assert record.operating.at.crowds_without_nms == []
    assert all(x.recall_without_nms is None and x.lost is None and math.isnan(x.chance) for x in record.crowds)


def test_a_model_that_finds_nothing_says_so() -> None:
    truth = ground_truth([[(A, 0)]] * 8)
    record = measured(truth, detections([[(FAR, 0, 0.9)]] * 8), DETR).record
    assert record.notes == ["no score gives an F1 above 0, so none of its detections counts"]
    assert record.confidence["recall"].value == 0
    assert math.isnan(record.confidence["extra"].value)
    assert record.extra_boxes[0].detections == 0


def test_figures_at_the_operating_point_have_the_limit_of_ap() -> None:
    truth = ground_truth([[(A, 0)]] * 2)
    found = detections([[(FAR, 0, 0.9)] * 100 + [(A, 0, 0.5)], [(FAR, 0, 0.9)] * 99 + [(A, 0, 0.5)]])
    record = measured(truth, found, replace(DETR, max_detections=200), score_threshold=0.1).record
    assert record.operating is not None
    assert record.operating.at.recall == 50  # COCO counts 100 of an image and class
    more = replace(DETR, max_detections=200, num_queries=200)
    record = measured(truth, found, more, score_threshold=0.1).record
    assert record.operating is not None
    assert record.operating.at.recall == 100
    assert record.query_limit is not None
    assert record.query_limit.groups[0].missed == 0


@pytest.mark.parametrize("shipped", [WITH_NMS, DETR])
def test_scores_of_another_scale_change_no_figure(shipped: ShippedSettings) -> None:
    truth, found = random_case(7, num_images=25)
    found = replace(found, scores=found.scores.astype(np.float64))
    first = measured(truth, found, shipped)
    assert first.record.operating is not None
    assert first.record.operating.at.recall > 20
    for power in (0.5, 3):
        other = measured(truth, replace(found, scores=found.scores**power), shipped)
        assert to_json(other.samples) == to_json(first.samples)
        assert other.f1_per_image == first.f1_per_image
        assert _without_scores(other.record) == _without_scores(first.record)


def _without_scores(record: ModelComparison) -> Any:
    """All but the scores themselves, and what is told of fixed scores."""
    content = to_json(record)
    operating = content["operating"]
    del operating["others"], operating["scores"], operating["curve"]["scores"]
    return content
