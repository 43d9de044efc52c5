"""The table of the page of `compare` on where its models came from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from ..found.nms_keys import UNLIMITED
from ..records import Comparison, ModelComparison
from ..results import minutes
from .cells import Cell, Table, by_model, dash, number, word


def made_table(comparison: Comparison) -> Table:
    """Where each model came from, and how it is used."""

    def shipped(key: str, digits: int = 0) -> Callable[[ModelComparison], Cell]:
        def cell(model: ModelComparison) -> Cell:
            value = getattr(model.shipped, key, None)
            if key == "max_detections" and value == UNLIMITED:
                return word("no limit")
            return number(value, digits, reason="not a part of this model")

        return cell

    def evaluator(model: ModelComparison) -> Cell:
        if model.coco is None:
            return dash("not measured")
        limit = f"at most {model.coco.max_detections} detections of an image and class"
        return replace(word(model.coco.evaluator), detail=limit)

    rows = [
        ("Kind", lambda m: word(m.family)),
        ("IoU of its NMS", shipped("nms_threshold", 2)),
        ("Lowest score", shipped("score_threshold", 2)),
        ("Most detections of an image", shipped("max_detections")),
        ("Queries", shipped("num_queries")),
        ("Evaluated by", evaluator),
        ("Trained for", _training),
    ]
    table = by_model("made-table", "How each model is used", comparison.models, rows, first="Setting")
    files: list[tuple[str, Callable[[ModelComparison], Cell]]] = [
        ("Config", lambda m: word(m.run.config_file)),
        ("Config, SHA-256", lambda m: word(m.config_sha256) if m.config_sha256 else dash("not read")),
        ("Weights", lambda m: word(m.weights or "random weights")),
        ("Weights, SHA-256", lambda m: word(m.weights_sha256) if m.weights_sha256 else dash("no file was read")),
    ]
    known = [[word(name), *(of(model) for model in comparison.models)] for name, of in files]  # of failed ones too
    return Table(table.id, table.caption, table.columns, [*known, *table.rows], words=_all_columns(table))


def _training(model: ModelComparison) -> Cell:
    run, batch = model.run, model.run.extra.get("images_per_iteration", 0)
    if not run.iterations:
        return dash("not known" if model.weights else "not trained")
    details = [f"of {batch:,} images" if batch else "", f"in {minutes(run.train_seconds)} (min:s)"]
    known = [details[0], details[1] if math.isfinite(run.train_seconds) else ""]
    return replace(word(f"{run.iterations:,} iterations"), detail=" ".join(filter(None, known)))


def _all_columns(table: Table) -> tuple[int, ...]:
    return tuple(range(1, len(table.columns)))
