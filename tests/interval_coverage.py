"""How often an interval holds the AP of the large set that its images were drawn from: three kinds, four data sets.

    python tests/interval_coverage.py

prints the table of docs/comparison.md; it takes one core some minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tabulate import tabulate

from detr_d2.compare.measure.intervals import PERCENT, image_draws, interval
from detr_d2.compare.measure.matching import COCO_IOUS, Matches, PrecisionCurves

LARGE = 20_000  # images
RESAMPLES = 250  # of each draw: fewer than `compare` takes, as 1,000 draws say more than these
KINDS = ("basic", "percentile", "bias-corrected")


@dataclass(frozen=True)
class World:
    """Data and a model, of which nothing is simulated but what AP depends on.

    By default a model of AP 70 and AP50 86, as detectors of small data sets often are.

    Args:
        name: for people.
        rates: objects of each class in an image, in the mean.
        found: share of the objects that have a detection.
        loose: how far its IoU stays below 1, in the mean.
        wrong: wrong detections of each class in an image, in the mean.
        apart: how far the scores of exact detections lie above those of wrong ones, in deviations of a normal
            distribution.
    """

    name: str
    rates: tuple[float, ...]
    found: float = 0.9
    loose: float = 0.1
    wrong: float = 0.3
    apart: float = 3.0


WORLDS = (
    World("3 even classes", (1.0,) * 3),
    World("8 classes of 0.5 objects an image", (0.5,) * 8),
    World("a class of 4 objects in 87 images", (1.0, 1.0, 4 / 87)),
    World("a model near 98 AP", (1.0,) * 3, found=0.995, loose=0.014, wrong=0.05),
    World("8 classes as above, a poor model", (0.5,) * 8, found=0.8, loose=0.15, wrong=0.5, apart=1.5),
)


@dataclass(frozen=True)
class Large:
    """Objects and detections of many images.

    Args:
        objects: (N, K) of each image and class.
        image, classes, scores, ious: (D,) of the detections, by image; an IoU of 0 is a detection without an object.
    """

    objects: np.ndarray
    image: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    ious: np.ndarray

    @classmethod
    def of(cls, world: World, seed: int = 0, num_images: int = LARGE) -> Large:
        """Draws it; some images are harder than others, with more wrong detections and looser right ones."""
        random = np.random.default_rng(seed)
        hard = np.exp(random.normal(0, 0.3, num_images))
        objects = random.poisson(world.rates, (num_images, len(world.rates)))
        right = random.binomial(objects, np.clip(1 - (1 - world.found) * hard, 0, 1)[:, None])
        wrong = random.poisson(world.wrong * hard[:, None], objects.shape)
        both = np.stack([right, wrong], -1)  # (N, K, 2)
        image, classes, is_wrong = (np.repeat(x.ravel(), both.ravel()) for x in np.indices(both.shape))
        is_right = is_wrong == 0
        loose = random.gamma(2, world.loose / 2, len(image)) * hard[image]
        scores = random.normal(np.where(is_right, world.apart - 5 * loose, 0), 1)
        return cls(objects, image, classes, scores, np.where(is_right, 1 - loose, 0))

    def sample(self, images: np.ndarray) -> PrecisionCurves:
        """AP of some of the images, (n,) indices; one that is there twice counts as two."""
        starts = np.searchsorted(self.image, np.arange(len(self.objects) + 1))
        counts = starts[images + 1] - starts[images]
        rows = np.repeat(starts[images] - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        return PrecisionCurves(
            Matches(
                ious=COCO_IOUS,
                scores=self.scores[rows],
                classes=self.classes[rows],
                image=np.repeat(np.arange(len(images)), counts),
                source=rows,
                matched=np.where(self.ious[rows] >= COCO_IOUS[:, None], 0, -1),
                ignored=np.zeros((len(COCO_IOUS), len(rows)), dtype=bool),
                objects=self.objects[images],
            )
        )


def bounds(kind: str, value: float, samples: np.ndarray) -> tuple[float, float]:
    """95 % interval of one of the `KINDS`, cut to 0..100."""
    if kind == "bias-corrected":
        found = interval(value, samples.tolist(), limits=PERCENT)
        return found.low, found.high
    low, high = np.percentile(samples, (2.5, 97.5))
    low, high = (2 * value - high, 2 * value - low) if kind == "basic" else (low, high)
    return max(low, 0.0), min(high, 100.0)


def coverage(
    world: World, num_images: int, *, draws: int = 1000, resamples: int = RESAMPLES, kinds: Sequence[str] = KINDS
) -> dict[str, float]:
    """Kind -> share of the draws whose interval holds the AP of the large set, in percent.

    Args:
        world: to draw from.
        num_images: of each draw.
        draws: of images from the large set.
        resamples: of each draw.
        kinds: of intervals.
    """
    large = Large.of(world)
    truth = large.sample(np.arange(LARGE)).average_precision().mean()
    random, weights = np.random.default_rng(1), image_draws(num_images, resamples)
    inside = dict.fromkeys(kinds, 0)
    for _ in range(draws):
        curves = large.sample(random.integers(LARGE, size=num_images))
        value, samples = curves.average_precision().mean(), curves.resampled(weights)[0].mean(1)
        for kind in kinds:
            low, high = bounds(kind, value, samples)
            inside[kind] += low <= truth <= high
    return {kind: 100 * count / draws for kind, count in inside.items()}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=RESAMPLES)
    args = parser.parse_args()
    rows = []
    for world in WORLDS:
        for num_images in (87, 300):
            found = coverage(world, num_images, draws=args.draws, resamples=args.resamples)
            rows.append([world.name, num_images, *(f"{share:.1f}" for share in found.values())])
            print(rows[-1], flush=True)
    print(tabulate(rows, ["data", "images", *KINDS], tablefmt="pipe", disable_numparse=True))


if __name__ == "__main__":
    main()
