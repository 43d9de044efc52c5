"""Confidence intervals by a bootstrap over images.

Images are drawn with replacement, as many as there are, and AP is computed anew from the matches, which do not change:
a resample is a weight for each image. This is exact but for one thing: detections of equal score in the copies of an
image are taken at once instead of one after the other. All models are given the same draws, so that the interval of a
difference is narrower than the two intervals of its sides where the models find the same images hard.

The AP of few images lies above that of many, and that of a resample, which holds fewer different images, higher still.
The interval takes the second step back, which makes up for much of the first: it stands around 2 x value - mean of the
resamples, and reaches 1.96 of their standard deviations to both sides. `tests/interval_coverage.py` compares it with
the percentiles of the resamples and with these reversed; docs/comparison.md has the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.special import stdtrit

from ..records.comparison import Difference
from ..records.figures import FEWEST, Interval
from .matching import PrecisionCurves
from .sets import SetFigures

METRICS = ("ap", "ap50", "ap75", "ar_max", "recall", "extra", "count_error")
"""What is compared: figures of `CocoMetrics`, and of `ScorePoint` at the operating point."""

RESAMPLES = 1000

ANYTHING = (-math.inf, math.inf)
PERCENT = (0.0, 100.0)
_DEVIATIONS = 1.96  # of a normal distribution, between which 95 % of it lie


def limits_of(metric: str) -> tuple[float, float]:
    """What a figure that has an interval can be: a percentage, but for those of boxes per object or image."""
    return (0.0, math.inf) if metric in ("extra", "count_error") else PERCENT


def image_draws(num_images: int, resamples: int, seed: int = 0) -> np.ndarray:
    """(resamples, N) how often each image is drawn."""
    random = np.random.default_rng(seed)
    return random.multinomial(num_images, np.full(num_images, 1 / num_images), size=resamples)


@dataclass(frozen=True)
class Observed:
    """What the figures that have an interval are computed from.

    Args:
        curves: at COCO's ten IoU thresholds.
        sets: the figures at the operating point.
    """

    curves: PrecisionCurves
    sets: SetFigures

    def metrics(self) -> dict[str, float]:
        """The `METRICS` of the images as they are, and more, see `SetFigures`."""
        once = np.ones((1, len(self.sets.operating.half_of)), dtype=np.int64)
        return {name: float(values[0]) for name, values in self.resampled(once).items()}

    def resampled(self, draws: np.ndarray) -> dict[str, np.ndarray]:
        """The same, (R,) of each, when image i counts `draws[r, i]` times.

        Args:
            draws: (R, N), see `image_draws`.
        """
        ap, recall = self.curves.resampled(draws)  # (R, T), (R,)
        return {
            "ap": ap.mean(1),
            "ap50": ap[:, 0],
            "ap75": ap[:, 5],
            "ar_max": recall,
            **self.sets.resampled(draws),
        }


def bootstrap(observed: Observed, draws: np.ndarray) -> dict[str, list[float]]:
    """What `Observed` tells of every resample.

    Args:
        observed: of one model.
        draws: see `image_draws`.
    """
    return {name: values.tolist() for name, values in observed.resampled(draws).items()}


def interval(
    value: float,
    samples: Sequence[float],
    *,
    drawn_from: int = FEWEST,
    limits: tuple[float, float] = ANYTHING,
    trainings: float = 0.0,
) -> Interval:
    """The 95 % interval of a figure, see above; samples that are NaN, of resamples without any object, are left out.

    Args:
        value: without resampling.
        samples: resampled.
        drawn_from: images, or rounds; the bounds are NaN if they are fewer than `FEWEST`.
        limits: what the figure can be; the bounds are cut to it.
        trainings: see `training_half_width`; what images and trainings leave open is added as squares.
    """
    known = np.array([x for x in samples if math.isfinite(x)])
    if not len(known) or drawn_from < FEWEST:
        return Interval(value=value, low=math.nan, high=math.nan)
    middle, half = 2 * value - known.mean(), math.hypot(_DEVIATIONS * known.std(), trainings)
    low, high = np.clip((middle - half, middle + half), *limits).tolist()
    return Interval(value=value, low=low, high=high)


def training_half_width(*groups: Sequence[float]) -> float:
    """Half the width of the 95 % interval that trainings alone give the mean of a group, or the difference of two.

    Of one group of n checkpoints it is t(n - 1) s / sqrt(n), s their standard deviation. Of two groups, whose trainings
    have nothing in common, the squares of s / sqrt(n) are added, and the degrees of freedom are those of Welch (1947).
    A group of a single checkpoint stands for this checkpoint and adds nothing.

    Args:
        groups: the figure of each checkpoint of one or two models; empty for a model of a single one.

    Returns:
        0 where there are single checkpoints only; NaN if a group has two, which say nothing of their spread.
    """
    several = [np.array(x) for x in groups if len(x) > 1]
    if any(len(x) == 2 for x in several):
        return math.nan
    parts = [float(x.var(ddof=1)) / len(x) for x in several]
    if not sum(parts) > 0:
        return sum(parts)  # 0, or NaN where a figure is not known
    freedom = sum(parts) ** 2 / sum(part**2 / (len(x) - 1) for part, x in zip(parts, several, strict=True))
    return float(stdtrit(freedom, 0.975)) * math.sqrt(sum(parts))


def difference(
    first: Interval,
    second: Interval,
    first_samples: Sequence[float],
    second_samples: Sequence[float],
    *,
    drawn_from: int = FEWEST,
) -> Interval:
    """The first model's figure minus the second's, resample by resample; see `interval`.

    Args:
        first, second: of the two models; of several checkpoints their mean.
        first_samples, second_samples: in the same resamples of the images.
        drawn_from: images.
    """
    samples = np.array(first_samples) - np.array(second_samples)
    trainings = training_half_width(first.checkpoints, second.checkpoints)
    return interval(first.value - second.value, samples.tolist(), drawn_from=drawn_from, trainings=trainings)


def latency_differences(seconds: Mapping[str, Sequence[float]], resamples: int = RESAMPLES) -> list[Difference]:
    """How much slower the first of every two models is, in ms: the difference of their medians.

    Args:
        seconds: label -> times, one for each round that all models went through.
        resamples: of the bootstrap over rounds.
    """
    random = np.random.default_rng(0)
    result = []
    for first, second in combinations(seconds, 2):
        times = 1000 * np.array([seconds[first], seconds[second]])  # (2, rounds)
        draws = random.integers(times.shape[1], size=(resamples, times.shape[1]))
        medians = np.median(times[:, draws], axis=2)  # (2, resamples)
        point = np.median(times, axis=1)
        gaps = (medians[0] - medians[1]).tolist()
        value = interval(float(point[0] - point[1]), gaps, drawn_from=times.shape[1])
        result.append(Difference(first, second, "latency_ms", value))
    return result
