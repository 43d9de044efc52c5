"""`python -m detr_d2 benchmark`: how fast parts of the package are against others, and the latency of models."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from detectron2.modeling import build_model
from torch import Tensor, nn
from tqdm import tqdm

from ..engine.startup import load_config
from ..evaluation.benchmark import Timing, interleave, machine_info, ratio_of
from ..evaluation.deformable_attention_cost import (
    AttentionFunction,
    attention_differences,
    package_attention,
    random_attention_problem,
    textbook_attention,
)
from ..evaluation.detector_keys import count_parameters, set_num_classes
from ..evaluation.results import write_json
from ..evaluation.set_losses import (
    SetLoss,
    largest_difference,
    naive_loss,
    package_loss,
    random_problem,
    transformers_loss,
)
from ..layers import DEFORMABLE_BACKENDS
from .quiet import quiet_libraries

TOLERANCE = 1e-4
"""Two implementations of the same thing may differ by this much, relative above 1; more, and they are not timed."""


def build_parser() -> argparse.ArgumentParser:
    """The command line of benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m detr_d2 benchmark",
        description="Times contestants in turn on the same work and reports medians and their ratios.",
    )
    commands = parser.add_subparsers(dest="what", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    common.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's choice)")
    common.add_argument("--repeat", type=int, default=20, metavar="N", help="timed rounds (default: %(default)s)")
    common.add_argument("--seed", type=int, default=0, help="of the random inputs and weights (default: 0)")
    common.add_argument("--output", metavar="FILE", help="also write the figures as JSON")

    criterion = commands.add_parser(
        "criterion",
        parents=[common],
        help="matching and losses against other implementations",
        description="Set loss of this package against that of transformers (where installed) and, in a checkout, the "
        "naive one of the tests. Their results are compared first.",
    )
    sizes = {"batch": 16, "queries": 100, "layers": 6, "objects": 7, "classes": 80}
    for name, size in sizes.items():
        criterion.add_argument(f"--{name}", type=int, default=size, metavar="N", help="default: %(default)s")
    criterion.add_argument("--backward", action="store_true", help="time the gradients too")

    attention = commands.add_parser(
        "deformable-attention",
        parents=[common],
        help="multi-scale deformable attention against the usual grid_sample loop",
        description="The attention function alone, at the sizes of Deformable DETR, against the usual loop of "
        "grid_sample over the levels. Outputs and gradients are compared first.",
    )
    sizes = {"height": 800, "width": 1066, "batch": 1, "heads": 8, "channels": 32, "levels": 4, "points": 4}
    for name, size in sizes.items():
        attention.add_argument(f"--{name}", type=int, default=size, metavar="N", help="default: %(default)s")
    attention.add_argument(
        "--queries", type=int, default=0, metavar="N", help="default: 0, one for each token, as in the encoder"
    )
    attention.add_argument("--backend", choices=DEFORMABLE_BACKENDS, default="auto", help="default: %(default)s")
    attention.add_argument("--backward", action="store_true", help="time the gradients too")

    model = commands.add_parser(
        "model",
        parents=[common],
        help="latency of configs",
        description="Inference time of configs with random weights.",
    )
    model.add_argument("--config-file", nargs="+", required=True, metavar="FILE", help="YAML files or names of configs")
    model.add_argument("--height", type=int, default=800, help="of the image, in pixels (default: %(default)s)")
    model.add_argument("--width", type=int, default=1066, help="of the image, in pixels (default: %(default)s)")
    model.add_argument("--batch", type=int, default=1, metavar="N", help="images at once (default: %(default)s)")
    model.add_argument("--classes", type=int, default=80, metavar="K", help="default: %(default)s")
    model.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="config overrides KEY VALUE ..., last")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one benchmark."""
    args = build_parser().parse_args(argv)
    quiet_libraries()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    works = {"criterion": _criterion, "deformable-attention": _deformable_attention, "model": _model}
    return works[args.what](args)


def _criterion(args: argparse.Namespace) -> int:
    problem = random_problem(
        layers=args.layers,
        batch=args.batch,
        queries=args.queries,
        objects=args.objects,
        num_classes=args.classes,
        seed=args.seed,
        device=args.device,
    )
    others = {"transformers": transformers_loss(problem), "naive": naive_loss(problem)}
    losses: dict[str, SetLoss] = {"detr_d2": package_loss(problem)}
    losses.update({name: loss for name, loss in others.items() if loss is not None})
    absent = [name for name, loss in others.items() if loss is None]
    print(
        f"set loss of {args.layers} layers x {args.batch} images, {args.queries} queries, {args.objects} objects per "
        f"image, {args.classes} classes; {'forward and backward' if args.backward else 'forward'}"
    )
    if absent:
        print(f"not compared, because not there: {', '.join(absent)}")
    if len(losses) == 1:
        print("error: nothing to compare with: install transformers (pip install transformers)", file=sys.stderr)
        return 1
    differences = _differences(losses)
    for name, (key, difference) in differences.items():
        print(f"largest difference to {name}: {difference:.1e} ({key})")
    if any(not difference <= TOLERANCE for _, difference in differences.values()):
        print(f"error: the results differ by more than {TOLERANCE:g}; times would mean nothing", file=sys.stderr)
        return 1
    work = {name: _with_gradients(loss, problem.logits, problem.boxes_cxcywh) for name, loss in losses.items()}
    timings = _measure(work if args.backward else losses, args.repeat)
    _report(timings, {"differences": {name: value for name, (_, value) in differences.items()}}, args)
    return 0


def _differences(losses: Mapping[str, SetLoss]) -> dict[str, tuple[str, float]]:
    results = {name: loss() for name, loss in losses.items()}
    ours = results.pop("detr_d2")
    return {name: largest_difference(ours, theirs) for name, theirs in results.items()}


def _with_gradients(loss: SetLoss, *leaves: Tensor) -> Callable[[], object]:
    return lambda: torch.autograd.grad(torch.stack(list(loss().values())).sum(), leaves)


def _deformable_attention(args: argparse.Namespace) -> int:
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
    functions: dict[str, AttentionFunction] = {"detr_d2": ours, "grid_sample loop": textbook_attention}
    queries, tokens = problem.attention_weights.shape[1], problem.value.shape[1]
    print(
        f"deformable attention of {args.batch} x {queries} queries to {tokens} tokens of {args.levels} levels, "
        f"{args.heads} heads, {args.channels} channels, {args.points} points; "
        f"{'forward and backward' if args.backward else 'forward'}"
    )
    differences = attention_differences(problem, ours, textbook_attention)
    for name, difference in differences.items():
        what = "the output" if name == "output" else f"the gradient of the {name}"
        print(f"largest difference of {what}: {difference:.1e}")
    if any(not difference <= TOLERANCE for difference in differences.values()):
        print(f"error: the results differ by more than {TOLERANCE:g}; times would mean nothing", file=sys.stderr)
        return 1
    with torch.set_grad_enabled(args.backward):
        work = {
            name: _attention_work(partial(function, problem), problem.leaves, args.backward)
            for name, function in functions.items()
        }
        timings = _measure(work, args.repeat)
    _report(timings, {"differences": differences}, args)
    return 0


def _attention_work(function: Callable[[], Tensor], leaves: Sequence[Tensor], backward: bool) -> Callable[[], object]:
    return (lambda: torch.autograd.grad(function().sum(), leaves)) if backward else function


def _model(args: argparse.Namespace) -> int:
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
        timings = _measure({name: partial(model, inputs) for name, model in models.items()}, args.repeat)
    _report(timings, {"parameters": parameters}, args)
    return 0


def _unused(name: str, taken: Container[str]) -> str:
    """The name, or with a number when two files have the same one."""
    candidates = (name if i == 1 else f"{name}-{i}" for i in count(1))
    return next(x for x in candidates if x not in taken)


def _measure(work: Mapping[str, Callable[[], object]], repeat: int) -> list[Timing]:
    warmup = 2
    with tqdm(total=repeat + warmup, unit="round", leave=False, disable=not sys.stderr.isatty()) as progress:
        return interleave(work, repeat=repeat, warmup=warmup, progress=progress.update)


def _report(timings: Sequence[Timing], more: dict[str, Any], args: argparse.Namespace) -> None:
    """Prints the table, the ratios to the first contestant, and writes the JSON file when asked for."""
    machine = machine_info(args.device)
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    width = max(len(timing.name) for timing in timings)
    first = timings[0]
    ratios = {timing.name: ratio_of(timing, first) for timing in timings}
    print(f"{'':{width}}  {'median':>11}  {'p95':>11}  time / {first.name}, median (quartiles)")
    for timing in timings:
        print(f"{timing.name:{width}}  {timing.median_ms:8.2f} ms  {timing.p95_ms:8.2f} ms  {ratios[timing.name]}")
    if args.output:
        rows = [
            {
                "name": timing.name,
                "median_ms": timing.median_ms,
                "p95_ms": timing.p95_ms,
                "time_ratio": vars(ratios[timing.name]),
                "seconds": timing.seconds,
            }
            for timing in timings
        ]
        settings = {key: value for key, value in vars(args).items() if key != "output"}
        write_json(args.output, {"machine": machine, "settings": settings, **more, "timings": rows})
        print(f"written: {args.output}")
