"""Memory that a contestant's work adds, in a process of its own: `python -m detr_d2.benchmark.memory TASK`.

What a process has once held is not given back, so only a fresh one can tell. Model, optimizer and libraries are there
before: the work is done once on small images, and only what comes on top of that is counted.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from ..compare.cost.fresh_process import measured_mb
from ..compare.cost.memory import resident_peak
from ..engine.memory import trim_memory
from .contestants import build_contestant, our_weights
from .inputs import Inputs, random_inputs
from .training import autocast, training_step

_MARK = "memory of the work:"
_SMALL = (64, 64)
_STEPS = 2


@dataclass(frozen=True)
class MemoryTask:
    """What a process shall measure.

    Attributes:
        contestant: its name.
        config: of our model, as YAML.
        other: config of a contestant of detectron2, as YAML; "" for the others.
        train: a training step; otherwise inference.
        size: height and width of the images.
        batch: B.
        objects: of every image.
        mixed: images that pad each other.
        device: "cpu" or "cuda".
        threads: of the CPU.
        precision: "" or the name of torch's type to autocast to.
        seed: of weights and inputs.
    """

    contestant: str
    config: str
    other: str
    train: bool
    size: tuple[int, int]
    batch: int
    objects: int
    mixed: bool
    device: str
    threads: int
    precision: str
    seed: int


def added_memory_mb(task: MemoryTask) -> float:
    """Peak of the work above what model, optimizer and libraries hold, in MB of 10^6 bytes, from a fresh process.

    On a GPU it is what torch allocated, on a CPU the resident size of the process.

    Raises:
        RuntimeError: the process failed; the message is its last line.
    """
    try:
        return measured_mb(__name__, asdict(task), _MARK)
    except RuntimeError as error:
        raise RuntimeError(f"the memory of {task.contestant} could not be measured: {error}") from error


def main(argv: Sequence[str]) -> int:
    """Runs the task and prints the bytes."""
    task = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    task = MemoryTask(**{**task, "size": tuple(task["size"])})
    torch.set_num_threads(task.threads)
    work = prepared_work(task)
    print(_MARK, measure_added(task.device, work))
    return 0


def prepared_work(task: MemoryTask) -> Callable[[], object]:
    """Builds the contestant, lets it work on small images, and returns its work on the images of the task."""
    cfg = CfgNode.load_cfg(task.config)
    others = {task.contestant: CfgNode.load_cfg(task.other)} if task.other else {}
    contestant = build_contestant(task.contestant, cfg, our_weights(cfg, task.seed), others, task.device)
    precision = getattr(torch, task.precision) if task.precision else None
    batches = [_inputs(task, cfg, size) for size in (_SMALL, task.size)]
    current = list(batches[0])
    if task.train:
        step = training_step(
            contestant, others.get(task.contestant, cfg), current, device=task.device, precision=precision
        )
    else:
        contestant.model.eval()

        def step() -> Any:
            with torch.no_grad(), autocast(task.device, precision):
                return contestant.detect(current)

    step()
    current[:] = batches[1]
    return step


def _inputs(task: MemoryTask, cfg: CfgNode, size: tuple[int, int]) -> Inputs:
    return random_inputs(
        size,
        task.batch,
        objects=task.objects,
        num_classes=cfg.MODEL.DETR.NUM_CLASSES,
        mixed=task.mixed,
        seed=task.seed,
    )


def measure_added(device: str, work: Callable[[], object]) -> int:
    """Bytes that some runs of the work add at their peak to what is held before them.

    Raises:
        OSError: a CPU without Linux's /proc, which alone can forget an earlier peak.
    """
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        for _ in range(_STEPS):
            work()
        return torch.cuda.max_memory_allocated(device) - before
    trim_memory()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak becomes the present size
    before = resident_peak()
    for _ in range(_STEPS):
        work()
    return resident_peak() - before


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
