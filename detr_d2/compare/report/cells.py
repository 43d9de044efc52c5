"""Cells and tables of a page: a number, or a dash with its reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from ..records.comparison import ModelComparison

DASH = "–"


@dataclass(frozen=True)
class Cell:
    """One cell.

    Args:
        text: as read.
        detail: a second, smaller line.
        reason: why there is a dash instead of a value.
        sort: what the column is sorted by; None stands last both ways.
        best: whether it wins its row.
        live: what the slider changes in it, if anything.
        bar: length of the bar behind it, 0 to 1; NaN for none.
    """

    text: str
    detail: str = ""
    reason: str = ""
    sort: float | str | None = None
    best: bool = False
    live: Live | None = None
    bar: float = math.nan


@dataclass(frozen=True)
class Live:
    """Where the script of the page finds the figure of a cell for a position of the slider.

    Args:
        model: its place in the record.
        key: of `ScorePoint`, with the place in a list after a point, as in "crowds.2"; "score": the score itself.
        digits: to print.
        most: where the bar is full.
        unit: after the number.
    """

    model: int
    key: str
    digits: int
    most: float
    unit: str = ""

    def on(self, cell: Cell, value: float) -> Cell:
        """The cell with a bar for its value."""
        return replace(cell, live=self, bar=value / self.most)


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows.

    Args:
        id: unique in the page.
        caption: what it holds.
        columns: headings.
        rows: as many cells each.
        sortable: whether the reader may sort it.
        words: columns of words, which are not set to the right.
    """

    id: str
    caption: str
    columns: Sequence[str]
    rows: list[list[Cell]] = field(default_factory=list)
    sortable: bool = False
    words: tuple[int, ...] = ()

    @property
    def reasons(self) -> list[str]:
        """Why there are dashes, each reason once."""
        return list(dict.fromkeys(cell.reason for row in self.rows for cell in row if cell.reason))


def dash(reason: str) -> Cell:
    """Nothing to show, and why."""
    return Cell(DASH, reason=reason)


def word(text: str) -> Cell:
    """Text as it is."""
    return Cell(text, sort=text)


def number(
    value: float | None, digits: int = 1, unit: str = "", *, reason: str = "not measured", detail: str = ""
) -> Cell:
    """A number with its unit; NaN, infinity and None give a dash."""
    if value is None or not math.isfinite(value):
        return dash(reason)
    return Cell(decimal(value, digits) + (f" {unit}" if unit else ""), detail=detail, sort=value)


def decimal(value: float, digits: int = 1, *, sign: bool = False) -> str:
    """-1.25 -> "−1.2"; thousands are set apart by commas, and there is no minus before 0."""
    text = f"{value:{'+' if sign else ''},.{digits}f}"
    return text.lstrip("+-") if not any(x in "123456789" for x in text) else text.replace("-", "−")


def span(low: float, high: float, digits: int = 1, *, sign: bool = False) -> str:
    """ "1.0 to 2.0"; "" where a bound is not known."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"{decimal(low, digits, sign=sign)} to {decimal(high, digits, sign=sign)}"


def by_model(
    name: str,
    caption: str,
    models: Sequence[ModelComparison],
    rows: Iterable[tuple[str, Callable[[ModelComparison], Cell]]],
    *,
    first: str = "",
) -> Table:
    """A row per measure and a column per model; a failed model has dashes.

    Args:
        name: id of the table.
        caption: what it holds.
        models: all of them.
        rows: (measure, cell of a model that did not fail).
        first: heading of the column of measures.
    """
    cells = [[word(label), *(model_cell(model, value) for model in models)] for label, value in rows]
    return Table(name, caption, [first, *(model.label for model in models)], cells)


def model_cell(model: ModelComparison, value: Callable[[ModelComparison], Cell]) -> Cell:
    """The cell of a model, a dash if it failed."""
    return dash(failure(model)) if model.failed else value(model)


def failure(model: ModelComparison) -> str:
    """Of a model that failed; why stands at the top of the page, and would be long below every table."""
    return f"{model.label} failed, as said at the top"
