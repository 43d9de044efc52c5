"""Memory that a contestant's work adds, in a process of its own: `python -m detr_d2.benchmark.memory TASK`.

What a process has once held is not given back, so only a fresh one can tell. Model, optimizer and libraries are there
before: the work is done once on small images, and only what comes on top of that is counted.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..compare.cost.fresh_process import measured_mb
from ..compare.cost.memory import measure_added
from ..compare.cost.timing import Timing
from .contestants import build_contestant, our_weights
from .inputs import autocast, chosen_inputs, model_config, other_configs
from .report import report
from .training import training_step

_MARK = "memory of the work:"
_SMALL = (64, 64)


def report_with_memory(
    timings: Sequence[Timing], more: dict[str, Any], args: argparse.Namespace, *, train: bool
) -> int:
    """Measures memory where `--memory` asks for it, then reports everything.

    Args:
        timings: of the contestants.
        more: see `report`.
        args: of the command.
        train: a training step; otherwise inference.

    Returns:
        The exit code: 1 if some memory could not be measured.
    """
    found: dict[str, float] = {}
    if args.memory:
        gc.collect()
        more["added_memory_mb"] = found
    for name in [x.name for x in timings] if args.memory else []:
        try:
            found[name] = added_memory_mb(name, args, train=train)
        except RuntimeError as error:  # the times are measured, and must not be lost with it
            found[name] = math.nan
            print(f"error: {error}", file=sys.stderr)
            continue
        first = next(iter(found.values()))
        print(f"memory that the work of {name} adds: {found[name]:.0f} MB ({found[name] / first:.2f}x)")
    report(timings, more, args)
    return 1 if any(math.isnan(x) for x in found.values()) else 0


def added_memory_mb(name: str, args: argparse.Namespace, *, train: bool) -> float:
    """Peak of the work above what model, optimizer and libraries hold, in MB of 10^6 bytes, from a fresh process.

    On a GPU it is what torch allocated, on a CPU the resident size of the process.

    Args:
        name: of the contestant.
        args: of the command.
        train: a training step; otherwise inference.

    Raises:
        RuntimeError: the process failed; the message is its last line.
    """
    task = {"name": name, "train": train, "args": {**vars(args), "threads": torch.get_num_threads()}}
    try:
        return measured_mb(__name__, task, _MARK)
    except RuntimeError as error:
        raise RuntimeError(f"the memory of {name} could not be measured: {error}") from error


def main(argv: Sequence[str]) -> int:
    """Runs the task and prints the bytes."""
    task = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    args = argparse.Namespace(**{**task["args"], "size": tuple(task["args"]["size"])})
    torch.set_num_threads(args.threads)
    work = prepared_work(task["name"], args, train=task["train"])
    print(_MARK, measure_added(args.device, work))
    return 0


def prepared_work(name: str, args: argparse.Namespace, *, train: bool) -> Callable[[], object]:
    """Builds the contestant, lets it work on small images, and returns its work on the images of the options."""
    cfg, others = model_config(args), other_configs([name], args.device)
    contestant = build_contestant(name, cfg, our_weights(cfg, args.seed), others, args.device)
    current = chosen_inputs(args, size=_SMALL)
    if train:
        step: Callable[[], object] = training_step(contestant, others.get(name, cfg), current, args)
    else:
        contestant.model.eval()

        def step() -> object:
            with torch.no_grad(), autocast(name, args):
                return contestant.detect(current)

    step()
    current[:] = chosen_inputs(args)
    return step


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
