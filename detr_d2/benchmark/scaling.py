"""How the time of inference grows: curves over image area, queries and batch, and their picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..files import write_figure


@dataclass(frozen=True)
class Point:
    """Times at one setting.

    Attributes:
        value: on the axis.
        median_ms: of every contestant, in milliseconds.
    """

    value: float
    median_ms: dict[str, float]


@dataclass(frozen=True)
class Curve:
    """Times along one axis.

    Attributes:
        axis: what grows, with its unit.
        points: in the order of the axis.
    """

    axis: str
    points: list[Point]


def plot_scaling(curves: Sequence[Curve], path: str) -> None:
    """Writes a picture, one panel for each axis with at least one point.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
        ValueError: there is nothing to draw.
    """
    if not curves:
        raise ValueError("there is nothing to plot: name some --sizes, --queries or --batches")
    try:
        import matplotlib
    except ImportError as error:
        raise ModuleNotFoundError("the plot needs matplotlib: pip install matplotlib") from error
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(curves), figsize=(4 * len(curves), 3.2), squeeze=False)
    for panel, curve in zip(panels[0], curves, strict=True):
        for name in curve.points[0].median_ms:
            panel.plot(
                [x.value for x in curve.points], [x.median_ms[name] for x in curve.points], marker="o", label=name
            )
        panel.set(xlabel=curve.axis, xlim=(0, None), ylim=(0, None))
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("milliseconds")
    panels[0][0].legend(frameon=False)
    figure.tight_layout()
    write_figure(path, figure, dpi=110)
    pyplot.close(figure)
