"""Benchmarks of whole models: inference and training steps of contestants, scaling, and the machine's ceilings."""

from __future__ import annotations

import argparse
import gc
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode

from ..compare.cost.flops import count_flops
from ..compare.cost.timing import Timing
from ..engine.startup.setup import load_config
from .ceilings import ceilings_work, rates
from .compiled import COMPILED, seconds_of
from .contestants import (
    DETECTRON2,
    Contestant,
    build_contestant,
    network_differences,
    our_weights,
    resolve_contestants,
)
from .inputs import Inputs, random_inputs
from .memory import MemoryTask, added_memory_mb
from .report import differ, measure, print_machine, report, rows_of, write_report
from .scaling import Curve, Point, plot_scaling
from .training import autocast, training_differences, training_step

PRECISIONS = {"bf16": "bfloat16", "fp16": "float16"}
FLOAT32 = "ours-float32"
"""Ours without the autocast that all others run under."""

Work = dict[str, Callable[[], object]]


def model_config(args: argparse.Namespace) -> CfgNode:
    """The config of our model that the options describe."""
    cfg = load_config(args.config_file, [*args.opts, "MODEL.DEVICE", args.device, "MODEL.WEIGHTS", ""])
    cfg.MODEL.DETR.NUM_CLASSES = args.classes
    return cfg


def _contestant_names(args: argparse.Namespace, cfg: CfgNode) -> list[str]:
    if args.what != "infer" and COMPILED in (args.contestants or ()):
        raise ValueError(f"contestant {COMPILED} takes part in `benchmark infer` only: leave it out of {args.what}")
    names, absent = resolve_contestants(args.contestants, cfg)
    for line in absent:
        print(f"not there: {line}")
    return names


def _others(names: Sequence[str], device: str) -> dict[str, CfgNode]:
    """Configs of the contestants of detectron2."""
    options = ["MODEL.DEVICE", device, "MODEL.WEIGHTS", ""]
    return {x: load_config(x.removeprefix(DETECTRON2), options) for x in names if x.startswith(DETECTRON2)}


def _inputs(args: argparse.Namespace, **changes: Any) -> Inputs:
    values = {"size": args.size, "batch": args.batch, "mixed": args.mixed, **changes}
    return random_inputs(
        values["size"],
        values["batch"],
        objects=args.objects,
        num_classes=args.classes,
        mixed=values["mixed"],
        seed=args.seed,
    )


def _describe(what: str, args: argparse.Namespace, names: Sequence[str]) -> None:
    height, width = args.size
    mixed = ", mixed sizes that pad each other" if args.mixed else ""
    precision = f", {args.amp} autocast" if args.amp else ""
    print(f"{what} of {args.config_file}, {args.batch} x {width}x{height} pixels{mixed}{precision}: {', '.join(names)}")


def infer(args: argparse.Namespace) -> int:
    """From 8-bit images to detections."""
    cfg = model_config(args)
    names = _contestant_names(args, cfg)
    _describe("inference", args, names)
    state = our_weights(cfg, args.seed, args.weights)
    others = _others(names, args.device)
    contestants = [build_contestant(name, cfg, state, others, args.device) for name in names]
    inputs = _inputs(args)
    compiled = [x for x in contestants if x.name == COMPILED]
    warm_up = {name: seconds_of(work) for name, work in _inference_work(compiled, inputs, args).items()}
    differences = network_differences(contestants, inputs)
    if differ(differences):
        return 1
    more: dict[str, Any] = {"differences": differences, "warm_up_seconds": warm_up}
    if args.amp:
        more["autocast_differences"] = _autocast_differences(contestants, inputs, args)
    timings = measure(_inference_work(contestants, inputs, args), args.repeat)
    return _finish(timings, more, args, cfg, others, train=False)


def _inference_work(contestants: Sequence[Contestant], inputs: Inputs, args: argparse.Namespace) -> Work:
    def run(contestant: Contestant, precision: torch.dtype | None) -> object:
        with torch.no_grad(), autocast(args.device, precision):
            return contestant.detect(inputs)

    for contestant in contestants:
        contestant.model.eval()
    work: Work = {x.name: partial(run, x, _precision(args)) for x in contestants}
    if args.amp and contestants and contestants[0].name == "ours":
        work[FLOAT32] = partial(run, contestants[0], None)
    return work


def _precision(args: argparse.Namespace) -> torch.dtype | None:
    return getattr(torch, PRECISIONS[args.amp]) if args.amp else None


def _autocast_differences(
    contestants: Sequence[Contestant], inputs: Inputs, args: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """What autocast changes in each contestant: largest absolute differences of logits and of normalised boxes."""
    found = {}
    for contestant in contestants:
        if contestant.network is None:
            continue
        with torch.no_grad():
            exact = contestant.network(inputs)
            with autocast(args.device, _precision(args)):
                rounded = contestant.network(inputs)
        values = [float((a.float() - b.float()).abs().max()) for a, b in zip(rounded, exact, strict=True)]
        found[contestant.name] = dict(zip(("logits", "boxes"), values, strict=True))
        print(f"{args.amp} changes {contestant.name}: logits by {values[0]:.1e}, boxes by {values[1]:.1e}")
    return found


def _finish(
    timings: list[Timing],
    more: dict[str, Any],
    args: argparse.Namespace,
    cfg: CfgNode,
    others: Mapping[str, CfgNode],
    *,
    train: bool,
) -> int:
    """Measures memory where that is asked for, then reports everything; the exit code is 1 if some is missing."""
    memory = {}
    if args.memory:
        memory = more["added_memory_mb"] = _memory([x.name for x in timings], args, cfg, others, train=train)
    report(timings, more, args)
    return 1 if any(math.isnan(x) for x in memory.values()) else 0


def _memory(
    names: Sequence[str], args: argparse.Namespace, cfg: CfgNode, others: Mapping[str, CfgNode], *, train: bool
) -> dict[str, float]:
    gc.collect()
    found: dict[str, float] = {}
    for name in names:
        task = MemoryTask(
            contestant="ours" if name == FLOAT32 else name,
            config=cfg.dump(),
            other=others[name].dump() if name in others else "",
            train=train,
            size=args.size,
            batch=args.batch,
            objects=args.objects,
            mixed=args.mixed,
            device=args.device,
            threads=torch.get_num_threads(),
            precision=PRECISIONS[args.amp] if args.amp and name != FLOAT32 else "",
            seed=args.seed,
        )
        try:
            found[name] = added_memory_mb(task)
        except RuntimeError as error:  # the times are measured, and must not be lost with it
            found[name] = float("nan")
            print(f"error: {error}", file=sys.stderr)
            continue
        first = next(iter(found.values()))
        print(f"memory that the work of {name} adds: {found[name]:.0f} MB ({found[name] / first:.2f}x)")
    return found


def train_step(args: argparse.Namespace) -> int:
    """Forward, losses, backward, clip and optimizer."""
    cfg = model_config(args)
    names = _contestant_names(args, cfg)
    if args.checkpoint:
        names.append("ours-checkpoint")
    _describe("training step", args, names)
    state = our_weights(cfg, args.seed, args.weights)
    others, inputs = _others(names, args.device), _inputs(args)
    differences = _differences_without_dropout(names, cfg, state, others, inputs, args.device)
    if differ(differences):
        return 1
    built = {name: build_contestant(name, cfg, state, others, args.device) for name in names}
    if args.amp and "ours" in names:
        built[FLOAT32] = build_contestant("ours", cfg, state, others, args.device)
    losses: dict[str, list[torch.Tensor]] = {name: [] for name in built}
    work: Work = {}
    for name, contestant in built.items():
        precision = None if name == FLOAT32 else _precision(args)
        settings = others.get(name, cfg)
        step = training_step(contestant, settings, inputs, device=args.device, precision=precision)
        work[name] = partial(_recorded, step, losses[name])
    timings = measure(work, args.repeat)
    built.clear()
    work.clear()
    curves = {name: torch.stack(values).tolist() for name, values in losses.items()}
    return _finish(timings, {"differences": differences, "losses": curves}, args, cfg, others, train=True)


def _recorded(step: Callable[[], dict[str, torch.Tensor]], losses: list[torch.Tensor]) -> None:
    """One step; its total loss is appended."""
    losses.append(torch.stack([x.detach().float() for x in step().values()]).sum())


def _differences_without_dropout(
    names: Sequence[str],
    cfg: CfgNode,
    state: dict[str, torch.Tensor],
    others: Mapping[str, CfgNode],
    inputs: Inputs,
    device: str,
) -> dict[str, dict[str, float]]:
    """Libraries draw the random numbers of dropout in another order, so the comparison is without it."""
    plain = cfg.clone()
    plain.MODEL.DETR.TRANSFORMER.DROPOUT = 0.0
    comparable = [name for name in names if not name.startswith(DETECTRON2)]
    return training_differences([build_contestant(x, plain, state, others, device) for x in comparable], inputs)


def ceilings(args: argparse.Namespace) -> int:
    """The machine's ceilings, and the part of the matrix product's rate that inference of a model reaches."""
    cfg = model_config(args)
    print_machine(args)
    dtype = _precision(args) or torch.float32
    work, amounts = ceilings_work(args.device, dtype)
    with torch.no_grad():
        found = rates(measure(work, args.repeat), amounts)
    for name, rate in found.items():
        print(
            f"{name}: {rate:.1f} {'GB/s read and written' if name == 'memory copy' else '10^9 multiply-adds a second'}"
        )
    state, inputs = our_weights(cfg, args.seed, args.weights), _inputs(args)
    counted = count_flops(build_contestant("ours-eager", cfg, state, {}, args.device).model.eval(), [inputs[:1]])
    ours = build_contestant("ours", cfg, state, {}, args.device)
    timing = measure(_inference_work([ours], inputs, args), args.repeat)[0]
    rate = counted.gflops * len(inputs) / (timing.median_ms / 1000)
    fraction = rate / found["matrix product"]
    print(
        f"{args.config_file}: {counted.gflops:.1f} x 10^9 multiply-adds an image, {timing.median_ms:.1f} ms for "
        f"{len(inputs)}: {rate:.1f} x 10^9 a second, {fraction:.0%} of the matrix product"
    )
    content = {"ceilings": found, "gflops": counted.gflops, "fraction": fraction, "timings": list(rows_of([timing]))}
    write_report(content, args)
    return 0


def scaling(args: argparse.Namespace) -> int:
    """Inference time against image area, number of queries and batch."""
    cfg = model_config(args)
    names = _contestant_names(args, cfg)
    curves = []
    settings: dict[str, list[tuple[float, str, dict[str, Any]]]] = {
        "megapixels": [(h * w / 1e6, f"{w}x{h}", {"size": (h, w)}) for h, w in args.sizes],
        "queries": [(x, str(x), {"queries": x}) for x in args.queries],
        "images in a batch": [(x, str(x), {"batch": x}) for x in args.batches],
    }
    for axis, points in settings.items():
        curve = Curve(axis, [])
        for value, label, changes in points:
            timings = _timed_point(cfg, names, changes, args)
            if timings is None:
                return 1
            times = {timing.name: timing.median_ms for timing in timings}
            curve.points.append(Point(value, times))
            print(f"{axis} {label}: {', '.join(f'{name} {x:.1f} ms' for name, x in times.items())}", flush=True)
        if curve.points:
            curves.append(curve)
    if args.plot:
        plot_scaling(curves, args.plot)
        print(f"written: {args.plot}")
    print_machine(args)
    write_report({"curves": {x.axis: [vars(point) for point in x.points] for x in curves}}, args)
    return 0


def _timed_point(
    cfg: CfgNode, names: Sequence[str], changes: Mapping[str, Any], args: argparse.Namespace
) -> list[Timing] | None:
    """Times of one setting; None if the contestants disagree."""
    cfg = cfg.clone()
    cfg.MODEL.DETR.NUM_QUERIES = changes.get("queries", cfg.MODEL.DETR.NUM_QUERIES)
    inputs = _inputs(args, **{name: x for name, x in changes.items() if name != "queries"})
    state, others = our_weights(cfg, args.seed), _others(names, args.device)
    contestants = [build_contestant(name, cfg, state, others, args.device) for name in names]
    if differ(network_differences(contestants, inputs)):
        return None
    return measure(_inference_work(contestants, inputs, args), args.repeat)
