"""Which model is ahead, and whether that is more than noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..records.comparison import Comparison, ModelComparison
from ..records.figures import Interval
from .cells import decimal, span
from .measures import LATENCY, Measure, time_of

NO_WINNER = "no clear winner"


@dataclass(frozen=True)
class Verdict:
    """Of one measure.

    Args:
        winner: label, or None where no winner can be named.
        text: for the column of winners.
        detail: the ground of it.
    """

    winner: str | None
    text: str
    detail: str = ""


Difference = Callable[[str, str], Interval | None]
"""Of two labels: the first's value minus the second's, or None if it was not tested."""


def decide(
    values: Mapping[str, float], difference: Difference, measure: Measure, barred: Mapping[str, str] | None = None
) -> Verdict:
    """The winner: ahead of every other model by a difference whose interval does not hold 0.

    Args:
        values: label -> value; NaN takes no part.
        difference: see there.
        measure: what the values are of.
        barred: label -> why it must not win. Two others are compared without it; a single other has to be ahead of it.
    """
    values = {label: value for label, value in values.items() if math.isfinite(value)}
    if len(values) < 2:
        return Verdict(None, "–", "only one model has this figure" if values else "no model has this figure")
    barred = {label: why for label, why in (barred or {}).items() if label in values}
    free = {label: value for label, value in values.items() if label not in barred}
    verdict = _best(free if len(free) > 1 else values, difference, measure)
    if not barred:
        return verdict
    left_out = "; ".join(f"{label} cannot win: {why}" for label, why in barred.items())
    if verdict.winner in free or (verdict.winner is None and len(free) > 1):
        return replace(verdict, detail="; ".join(filter(None, (verdict.detail, left_out))))
    return Verdict(None, NO_WINNER, left_out)


def _best(values: Mapping[str, float], difference: Difference, measure: Measure) -> Verdict:
    higher, digits = measure.higher, measure.digits
    best = (max if higher else min)(values, key=lambda label: values[label])
    others = [label for label in values if label != best]
    ties = [label for label in others if values[label] == values[best]]
    if measure.exact:
        return Verdict(None, "equal") if ties else Verdict(best, best)
    tested = {label: difference(best, label) for label in others}
    for label, interval in tested.items():
        if interval is not None and not _beyond(interval, 1 if higher else -1):
            return Verdict(None, NO_WINNER, _doubt(best, label, interval, measure))
    if None in tested.values():
        text = "equal" if ties else f"{'highest' if higher else 'lowest'}: {best}"
        return Verdict(None, text, "not tested against noise")
    return Verdict(best, best, "; ".join(f"by {_gap(x, digits)} over {y}" for y, x in tested.items() if x))


def _beyond(interval: Interval, sign: int) -> bool:
    """Whether the difference is above 0 beyond noise, or below for a sign of −1."""
    return interval.low > 0 if sign > 0 else interval.high < 0


def _doubt(best: str, other: str, interval: Interval, measure: Measure) -> str:
    reach = span(interval.low, interval.high, measure.digits, sign=True)
    if reach:
        return f"{best} − {other}: {reach}, which may be noise"
    if len(interval.checkpoints) == 2:
        return "two checkpoints are too few for an interval"
    return f"too few {'rounds' if measure is LATENCY else 'images or checkpoints'} for an interval"


def _gap(interval: Interval, digits: int) -> str:
    low, high = sorted((abs(interval.low), abs(interval.high)))
    return f"{decimal(abs(interval.value), digits)} ({span(low, high, digits)})"


def paired_difference(comparison: Comparison, metric: str) -> Difference:
    """Looks differences up in either order of the two labels."""
    known = {(d.first, d.second): d.difference for d in comparison.differences if d.metric == metric}

    def between(first: str, second: str) -> Interval | None:
        if (first, second) in known:
            return known[first, second]
        other = known.get((second, first))
        return None if other is None else Interval(-other.value, -other.high, -other.low)

    return between


def has_random_weights(model: ModelComparison) -> bool:
    """Whether it was run without weights."""
    return not model.weights and model.predictions is None


def barred_from(comparison: Comparison, measure: Measure) -> dict[str, str]:
    """Label -> why a model must not win: random weights, or fewer boxes because it finds less."""
    if measure.cost:
        return {}
    models = [model for model in comparison.models if not model.failed]
    barred = {model.label: "its weights are random" for model in models if has_random_weights(model)}
    if measure.found:
        recall = paired_difference(comparison, "recall")
        for model in models:
            for other in models:
                more = recall(other.label, model.label)
                if more is not None and _beyond(more, 1):
                    barred.setdefault(model.label, f"it finds fewer objects than {other.label}")
    return barred


def verdict_of(comparison: Comparison, measure: Measure) -> Verdict:
    """The winner of a row of the summary."""
    models = [model for model in comparison.models if not model.failed]
    values = {model.label: measure.value(model) for model in models}
    difference = paired_difference(comparison, measure.key)
    verdict = decide(values, difference, measure, barred_from(comparison, measure))
    if measure is LATENCY and verdict.detail == "not tested against noise":
        return _fastest(models)
    return verdict


def _fastest(models: Sequence[ModelComparison]) -> Verdict:
    """Without a test: a model whose 95th percentile lies below the median of all others."""
    if any(model.cost is not None and model.cost.given for model in models):
        return Verdict(None, NO_WINNER, "some times are given, not measured")
    times = {model.label: time_of(model) for model in models}
    times = {label: time for label, time in times.items() if all(map(math.isfinite, time))}
    for label, (_, p95) in times.items():
        if len(times) > 1 and all(p95 < p50 for other, (p50, _) in times.items() if other != label):
            return Verdict(label, label, "its 95th percentile lies below the other medians")
    return Verdict(None, NO_WINNER, "the spreads (median to 95th percentile) overlap")
