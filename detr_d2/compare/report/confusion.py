"""What objects are taken for, for the page of `compare`: a matrix of few classes, the worst pairs of many."""

from __future__ import annotations

from dataclasses import dataclass

from ..records.comparison import Comparison
from ..records.figures import ConfusionMatrix
from .cells import Table, number, word

MOST_CLASSES = 12
"""Of a matrix that is still read."""

MOST_PAIRS = 15
_NO_OBJECT, _NOT_FOUND = "no object", "not found"


@dataclass(frozen=True)
class HeatCell:
    """A number of the matrix.

    Args:
        text: the number.
        heat: its share of the row, 0 to 100.
        right: whether it is on the diagonal.
    """

    text: str
    heat: int
    right: bool


@dataclass(frozen=True)
class HeatTable:
    """The matrix of a model.

    Args:
        id: unique in the page.
        caption: what it holds.
        columns: headings, the first of the column of names.
        rows: (name of a class of objects, cells).
    """

    id: str
    caption: str
    columns: list[str]
    rows: list[tuple[str, list[HeatCell]]]


@dataclass(frozen=True)
class Confusion:
    """Of a model: the one or the other.

    Args:
        matrix: of at most `MOST_CLASSES`.
        pairs: of more.
        says: a sentence where there are no pairs, else "".
    """

    matrix: HeatTable | None
    pairs: Table | None
    says: str = ""


def confusions(comparison: Comparison) -> list[Confusion]:
    """Of each model that has a matrix."""
    live = [(f"confusion-{i}", x) for i, x in enumerate(comparison.models) if not x.failed]
    return [_confusion(name, x.label, x.confusion) for name, x in live if x.confusion is not None]


def _confusion(name: str, label: str, confusion: ConfusionMatrix) -> Confusion:
    if len(confusion.names) <= MOST_CLASSES:
        return Confusion(_matrix(name, label, confusion), None)
    pairs = _pairs(name, label, confusion)
    return Confusion(None, pairs if pairs.rows else None, "" if pairs.rows else f"{label} takes no class for another.")


def _matrix(name: str, label: str, confusion: ConfusionMatrix) -> HeatTable:
    rows = []
    for i, (title, counts) in enumerate(zip([*confusion.names, _NO_OBJECT], confusion.counts, strict=True)):
        total = max(1, sum(counts))
        last = len(confusion.names)
        cells = [
            HeatCell("" if i == j == last else f"{x:,}", round(100 * x / total), i == j < last)
            for j, x in enumerate(counts)
        ]
        rows.append((title, cells))
    return HeatTable(name, f"{label}: detections on objects", ["object", *confusion.names, _NOT_FOUND], rows)


def _pairs(name: str, label: str, confusion: ConfusionMatrix) -> Table:
    found = [
        (count, count / sum(counts), confusion.names[i], confusion.names[j])
        for i, counts in enumerate(confusion.counts[:-1])
        for j, count in enumerate(counts[:-1])
        if i != j and count
    ]
    found.sort(key=lambda x: (-x[0], -x[1]))
    caption = f"{label}: the classes that are taken for another most often"
    columns = ["object", "taken for", "objects", "of the objects of its class"]
    rows = [
        [word(one), word(other), number(count, 0), number(100 * share, 1, "%")]
        for count, share, one, other in found[:MOST_PAIRS]
    ]
    return Table(name, caption, columns, rows, words=(1,))
