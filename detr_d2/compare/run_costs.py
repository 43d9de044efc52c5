"""The cost of the models of a run, all timed in turn, as a part of their records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from ..evaluation.arrays import GroundTruth
from ..prediction.detector_keys import get_num_classes, set_num_classes
from .cost.cost import Costs, CostSettings, measure_costs
from .cost.timing import machine_info
from .finished import Finished
from .found.cache import combined_hash, remembered
from .models import Contestant
from .records.comparison import Difference, ModelComparison

if TYPE_CHECKING:
    from .run import Plan


def add_costs(
    records: Sequence[ModelComparison],
    finished: Sequence[Finished],
    truth: GroundTruth,
    plan: Plan,
    *,
    cache: Path,
    version: int,
) -> tuple[list[ModelComparison], list[Difference]]:
    """The records with the cost of those models that ran, and differences in time; a failure is a note in each.

    Args:
        records: of all models.
        finished: those that did not fail; detections of other programs have no cost to measure.
        truth: the data, whose first images are timed.
        plan: of the comparison.
        cache: folder in which costs are remembered.
        version: of the measures.
    """
    ran = [(x, x.contestant) for x in finished if x.contestant is not None]
    settings = plan.settings.cost
    if settings is None or not ran:
        return list(records), []
    what = {
        "version": version,
        "models": [(c.spec.label, x.folder.name, x.measured.record.config_sha256) for x, c in ran],
        "files": truth.file_names[: settings.images],
        "settings": asdict(settings),
        "machine": machine_info(plan.device),
    }
    path = cache / f"costs-{combined_hash(what)}.json"
    if plan.fresh:
        path.unlink(missing_ok=True)
    crashed = {x.file_name for y, _ in ran for x in y.measured.record.crashed_images}
    files = [name for name in truth.file_names if name not in crashed]
    try:
        found = remembered(path, Costs, lambda: _measure([c for _, c in ran], files, truth, settings, plan.imports))
    except Exception as error:  # all else is measured, and must not be lost with it
        note = f"the cost of the models could not be measured ({type(error).__name__}: {' '.join(str(error).split())})"
        measured = {c.spec.label for _, c in ran}
        return [replace(x, notes=[*x.notes, note]) if x.label in measured else x for x in records], []
    return [_with_cost(x, found) for x in records], found.differences


def _measure(
    contestants: Sequence[Contestant],
    files: Sequence[str],
    truth: GroundTruth,
    settings: CostSettings,
    imports: Sequence[str],
) -> Costs:
    loaded = {x.spec.label: x.load(nms=True, class_names=truth.class_names) for x in contestants}
    configs = {}
    for contestant in contestants:
        cfg = contestant.cfg.clone()
        cfg.defrost()
        if get_num_classes(cfg) == 0:
            set_num_classes(cfg, len(loaded[contestant.spec.label][1].names))
        configs[contestant.spec.label] = cfg
    predictors = {label: predictor for label, (predictor, _) in loaded.items()}
    steps = settings.num_steps(len(predictors))
    with tqdm(total=steps, desc="cost, the models in turn", unit="step", leave=False, disable=None) as bar:
        return measure_costs(predictors, configs, files, settings, imports=imports, progress=bar.update)


def _with_cost(record: ModelComparison, found: Costs) -> ModelComparison:
    cost = found.costs.get(record.label)
    if cost is None:
        return record
    notes = [x.removeprefix(f"{record.label}: ") for x in found.notes if x.startswith(f"{record.label}: ")]
    run = replace(record.run, parameters=cost.parameters, inference_ms=cost.latency[0].p50_ms)
    return replace(record, cost=cost, run=run, notes=[*record.notes, *notes])
