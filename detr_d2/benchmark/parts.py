"""Benchmarks of parts: the set criterion, the function of deformable attention, and the latency of configs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Container, Sequence
from functools import partial
from itertools import count
from pathlib import Path

import torch
from torch import Tensor, nn

from ..engine.startup.setup import load_config
from ..modeling import build_model
from ..prediction.detector_keys import count_parameters, set_num_classes
from .deformable_attention_cost import (
    AttentionFunction,
    attention_differences,
    package_attention,
    random_attention_problem,
    textbook_attention,
)
from .losses import authors_set_loss
from .report import differ, measure, report
from .set_losses import (
    Problem,
    SetLoss,
    largest_difference,
    naive_loss,
    package_loss,
    random_problem,
    transformers_loss,
)

_NEEDED = {
    "transformers": 'pip install "detr_d2[hf]"',
    "authors": "DETR_REPO must name a checkout of https://github.com/facebookresearch/detr",
    "naive": "it is part of a checkout of this package",
}


def criterion(args: argparse.Namespace) -> int:
    """Set losses: ours, `transformers`, the authors', the naive one of the tests."""
    problem = random_problem(
        layers=args.layers,
        batch=args.batch,
        queries=args.queries,
        objects=args.objects,
        num_classes=args.classes,
        seed=args.seed,
        device=args.device,
    )
    losses, absent = _contestants(problem, args.contestants)
    print(
        f"set loss of {args.layers} layers x {args.batch} images, {args.queries} queries, {args.objects} objects per "
        f"image, {args.classes} classes; {'forward and backward' if args.backward else 'forward'}"
    )
    if absent:
        print(f"not compared, because not there: {', '.join(absent)}")
    if len(losses) == 1:
        print("error: nothing to compare with: install transformers (pip install transformers)", file=sys.stderr)
        return 1
    results = {name: loss() for name, loss in losses.items()}
    ours = results.pop("ours")
    found = {name: largest_difference(ours, theirs) for name, theirs in results.items()}
    if differ({name: {key: difference} for name, (key, difference) in found.items()}):
        return 1
    work = {name: _with_gradients(loss, problem.logits, problem.boxes_cxcywh) for name, loss in losses.items()}
    timings = measure(work if args.backward else losses, args.repeat)
    report(timings, {"differences": {name: value for name, (_, value) in found.items()}}, args)
    return 0


def _contestants(problem: Problem, names: Sequence[str] | None) -> tuple[dict[str, SetLoss], list[str]]:
    """Set losses by name, ours first, and which of the others are not there."""
    builders = {"transformers": transformers_loss, "authors": authors_set_loss, "naive": naive_loss}
    wanted = list(builders) if names is None else [name for name in names if name != "ours"]
    unknown = [name for name in wanted if name not in builders]
    if unknown:
        raise ValueError(f"there is no contestant {unknown[0]!r}; expected some of ours, {', '.join(builders)}")
    built = {name: builders[name](problem) for name in wanted}
    absent = [name for name, loss in built.items() if loss is None]
    if names is not None and absent:
        raise ValueError(f"contestant {absent[0]} is not there: {_NEEDED[absent[0]]}")
    return {"ours": package_loss(problem), **{name: loss for name, loss in built.items() if loss is not None}}, absent


def _with_gradients(loss: SetLoss, *leaves: Tensor) -> Callable[[], object]:
    return lambda: torch.autograd.grad(torch.stack(list(loss().values())).sum(), leaves)


def deformable_attention_work(args: argparse.Namespace) -> int:
    """The attention function alone, against the usual loop of `grid_sample`."""
    problem = random_attention_problem(
        batch=args.batch,
        height=args.height,
        width=args.width,
        queries=args.queries,
        heads=args.heads,
        channels=args.channels,
        levels=args.levels,
        points=args.points,
        seed=args.seed,
        device=args.device,
    )
    ours = partial(package_attention, backend=args.backend)
    functions: dict[str, AttentionFunction] = {"ours": ours, "grid_sample loop": textbook_attention}
    queries, tokens = problem.attention_weights.shape[1], problem.value.shape[1]
    print(
        f"deformable attention of {args.batch} x {queries} queries to {tokens} tokens of {args.levels} levels, "
        f"{args.heads} heads, {args.channels} channels, {args.points} points; "
        f"{'forward and backward' if args.backward else 'forward'}"
    )
    differences = attention_differences(problem, ours, textbook_attention)
    whats = {"output": "the output", **{x: f"the gradient of the {x}" for x in ("value", "locations", "weights")}}
    if differ({"grid_sample loop": {whats[name]: x for name, x in differences.items()}}):
        return 1
    with torch.set_grad_enabled(args.backward):
        work = {
            name: _attention_work(partial(function, problem), problem.leaves, args.backward)
            for name, function in functions.items()
        }
        timings = measure(work, args.repeat)
    report(timings, {"differences": differences}, args)
    return 0


def _attention_work(function: Callable[[], Tensor], leaves: Sequence[Tensor], backward: bool) -> Callable[[], object]:
    return (lambda: torch.autograd.grad(function().sum(), leaves)) if backward else function


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
