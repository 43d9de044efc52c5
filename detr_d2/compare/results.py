"""`RunResult`: what one trained model achieved, as a record that is written to JSON and rendered later.

AP is on the 0-100 scale. A value that was not measured, or cannot be (no ground truth of a class), is NaN in Python and
null in the file.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..files import write_json

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
        write_json(path, {"format": FORMAT, **_nan_to_none(asdict(self))})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RunResult:
        """Read a record written by `save`.

        Raises:
            ValueError: the file is not such a record, naming the file and the key.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:  # of JSON, of UTF-8, or of nesting
            raise ValueError(f"{path} is not a result file: {error}; delete it and run again") from error
        if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
            raise ValueError(f"{path} is not a result file of format {FORMAT}; delete it and run again")
        known = {f.name: f for f in fields(cls)}
        wrong = sorted(set(values) ^ set(known))
        if wrong:
            raise ValueError(f"{path} has unknown or missing keys {wrong}; delete it and run again")
        return cls(**_none_to_nan(values))


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

_COLUMNS = ("model", "AP", "AP50", "AP75")
_MORE_COLUMNS = ("parameters", "iterations", "training", "ms/image")


def results_table(results: Sequence[RunResult], *, markdown: bool = False) -> str:
    """Render results as one table, a line per run.

    Args:
        results: in the order of the lines.
        markdown: pipes for a page; default: aligned columns for a terminal.
    """
    masks = [name for name in SEGMENTATION_FIGURES if any(name in result.extra for result in results)]
    rows = [(*_COLUMNS, *masks, *_MORE_COLUMNS), *(_cells(result, masks) for result in results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    first, *others = zip(*rows, strict=True)  # columns: names to the left, numbers to the right
    columns = [[cell.ljust(widths[0]) for cell in first]]
    columns += [[cell.rjust(w) for cell in column] for column, w in zip(others, widths[1:], strict=True)]
    padded = list(zip(*columns, strict=True))
    if markdown:
        rule = ["-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
        return "\n".join("| " + " | ".join(row) + " |" for row in [padded[0], rule, *padded[1:]])
    rule = ["-" * w for w in widths]
    return "\n".join("  ".join(row).rstrip() for row in [padded[0], rule, *padded[1:]])


def _cells(result: RunResult, masks: Sequence[str]) -> tuple[str, ...]:
    return (
        result.model,
        _number(result.ap),
        _number(result.ap50),
        _number(result.ap75),
        *(_number(result.extra.get(name, _NAN)) for name in masks),
        f"{result.parameters / 1e6:.1f} M",
        f"{result.iterations:,}",
        minutes(result.train_seconds),
        _number(result.inference_ms),
    )


def minutes(seconds: float) -> str:
    """61.4 -> "1:01"; NaN -> "-"."""
    if math.isnan(seconds):
        return "-"
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}"


def _nan_to_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nan_to_none(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _none_to_nan(values: dict[str, Any]) -> dict[str, Any]:
    per_class = {name: _NAN if value is None else value for name, value in values["per_class"].items()}
    top_level = {key: _NAN if value is None else value for key, value in values.items()}
    return {**top_level, "per_class": per_class}
