"""How fast detectors learn: AP over iterations and over training time, of several models and seeds.

Time is that of the training steps, data loading included; evaluations and checkpoints do not count.
"""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tabulate import tabulate

from ..compare.records.results import RunResult, minutes
from ..files import write_figure, write_json
from .timed_training import run_training
from .training_job import TrainingJob, place
from .training_progress import TrainingProgress

FORMAT = 1
"""Version of the file layout."""


@dataclass(frozen=True)
class LearningCurve:
    """One training run, evaluated several times.

    Attributes:
        model: name for people.
        seed: of initialisation and training draws.
        iterations: of each evaluation, rising; the last is the end of the run.
        ap: at each of them, 0-100.
        ap50: at each of them, 0-100.
        train_seconds: of the whole run.
    """

    model: str
    seed: int
    iterations: tuple[int, ...]
    ap: tuple[float, ...]
    ap50: tuple[float, ...]
    train_seconds: float

    @classmethod
    def from_run(cls, result: RunResult, curves: Mapping[str, Mapping[int, float]]) -> LearningCurve:
        """Of a finished run.

        Args:
            result: what the run ended with.
            curves: as `read_metrics` gives them.

        Raises:
            ValueError: the run was not evaluated.
        """
        ap, ap50 = curves.get("bbox/AP", {}), curves.get("bbox/AP50", {})
        if not ap:
            raise ValueError(f"{result.model} with seed {result.seed} has no bbox/AP among its metrics")
        made = [min(iteration + 1, result.iterations) for iteration in ap]  # detectron2 counts from 0
        values = tuple(map(_known, ap.values())), tuple(_known(ap50[iteration]) for iteration in ap)
        return cls(result.model, result.seed, tuple(made), *values, result.train_seconds)

    @property
    def seconds(self) -> tuple[float, ...]:
        """Training time at each evaluation: steps of a run take equally long."""
        return tuple(self.train_seconds * i / self.iterations[-1] for i in self.iterations)

    def seconds_until(self, ap: float) -> float | None:
        """Training time until `ap` is reached first, by linear interpolation between evaluations; None if it never is.

        Before the first evaluation the curve is taken to rise from AP 0.
        """
        previous = (0.0, 0.0)
        for point in zip(self.seconds, self.ap, strict=True):
            if point[1] >= ap:
                (t0, a0), (t1, a1) = previous, point
                return t1 if a1 == a0 else t0 + (t1 - t0) * max(ap - a0, 0.0) / (a1 - a0)
            previous = point
        return None


def _known(ap: float) -> float:
    """NaN is what detectron2 writes when nothing at all was detected."""
    return 0.0 if math.isnan(ap) else ap


def train_for_curve(job: TrainingJob, *, fresh: bool) -> LearningCurve:
    """Trains, or takes what is there, and says what came of it.

    Raises:
        TrainingError: the training failed.
        ValueError: the output folder holds something else.
    """
    title = f"{job.title}, {Path(job.output_dir).name}"
    job = place(job, fresh=fresh)
    with TrainingProgress(title) as progress:
        result = run_training(job, progress, fresh=fresh)
    curve = LearningCurve.from_run(result, read_metrics(Path(job.output_dir) / "metrics.json"))
    print(f"{title}: AP {curve.ap[-1]:.1f} after {result.iterations:,} iterations", flush=True)
    return curve


def read_metrics(path: Path) -> dict[str, dict[int, float]]:
    """The `metrics.json` that detectron2's trainers write: metric -> {iteration: value}, by rising iteration.

    Where a run was resumed and iterations were made again, the later values count. A line that was cut off, as when a
    run is killed, is left out.
    """
    curves: dict[str, dict[int, float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        with suppress(json.JSONDecodeError):
            record = json.loads(line)
            for key, value in record.items():
                curves.setdefault(key, {})[record["iteration"]] = value
    return {key: dict(sorted(curve.items())) for key, curve in curves.items()}


def by_model(curves: Sequence[LearningCurve]) -> dict[str, list[LearningCurve]]:
    """Model -> its runs, in the order in which the models appear first."""
    groups: dict[str, list[LearningCurve]] = {}
    for curve in curves:
        groups.setdefault(curve.model, []).append(curve)
    return groups


def convergence_table(curves: Sequence[LearningCurve], reference: str) -> str:
    """A Markdown table, a line per model, of means over the seeds with the smallest and largest value.

    Args:
        curves: of all runs.
        reference: model whose final AP, the mean over its seeds, the others have to reach. The last column is their
            time to it as a share of the reference's whole training time; a dash where a seed does not get there.
    """
    groups = by_model(curves)
    goal = statistics.mean(curve.ap[-1] for curve in groups[reference])
    whole = statistics.mean(curve.train_seconds for curve in groups[reference])
    rows = []
    for model, runs in groups.items():
        times = [time for run in runs if (time := run.seconds_until(goal)) is not None]
        mean_time = statistics.mean(times) if len(times) == len(runs) else math.nan
        mean_time = whole if model == reference else mean_time
        rows.append(
            (
                model,
                len(runs),
                f"{statistics.mean(run.iterations[-1] for run in runs):,.0f}",
                minutes(statistics.mean(run.train_seconds for run in runs)),
                _mean_and_range([run.ap[-1] for run in runs]),
                _mean_and_range([run.ap50[-1] for run in runs]),
                minutes(mean_time),
                "-" if math.isnan(mean_time) else f"{100 * mean_time / whole:.0f} %",
            )
        )
    heads = ["model", "seeds", "iterations", "training", "AP", "AP50", f"time to AP {goal:.1f}"]
    heads.append(f"share of {reference}'s")
    alignment = ("left", *["right"] * (len(heads) - 1))
    return tabulate(rows, heads, tablefmt="pipe", disable_numparse=True, colalign=alignment)


def _mean_and_range(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f} - {max(values):.1f})"


def save_curves_json(path: str | os.PathLike[str], curves: Sequence[LearningCurve], **facts: Any) -> None:
    """Writes all runs, and facts about them, such as the machine."""
    write_json(path, {"format": FORMAT, **facts, "runs": [asdict(curve) for curve in curves]})


def save_picture(path: str | os.PathLike[str], curves: Sequence[LearningCurve]) -> None:
    """Writes a PNG with two plots: a thin line for each run, a thick one for the mean of a model's runs.

    Args:
        path: of the PNG.
        curves: at least one. The mean is drawn for models whose runs were evaluated equally often.
    """
    figure = Figure(figsize=(11.0, 4.4), dpi=120, layout="constrained")
    over_iterations, over_minutes = figure.subplots(1, 2, sharey=True)
    for index, (model, runs) in enumerate(by_model(curves).items()):
        values = [run.ap for run in runs]
        _draw(over_iterations, [run.iterations for run in runs], values, f"C{index}", model)
        _draw(over_minutes, [[s / 60 for s in run.seconds] for run in runs], values, f"C{index}", model)
    over_iterations.set(xlabel="iterations", ylabel="AP on the validation images", ylim=(0, None))
    over_minutes.set(xlabel="minutes of training")
    for axis in (over_iterations, over_minutes):
        axis.set_xlim(0, None)
        axis.grid(alpha=0.3)
    over_minutes.legend(fontsize=8, frameon=False)
    write_figure(path, figure)


def _draw(
    axis: Axes, times: Sequence[Sequence[float]], values: Sequence[Sequence[float]], colour: str, model: str
) -> None:
    for x, y in zip(times, values, strict=True):
        axis.plot([0, *x], [0, *y], color=colour, linewidth=0.8, alpha=0.45)
    equally_often = len({len(y) for y in values}) == 1
    means = [[statistics.mean(x) for x in zip(*rows, strict=True)] if equally_often else [] for rows in (times, values)]
    label = model.replace("$", r"\$")  # also in the legend where no mean can be drawn
    axis.plot([0, *means[0]], [0, *means[1]], color=colour, linewidth=2, marker="o", markersize=3, label=label)
