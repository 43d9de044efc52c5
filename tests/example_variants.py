"""Variants of the example of a comparison: several checkpoints, and detections of another program."""

from __future__ import annotations

from dataclasses import replace

from detr_d2.compare.records.comparison import CheckpointSummary, Comparison, PredictionsFile
from detr_d2.compare.records.figures import Interval

_NAN = float("nan")


def with_checkpoints(comparison: Comparison, aps: list[float]) -> Comparison:
    """DETR with several checkpoints, whose AP is their mean; two leave it and its differences without intervals."""
    detr, *others = comparison.models
    mean, spread = sum(aps) / len(aps), 4.0 if len(aps) > 2 else _NAN
    detr = replace(
        detr,
        checkpoints=[CheckpointSummary(f"{i}.pth", "ef" * 32, ap) for i, ap in enumerate(aps)],
        confidence={**detr.confidence, "ap": Interval(mean, mean - spread, mean + spread, aps)},
    )
    differences = [
        replace(x, difference=Interval(x.difference.value, x.difference.value - spread, x.difference.value + spread))
        for x in comparison.differences
    ]
    return replace(comparison, models=[detr, *others], differences=differences)


def with_predictions(comparison: Comparison, looks: str = "looks filtered at 0.6") -> Comparison:
    """The second model as detections of another program, with costs that were given."""
    first, second, *others = comparison.models
    assert second.cost is not None
    cost = replace(second.cost, gflops=_NAN, latency=second.cost.latency[:1], throughput=[], given=True)
    second = replace(
        second,
        family="other",
        weights="",
        weights_sha256="",
        config_sha256="",
        run=replace(second.run, config_file=""),
        predictions=PredictionsFile("results.json", "12" * 32, "" if looks else "raw", 0.6, looks),
        cost=cost,
    )
    return replace(comparison, models=[first, second, *others])
