"""The tables of the page of `compare` on how its models are used: where they came from, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from ..records.comparison import UNLIMITED, Comparison, ModelComparison
from ..records.cost import Cost
from ..records.results import minutes
from .cells import Cell, Table, by_model, dash, decimal, number, word
from .operating import score_cell
from .plots.plot import STAGES


def cost_table(comparison: Comparison) -> Table:
    """Size, work, time and memory."""
    costs = [model.cost for model in comparison.models if model.cost is not None]
    used = {stage.stage for cost in costs for stage in cost.latency}
    sizes = sorted({x.batch_size for cost in costs for x in cost.throughput})

    def cell(value: Callable[[Cost], Cell], model: ModelComparison) -> Cell:
        return dash("cost was not measured") if model.cost is None else value(model.cost)

    rows: list[tuple[str, Callable[[Cost], Cell]]] = [
        ("Parameters", lambda cost: number(cost.parameters / 1e6, 1, "M")),
        ("Multiply-adds of one image", _flops),
        ("Size of the network's input", lambda cost: _words(" × ".join(map(str, cost.image_size)))),
        ("Path of the backbone", lambda cost: _words(cost.backbone_path, "not recorded")),
        ("Time of one image", partial(_stage, "total")),
        *((f"of it {stage}", partial(_stage, stage)) for stage in STAGES if stage in used),
        *((f"Images per second, {size} at once", partial(_throughput, size)) for size in sizes),
        ("Memory: one image adds", lambda cost: number(cost.image_memory_mb, 0, "MB", detail="the largest timed")),
        ("Memory: weights", lambda cost: number(cost.weights_memory_mb, 0, "MB")),
        ("Measured on", _measured_on),
    ]
    cells = [(name, partial(cell, value)) for name, value in rows]
    return by_model("cost-table", "What the models cost", comparison.models, cells, first="Measure")


def _measured_on(cost: Cost) -> Cell:
    return word("nothing: as given by the user") if cost.given else word(f"{cost.device}, {cost.repeat} rounds")


def _words(text: str, reason: str = "not measured") -> Cell:
    return word(text) if text else dash(reason)


def _flops(cost: Cost) -> Cell:
    detail = f"mean of {cost.flops_images} images" if cost.flops_images > 1 else "of one image"
    if cost.flops_uncounted:
        detail += f"; {_plain_operators(cost.flops_uncounted)} not counted"
    return number(cost.gflops, 2, "× 10⁹", detail=detail)


_OPERATORS = {"CallFunction": "scripted code such as NMS", "nms": "NMS", "sort": "sorting", "argsort": "sorting"}


def _plain_operators(uncounted: Iterable[str]) -> str:
    """Operators in words where there are some, else by their names in torch."""
    names = (name.rpartition("::")[2] for name in uncounted)
    return ", ".join(dict.fromkeys(_OPERATORS.get(name, name.replace("_", " ").strip()) for name in names))


def _stage(name: str, cost: Cost) -> Cell:
    found = next((x for x in cost.latency if x.stage == name), None)
    if found is None:
        return dash("not a part of this model" if cost.latency else "not measured")
    detail = f"95 % below {decimal(found.p95_ms)}" if math.isfinite(found.p95_ms) else ""
    return number(found.p50_ms, 1, "ms", detail=detail)


def _throughput(size: int, cost: Cost) -> Cell:
    found = next((x.images_per_second for x in cost.throughput if x.batch_size == size), None)
    return number(found, reason="did not fit into memory, or failed")


def made_table(comparison: Comparison) -> Table:
    """Where each model came from, and how it is used."""

    def shipped(key: str, digits: int, model: ModelComparison) -> Cell:
        value = getattr(model.shipped, key, None)
        if key == "max_detections" and value == UNLIMITED:
            return word("no limit")
        return number(value, digits, reason="not a part of this model")

    def evaluator(model: ModelComparison) -> Cell:
        if model.coco is None:
            return dash("not measured")
        limit = f"at most {model.coco.max_detections} detections of an image and class"
        return replace(word(model.coco.evaluator), detail=limit)

    def looks(model: ModelComparison) -> Cell:
        file = model.predictions
        if file is None:
            return dash("it was run here")
        said = {"raw": "raw, as the user says", "nms": "after NMS, as the user says"}.get(file.said, file.looks)
        overlap = f"largest IoU of two boxes of a class: {decimal(file.largest_iou, 2)}"
        return replace(word(said), detail=overlap if math.isfinite(file.largest_iou) else "")

    rows: list[tuple[str, Callable[[ModelComparison], Cell]]] = [
        ("Kind", lambda m: word(m.family)),
        ("IoU of its NMS", partial(shipped, "nms_threshold", 2)),
        ("Lowest score", partial(shipped, "score_threshold", 2)),
        ("Most detections of an image", partial(shipped, "max_detections", 0)),
        ("Queries", partial(shipped, "num_queries", 0)),
        ("Operating score", score_cell),
        ("Evaluated by", evaluator),
        ("Trained for", _training),
    ]
    files: list[tuple[str, Callable[[ModelComparison], Cell]]] = [
        ("Config", lambda m: _words(m.run.config_file, "none: detections of another program")),
        ("Config, SHA-256", lambda m: _words(m.config_sha256, "not read")),
        ("Weights", _weights),
        ("Weights, SHA-256", lambda m: _words(m.weights_sha256, "no file was read")),
    ]
    if any(model.predictions is not None for model in comparison.models):
        files += [
            (
                "Detections of another program",
                lambda m: _words(m.predictions.path if m.predictions else "", "it was run here"),
            ),
            ("their SHA-256", lambda m: _words(m.predictions.sha256 if m.predictions else "", "it was run here")),
        ]
        rows += [("Its detections", looks)]
    table = by_model("made-table", "How each model is used", comparison.models, rows, first="Setting")
    known = [[word(name), *(of(model) for model in comparison.models)] for name, of in files]  # of failed ones too
    return Table(
        table.id, table.caption, table.columns, [*known, *table.rows], words=tuple(range(1, len(table.columns)))
    )


def _file(key: str, model: ModelComparison) -> Cell:
    return _words("" if model.predictions is None else getattr(model.predictions, key), "it was run here")


def _weights(model: ModelComparison) -> Cell:
    if model.predictions is not None:
        return dash("none: detections of another program")
    others = ", ".join(x.weights for x in model.checkpoints[1:])
    return replace(word(model.weights or "random weights"), detail=f"and {others}" if others else "")


def _training(model: ModelComparison) -> Cell:
    run, batch = model.run, model.run.extra.get("images_per_iteration", 0)
    if not run.iterations:
        return dash("not known" if model.weights or model.predictions else "not trained")
    details = [f"of {batch:,} images" if batch else "", f"in {minutes(run.train_seconds)} (min:s)"]
    known = [details[0], details[1] if math.isfinite(run.train_seconds) else ""]
    return replace(word(f"{run.iterations:,} iterations"), detail=" ".join(filter(None, known)))
