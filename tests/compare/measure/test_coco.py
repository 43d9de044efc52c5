"""COCO's figures: hand-made cases, and two independent implementations against each other."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
from detection_cases import detections, ground_truth, perfect, random_case
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detr_d2.compare.measure import matching
from detr_d2.compare.measure.coco import coco_metrics
from detr_d2.compare.measure.matching import PrecisionCurves, match
from detr_d2.evaluation.arrays import Detections, GroundTruth, coco_dataset, coco_detections

A, B, FAR = (10.0, 10.0, 50.0, 50.0), (100.0, 10.0, 140.0, 50.0), (150.0, 60.0, 190.0, 95.0)


def by_pycocotools(truth: GroundTruth, found: Detections, limit: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Its precision (T, R, K) and recall (T, K) for objects of all sizes; NaN for a class without objects."""
    content = coco_dataset(truth)
    both = []
    for rows in (content["annotations"], coco_detections(found)):
        both.append(COCO())
        both[-1].dataset = {**content, "annotations": rows}
        both[-1].createIndex()
    evaluation = COCOeval(*both, "bbox")
    evaluation.params.maxDets = [1, min(10, limit), limit]
    evaluation.evaluate()
    evaluation.accumulate()
    precision, recall = (evaluation.eval[key][..., 0, 2] for key in ("precision", "recall"))
    return np.where(precision < 0, np.nan, precision), np.where(recall < 0, np.nan, recall)


def test_perfect_detections_have_ap_100() -> None:
    truth = ground_truth([[(A, 0), (B, 1)], [(FAR, 0)]])
    metrics, curves = coco_metrics(truth, perfect(truth))
    assert metrics.ap == metrics.ap50 == metrics.ap75 == metrics.ar_max == pytest.approx(100)
    assert [x.ap for x in metrics.per_class] == pytest.approx([100, 100])
    assert [x.num_objects for x in metrics.per_class] == [2, 1]
    assert [curve.iou for curve in curves] == [0.5, 0.75, None]
    assert all(curve.precision == pytest.approx([100] * 101) for curve in curves)
    np.testing.assert_allclose(PrecisionCurves(match(truth, perfect(truth))).average_precision(), 100)


def test_one_of_two_objects_found_after_a_mistake() -> None:
    truth = ground_truth([[(A, 0), (B, 0)]], num_classes=1)
    found = detections([[(FAR, 0, 0.9), (A, 0, 0.8)]])
    metrics, _ = coco_metrics(truth, found)
    # Precision is 1/2 up to recall 0.5: 51 of the 101 recalls.
    assert metrics.ap50 == metrics.ap == pytest.approx(100 * 0.5 * 51 / 101)
    assert metrics.ar_max == pytest.approx(50)
    assert metrics.ar_1 == pytest.approx(0)  # the best one is the mistake
    assert math.isnan(metrics.ap_small)  # both have 40 x 40 pixels


@pytest.mark.parametrize("seed", range(12))
def test_figures_are_those_of_pycocotools(seed: int) -> None:
    truth, found = random_case(seed)
    precision, recall = by_pycocotools(truth, found)
    ap, per_class = 100 * np.nanmean(precision, (1, 2)), 100 * precision.mean((0, 1))
    assert 0 < ap.mean() < 100
    metrics, curves = coco_metrics(truth, found)
    fast = PrecisionCurves(match(truth, found))
    equal = partial(np.testing.assert_allclose, atol=1e-9, rtol=0)
    equal([metrics.ap, metrics.ap50, metrics.ap75], [ap.mean(), ap[0], ap[5]])
    equal(fast.average_precision(), ap)
    equal([metrics.ar_max, fast.average_recall()], 100 * np.nanmean(recall))
    equal([x.ap for x in metrics.per_class], per_class)
    equal(fast.of_classes(np.ones((1, len(truth))))[0][0].mean(0), per_class)
    equal([x.ar for x in metrics.per_class], 100 * recall.mean(0))
    for curve, at in zip(curves, (precision[0], precision[5], precision.mean(0)), strict=True):
        equal(curve.precision, 100 * np.nanmean(at, 1))


def test_of_two_objects_overlapped_equally_the_later_one_is_taken() -> None:
    truth = ground_truth([[((0, 0, 40, 40), 0), ((0, 20, 40, 60), 0)]], num_classes=1)
    found = detections([[((0, 10, 40, 50), 0, 0.9), ((0, 0, 40, 40), 0, 0.8)]])  # the first has IoU 0.6 with both
    assert coco_metrics(truth, found)[0].ap50 == pytest.approx(100)
    assert PrecisionCurves(match(truth, found)).average_precision()[0] == pytest.approx(100)
    assert match(truth, found).matched[0].tolist() == [1, 0]


@pytest.mark.parametrize("limit", [1, 3])
def test_limit_per_image_and_class(limit: int) -> None:
    truth, found = random_case(5)
    precision, _ = by_pycocotools(truth, found, limit)
    metrics, _ = coco_metrics(truth, found, max_detections=limit)
    assert metrics.ap == pytest.approx(100 * np.nanmean(precision), abs=1e-9)
    fast = PrecisionCurves(match(truth, found, max_detections=limit)).average_precision()
    assert fast.mean() == pytest.approx(metrics.ap, abs=1e-9)


def test_weights_count_an_image_several_times() -> None:
    truth, found = random_case(3, num_images=6)
    scores = found.scores + np.linspace(0, 1e-3, len(found.scores)).astype(np.float32)  # no two are equal
    found = Detections(found.offsets, found.boxes_xyxy, scores, found.classes)
    weights = np.array([2, 0, 1, 3, 1, 2])
    order = np.repeat(np.arange(6), weights).tolist()
    corners = truth.boxes_xywh + np.pad(truth.boxes_xywh[:, :2], ((0, 0), (2, 0)))
    repeated_truth = ground_truth(
        [_rows(truth.of_image(i), corners, truth.classes) for i in order],
        num_classes=3,
        crowd=[(n, j) for n, i in enumerate(order) for j, crowd in enumerate(truth.crowd[truth.of_image(i)]) if crowd],
    )
    repeated = detections([_rows(found.of_image(i), found.boxes_xyxy, found.classes, scores) for i in order])
    expected = PrecisionCurves(match(repeated_truth, repeated)).average_precision()
    weighted = PrecisionCurves(match(truth, found)).average_precision(weights)
    np.testing.assert_allclose(weighted, expected, rtol=0, atol=1e-6)


def test_many_weightings_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, found = random_case(7, num_images=9)
    curves = PrecisionCurves(match(truth, found))
    draws = np.random.default_rng(0).multinomial(9, np.full(9, 1 / 9), size=11)
    draws[3] = 0  # nothing to find
    monkeypatch.setattr(matching, "_AT_ONCE", 40)
    ap, recall = curves.resampled(draws)
    assert ap.shape == (11, 10)
    for row, weights in enumerate(draws):
        np.testing.assert_allclose(ap[row], curves.average_precision(weights), rtol=1e-12)
        np.testing.assert_allclose(recall[row], curves.average_recall(weights), rtol=1e-12)
    assert np.isnan(ap[3]).all()
    assert np.isnan(recall[3])
    assert not np.isnan(np.delete(ap, 3, 0)).any()


def test_a_class_that_a_resample_does_not_hold_is_left_out() -> None:
    truth = ground_truth([[(A, 0)], [(A, 1)]])
    curves = PrecisionCurves(match(truth, detections([[(A, 0, 0.9)], []])))
    assert curves.resampled(np.array([[1, 1], [2, 0], [0, 2]]))[0][:, 0] == pytest.approx([50, 100, 0])


def _rows(part: slice, boxes: np.ndarray, *columns: np.ndarray) -> list[Any]:
    return list(zip(map(tuple, boxes[part].tolist()), *(x[part].tolist() for x in columns), strict=True))


def test_without_objects_nothing_is_known() -> None:
    truth = ground_truth([[], []])
    metrics, curves = coco_metrics(truth, detections([[(A, 0, 0.9)], []]))
    assert math.isnan(metrics.ap)
    assert curves == []
    assert np.isnan(PrecisionCurves(match(truth, detections([[(A, 0, 0.9)], []]))).average_precision()).all()


def test_no_detections_at_all() -> None:
    truth = ground_truth([[(A, 0)]])
    metrics, _ = coco_metrics(truth, detections([[]]))
    assert metrics.ap == 0
    assert PrecisionCurves(match(truth, detections([[]]))).average_precision().tolist() == [0] * 10
