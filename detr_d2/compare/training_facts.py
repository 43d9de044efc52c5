"""How long a model was trained, from its checkpoint and what detectron2's trainers leave beside it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint.reading.open import read_checkpoint
from ..config_file import load_config_file
from .records.results import RunResult

_NAN = float("nan")


@dataclass(frozen=True)
class TrainingFacts:
    """What is known of a training; 0, -1 and NaN stand for what is not.

    Args:
        iterations: optimizer steps behind the weights.
        seconds: wall time of those steps, data loading included.
        images_per_iteration: images of one step.
        seed: of the training.
    """

    iterations: int = 0
    seconds: float = _NAN
    images_per_iteration: int = 0
    seed: int = -1

    @property
    def images_per_second(self) -> float:
        """Images seen in training per second; NaN where that is not known."""
        known = self.iterations and self.images_per_iteration and self.seconds > 0
        return self.iterations * self.images_per_iteration / self.seconds if known else _NAN


def training_facts(path: str | os.PathLike[str]) -> TrainingFacts:
    """Reads what a checkpoint in the output folder of its training knows of it.

    Such a folder has a `last_checkpoint`; of any other file nothing is said, for what lies beside it may belong to
    another model. Iterations are those that the checkpoint counts. The time is that of the quickstart's result.json,
    else the sum of the times that metrics.json gives for the iterations up to there; batch and seed are config.yaml's.

    Args:
        path: local file of weights.
    """
    folder = Path(path).parent
    if not (folder / "last_checkpoint").is_file():
        return TrainingFacts()
    config = _config(folder / "config.yaml")
    solver = config.get("SOLVER", {})
    iterations = _iterations(path)
    return TrainingFacts(
        iterations=iterations,
        seconds=_seconds(folder, iterations) if iterations else _NAN,
        images_per_iteration=solver.get("IMS_PER_BATCH", 0) * solver.get("ACCUM_STEPS", 1),
        seed=config.get("SEED", -1),
    )


def _iterations(path: str | os.PathLike[str]) -> int:
    """Steps behind a checkpoint, which names the last one, counted from 0; 0 if it does not."""
    try:
        last = read_checkpoint(os.fspath(path)).get("iteration")
    except ValueError:  # whoever loads the weights says what is wrong with them
        return 0
    return last + 1 if isinstance(last, int) else 0


def _config(path: Path) -> dict[str, Any]:
    try:
        return load_config_file(str(path))
    except (OSError, ValueError):
        return {}


def _seconds(folder: Path, iterations: int) -> float:
    try:
        result = RunResult.load(folder / "result.json")
    except (OSError, ValueError):
        return _logged_seconds(folder / "metrics.json", iterations)
    return result.train_seconds if result.iterations == iterations else _NAN


def _logged_seconds(path: Path, iterations: int) -> float:
    """Each line of the log has the median time of an iteration since the line before; NaN without such a line."""
    times = dict(x for x in _logged(path) if x[0] < iterations)  # of iterations made again, the later ones
    total, before, seconds = 0.0, -1, _NAN
    for last in sorted(times):
        total, before, seconds = total + times[last] * (last - before), last, times[last]
    return total + seconds * (iterations - 1 - before)


def _logged(path: Path) -> Iterator[tuple[int, float]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:  # cut off when the run was killed
            continue
        seconds = record.get("time") if isinstance(record, dict) else None
        if isinstance(seconds, float) and math.isfinite(seconds) and isinstance(record.get("iteration"), int):
            yield record["iteration"], seconds
