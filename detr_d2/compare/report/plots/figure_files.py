"""The figures of the page of `compare` as files, for slides and papers: PNG and PDF, on white, each with its legend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ....files import write_figure
from ...records.comparison import Comparison
from .plot import Plot, live_series, swatch_styles
from .summary_image import SUMMARY_DPI, summary_figure
from .svg import PAPER, drawing_files

SUMMARY = "summary.png"
FORMATS = ("png", "pdf")
_DPI = 200
_DATELESS = {"pdf": {"CreationDate": None}}  # the same file every time


def write_figures(comparison: Comparison, figures: Mapping[str, Any], folder: Path) -> list[str]:
    """Writes every plot in both formats, named after its id, and the summary.

    Args:
        comparison: the record.
        figures: of its page, see `page_figures`.
        folder: for the files.

    Returns:
        Their names.
    """
    plots = [plot for figure in figures.values() for plot in _plots(figure)]
    styles = swatch_styles(live_series(comparison))
    names = []
    with drawing_files():
        for plot in plots:
            figure = _figure(plot, styles)
            for form in FORMATS:
                names.append(f"{plot.id.removeprefix('fig-')}.{form}")
                options = {"dpi": _DPI, "bbox_inches": "tight", "facecolor": PAPER, "metadata": _DATELESS.get(form)}
                write_figure(folder / names[-1], figure, **options)
        sweep = next((plot for plot in plots if plot.id == "fig-nms-ap"), None)
        write_figure(folder / SUMMARY, summary_figure(comparison, sweep), dpi=SUMMARY_DPI, facecolor=PAPER)
    return [*names, SUMMARY]


def _plots(figure: Any) -> Iterable[Plot]:
    """Of an entry of `page_figures`."""
    entries = figure if isinstance(figure, list) else [figure]
    return (x for x in entries if isinstance(x, Plot))


def _figure(plot: Plot, styles: Mapping[str, dict[str, Any]]) -> Figure:
    figure = Figure(figsize=plot.size, layout="constrained")
    axes = figure.add_subplot()
    plot.draw_on(axes)
    axes.set_title(plot.title)
    if plot.legend:
        handles = [legend_handle(styles[swatch]) for swatch, _ in plot.legend]
        texts = [text for _, text in plot.legend]
        columns = min(len(texts), 3)
        figure.legend(handles, texts, loc="upper center", bbox_to_anchor=(0.5, 0), ncol=columns, frameon=False)
    return figure


def legend_handle(style: Mapping[str, Any]) -> Artist:
    """What stands beside a name, drawn as the swatch of this style."""
    return Patch(**style) if "facecolor" in style else Line2D([], [], **style)
