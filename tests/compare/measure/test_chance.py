"""What boxes of one object find of another by chance is not lost to NMS; what a detector sees of both is."""

from __future__ import annotations

import numpy as np
import pytest
from detection_cases import Box, detections, ground_truth
from offline_nms import with_nms

from detr_d2.compare.measure.chance import Chance
from detr_d2.compare.measure.crowds import crowd_key
from detr_d2.compare.measure.intervals import image_draws, interval
from detr_d2.compare.measure.sets import SetFigures
from detr_d2.compare.records.figures import Interval
from detr_d2.evaluation.arrays import Detections, GroundTruth

CROWDED = 5
"""The bin of the largest overlaps, 0.7 to 1."""


def scene(
    seed: int,
    *,
    sees: int,
    noise: float,
    noise_of_pairs: float | None = None,
    copies: int = 4,
    pairs: int = 60,
    isolated: int = 60,
) -> tuple[GroundTruth, Detections]:
    """One object an image, or two that overlap by 0.7 to 0.95, and what a detector knows without NMS.

    Args:
        seed: of it all.
        sees: of two objects that overlap, one of them, drawn by lot, or both.
        noise: standard deviation of each corner's coordinates, in units of width and height.
        noise_of_pairs: the same of boxes of objects that overlap; default: no other.
        copies: boxes of each object that it sees.
        pairs, isolated: images with two objects, and with one.
    """
    random = np.random.default_rng(seed)
    objects, found = [], []
    for image in range(pairs + isolated):
        size, corner = random.uniform(20, 40, 2), random.uniform(10, 40, 2)
        boxes = [np.concatenate([corner, corner + size])]
        if image < pairs:
            iou, axis = random.uniform(0.7, 0.95), int(random.integers(2))
            shift = np.zeros(2)
            shift[axis] = size[axis] * (1 - iou) / (1 + iou)
            boxes.append(boxes[0] + np.tile(shift, 2))
        seen = boxes if sees == 2 else [boxes[int(random.integers(len(boxes)))]]
        spread = noise_of_pairs if noise_of_pairs is not None and image < pairs else noise
        noisy = [box + spread * np.tile(size, 2) * random.normal(size=4) for box in seen for _ in range(copies)]
        objects.append([(_box(box), 0) for box in boxes])
        found.append([(_box(box), 0, float(random.uniform(0.5, 1))) for box in noisy])
    return ground_truth(objects, num_classes=1), detections(found)


def _box(values: np.ndarray) -> Box:
    return tuple(values.tolist())


def figures(
    truth: GroundTruth, raw: Detections, *, score: float | None = None, resamples: int = 60
) -> dict[str, Interval]:
    """Of the bin of the largest overlaps, with intervals; "claim" is "lost" before it is cut at 0."""
    sets = SetFigures.of(truth, with_nms(raw, 0.5), raw, score_threshold=score)
    values = sets.resampled(np.ones((1, len(truth)), dtype=np.int64))
    samples = sets.resampled(image_draws(len(truth), resamples))
    every = {name: interval(float(values[name][0]), samples[name].tolist()) for name in values}
    record = sets.crowds.records({name: x.value for name, x in every.items()}, every)[CROWDED]
    assert record.recall_without_nms is not None
    assert record.lost is not None
    claim = every[crowd_key(CROWDED, "lost")]
    return {
        "recall": record.recall,
        "without": record.recall_without_nms,
        "lost": record.lost,
        "claim": claim,
        "chance": Interval(record.chance, record.chance, record.chance),
    }


def test_with_exact_boxes_a_detector_that_sees_one_of_two_loses_nothing() -> None:
    result = figures(*scene(0, sees=1, noise=0), score=0.5)
    assert result["recall"].value == result["without"].value == result["chance"].value == 50
    assert (result["lost"].value, result["lost"].low, result["lost"].high) == (0, 0, 0)


def test_with_exact_boxes_a_detector_that_sees_both_loses_half() -> None:
    result = figures(*scene(0, sees=2, noise=0), score=0.5)
    assert (result["recall"].value, result["without"].value, result["chance"].value) == (50, 100, 50)
    assert (result["lost"].value, result["lost"].low, result["lost"].high) == (50, 50, 50)


@pytest.mark.parametrize("seed", range(3))
def test_what_noisy_boxes_find_by_chance_is_not_lost(seed: int) -> None:
    result = figures(*scene(seed, sees=1, noise=0.045))
    assert result["without"].value - result["recall"].value > 8  # the rule alone would say that NMS loses them
    assert result["lost"].value >= 0
    assert result["lost"].low == 0
    assert result["claim"].low < 0 < result["claim"].high


@pytest.mark.parametrize("seed", range(3))
def test_what_noisy_boxes_of_two_objects_find_is_lost(seed: int) -> None:
    result = figures(*scene(seed, sees=2, noise=0.045))
    assert result["lost"].low > 12


def test_lost_is_what_is_found_without_nms_beyond_chance() -> None:
    result = figures(*scene(1, sees=2, noise=0.045))
    assert result["recall"].value < result["chance"].value < result["without"].value
    assert result["lost"].value == pytest.approx(result["without"].value - result["chance"].value)


def _claims(**options: float) -> np.ndarray:
    """What is said to be lost before the cut at 0, in each of 40 data sets of a detector that sees one of two."""
    scenes = (scene(seed, sees=1, noise=0.045, **options) for seed in range(40))  # type: ignore[arg-type]
    return np.array([figures(*x, resamples=6)["claim"].value for x in scenes])


@pytest.mark.slow
def test_the_claim_is_unbiased() -> None:
    claims = _claims()
    assert abs(claims.mean()) < min(1, 3 * claims.std() / np.sqrt(40))


@pytest.mark.slow
def test_the_claim_is_too_high_where_boxes_scatter_further_in_crowds() -> None:
    """The limit of the method, which docs/comparison.md tells."""
    assert 5 < _claims(noise_of_pairs=0.07).mean() < 13


A: Box = (0, 0, 40, 40)
A_60: Box = (0, 10, 40, 50)  # IoU with A: 30 / 50 = 0.6
FAR: Box = (100, 50, 140, 90)


def test_boxes_of_isolated_objects_are_put_on_the_overlapping_ones() -> None:
    """One isolated object, whose second box lies a fifth of its height lower, on the other side of the border."""
    truth = ground_truth([[(A, 0), (A_60, 0)], [(FAR, 0)]], num_classes=1)
    raw = detections([[(A, 0, 0.9)], [(FAR, 0, 0.9), ((100, 58, 140, 98), 0, 0.6)]])
    shipped = detections([[(A, 0, 0.9)], [(FAR, 0, 0.9)]])
    chance = Chance(truth, shipped, raw)
    assert chance.known
    found, once = np.array([True, False, True]), np.ones(2)
    # On A, the box lies 8 lower: IoU 32/48 with A, 38/42 with A_60, which it finds. The object found as shipped is A.
    assert chance.of_objects(found, np.full(2, 0.5), once).tolist() == [0, 1, 0]
    assert chance.of_objects(found, np.full(2, 0.7), once).tolist() == [0, 0, 0]  # the box is not there
    assert chance.of_objects(np.zeros(3, dtype=bool), np.full(2, 0.5), once).tolist() == [0, 0, 0]
    # Had A_60 been found, it would be the one that is seen: the box lies even further from A.
    assert chance.of_objects(np.array([False, True, True]), np.full(2, 0.5), once).tolist() == [0, 0, 0]
    # A draw without the isolated object tells nothing.
    np.testing.assert_array_equal(chance.of_objects(found, np.full(2, 0.5), np.array([1, 0])), [0, np.nan, 0])
    # As shipped both boxes stay, and both objects are found: the case is another one.
    both = Chance(truth, raw, raw)
    np.testing.assert_array_equal(both.of_objects(found, np.full(2, 0.5), once), [0, np.nan, 0])
    assert both.of_objects(found, np.full(2, 0.7), once).tolist() == [0, 0, 0]


def test_without_isolated_objects_nothing_is_known() -> None:
    truth = ground_truth([[(A, 0), (A_60, 0)]])
    raw = detections([[(A, 0, 0.9), (A_60, 0, 0.8)]])
    assert not Chance(truth, raw, raw).known
    sets = SetFigures.of(truth, with_nms(raw, 0.5), raw)
    values = sets.resampled(np.ones((1, 1), dtype=np.int64))
    assert crowd_key(4, "recall_without_nms") in values
    assert np.isnan(values[crowd_key(4, "lost")][0])
    intervals = {name: interval(float(x[0]), x.tolist()) for name, x in values.items()}
    crowd = sets.crowds.records({name: x.value for name, x in intervals.items()}, intervals)[4]
    assert crowd.lost is None
    assert np.isnan(crowd.chance)
    assert crowd.recall_without_nms is not None


def test_several_found_neighbours_have_a_chance_each() -> None:
    """Of two isolated objects, one has its second box below, one above; so on each side one of two cases is a hit."""
    middle, left, right = (0, 10, 40, 50), (0, 0, 40, 40), (0, 20, 40, 60)
    truth = ground_truth([[(left, 0), (middle, 0), (right, 0)], [(FAR, 0)], [(FAR, 0)]], num_classes=1)
    low, high = (100, 58, 140, 98), (100, 42, 140, 82)
    raw = detections(
        [[(left, 0, 0.9), (right, 0, 0.9)], [(FAR, 0, 0.9), (low, 0, 0.6)], [(FAR, 0, 0.9), (high, 0, 0.6)]]
    )
    shipped = detections([[(left, 0, 0.9), (right, 0, 0.9)], [(FAR, 0, 0.9)], [(FAR, 0, 0.9)]])
    chance = Chance(truth, shipped, raw)
    found = np.array([True, False, True, True, True])
    result = chance.of_objects(found, np.full(3, 0.5), np.ones(3))
    assert result[1] == pytest.approx(1 - 0.5 * 0.5)
