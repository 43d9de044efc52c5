"""How fast detectors learn: AP over iterations and over training time, of several models and seeds.

Time is that of the training steps, data loading included; evaluations and checkpoints do not count.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..compare.results import RunResult, minutes
from ..files import write_json

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
            curves: metric -> {iteration: value}, as detectron2's `metrics.json` has them.

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
    head = f"| model | seeds | iterations | training | AP | AP50 | time to AP {goal:.1f} | share of {reference}'s |"
    lines = [head, "|---|--:|--:|--:|--:|--:|--:|--:|"]
    for model, runs in groups.items():
        times = [time for run in runs if (time := run.seconds_until(goal)) is not None]
        reached = len(times) == len(runs)
        mean_time = statistics.mean(times) if reached else float("nan")
        if model == reference:
            reached, mean_time = True, whole
        cells = [
            model,
            f"{len(runs)}",
            f"{statistics.mean(run.iterations[-1] for run in runs):,.0f}",
            minutes(statistics.mean(run.train_seconds for run in runs)),
            _mean_and_range([run.ap[-1] for run in runs]),
            _mean_and_range([run.ap50[-1] for run in runs]),
            minutes(mean_time),
            f"{100 * mean_time / whole:.0f} %" if reached else "-",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _mean_and_range(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f} - {max(values):.1f})"


def save_curves_json(path: str | os.PathLike[str], curves: Sequence[LearningCurve], **facts: Any) -> None:
    """Writes all runs, and facts about them, such as the machine."""
    write_json(path, {"format": FORMAT, **facts, "runs": [asdict(curve) for curve in curves]})
