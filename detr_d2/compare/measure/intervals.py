"""Confidence intervals by a bootstrap over images.

Images are drawn with replacement, as many as there are, and AP is computed anew from the matches, which do not change:
a resample is a weight for each image. This is exact but for one thing: detections of equal score in the copies of an
image are taken at once instead of one after the other. All models are given the same draws, so that the interval of a
difference is narrower than the two intervals of its sides where the models find the same images hard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ..records.comparison import Difference
from ..records.figures import FEWEST, Interval
from .matching import PrecisionCurves
from .sets import SetFigures

METRICS = ("ap", "ap50", "ap75", "ar_max", "recall", "extra", "count_error")
"""What is compared: figures of `CocoMetrics`, and of `ScorePoint` at the operating point."""

_PERCENTILES = (2.5, 97.5)


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
        ap = np.array([self.curves.average_precision(weights) for weights in draws])  # (R, T)
        recall = np.array([self.curves.average_recall(weights) for weights in draws])
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


def interval(value: float, samples: Sequence[float], *, drawn_from: int = FEWEST) -> Interval:
    """95 % of the samples; those that are NaN, of resamples without any object, are left out.

    Args:
        value: without resampling.
        samples: resampled.
        drawn_from: images, or rounds; the bounds are NaN if they are fewer than `FEWEST`.
    """
    known = np.array([x for x in samples if np.isfinite(x)])
    enough = len(known) and drawn_from >= FEWEST
    low, high = np.percentile(known, _PERCENTILES) if enough else (np.nan, np.nan)
    return Interval(value=value, low=float(low), high=float(high))


def difference(
    first: Mapping[str, float],
    second: Mapping[str, float],
    first_samples: Mapping[str, Sequence[float]],
    second_samples: Mapping[str, Sequence[float]],
    metric: str,
    *,
    drawn_from: int = FEWEST,
) -> Interval:
    """The first model's figure minus the second's, resample by resample; see `interval`."""
    samples = np.array(first_samples[metric]) - np.array(second_samples[metric])
    return interval(first[metric] - second[metric], samples.tolist(), drawn_from=drawn_from)


def latency_differences(seconds: Mapping[str, Sequence[float]], resamples: int = 1000) -> list[Difference]:
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
