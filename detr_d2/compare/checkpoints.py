"""Several checkpoints of one model, as of trainings with other seeds, as one model.

Its figures are means over the checkpoints, each measured on the same images and the same draws of them, and its
intervals know how far trainings lie apart. What shows single detections is that of the first checkpoint: the gallery
and the choice of its images, the removals, the confusion matrix, and the scores from which its detections count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from itertools import combinations
from typing import Any, TypeVar

import numpy as np

from .measure.everything import Measured
from .measure.intervals import METRICS, PERCENT, difference, interval, limits_of, training_half_width
from .records.comparison import CheckpointSummary, CrashedImage, Difference, ModelComparison
from .records.figures import Interval
from .records.results import RunResult
from .records.sets import OperatingPoint, ScoreCurve

_Value = TypeVar("_Value")

_OF_THE_FIRST = ("weights", "weights_sha256", "cost", "confusion", "removals")


def pooled(checkpoints: Sequence[Measured]) -> Measured:
    """What several checkpoints are together; a single one is returned as it is.

    Args:
        checkpoints: of one model, on the same images and the same draws.

    Raises:
        ValueError: they have figures of different things, which no model has whose config is one.
    """
    first = checkpoints[0]
    if len(checkpoints) == 1:
        return first
    samples = {
        name: np.mean([x.samples[name] for x in checkpoints], axis=0).tolist() for name in first.samples
    }  # of the mean, in each resample
    records = [x.record for x in checkpoints]
    confidence = {
        name: _pooled_interval([x.confidence[name] for x in records], name, samples[name], len(first.f1_per_image))
        for name in first.record.confidence
    }
    return replace(first, record=_pooled_record(records, confidence), samples=samples)


def _pooled_interval(parts: Sequence[Interval], metric: str, samples: Sequence[float], num_images: int) -> Interval:
    values = [x.value for x in parts]
    found = interval(
        float(np.mean(values)),
        samples,
        drawn_from=num_images,
        limits=limits_of(metric),
        trainings=training_half_width(values),
    )
    return replace(found, checkpoints=values)


def _pooled_record(records: Sequence[ModelComparison], confidence: dict[str, Interval]) -> ModelComparison:
    first = records[0]
    special = {
        **{name: getattr(first, name) for name in _OF_THE_FIRST},
        "notes": _notes(records),
        "crashed_images": _crashed(records),
        "confidence": confidence,
        "checkpoints": [CheckpointSummary(x.weights, x.weights_sha256, x.run.ap) for x in records],
    }
    names = [x.name for x in fields(first) if x.name not in special]
    return replace(first, **{name: mean([getattr(x, name) for x in records]) for name in names}, **special)


def _notes(records: Sequence[ModelComparison]) -> list[str]:
    """A note that not all checkpoints have names those that have it."""
    first, count = records[0], len(records)
    notes = [
        f"its figures are the means of {count} checkpoints; gallery, removed boxes, confusion matrix and cost are "
        f"those of the first, {first.weights}"
    ]
    for record in records:
        for note in record.notes:
            everywhere = all(note in other.notes for other in records)
            notes.append(note if everywhere else f"{record.weights}: {note}")
    return list(dict.fromkeys(notes))


def _crashed(records: Sequence[ModelComparison]) -> list[CrashedImage]:
    """Images that any checkpoint failed on."""
    found = {image.file_name: image for record in reversed(records) for image in record.crashed_images}
    return [found[name] for name in sorted(found)]


def mean(values: Sequence[_Value]) -> _Value:
    """The mean of records of one kind, field by field.

    Of numbers it is the mean, NaN where one is NaN, and rounded where they are counts; of lists and dictionaries the
    means of their entries. What cannot be averaged - names, flags, settings - is the same for all, or that of the
    first. A part that a record does not have (None) is left out.

    Args:
        values: records, or what their fields hold.

    Raises:
        ValueError: lists are not of equal length.
    """
    first: Any = values[0]
    special: Any = _SPECIAL.get(type(first))
    if any(x is None for x in values):
        return None  # type: ignore[return-value]
    if all(x == first for x in values):
        return first
    if special is not None:
        return special(values)
    return _mean_by_parts(values)


def _mean_by_parts(values: Sequence[Any]) -> Any:
    first = values[0]
    if is_dataclass(first):
        return replace(first, **{x.name: mean([getattr(y, x.name) for y in values]) for x in fields(first)})  # type: ignore[type-var]
    if isinstance(first, dict):
        return {key: mean([x[key] for x in values]) for key in first if all(key in x for x in values)}
    if isinstance(first, list):
        if len({len(x) for x in values}) > 1:
            raise ValueError(f"the checkpoints have lists of {', '.join(str(len(x)) for x in values)} entries")
        return [mean(x) for x in zip(*values, strict=True)]
    if isinstance(first, (int, float)) and not isinstance(first, bool):
        average = math.fsum(values) / len(values)
        return round(average) if all(isinstance(x, int) for x in values) else average
    return first


def _interval(parts: Sequence[Interval]) -> Interval:
    """Of a percentage whose resamples are not known any more.

    Resampled together, the checkpoints' mean reaches no further than their intervals do in the mean: that is taken.
    """
    values = [x.value for x in parts]
    middle, half = (float(np.mean([sign * x.low + x.high for x in parts])) / 2 for sign in (1, -1))
    half = math.hypot(half, training_half_width(values))
    low, high = np.clip((middle - half, middle + half), *PERCENT).tolist()
    return Interval(float(np.mean(values)), low, high, values)


def _run(parts: Sequence[RunResult]) -> RunResult:
    """The seed of several trainings is none; how long they took is said if it is known of each."""
    trained = all(x.iterations for x in parts)
    found: RunResult = _mean_by_parts(parts)
    return replace(found, seed=-1, iterations=found.iterations if trained else 0)


def _operating(parts: Sequence[OperatingPoint]) -> OperatingPoint:
    """The scores are those of the first checkpoint, with which its detections are shown."""
    found: OperatingPoint = _mean_by_parts(parts)
    return replace(found, scores=parts[0].scores)


def _curve(parts: Sequence[ScoreCurve]) -> ScoreCurve:
    """At scores of all checkpoints, about as many as one of them has; above its best score a model finds nothing."""
    scores = np.unique(np.concatenate([x.scores for x in parts]))[:: len(parts)]
    recall, f1 = (
        np.mean([np.interp(scores, x.scores, getattr(x, name), right=0.0) for x in parts], axis=0)
        for name in ("recall", "f1")
    )
    precision = np.mean([np.interp(scores, x.scores, x.precision) for x in parts], axis=0)
    return ScoreCurve(scores.tolist(), precision.tolist(), recall.tolist(), f1.tolist())


_SPECIAL = {Interval: _interval, RunResult: _run, OperatingPoint: _operating, ScoreCurve: _curve}


def differences(models: Sequence[Measured]) -> list[Difference]:
    """Every pair of models, metric by metric.

    Args:
        models: on the same images and the same draws.
    """
    result = []
    for a, b in combinations(models, 2):
        for metric in METRICS:
            value = difference(
                a.record.confidence[metric],
                b.record.confidence[metric],
                a.samples[metric],
                b.samples[metric],
                drawn_from=len(a.f1_per_image),
            )
            result.append(Difference(a.record.label, b.record.label, metric, value))
    return result
