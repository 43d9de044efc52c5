"""A picture of how fast detectors learn: AP over iterations and over training time."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..files import write_figure
from .learning_curves import LearningCurve, by_model


def save_convergence(path: str | os.PathLike[str], curves: Sequence[LearningCurve]) -> None:
    """Writes a PNG with two plots: a thin line for each run, a thick one for the mean of a model's runs.

    Args:
        path: of the PNG.
        curves: at least one. The mean is drawn for models whose runs were evaluated equally often.
    """
    figure = Figure(figsize=(11.0, 4.4), dpi=120, layout="constrained")
    over_iterations, over_minutes = figure.subplots(1, 2, sharey=True)
    for index, (model, runs) in enumerate(by_model(curves).items()):
        colour = f"C{index}"
        values = [run.ap for run in runs]
        _draw(over_iterations, [run.iterations for run in runs], values, colour, model)
        _draw(over_minutes, [[s / 60 for s in run.seconds] for run in runs], values, colour, model)
    over_iterations.set(xlabel="iterations", ylabel="AP on the validation images", ylim=(0, None))
    over_minutes.set(xlabel="minutes of training", xlim=(0, None))
    for axis in (over_iterations, over_minutes):
        axis.grid(alpha=0.3)
    over_iterations.set_xlim(0, None)
    over_minutes.legend(fontsize=8, frameon=False)
    write_figure(path, figure)


def _draw(
    axis: Axes, times: Sequence[Sequence[float]], values: Sequence[Sequence[float]], colour: str, model: str
) -> None:
    for x, y in zip(times, values, strict=True):
        axis.plot([0, *x], [0, *y], color=colour, linewidth=0.8, alpha=0.45)
    mean_x, mean_y = [], []
    if len({len(y) for y in values}) == 1:
        mean_x = [statistics.mean(column) for column in zip(*times, strict=True)]
        mean_y = [statistics.mean(column) for column in zip(*values, strict=True)]
    label = model.replace("$", r"\$")  # also in the legend where no mean can be drawn
    axis.plot([0, *mean_x], [0, *mean_y], color=colour, linewidth=2, marker="o", markersize=3, label=label)
