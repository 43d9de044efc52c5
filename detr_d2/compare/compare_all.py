"""All of a comparison: models on a dataset in, a record out; and all the files that are made of a record."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog

from ..data import check_images
from ..files import file_hash, write_text
from .cost.timing import machine_info
from .data import GroundTruth, fingerprint, load_ground_truth, summarise
from .models import Contestant
from .record_files import save_comparison
from .records import Comparison, ModelComparison
from .report.files import latex_table, main_rows, markdown_table, models_csv, nms_csv, per_class_csv
from .report.page import write_report
from .run import ComparisonRun, Settings

RESULTS, REPORT = "results.json", "report.html"
_PACKAGES = ("detr_d2", "detectron2", "torch", "torchvision", "pycocotools", "faster-coco-eval", "numpy")


@dataclass(frozen=True)
class Plan:
    """What to compare on, and how.

    Args:
        dataset: registered name.
        output: folder for results.json, which is written after every model.
        settings: of the measures.
        device: "cpu" or "cuda".
        command: that the reader of the report can repeat.
        limit: the first N images only; None for all.
        cache: folder for what models said; default: "cache" in `output`.
        fresh: run the models again even if the cache knows them.
        imports: modules and .py files that have been imported because they register parts of the models.
        options: to be written down beside the results.
    """

    dataset: str
    output: Path
    settings: Settings
    device: str
    command: str
    limit: int | None = None
    cache: Path | None = None
    fresh: bool = False
    imports: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


def compare_all(
    contestants: Sequence[Contestant], plan: Plan, on_model: Callable[[ModelComparison], object] | None = None
) -> Comparison:
    """Runs and measures all models, then times them in turn.

    Args:
        contestants: the models; one that fails is recorded as failed, the others go on.
        plan: see there.
        on_model: called with each model's record as soon as it is on disk.

    Raises:
        ValueError: the data cannot be read, hold no object, or have images that are missing or of another size than
            annotated.
    """
    whole = load_ground_truth(plan.dataset)
    truth = whole if plan.limit is None else whole.first(plan.limit)
    _require_objects(truth)
    root = MetadataCatalog.get(truth.name).get("image_root") or ""
    sizes = truth.sizes[:, ::-1]
    check_images(truth.name, truth.file_names, sizes, root=root, refuse_damaged=False)  # the page tells of those
    versions, data_hash = {**_versions(), **_import_hashes(plan.imports)}, fingerprint(whole)
    run = ComparisonRun(
        ground_truth=truth,
        dataset_fingerprint=data_hash,
        cache=plan.cache or plan.output / "cache",
        settings=plan.settings,
        versions=versions,
        imports=plan.imports,
        fresh=plan.fresh,
    )
    comparison = Comparison(
        dataset=summarise(truth, limited=len(truth) < len(whole), fingerprint=data_hash),
        models=[],
        machine=machine_info(plan.device),
        versions=versions,
        command=plan.command,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        settings=dict(plan.options),
    )
    records: list[ModelComparison] = []
    for contestant in contestants:
        records.append(run.model(contestant))
        comparison = replace(comparison, models=list(records))
        save_comparison(comparison, plan.output / RESULTS)  # what is finished is there, whatever comes next
        if on_model is not None:
            on_model(records[-1])
    comparison = replace(comparison, differences=run.differences(), gallery=run.gallery())
    save_comparison(comparison, plan.output / RESULTS)
    records, slower = run.add_costs(records, plan.device)
    return replace(comparison, models=records, differences=[*comparison.differences, *slower])


def _require_objects(truth: GroundTruth) -> None:
    if not (~truth.crowd).any():
        raise ValueError(
            f"dataset {truth.name} has no objects in the {len(truth)} images that are used, so nothing can be compared"
        )


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _import_hashes(imports: Sequence[str]) -> dict[str, str]:
    """Module -> hash of its file: what a model with parts of the user depends on."""
    found = {}
    for name in imports:
        module = sys.modules[Path(name).stem if name.endswith(".py") else name]
        if module.__file__ is not None:
            found[Path(name).name] = file_hash(module.__file__)[:12]
    return found


def write_all(comparison: Comparison, output: Path) -> None:
    """Writes results.json, the tables and the page into a folder.

    Raises:
        ImportError: the page needs a package that is not there; the rest is written.
    """
    save_comparison(comparison, output / RESULTS)
    tables = {
        "models.csv": models_csv(comparison),
        "per_class.csv": per_class_csv(comparison),
        "nms.csv": nms_csv(comparison),
        "table.md": markdown_table(comparison),
        "table.tex": latex_table(comparison),
    }
    for name, text in tables.items():
        write_text(output / name, text)
    write_report(comparison, output / REPORT)


def text_table(comparison: Comparison) -> str:
    """The main figures for a terminal."""
    rows = main_rows(comparison)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        first, *others = zip(row, widths, strict=True)
        return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)])

    return "\n".join(map(line, rows))
