"""Which model is ahead, and whether that is more than noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..records.comparison import Comparison, ModelComparison
from ..records.figures import FEWEST, Interval
from .cells import Cell, Table, dash, decimal, model_cell, number, span, word
from .measures import LATENCY, MEASURES, Measure, measures_of, time_of


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


def decide(values: Mapping[str, float], difference: Callable[[str, str], Interval | None], measure: Measure) -> Verdict:
    """The winner: ahead of every other model by a difference whose interval does not hold 0.

    Args:
        values: label -> value; NaN takes no part.
        difference: of two labels: the first's value minus the second's, or None if it was not tested.
        measure: what the values are of.
    """
    higher, digits = measure.higher, measure.digits
    values = {label: value for label, value in values.items() if math.isfinite(value)}
    if len(values) < 2:
        return Verdict(None, "–", "only one model has this figure" if values else "no model has this figure")
    best = (max if higher else min)(values, key=lambda label: values[label])
    others = [label for label in values if label != best]
    ties = [label for label in others if values[label] == values[best]]
    if measure.exact:
        return Verdict(None, "equal") if ties else Verdict(best, best)
    tested = {label: difference(best, label) for label in others}
    for label, interval in tested.items():
        if interval is not None and not (interval.low > 0 if higher else interval.high < 0):
            reach = span(interval.low, interval.high, digits, sign=True)
            drawn = "rounds" if measure is LATENCY else "images"
            why = f"{best} − {label}: {reach}, which may be noise" if reach else f"too few {drawn} for an interval"
            return Verdict(None, "no clear winner", why)
    if None in tested.values():
        text = "equal" if ties else f"{'highest' if higher else 'lowest'}: {best}"
        return Verdict(None, text, "not tested against noise")
    return Verdict(best, best, "; ".join(f"by {_gap(x, digits)} over {y}" for y, x in tested.items() if x))


def _gap(interval: Interval, digits: int) -> str:
    low, high = sorted((abs(interval.low), abs(interval.high)))
    return f"{decimal(abs(interval.value), digits)} ({span(low, high, digits)})"


def paired_difference(comparison: Comparison, metric: str) -> Callable[[str, str], Interval | None]:
    """Looks differences up in either order of the two labels."""
    known = {(d.first, d.second): d.difference for d in comparison.differences if d.metric == metric}

    def between(first: str, second: str) -> Interval | None:
        if (first, second) in known:
            return known[first, second]
        other = known.get((second, first))
        return None if other is None else Interval(-other.value, -other.high, -other.low)

    return between


def verdict_of(comparison: Comparison, measure: Measure) -> Verdict:
    """The winner of a row of the summary."""
    models = [model for model in comparison.models if not model.failed]
    values = {model.label: measure.value(model) for model in models}
    verdict = decide(values, paired_difference(comparison, measure.key), measure)
    if measure is LATENCY and verdict.detail == "not tested against noise":
        return _fastest(models)
    return verdict


def _fastest(models: Sequence[ModelComparison]) -> Verdict:
    """Without a test: a model whose 95th percentile lies below the median of all others."""
    times = {model.label: time_of(model) for model in models}
    times = {label: time for label, time in times.items() if all(map(math.isfinite, time))}
    for label, (_, p95) in times.items():
        if len(times) > 1 and all(p95 < p50 for other, (p50, _) in times.items() if other != label):
            return Verdict(label, label, "its 95th percentile lies below the other medians")
    return Verdict(None, "no clear winner", "the spreads (median to 95th percentile) overlap")


_NO_INTERVAL = f"fewer than {FEWEST} images or rounds are too few for an interval"


def summary(comparison: Comparison) -> Table:
    """A row per measure: each model's value with its interval, and the winner."""
    rows = [_row(comparison, measure) for measure in measures_of(comparison) if measure.summary]
    columns = ["Measure", *(model.label for model in comparison.models)]
    caption = "Figures with 95 % intervals where they were measured"
    if sum(not model.failed for model in comparison.models) < 2:
        return Table("summary-table", caption, columns, [row[:-1] for row in rows])
    caption += "; what is ahead beyond noise is set bold"
    return Table("summary-table", caption, [*columns, "Ahead"], rows, words=(len(columns),))


def _row(comparison: Comparison, measure: Measure) -> list[Cell]:
    verdict = verdict_of(comparison, measure)
    cells = [model_cell(model, lambda model: _value(model, measure)) for model in comparison.models]
    cells = [
        replace(cell, best=model.label == verdict.winner) for cell, model in zip(cells, comparison.models, strict=True)
    ]
    return [word(measure.name), *cells, Cell(verdict.text, detail=verdict.detail)]


def _value(model: ModelComparison, measure: Measure) -> Cell:
    interval = model.confidence.get(measure.key)
    detail = "" if interval is None else span(interval.low, interval.high, measure.digits)
    if measure is LATENCY:
        p95 = time_of(model)[1]
        detail = f"95 % below {decimal(p95)}" if math.isfinite(p95) else ""
    return number(measure.value(model), measure.digits, reason=measure.missing_in(model), detail=detail)


def differences(comparison: Comparison) -> Table:
    """Every pair of models and whether it differs beyond noise."""
    names = {measure.key: measure for measure in MEASURES}
    rows = []
    for x in comparison.differences:
        digits = names[x.metric].digits if x.metric in names else 1
        name = names[x.metric].name if x.metric in names else x.metric
        value, low, high = x.difference.value, x.difference.low, x.difference.high
        known = math.isfinite(low) and math.isfinite(high)
        reading = "may be noise" if low <= 0 <= high else "beyond noise"
        rows.append(
            [
                word(f"{x.first} − {x.second}"),
                word(name),
                Cell(decimal(value, digits, sign=True), sort=value) if math.isfinite(value) else dash("no such figure"),
                Cell(span(low, high, digits, sign=True), sort=low) if known else dash(_NO_INTERVAL),
                word(reading) if known else dash(_NO_INTERVAL),
            ]
        )
    columns = ["Models", "Measure", "Difference", "95 % interval", "Reading"]
    return Table(
        "differences", "Differences between the models, on the same resampled images", columns, rows, words=(1, 4)
    )


def headline(comparison: Comparison) -> str:
    """One sentence on AP."""
    models = [model for model in comparison.models if not model.failed and model.coco is not None]
    values = {model.label: model.coco.ap for model in models if model.coco and math.isfinite(model.coco.ap)}
    if not any(not model.failed for model in comparison.models):
        return "No model could be measured, so there is nothing to compare."
    if len(values) < 2:
        alone = "".join(f" {label} has an AP of {decimal(value)}." for label, value in values.items())
        return f"There is nothing to compare: fewer than two models have an AP.{alone}"
    verdict = verdict_of(comparison, MEASURES[0])
    order = sorted(values, key=lambda label: -values[label])
    list_of = ", ".join(f"{label} {decimal(values[label])}" for label in order)
    if verdict.winner is not None:
        return f"{verdict.winner} has the highest AP, {verdict.detail} (95\u00a0% interval in brackets). AP: {list_of}."
    if verdict.text == "no clear winner":
        return f"No clear winner in AP: {list_of}. {verdict.detail}."
    return f"AP: {list_of}; whether the difference is more than noise was not tested."
