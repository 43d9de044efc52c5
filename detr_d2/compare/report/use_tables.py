"""The tables of the page of `compare` on how its models are used: where they came from, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

from ..figures import StageLatency
from ..records import UNLIMITED, Comparison, ModelComparison
from ..results import minutes
from .cells import Cell, Table, by_model, dash, decimal, number, word
from .plot import STAGES


def cost_table(comparison: Comparison) -> Table:
    """Size, work, time and memory."""
    costs = [model.cost for model in comparison.models if model.cost is not None]
    used = {stage.stage for cost in costs for stage in cost.latency}
    sizes = sorted({x.batch_size for cost in costs for x in cost.throughput})

    def of(value: Callable[[ModelComparison], Cell]) -> Callable[[ModelComparison], Cell]:
        return lambda model: dash("cost was not measured") if model.cost is None else value(model)

    rows = [
        ("Parameters", of(lambda m: number(m.cost.parameters / 1e6 if m.cost else None, 1, "M"))),
        ("Multiply-adds of one image", of(_flops)),
        ("Size of the network's input", of(_input_size)),
        ("Time of one image", of(_stage("total"))),
        *((f"of it {stage}", of(_stage(stage))) for stage in STAGES if stage in used),
        *((f"Images per second, {size} at once", of(_throughput(size))) for size in sizes),
        ("Peak memory", of(lambda m: number(m.cost.peak_memory_mb if m.cost else None, 0, "MB"))),
        *([("Backbone", of(_resnet))] if any(cost.resnet for cost in costs) else []),
        ("Measured on", of(lambda m: word(f"{m.cost.device}, {m.cost.repeat} rounds" if m.cost else ""))),
    ]
    return by_model("cost-table", "What the models cost", comparison.models, rows, first="Measure")


def _resnet(model: ModelComparison) -> Cell:
    assert model.cost is not None
    ways = {"fast": "norms folded, operators fused", "plain": "as it is"}
    return Cell(model.cost.resnet, detail=ways.get(model.cost.resnet, ""), sort=model.cost.resnet)


def _flops(model: ModelComparison) -> Cell:
    assert model.cost is not None
    images = model.cost.flops_images
    detail = f"mean of {images} images" if images > 1 else "of one image"
    if model.cost.flops_uncounted:
        detail += f"; {_plain_operators(model.cost.flops_uncounted)} not counted"
    return number(model.cost.gflops, 2, "× 10⁹", detail=detail)


_OPERATORS = {"CallFunction": "scripted code such as NMS", "nms": "NMS", "sort": "sorting", "argsort": "sorting"}


def _plain_operators(uncounted: Iterable[str]) -> str:
    """Operators in words where there are some, else by their names in torch."""
    names = (name.rpartition("::")[2] for name in uncounted)
    return ", ".join(dict.fromkeys(_OPERATORS.get(name, name.replace("_", " ").strip()) for name in names))


def _input_size(model: ModelComparison) -> Cell:
    assert model.cost is not None
    return word(" × ".join(map(str, model.cost.image_size))) if model.cost.image_size else dash("not measured")


def _stage(name: str) -> Callable[[ModelComparison], Cell]:
    def cell(model: ModelComparison) -> Cell:
        stages: list[StageLatency] = model.cost.latency if model.cost else []
        found = next((s for s in stages if s.stage == name), None)
        if found is None:
            return dash("not a part of this model" if stages else "not measured")
        detail = f"95 % below {decimal(found.p95_ms)}" if math.isfinite(found.p95_ms) else ""
        return number(found.p50_ms, 1, "ms", detail=detail)

    return cell


def _throughput(size: int) -> Callable[[ModelComparison], Cell]:
    def cell(model: ModelComparison) -> Cell:
        points = model.cost.throughput if model.cost else []
        found = next((x for x in points if x.batch_size == size), None)
        return number(found.images_per_second if found else None, reason="did not fit into memory, or failed")

    return cell


def made_table(comparison: Comparison) -> Table:
    """Where each model came from, and how it is used."""

    def shipped(key: str, digits: int = 0) -> Callable[[ModelComparison], Cell]:
        def cell(model: ModelComparison) -> Cell:
            value = getattr(model.shipped, key, None)
            if key == "max_detections" and value == UNLIMITED:
                return word("no limit")
            return number(value, digits, reason="not a part of this model")

        return cell

    def evaluator(model: ModelComparison) -> Cell:
        if model.coco is None:
            return dash("not measured")
        limit = f"at most {model.coco.max_detections} detections of an image and class"
        return replace(word(model.coco.evaluator), detail=limit)

    rows = [
        ("Kind", lambda m: word(m.family)),
        ("IoU of its NMS", shipped("nms_threshold", 2)),
        ("Lowest score", shipped("score_threshold", 2)),
        ("Most detections of an image", shipped("max_detections")),
        ("Queries", shipped("num_queries")),
        ("Evaluated by", evaluator),
        ("Trained for", _training),
    ]
    table = by_model("made-table", "How each model is used", comparison.models, rows, first="Setting")
    files: list[tuple[str, Callable[[ModelComparison], Cell]]] = [
        ("Config", lambda m: word(m.run.config_file)),
        ("Config, SHA-256", lambda m: word(m.config_sha256) if m.config_sha256 else dash("not read")),
        ("Weights", lambda m: word(m.weights or "random weights")),
        ("Weights, SHA-256", lambda m: word(m.weights_sha256) if m.weights_sha256 else dash("no file was read")),
    ]
    known = [[word(name), *(of(model) for model in comparison.models)] for name, of in files]  # of failed ones too
    return Table(
        table.id, table.caption, table.columns, [*known, *table.rows], words=tuple(range(1, len(table.columns)))
    )


def _training(model: ModelComparison) -> Cell:
    run, batch = model.run, model.run.extra.get("images_per_iteration", 0)
    if not run.iterations:
        return dash("not known" if model.weights else "not trained")
    details = [f"of {batch:,} images" if batch else "", f"in {minutes(run.train_seconds)} (min:s)"]
    known = [details[0], details[1] if math.isfinite(run.train_seconds) else ""]
    return replace(word(f"{run.iterations:,} iterations"), detail=" ".join(filter(None, known)))
