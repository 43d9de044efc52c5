"""All of a comparison: models on a dataset in, a record out."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from detectron2.data import MetadataCatalog

from ..data import category_ids, check_images
from ..evaluation.arrays import GroundTruth
from ..files import file_hash
from .cost.timing import machine_info
from .data import fingerprint, load_ground_truth, summarise
from .found.given import GivenSpec, read_given
from .models import Contestant
from .records.comparison import Comparison, ModelComparison, save_comparison
from .report.files import RESULTS
from .run import ComparisonRun, Plan
from .segmentation import with_shared_boundaries

_PACKAGES = ("detr_d2", "detectron2", "torch", "torchvision", "pycocotools", "faster-coco-eval", "numpy")


def compare_all(
    contestants: Sequence[Contestant],
    plan: Plan,
    on_model: Callable[[ModelComparison], object] = lambda _: None,
    *,
    predictions: Sequence[GivenSpec] = (),
) -> Comparison:
    """Runs and measures all models, then times them in turn.

    Args:
        contestants: the models; one that fails is recorded as failed, the others go on.
        plan: see there.
        on_model: called with each model's record as soon as it is on disk.
        predictions: detections of other programs, which come after the models.

    Raises:
        ValueError: the data cannot be read, hold no object, or have images that are missing or of another size than
            annotated; or a file of predictions is wrong.
    """
    whole = load_ground_truth(plan.dataset)
    truth = whole if plan.limit is None else whole.first(plan.limit)
    _require_objects(truth)
    root = MetadataCatalog.get(truth.name).get("image_root") or ""
    sizes = truth.sizes[:, ::-1]
    check_images(truth.name, truth.file_names, sizes, root=root, refuse_damaged=False)  # the page tells of those
    ids = category_ids(MetadataCatalog.get(truth.name))
    given = [read_given(spec, whole, ids, limit=len(truth)) for spec in predictions]
    versions, data_hash = {**_versions(), **_import_hashes(plan.imports)}, fingerprint(whole)
    run = ComparisonRun(plan, truth, dataset_fingerprint=data_hash, versions=versions)
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
    steps = [*(partial(run.model, x) for x in contestants), *(partial(run.given, x) for x in given)]
    for step in steps:
        records.append(step())
        comparison = replace(comparison, models=list(records))
        save_comparison(comparison, plan.output / RESULTS)  # what is finished is there, whatever comes next
        on_model(records[-1])
    records = with_shared_boundaries(records)
    comparison = replace(comparison, models=records, differences=run.differences(), gallery=run.gallery())
    save_comparison(comparison, plan.output / RESULTS)
    records, slower = run.add_costs(records)
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
