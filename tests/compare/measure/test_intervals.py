"""Confidence intervals."""

from __future__ import annotations

import numpy as np
import pytest
from detection_cases import perfect, random_case

from detr_d2.compare.measure.intervals import METRICS, Observed, bootstrap, difference, image_draws, interval
from detr_d2.compare.measure.matching import PrecisionCurves, match
from detr_d2.compare.measure.sets import SetFigures
from detr_d2.evaluation.arrays import Detections, GroundTruth


def observe(truth: GroundTruth, found: Detections) -> Observed:
    return Observed(PrecisionCurves(match(truth, found)), SetFigures.of(truth, found, None))


def test_every_draw_takes_as_many_images_as_there_are() -> None:
    draws = image_draws(7, 50)
    assert draws.shape == (50, 7)
    assert (draws.sum(1) == 7).all()
    assert len({tuple(x) for x in draws}) > 40
    np.testing.assert_array_equal(draws, image_draws(7, 50))
    np.testing.assert_allclose(image_draws(5, 4000).mean(0), 1, atol=0.1)


def test_interval_holds_the_figure_and_is_narrower_with_more_images() -> None:
    widths = []
    for images in (10, 160):
        truth, found = random_case(1, num_images=images)
        observed = observe(truth, found)
        samples = bootstrap(observed, image_draws(images, 60))
        point = observed.metrics()
        result = interval(point["ap"], samples["ap"])
        assert result.low < result.value < result.high
        assert samples["ap50"] != samples["ap75"]
        widths.append(result.high - result.low)
    assert widths[1] < widths[0] / 2


def test_perfect_detections_have_no_spread() -> None:
    truth, _ = random_case(2)
    samples = bootstrap(observe(truth, perfect(truth)), image_draws(len(truth), 20))
    for metric in ("ap", "ap75", "ar_max"):
        result = interval(100.0, samples[metric])
        assert [result.low, result.high] == pytest.approx([100, 100])


def test_figures_of_weighted_images() -> None:
    truth, found = random_case(4, num_images=4)
    observed = observe(truth, found)
    values = observed.metrics()
    assert set(METRICS) <= set(values)
    assert values["recall"] == observed.sets.operating.record().at.recall
    draws = np.array([[1, 1, 1, 1], [0, 3, 0, 1], [0, 0, 1, 1]])
    samples = bootstrap(observed, draws)
    assert set(samples) == set(values)
    assert samples["ap"][0] == pytest.approx(values["ap"])
    assert samples["ar_max"][1] == pytest.approx(observed.curves.average_recall(draws[1]))
    assert samples["ap50"][2] == pytest.approx(observed.curves.average_precision(draws[2])[0])


def test_a_difference_is_paired() -> None:
    samples = {"ap": [10.0, 50.0, 90.0, 30.0]}
    better = {"ap": [x + 5 for x in samples["ap"]]}
    result = difference({"ap": 45.0}, {"ap": 40.0}, better, samples, "ap")
    assert (result.value, result.low, result.high) == (5, 5, 5)


def test_few_images_have_no_interval() -> None:
    samples = {"ap": [10.0, 20.0]}
    for images, known in ((1, False), (5, False), (6, True)):
        assert np.isfinite(interval(1.0, [1.0, 2.0], drawn_from=images).low) == known
        result = difference({"ap": 2.0}, {"ap": 1.0}, samples, {"ap": [1.0, 2.0]}, "ap", drawn_from=images)
        assert result.value == 1.0
        assert np.isfinite(result.high) == known


def test_resamples_without_objects_are_left_out() -> None:
    assert interval(3.0, [float("nan"), 2.0, 4.0]).low == pytest.approx(2.05)
    assert np.isnan(interval(3.0, [float("nan")]).high)
