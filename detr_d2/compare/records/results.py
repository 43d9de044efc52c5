"""`RunResult`: what one trained model achieved, as a record that is written to JSON and rendered later.

AP is on the 0-100 scale. A value that was not measured, or cannot be (no ground truth of a class), is NaN in Python and
null in the file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tabulate import tabulate

from .files import load_record, save_record

FORMAT = 1
"""Version of the file layout; a file of another version is refused."""

_NAN = float("nan")


@dataclass(frozen=True)
class RunResult:
    """One training run and its evaluation.

    Args:
        model: name for people, as in "DETR".
        config_file: the YAML the run was made with.
        dataset: name of the dataset that was evaluated.
        ap: mean of AP over IoU 0.50:0.95, 0-100.
        ap50: AP at IoU 0.50, 0-100.
        ap75: AP at IoU 0.75, 0-100.
        per_class: class name -> AP, 0-100.
        parameters: number of parameters, trainable or not.
        iterations: optimizer steps made.
        train_seconds: wall time of those steps, data loading included; evaluation and checkpoints are not.
        train_images_per_second: images seen in training per second of `train_seconds`.
        inference_ms: median time for one image, in milliseconds.
        seed: seed of the initialisation and of the training draws.
        extra: whatever else was measured; values must be JSON.
    """

    model: str
    config_file: str
    dataset: str
    ap: float
    ap50: float
    ap75: float
    per_class: dict[str, float] = field(default_factory=dict)
    parameters: int = 0
    iterations: int = 0
    train_seconds: float = _NAN
    train_images_per_second: float = _NAN
    inference_ms: float = _NAN
    seed: int = -1
    extra: dict[str, Any] = field(default_factory=dict)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the record as JSON; the file appears whole or not at all."""
        save_record(self, path, version=FORMAT)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RunResult:
        """Read a record written by `save`.

        Raises:
            ValueError: the file is not such a record, naming the file and the key.
        """
        return load_record(cls, path, version=FORMAT, what="a result file", cure="delete it and run again")


def bbox_metrics(metrics: Mapping[str, float]) -> dict[str, Any]:
    """Pick the box figures out of what detectron2's COCO evaluator reports.

    Args:
        metrics: its "bbox" entry, keys "AP", "AP50", ..., "AP-<class>".

    Returns:
        `ap`, `ap50`, `ap75`, `per_class`: arguments of `RunResult`; NaN where the evaluator reports nothing.
    """
    per_class = {key[len("AP-") :]: float(value) for key, value in metrics.items() if key.startswith("AP-")}
    overall = {key.lower(): float(metrics.get(key, _NAN)) for key in ("AP", "AP50", "AP75")}
    return {**overall, "per_class": per_class}


SEGMENTATION_FIGURES = ("mask AP", "mask AP50", "PQ")
"""Keys of `RunResult.extra` that the table shows where a result has them, 0-100."""


def results_table(results: Sequence[RunResult], *, markdown: bool = False) -> str:
    """Render results as one table, a line per run.

    Args:
        results: in the order of the lines.
        markdown: pipes for a page; default: aligned columns for a terminal.
    """
    masks = [name for name in SEGMENTATION_FIGURES if any(name in result.extra for result in results)]
    rows = [
        {
            "model": x.model,
            "AP": _number(x.ap),
            "AP50": _number(x.ap50),
            "AP75": _number(x.ap75),
            **{name: _number(x.extra.get(name, _NAN)) for name in masks},
            "parameters": f"{x.parameters / 1e6:.1f} M",
            "iterations": f"{x.iterations:,}",
            "training": minutes(x.train_seconds),
            "ms/image": _number(x.inference_ms),
        }
        for x in results
    ]
    alignment = ("left", *["right"] * (len(masks) + 7))
    form = "pipe" if markdown else "simple"
    return tabulate(rows, headers="keys", tablefmt=form, colalign=alignment, disable_numparse=True)


def minutes(seconds: float) -> str:
    """61.4 -> "1:01"; NaN -> "-"."""
    if math.isnan(seconds):
        return "-"
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}"
