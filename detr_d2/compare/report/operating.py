"""What the slider of the page moves: the figures of every model at each of its scores."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

from ..records.comparison import Comparison, ModelComparison
from ..records.sets import ScorePoint
from .cells import Cell, Live, Table, by_model, decimal, number
from .summary import interval_text

SCALES = {"precision": 100.0, "recall": 100.0, "f1": 100.0}
_ROWS = {
    "precision": ("Precision", 1, "%"),
    "recall": ("Recall", 1, "%"),
    "f1": ("F1", 1, "%"),
    "extra": ("Extra boxes (% of found objects)", 1, ""),
    "other_label": ("Of another class (% of found objects)", 1, ""),
    "count_error": ("Counting error per image", 2, ""),
}


def slider_data(comparison: Comparison) -> dict[str, Any]:
    """What the script needs.

    Returns:
        "scores": the fixed ones of all models, ascending; "models": for each model of the record None, or a dict of
        figures per fixed score, None for one that the model does not have.
    """
    points = [{} if x.operating is None else {p.score: p for p in x.operating.others} for x in comparison.models]
    scores = sorted({score for known in points for score in known if math.isfinite(score)})
    models = [
        None if x.operating is None else [_point(known[score]) if score in known else None for score in scores]
        for x, known in zip(comparison.models, points, strict=True)
    ]
    return {"scores": scores, "models": models}


def _point(point: ScorePoint) -> dict[str, Any]:
    values = {field.name: getattr(point, field.name) for field in fields(point)}
    return {
        key: [_json(x) for x in value] if isinstance(value, list) else _json(value) for key, value in values.items()
    }


def _json(value: float) -> float | None:
    return round(value, 2) if math.isfinite(value) else None


def operating_table(comparison: Comparison) -> Table:
    """The operating scores and what they give; the slider changes all of it."""
    places = {model.label: place for place, model in enumerate(comparison.models)}
    most = {key: _most(comparison, key) for key in _ROWS}

    def cell(key: str, model: ModelComparison) -> Cell:
        _, digits, unit = _ROWS[key]
        point = None if model.operating is None else model.operating.at
        value = math.nan if point is None else getattr(point, key)
        why = "not measured" if point is None else "no object is found"
        interval = model.confidence.get(key)
        detail = interval_text(interval, digits) if interval is not None else ""
        live = Live(places[model.label], key, digits, most[key], unit)
        return live.on(number(value, digits, unit, reason=why, detail=detail), value)

    def score(model: ModelComparison) -> Cell:
        live = Live(places[model.label], "score", 2, 1.0)
        return live.on(score_cell(model), math.nan)

    rows: list[tuple[str, Callable[[ModelComparison], Cell]]] = [("Lowest score that counts", score)]
    rows += [(name, partial(cell, key)) for key, (name, *_) in _ROWS.items()]
    return by_model("operating-table", "At the operating point", comparison.models, rows, first="Measure")


def score_cell(model: ModelComparison) -> Cell:
    """The operating scores of the two halves."""
    if model.operating is None:
        return number(None)
    scores = [decimal(x, 3) if math.isfinite(x) else "nothing counts" for x in model.operating.scores]
    how = "as given" if model.operating.given else "one for each half of the images"
    return Cell(
        " and ".join(dict.fromkeys(scores)), detail=how if len(set(scores)) > 1 or model.operating.given else ""
    )


def _most(comparison: Comparison, key: str) -> float:
    """The end of the bars of a row, so that none outgrows its cell wherever the slider stands."""
    if key in SCALES:
        return SCALES[key]
    operating = [model.operating for model in comparison.models if model.operating is not None]
    values = [getattr(point, key) for x in operating for point in (x.at, *x.others)]
    return max((x for x in values if math.isfinite(x)), default=1.0) or 1.0
