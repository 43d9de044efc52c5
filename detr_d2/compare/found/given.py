"""Detectors that are not run here: how the user names their detections and what they cost, and their records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ...data.coco.json_file import local_json
from ...evaluation.arrays import GroundTruth
from ...files import file_hash
from ..records.comparison import UNLIMITED, ModelComparison, PredictionsFile, ShippedSettings
from ..records.cost import Cost, StageLatency
from ..records.results import RunResult
from .filtered import largest_overlap
from .predictions import WHAT, Predictions, read_predictions

_NAN = float("nan")
RAW, FILTERED = "raw", "nms"


@dataclass(frozen=True)
class GivenSpec:
    """Detections as `--predictions LABEL=results.json,raw` and `--cost LABEL=latency_ms:params` describe them.

    Args:
        label: what people call the detector.
        path: of the file.
        said: "raw" where no NMS has gone over them, "nms" where one has, "" where the user does not say.
        cost: None where it is not given.
    """

    label: str
    path: str
    said: str = ""
    cost: Cost | None = None


def parse_predictions(specs: Sequence[str], costs: Sequence[str], models: Sequence[str]) -> list[GivenSpec]:
    """The values of `--predictions` and `--cost`.

    Args:
        specs: of the one.
        costs: of the other.
        models: labels that are taken.

    Raises:
        ValueError: one is malformed, two have the same label, or a cost is of no label of `specs`.
    """
    found: dict[str, GivenSpec] = {}
    for spec in specs:
        label, _, path = (x.strip() for x in spec.partition("="))
        said = ""
        if "," in path and (word := path.rpartition(",")[2].strip()) in (RAW, FILTERED):
            path, said = path.rpartition(",")[0].strip(), word
        if not (label and path) or ("," in path and not path.lower().endswith(".json")):
            raise ValueError(
                f'--predictions {spec}: expected LABEL=results.json, such as "RF-DETR=rf_detr.json", with ,raw behind '
                "it where no NMS has gone over the detections and ,nms where one has"
            )
        if label in found or label in models:
            raise ValueError(f"--predictions: the label {label!r} is given twice; every model needs its own")
        found[label] = GivenSpec(label, path, said)
    for label, cost in _costs(costs).items():
        if label not in found:
            hint = "the cost of a model that runs is measured" if label in models else f"there are {list(found)}"
            raise ValueError(f"--cost: {label!r} is no label of --predictions; {hint}")
        found[label] = replace(found[label], cost=cost)
    return list(found.values())


def _costs(specs: Sequence[str]) -> Mapping[str, Cost]:
    costs: dict[str, Cost] = {}
    for spec in specs:
        label, _, values = (x.strip() for x in spec.rpartition("="))
        milliseconds, _, parameters = values.partition(":")
        try:
            latency, number = float(milliseconds), float(parameters)
        except ValueError:
            latency = number = _NAN
        if not (label and 0 < latency < math.inf and 1 <= number < math.inf):
            raise ValueError(
                f'--cost {spec}: expected LABEL=latency_ms:params, such as "RF-DETR=6.5:32.1e6", the time of an image '
                "in milliseconds and the number of parameters"
            )
        if label in costs:
            raise ValueError(f"--cost: the label {label!r} is given twice")
        costs[label] = Cost(
            parameters=round(number),
            gflops=_NAN,
            flops_images=0,
            flops_uncounted={},
            image_size=[],
            latency=[StageLatency("total", latency, _NAN)],
            throughput=[],
            repeat=0,
            device="",
            given=True,
        )
    return costs


@dataclass(frozen=True)
class Given:
    """Detections of another program, read and checked.

    Args:
        found: what was read.
        identity: the record before there are figures.
    """

    found: Predictions
    identity: ModelComparison


def read_given(spec: GivenSpec, truth: GroundTruth, category_ids: Sequence[object], *, limit: int) -> Given:
    """Reads what `--predictions` names.

    Args:
        spec: as the user names it.
        truth: the whole dataset.
        category_ids: of its K classes.
        limit: the first images that are used.

    Raises:
        ValueError: the file is wrong; see `read_predictions`.
    """
    path = local_json(spec.path, "check the path given to --predictions", WHAT)
    found = read_predictions(path, truth, category_ids, limit=limit)
    largest, looks = largest_overlap(found.images)
    run = RunResult(model=spec.label, config_file="", dataset=truth.name, ap=_NAN, ap50=_NAN, ap75=_NAN)
    if spec.cost is not None:
        run = replace(run, parameters=spec.cost.parameters, inference_ms=spec.cost.latency[0].p50_ms)
    identity = ModelComparison(
        label=spec.label,
        family="other",
        run=run,
        weights="",
        weights_sha256="",
        config_sha256="",
        notes=_notes(found, limit),
        shipped=ShippedSettings(None, _NAN, UNLIMITED, num_queries=None, nms_switched_off=spec.said == RAW),
        cost=spec.cost,
        predictions=PredictionsFile(
            path=spec.path,
            sha256=file_hash(path),
            said=spec.said,
            largest_iou=largest,
            looks="" if spec.said else looks,
        ),
    )
    return Given(found, identity)


def _notes(found: Predictions, limit: int) -> list[str]:
    empty = sum(not len(x.scores) for x in found.images)
    return [f"its file has no detection in {empty} of the {limit} images"] if 2 * empty > limit else []
