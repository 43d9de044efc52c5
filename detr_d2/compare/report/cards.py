"""The first screen of the page: a sentence with its figures and a small plot on accuracy, NMS, crowds and cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..records.comparison import Comparison, ModelComparison
from ..records.sets import FEWEST_OBJECTS, USUAL_NMS, CrowdBin
from .cells import DASH, decimal, span
from .measures import LATENCY, MEASURES, nms_point, time_of
from .plots import sparks
from .plots.plot import Series, bin_name, last_layer, live_series, place_of_nms
from .summary import interval_text
from .verdicts import NO_WINNER, verdict_of

_LIVES_ON = 5.0
"""Points of AP, at least, that a model loses without the NMS on which it lives, and a fifth of its AP."""

_BETTER = 2.0
"""Points of AP by which another NMS is worth a word."""


@dataclass(frozen=True)
class Card:
    """One of four.

    Args:
        section: id of the section that says more.
        title: a word.
        sentence: what is to be known.
        rows: (place of the model, label, figure).
        spark: SVG, "" where there is nothing to draw.
        caption: what the picture shows.
    """

    section: str
    title: str
    sentence: str
    rows: list[tuple[int, str, str]] = field(default_factory=list)
    spark: str = ""
    caption: str = ""


def cards(comparison: Comparison) -> list[Card]:
    """None if no model could be measured."""
    series = live_series(comparison)
    makers: Sequence[Callable[[Comparison, Sequence[Series]], Card]] = (_accuracy, _nms, _crowds, _cost)
    return [make(comparison, series) for make in makers] if series else []


def _accuracy(comparison: Comparison, series: Sequence[Series]) -> Card:
    shown = [(x, x.model.coco.ap) for x in series if x.model.coco is not None and math.isfinite(x.model.coco.ap)]
    if not shown:
        return Card("accuracy", "Accuracy", "No model has an AP, so there is nothing to compare.")
    intervals = {x.index: x.model.confidence.get("ap") for x, _ in shown}
    rows = []
    for x, ap in shown:
        interval = intervals[x.index]
        reach = "" if interval is None else interval_text(interval)
        rows.append((x.index, x.model.label, decimal(ap) + (f" ({reach})" if reach else "")))
    points = []
    for x, ap in shown:
        interval = intervals[x.index]
        points.append((x.index, ap, *((math.nan, math.nan) if interval is None else (interval.low, interval.high))))
    return Card(
        "figures", "Accuracy", _accuracy_sentence(comparison, shown), rows, sparks.whiskers(points), "AP with its range"
    )


def _accuracy_sentence(comparison: Comparison, shown: Sequence[tuple[Series, float]]) -> str:
    verdict = verdict_of(comparison, MEASURES[0])
    if len(shown) < 2:
        return f"{shown[0][0].model.label} has an AP of {decimal(shown[0][1])}; there is nothing to compare it with."
    if verdict.winner is not None:
        return f"{verdict.winner} has the highest AP, {verdict.detail}."
    if verdict.text == NO_WINNER:
        return f"No clear winner in AP: {verdict.detail}."
    best, ap = max(shown, key=lambda pair: pair[1])
    return f"{best.model.label} has the highest AP, {decimal(ap)}; whether that is more than noise was not tested."


def _nms(_: Comparison, series: Sequence[Series]) -> Card:
    changes = [(x, *change) for x in series if (change := nms_change(x.model)) is not None]
    filtered = [f"{x.model.label} {looks}" for x in series if (looks := _looks_filtered(x.model))]
    if not changes:
        return Card("nms", "NMS", "; ".join(["No model is known both with and without NMS", *filtered]) + ".")
    most_first = sorted(changes, key=lambda change: change[1] - change[2])
    phrases = [_nms_phrase(x.model.label, *change) + _better_nms(x.model) for x, *change in most_first]
    sentence = "; ".join([*phrases, *filtered])
    rows = [(x.index, x.model.label, f"{decimal(without)} → {decimal(kept)}") for x, without, kept in changes]
    curves = [(x.index, [(place_of_nms(p), p.ap) for p in last_layer(x.model)]) for x, *_ in changes]
    spark = sparks.lines(curves, least_span=4.0)
    return Card("nms", "NMS", f"{sentence}.", rows, spark, "AP from strict NMS to none; above: AP without → with NMS")


def nms_change(model: ModelComparison) -> tuple[float, float] | None:
    """AP without NMS and with it: the model's own, or where it has none the usual one; None if that is not known.

    Detections of another program that may have seen an NMS, but do not look so, count as without.
    """
    if model.shipped is None:
        return None
    if model.predictions is None and not model.shipped.nms_switched_off:
        return None
    if model.predictions is not None and (model.predictions.said == "nms" or _looks_filtered(model)):
        return None
    own = model.shipped.nms_threshold
    without, kept = nms_point(model, None), nms_point(model, USUAL_NMS if own is None else own)
    if without is None or kept is None or not (math.isfinite(without.ap) and math.isfinite(kept.ap)):
        return None
    return without.ap, kept.ap


def _looks_filtered(model: ModelComparison) -> str:
    """As in "looks filtered at 0.6"; "" for all others."""
    looks = "" if model.predictions is None else model.predictions.looks
    return looks if looks.startswith("looks filtered") else ""


def _nms_phrase(label: str, without: float, kept: float) -> str:
    gain = kept - without
    both = f"{decimal(without, 0)} without, {decimal(kept, 0)} with"
    if gain >= max(_LIVES_ON, kept / 5):
        return f"{label} lives on NMS: {both}"
    if abs(gain) < 0.5:
        return f"{label} changes by less than 1"
    if gain >= 1.5:
        return f"{label} gains {decimal(gain, 0)} from NMS: {both}"
    return f"{label} changes by {decimal(gain, 0)}" if gain > -1.5 else f"{label} is harmed by NMS: {both}"


def _better_nms(model: ModelComparison) -> str:
    """Of a model that ships NMS: the one of the sweep that serves it better by some points."""
    shipped = next((p.ap for p in last_layer(model) if p.shipped and p.nms_threshold is not None), math.nan)
    best = max((p for p in last_layer(model) if p.nms_threshold is not None), key=lambda p: p.ap, default=None)
    if best is None or not best.ap - shipped >= _BETTER:
        return ""
    return f" ({decimal(best.ap, 0)} with NMS at {best.nms_threshold:g})"


def crowded_bin(models: Sequence[ModelComparison]) -> CrowdBin | None:
    """The most crowded bin of overlapping objects with enough of them; None if there is none."""
    bins = [b for model in models for b in model.crowds if b.high > 0 and b.num_objects >= FEWEST_OBJECTS]
    return max(bins, key=lambda b: b.low, default=None)


def _crowds(_: Comparison, series: Sequence[Series]) -> Card:
    shown = [x for x in series if x.model.crowds]
    chosen = crowded_bin([x.model for x in shown])
    if chosen is None:
        return Card("crowds", "Crowds", f"Too few objects overlap, fewer than {FEWEST_OBJECTS}, to speak of crowds.")
    here = [(x, b) for x in shown for b in x.model.crowds if (b.low, b.high) == (chosen.low, chosen.high)]
    found = ", ".join(f"{x.model.label} finds {_percent(b.recall.value)}" for x, b in here)
    where = f"Of {chosen.num_objects:,} objects that overlap by {bin_name(chosen.low, chosen.high)}"
    lost = [
        f"NMS costs {x.model.label} {decimal(b.lost.value, 0)} of 100" for x, b in here if b.lost and b.lost.low > 0
    ]
    rows = [
        (x.index, x.model.label, _percent(b.recall.value) + _brackets(b.recall.low, b.recall.high)) for x, b in here
    ]
    curves = [(x.index, [(float(b.low + b.high), b.recall.value) for b in x.model.crowds]) for x in shown]
    sentence = "; ".join([f"{where}, {found}", *lost])
    return Card("crowds", "Crowds", f"{sentence}.", rows, sparks.lines(curves), "Recall from alone to crowded")


def _percent(value: float) -> str:
    return f"{decimal(value, 0)}\u00a0%" if math.isfinite(value) else DASH


def _brackets(low: float, high: float) -> str:
    reach = span(low, high, 0)
    return f" ({reach})" if reach else ""


def _cost(comparison: Comparison, series: Sequence[Series]) -> Card:
    times = [(x, time_of(x.model)[0]) for x in series]
    times = [(x, time) for x, time in times if math.isfinite(time)]
    if not times:
        return Card("cost", "Cost", "The cost was not measured.")
    rows = []
    for x, time in times:
        cost = x.model.cost
        assert cost is not None
        given = ", as given" if cost.given else ""
        rows.append((x.index, x.model.label, f"{decimal(time)} ms, {decimal(cost.parameters / 1e6)} M{given}"))
    spark = sparks.bars([(x.index, time) for x, time in times])
    sentence = _cost_sentence(comparison, times)
    return Card("cost", "Cost", sentence, rows, spark, "Time of one image; above: with millions of parameters")


def _cost_sentence(comparison: Comparison, times: Sequence[tuple[Series, float]]) -> str:
    order = sorted(times, key=lambda pair: pair[1])
    (first, fast), (last, slow) = order[0], order[-1]
    if len(order) < 2:
        return f"{first.model.label} takes {decimal(fast)} ms for an image."
    verdict = verdict_of(comparison, LATENCY)
    ratio = f"{decimal(slow / fast)} times as fast as {last.model.label}" if fast > 0 else "the fastest"
    if verdict.winner == first.model.label:
        return f"{first.model.label} is the fastest, {ratio}: {decimal(fast)} ms for an image against {decimal(slow)}."
    return f"No clear winner in time: {verdict.detail}."
