"""Whole models: inference and training steps of contestants, and the latency of configs."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from ..engine.startup.setup import load_config
from ..modeling import build_model
from ..prediction.detector_keys import count_parameters, set_num_classes
from .contestants import (
    COMPILED,
    Contestant,
    build_contestant,
    chosen_contestants,
    network_differences,
    our_weights,
)
from .inputs import DETECTRON2, FLOAT32, Inputs, autocast, chosen_inputs, describe, model_config, other_configs
from .losses import Losses
from .memory import report_with_memory
from .report import differ, measure, report
from .training import total_of, training_differences, training_step

Work = dict[str, Callable[[], object]]


def infer(args: argparse.Namespace) -> int:
    """From 8-bit images to detections."""
    cfg = model_config(args)
    names = chosen_contestants(args, cfg)
    describe("inference", args, names)
    state = our_weights(cfg, args.seed, args.weights)
    others = other_configs(names, args.device)
    contestants = [build_contestant(name, cfg, state, others, args.device) for name in names]
    inputs = chosen_inputs(args)
    compiled = [x for x in contestants if x.name == COMPILED]
    warm_up = {name: _seconds_of(work) for name, work in inference_work(compiled, inputs, args).items()}
    differences = network_differences(contestants, inputs)
    if differ(differences):
        return 1
    more: dict[str, Any] = {"differences": differences, "warm_up_seconds": warm_up}
    if args.amp:
        more["autocast_differences"] = _autocast_differences(contestants, inputs, args)
    timings = measure(inference_work(contestants, inputs, args), args.repeat)
    return report_with_memory(timings, more, args, train=False)


def inference_work(contestants: Sequence[Contestant], inputs: Inputs, args: argparse.Namespace) -> Work:
    """Name -> what the contestant does; with `--amp` also ours without, where ours comes first."""

    def run(contestant: Contestant) -> object:
        with torch.no_grad(), autocast(contestant.name, args):
            return contestant.detect(inputs)

    for contestant in contestants:
        contestant.model.eval()
    exact = [replace(x, name=FLOAT32) for x in contestants[:1] if args.amp and x.name == "ours"]
    return {x.name: partial(run, x) for x in (*contestants, *exact)}


def _seconds_of(work: Callable[[], object]) -> float:
    """Wall time of one call: of the first one, with all that is compiled in it."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


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
            with autocast(contestant.name, args):
                rounded = contestant.network(inputs)
        values = [float((a.float() - b.float()).abs().max()) for a, b in zip(rounded, exact, strict=True)]
        found[contestant.name] = dict(zip(("logits", "boxes"), values, strict=True))
        print(f"{args.amp} changes {contestant.name}: logits by {values[0]:.1e}, boxes by {values[1]:.1e}")
    return found


def train_step(args: argparse.Namespace) -> int:
    """Forward, losses, backward, clip and optimizer."""
    cfg = model_config(args)
    names = chosen_contestants(args, cfg)
    if args.recompute:
        names.append("ours-recompute")
    describe("training step", args, names)
    state = our_weights(cfg, args.seed, args.weights)
    others, inputs = other_configs(names, args.device), chosen_inputs(args)
    differences = _differences_without_dropout(names, cfg, state, inputs, args.device)
    if differ(differences):
        return 1
    losses: dict[str, list[Tensor]] = {}
    work: Work = {}
    for name in [*names, *[FLOAT32] * bool(args.amp and "ours" in names)]:
        contestant = build_contestant(name, cfg, state, others, args.device)
        losses[name] = []
        work[name] = partial(_recorded, training_step(contestant, others.get(name, cfg), inputs, args), losses[name])
    timings = measure(work, args.repeat)
    del contestant
    work.clear()  # or its models would take the place of those whose memory is measured
    curves = {name: torch.stack(values).tolist() for name, values in losses.items()}
    return report_with_memory(timings, {"differences": differences, "losses": curves}, args, train=True)


def _recorded(step: Callable[[], Losses], losses: list[Tensor]) -> None:
    """One step; its total loss is appended."""
    losses.append(total_of(step()).detach())


def _differences_without_dropout(
    names: Sequence[str], cfg: CfgNode, state: Mapping[str, Tensor], inputs: Inputs, device: str
) -> dict[str, dict[str, float]]:
    """Libraries draw the random numbers of dropout in another order, so the comparison is without it."""
    plain = cfg.clone()
    plain.MODEL.DETR.TRANSFORMER.DROPOUT = 0.0
    comparable = [name for name in names if not name.startswith(DETECTRON2)]
    return training_differences([build_contestant(x, plain, state, {}, device) for x in comparable], inputs)


def latency(args: argparse.Namespace) -> int:
    """Inference time of configs with random weights."""
    models: dict[str, nn.Module] = {}
    for config_file in args.config_file:
        cfg = load_config(config_file, [*args.opts, "MODEL.DEVICE", args.device, "MODEL.WEIGHTS", ""])
        set_num_classes(cfg, args.classes)
        models[_unused(Path(config_file).stem, models)] = build_model(cfg).eval()
    parameters = {name: count_parameters(model) for name, model in models.items()}
    image = torch.randint(256, (3, args.height, args.width), dtype=torch.uint8)
    inputs = [{"image": image, "height": args.height, "width": args.width}] * args.batch
    print(f"latency of {args.batch} x {args.width}x{args.height} pixels with random weights")
    for name, number in parameters.items():
        print(f"{name}: {number / 1e6:.1f} M parameters")
    with torch.no_grad():
        timings = measure({name: partial(model, inputs) for name, model in models.items()}, args.repeat)
    report(timings, {"parameters": parameters}, args)
    return 0


def _unused(name: str, taken: Container[str]) -> str:
    """The name, or with a number when two files have the same one."""
    candidates = (name if i == 1 else f"{name}-{i}" for i in count(1))
    return next(x for x in candidates if x not in taken)
