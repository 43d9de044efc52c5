"""Confidence intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from detection_cases import perfect, random_case
from interval_coverage import WORLDS, World, coverage

from detr_d2.compare.measure.intervals import (
    METRICS,
    PERCENT,
    Observed,
    bootstrap,
    difference,
    image_draws,
    interval,
    limits_of,
    training_half_width,
)
from detr_d2.compare.measure.matching import PrecisionCurves, match
from detr_d2.compare.measure.sets import SetFigures
from detr_d2.compare.records.figures import Interval
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


def test_the_bias_of_resamples_is_taken_away() -> None:
    # Mean 52 lies 2 above the figure, so the middle is 48; the standard deviation of 50, 54, 50, 54 is 2.
    found = interval(50.0, [50.0, 54.0, 50.0, 54.0])
    assert (found.value, found.low, found.high) == pytest.approx((50, 48 - 1.96 * 2, 48 + 1.96 * 2))


def test_bounds_are_what_the_figure_can_be() -> None:
    samples = [97.0, 101.0]  # mean 99, deviation 2: uncut 93.08 to 100.92 around 97
    assert interval(98.0, samples, limits=PERCENT).high == 100
    assert interval(98.0, samples).high == pytest.approx(97 + 3.92)
    assert interval(98.0, samples, limits=PERCENT).low == pytest.approx(97 - 3.92)
    assert interval(1.0, [-1.0, 3.0], limits=limits_of("extra")).low == 0
    assert [limits_of(x)[1] for x in ("ap50", "ar_max", "recall", "extra", "count_error")] == [100] * 3 + [math.inf] * 2


def test_a_difference_is_paired() -> None:
    samples = [10.0, 50.0, 90.0, 30.0]
    better = [x + 5 for x in samples]
    result = difference(Interval(45, 0, 100), Interval(40, 0, 100), better, samples)
    assert (result.value, result.low, result.high) == (5, 5, 5)


def test_few_images_have_no_interval() -> None:
    for images, known in ((1, False), (5, False), (6, True)):
        assert np.isfinite(interval(1.0, [1.0, 2.0], drawn_from=images).low) == known
        sides = Interval(2.0, 1.0, 3.0), Interval(1.0, 0.0, 2.0)
        result = difference(*sides, [10.0, 20.0], [1.0, 2.0], drawn_from=images)
        assert result.value == 1.0
        assert np.isfinite(result.high) == known


def test_resamples_without_objects_are_left_out() -> None:
    # Of 2 and 4 the mean is 3 and the deviation 1.
    assert interval(3.0, [float("nan"), 2.0, 4.0]).low == pytest.approx(3 - 1.96)
    assert np.isnan(interval(3.0, [float("nan")]).high)


def test_trainings_of_one_model() -> None:
    # s = 2; the t distribution of 2 degrees of freedom has 95 % within 4.3027.
    assert training_half_width([68.0, 70.0, 72.0]) == pytest.approx(4.3027 * 2 / math.sqrt(3), rel=1e-4)
    assert training_half_width([]) == training_half_width([50.0]) == training_half_width([7.0] * 3) == 0
    assert math.isnan(training_half_width([50.0, 51.0]))
    assert math.isnan(training_half_width([50.0, 51.0, math.nan]))
    found = interval(70.0, [69.0, 71.0], trainings=training_half_width([68.0, 70.0, 72.0]))
    assert found.high - 70 == pytest.approx(math.sqrt(1.96**2 + (4.3027 * 2 / math.sqrt(3)) ** 2), rel=1e-4)


def test_trainings_of_two_models() -> None:
    first, second = [68.0, 70.0, 72.0], [60.0, 61.0, 62.0]
    # s^2 / n is 4/3 and 1/3; Welch: (5/3)^2 / ((4/3)^2 / 2 + (1/3)^2 / 2) = 2.9412, where t is 3.2192.
    expected = 3.2192 * math.sqrt(5 / 3)
    assert training_half_width(first, second) == pytest.approx(expected, rel=1e-3)
    samples = ([69.0, 71.0], [61.0, 61.0])
    both = difference(Interval(70, 0, 100, first), Interval(61, 0, 100, second), *samples)
    assert both.high - 9 == pytest.approx(math.hypot(1.96, training_half_width(first, second)))
    one = difference(Interval(70, 0, 100, first), Interval(61, 0, 100), *samples)
    assert one.high - 9 == pytest.approx(math.hypot(1.96, training_half_width(first)))
    two = difference(Interval(70, 0, 100, first), Interval(61, 0, 100, [60.0, 62.0]), *samples)
    assert two.value == 9
    assert math.isnan(two.low)
    assert math.isnan(two.high)


@pytest.mark.slow
@pytest.mark.parametrize("num_images", [87, 300])
@pytest.mark.parametrize("world", WORLDS[:2], ids=lambda world: world.name)
def test_the_large_set_lies_inside_as_often_as_is_said(world: World, num_images: int) -> None:
    share = coverage(world, num_images, kinds=["bias-corrected"])["bias-corrected"]
    assert 90 <= share <= 97  # of 95, where a standard deviation of 1,000 draws is 0.7 to 0.9
