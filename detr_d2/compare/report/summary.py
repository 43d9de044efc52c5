"""Every figure side by side with what is ahead, the differences behind it, and what the intervals are worth."""

from __future__ import annotations

import math
from dataclasses import replace

from ..records.comparison import Comparison, ModelComparison
from ..records.figures import FEWEST, Interval
from ..records.sets import FEWEST_OBJECTS
from .cells import Cell, Table, dash, decimal, model_cell, number, span, word
from .measures import LATENCY, MEASURES, Measure, measures_of, time_of
from .verdicts import verdict_of

_NO_INTERVAL = f"fewer than {FEWEST} images or rounds, or two checkpoints, are too few for an interval"
_ROUGH = 50  # images
_NAMED = 10  # classes


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
    detail = "" if interval is None else interval_text(interval, measure.digits)
    if measure is LATENCY:
        p95 = time_of(model)[1]
        detail = f"95 % below {decimal(p95)}" if math.isfinite(p95) else ""
    if measure.cost and model.cost is not None and model.cost.given:
        detail = "as given"
    return number(measure.value(model), measure.digits, reason=measure.missing_in(model), detail=detail)


def interval_text(interval: Interval, digits: int = 1) -> str:
    """Bounds, and of several checkpoints their values: "60.0 to 70.0; 63.2, 65.4, 66.8"."""
    each = ", ".join(decimal(x, digits) for x in interval.checkpoints if math.isfinite(x))
    return "; ".join(filter(None, (span(interval.low, interval.high, digits), each)))


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


def interval_notes(comparison: Comparison) -> list[str]:
    """Sentences on what an interval holds, what it does not know, and where it is too narrow."""
    draws = comparison.settings.get("resamples")
    drawn = f", estimated by drawing the images anew {draws:,} times" if isinstance(draws, int) else ""
    notes = [
        "The small line below a figure is its 95 % interval: where the value of a very large set of such images is to "
        f"be expected{drawn}. Another small set scatters more.",
        _checkpoints(comparison),
    ]
    images = comparison.dataset.num_images
    if images < FEWEST:
        tell = "A single image tells" if images == 1 else f"{images} images tell"
        notes.append(f"{tell} nothing of such a range, so there is none: with fewer than {FEWEST}, one model can be "
                     "better on all of them by chance.")  # fmt: skip
    elif images < _ROUGH:
        notes.append(f"With {images} images these ranges are themselves rough.")
    if rare := comparison.dataset.rare_classes:
        counts = dict(zip(comparison.dataset.class_names, comparison.dataset.objects_per_class, strict=True))
        named = [f"{name} ({counts[name]})" for name in rare[:_NAMED]]
        named += [f"and {len(rare) - _NAMED} more"] if len(rare) > _NAMED else []
        are = "1 class has" if len(rare) == 1 else f"{len(rare)} classes have"
        few = f"{are} fewer than {FEWEST_OBJECTS} objects: {', '.join(named)}"
        notes.append(f"The ranges of AP are too narrow here, as {few}.")
    return notes


def _checkpoints(comparison: Comparison) -> str:
    models = [model for model in comparison.models if not model.failed]
    several = [model for model in models if len(model.checkpoints) > 1]
    if not several:
        each = "this checkpoint alone" if len(models) == 1 else "these checkpoints, one of each model"
        return f"All figures are of {each}: how much another training would change them, no interval here knows."
    numbers = ", ".join(f"{model.label}: {len(model.checkpoints)} checkpoints" for model in several)
    single = [f"{model.label}: this checkpoint" for model in models if len(model.checkpoints) < 2]
    return (
        f"{', '.join([numbers, *single])}. Of several checkpoints the mean is given, with the value of each; the range "
        "of three or more takes their scatter in, that of a single one knows nothing of other trainings. Two are too "
        "few for a range, and name no winner."
    )
