"""The `metrics.json` that detectron2's trainers write, of one run or several, as curves."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..files import write_figure

DEFAULT_METRICS = ("total_loss", "bbox/AP")


@dataclass(frozen=True)
class RunLog:
    """What a training run wrote.

    Attributes:
        name: for the legend.
        curves: metric -> {iteration: value}, by rising iteration; a value may be NaN.
    """

    name: str
    curves: dict[str, dict[int, float]]


def read_log(path: str | os.PathLike[str], name: str) -> RunLog:
    """Reads a `metrics.json`: a JSON object in each line, with "iteration" and numbers.

    Where a run was resumed and iterations were made again, the later values count. A last line that was cut off, as
    when a run is killed, is left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is something else, or no iteration is in the file; names file and line.
    """
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    curves: dict[str, dict[int, float]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            iteration = record["iteration"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            if number == len(lines) and isinstance(error, json.JSONDecodeError) and curves:
                continue
            raise ValueError(
                f'line {number} of {path} is no JSON object with an "iteration"; give the metrics.json of a run'
            ) from error
        for key, value in record.items():
            if key != "iteration" and isinstance(value, (int, float)):
                curves.setdefault(key, {})[iteration] = float(value)
    if not curves:
        raise ValueError(f"{path} holds no metrics; give the metrics.json of a run that has made 20 iterations or more")
    return RunLog(name, {key: dict(sorted(curve.items())) for key, curve in curves.items()})


def choose_metrics(logs: Sequence[RunLog], wanted: Sequence[str] | None) -> list[str]:
    """The metrics to draw.

    Args:
        logs: the runs.
        wanted: names; None for those of `DEFAULT_METRICS` that a run has.

    Raises:
        ValueError: no run has one of the wanted metrics.
    """
    known = {name for log in logs for name in log.curves}
    for name in wanted or ():
        if name not in known:
            raise ValueError(f"no run has the metric {name!r}; there are {', '.join(sorted(known))}")
    chosen = list(wanted or [name for name in DEFAULT_METRICS if name in known])
    if not chosen:
        raise ValueError(f"no run has {' or '.join(DEFAULT_METRICS)}: name --metrics, of {', '.join(sorted(known))}")
    return chosen


def save_curves(path: str | os.PathLike[str], logs: Sequence[RunLog], metrics: Sequence[str]) -> None:
    """Writes a PNG with a plot for each metric and a line for each run.

    Args:
        path: of the PNG.
        logs: at least one.
        metrics: at least one.
    """
    figure = Figure(figsize=(5.5 * len(metrics), 4.0), dpi=120, layout="constrained")
    axes = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axis, metric in zip(axes, metrics, strict=True):
        for index, log in enumerate(logs):
            curve = log.curves.get(metric, {})
            marker = "o" if len(curve) < 20 else ""
            label = log.name.replace("$", r"\$")
            axis.plot(list(curve), list(curve.values()), color=f"C{index}", marker=marker, markersize=3, label=label)
        axis.set(xlabel="iteration", ylabel=metric)
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))  # few iterations are no halves of one
    axes[0].legend(fontsize=8, frameon=False)
    write_figure(path, figure)


def curves_json(logs: Sequence[RunLog], metrics: Sequence[str]) -> dict[str, Any]:
    """The numbers behind the plots: run -> metric -> [[iteration, value], ...]; null for what is not finite."""
    return {
        log.name: {
            metric: [[i, x if math.isfinite(x) else None] for i, x in log.curves.get(metric, {}).items()]
            for metric in metrics
        }
        for log in logs
    }
