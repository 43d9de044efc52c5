"""The files of a comparison: its record, its main figures as CSV, Markdown and LaTeX, and its page."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

from tabulate import tabulate

from ...files import write_text
from ..records.comparison import Comparison, save_comparison
from ..records.sets import NmsPoint
from .measures import Measure, measures_of
from .page import page_figures, write_report

RESULTS, REPORT, FIGURES = "results.json", "report.html", "figures"


def write_all(comparison: Comparison, output: Path, *, figures: bool = False) -> None:
    """Writes results.json, the tables and the page into a folder, and with `figures` its plots below it.

    Raises:
        ImportError: the page needs a package that is not there; the rest is written.
    """
    save_comparison(comparison, output / RESULTS)
    tables = {
        "models.csv": models_csv(comparison),
        "per_class.csv": per_class_csv(comparison),
        "nms.csv": nms_csv(comparison),
        "table.md": markdown_table(comparison),
        "table.tex": latex_table(comparison),
    }
    for name, text in tables.items():
        write_text(output / name, text)
    write_report(comparison, output / REPORT)
    if figures:
        from .plots.figure_files import write_figures

        write_figures(comparison, page_figures(comparison), output / FIGURES)


def _columns(comparison: Comparison) -> list[Measure]:
    return [measure for measure in measures_of(comparison) if measure.head]


def main_rows(comparison: Comparison) -> list[list[str]]:
    """Head and one row per model; "-" for what is unknown, a star on the label of a model that failed."""
    columns = _columns(comparison)
    values = [[x.value(model) for x in columns] for model in comparison.models]
    return [
        ["model", *(x.head for x in columns)],
        *(
            [
                model.label + (" *" if model.failed else ""),
                *("-" if math.isnan(value) else f"{value:.{x.digits}f}" for x, value in zip(columns, row, strict=True)),
            ]
            for model, row in zip(comparison.models, values, strict=True)
        ),
    ]


def _table(rows: Sequence[Sequence[str]], form: str) -> str:
    """Rows as a table of one of tabulate's formats, labels to the left and numbers to the right."""
    alignment = ("left", *["right"] * (len(rows[0]) - 1))
    return tabulate(rows, headers="firstrow", tablefmt=form, colalign=alignment, disable_numparse=True)


def text_table(comparison: Comparison) -> str:
    """The main figures for a terminal."""
    return _table(main_rows(comparison), "simple")


def latex_table(comparison: Comparison) -> str:
    """The main figures for the package booktabs."""
    return _table(main_rows(comparison), "latex_booktabs") + "\n"


def markdown_table(comparison: Comparison) -> str:
    """The main figures, with the intervals of AP and the failed models below."""
    rows = [[cell.replace("|", "\\|").replace("<", "&lt;") for cell in row] for row in main_rows(comparison)]
    notes = []
    for x in comparison.models:
        if x.failed:
            notes.append(f"* {x.label} failed: {x.failed}")
        elif (interval := x.confidence.get("ap")) is not None and math.isfinite(interval.low):
            notes.append(
                f"- {x.label}: AP {interval.value:.1f}, 95 % interval {interval.low:.1f} to {interval.high:.1f}"
            )
    data = comparison.dataset
    notes.append(f"- data: {data.name}, {data.num_images:,} images, {data.num_objects:,} objects")
    return "\n".join([_table(rows, "pipe"), "", *notes]) + "\n"


def models_csv(comparison: Comparison) -> str:
    """One row per model with full precision; an unknown figure is an empty cell."""
    columns = [measure for measure in measures_of(comparison) if measure.head or measure.csv]
    rows: list[list[Any]] = []
    for x in comparison.models:
        interval = x.confidence.get("ap")
        bounds = [interval.low, interval.high] if interval else [None, None]
        figures = [column.value(x) for column in columns]
        rows.append([x.label, x.run.config_file, x.weights, x.failed, *bounds, *figures])
    names = [column.csv or column.key for column in columns]
    return _csv(["model", "config_file", "weights", "failed", "ap_low", "ap_high", *names], rows)


def per_class_csv(comparison: Comparison) -> str:
    """One row per model and class."""
    classes = [(model.label, x) for model in comparison.models if model.coco for x in model.coco.per_class]
    return _csv(["model", "class", "num_objects", "ap", "ap50", "ar"], [[label, *astuple(x)] for label, x in classes])


def nms_csv(comparison: Comparison) -> str:
    """One row per model, decoder layer and NMS threshold (empty without NMS)."""
    points = [[model.label, *astuple(x)] for model in comparison.models for x in model.nms]
    return _csv(["model", *(field.name for field in fields(NmsPoint))], points)


def _csv(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Flags as 0 and 1; what is not known as an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    for row in rows:
        known = ("" if x is None or x != x else x for x in row)  # NaN is not equal to itself
        writer.writerow(int(x) if isinstance(x, bool) else x for x in known)
    return text.getvalue()
