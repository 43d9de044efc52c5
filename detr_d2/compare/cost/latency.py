"""Where a detector spends its time: its parts are timed by hooks, all models in turn."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from torch import nn

from ...modeling import DETR
from ..records.cost import StageLatency, Throughput
from .timing import interleave, wait_for_gpu

Batch = list[dict[str, Any]]

WARMUP = 2
REST = "post-processing"
"""Decoding, NMS, and whatever else no part is timed for."""


def stages_of(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Name of a stage -> the modules whose calls, one after the other, make it up; none of an unknown architecture."""
    if isinstance(model, DETR):
        return {
            "backbone": [model.backbone],
            "transformer": [model.neck, model.position_encoding, model.transformer, model.head],
        }
    if isinstance(model, GeneralizedRCNN):
        heads = [part for child in model.roi_heads.children() for part in _callable_parts(child)]
        proposals = [] if model.proposal_generator is None else [model.proposal_generator]
        return {"backbone": [model.backbone], "proposals": proposals, "heads": heads}
    if isinstance(model, DenseDetector):
        return {"backbone": [model.backbone], "heads": [model.head]}
    return {}


def _callable_parts(module: nn.Module) -> list[nn.Module]:
    """The module, or those of a list of modules."""
    if isinstance(module, nn.ModuleList):
        return [part for child in module for part in _callable_parts(child)]
    return [module]


class StageClock:
    """Adds up the time of calls of modules, by stage.

    Args:
        stages: see `stages_of`.
    """

    def __init__(self, stages: Mapping[str, Sequence[nn.Module]]) -> None:
        self.stages = stages
        self.seconds = dict.fromkeys(stages, 0.0)
        self._depth = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Counts while it lasts; a module inside another that is counted is not counted again."""
        handles = []
        for stage, modules in self.stages.items():
            for module in modules:
                handles.append(module.register_forward_pre_hook(self._enter))
                handles.append(module.register_forward_hook(partial(self._leave, stage), always_call=True))
        try:
            yield
        finally:
            self._depth = 0
            for handle in handles:
                handle.remove()

    def _enter(self, _module: nn.Module, _inputs: object) -> None:
        self._depth += 1
        if self._depth == 1:
            wait_for_gpu()
            self._start = time.perf_counter()

    def _leave(self, stage: str, _module: nn.Module, _inputs: object, _output: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            wait_for_gpu()
            self.seconds[stage] += time.perf_counter() - self._start


def measure_latency(
    models: Mapping[str, nn.Module],
    batches: Mapping[str, Sequence[Batch]],
    *,
    repeat: int,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, Latency]:
    """Time of one image in each model, whole and by stages.

    The total is taken without hooks. Stages are taken in rounds of their own, since a GPU is waited for between them.

    Args:
        models: label -> model in eval mode.
        batches: label -> inputs of one image each, used in turn.
        repeat: timed rounds, each of all models.
        progress: called after each round, 2 x (`WARMUP` + repeat) times.

    Returns:
        Label -> its times.
    """
    turns = {label: itertools.cycle(items) for label, items in batches.items()}
    with torch.no_grad():
        whole = interleave(
            {label: lambda label=label: models[label](next(turns[label])) for label in models},  # type: ignore[misc]
            repeat=repeat,
            warmup=WARMUP,
            progress=progress,
        )
        rounds = {label: _Staged(model, batches[label]) for label, model in models.items()}
        staged = interleave(rounds, repeat=repeat, warmup=WARMUP, progress=progress)
    result = {}
    for total, timing in zip(whole, staged, strict=True):
        rows = rounds[total.name].rows[-repeat:]
        for row, seconds in zip(rows, timing.seconds, strict=True):
            row[REST] = max(0.0, seconds - sum(row.values()))
        stages = {name: [row[name] for row in rows] for name in rows[0]} if len(rows[0]) > 1 else {}
        rows_of = [_latency(*x) for x in [("total", total.seconds), *stages.items()]]
        result[total.name] = Latency(stages=rows_of, seconds=total.seconds)
    return result


@dataclass(frozen=True)
class Latency:
    """Time of one image in one model.

    Args:
        stages: "total", the stages, and what is left as "post-processing".
        seconds: of the total, one per round.
    """

    stages: list[StageLatency]
    seconds: tuple[float, ...]


class _Staged:
    """A forward pass with its stages timed; keeps one row of seconds per call."""

    def __init__(self, model: nn.Module, batches: Sequence[Batch]) -> None:
        self.model = model
        self.stages = {name: modules for name, modules in stages_of(model).items() if modules}
        self.rows: list[dict[str, float]] = []
        self._turns = itertools.cycle(batches)

    def __call__(self) -> None:
        clock = StageClock(self.stages)
        with clock.running():
            self.model(next(self._turns))
        self.rows.append(clock.seconds)


def _latency(stage: str, seconds: Sequence[float]) -> StageLatency:
    p50, p95 = 1000 * np.quantile(seconds, (0.5, 0.95))
    return StageLatency(stage=stage, p50_ms=float(p50), p95_ms=float(p95))


def measure_throughput(
    models: Mapping[str, nn.Module],
    batches: Mapping[str, Sequence[Batch]],
    batch_sizes: Sequence[int],
    *,
    repeat: int,
    progress: Callable[[], object] = lambda: None,
    failed: Callable[[str, int, Exception], object] = lambda *_: None,
) -> dict[str, list[Throughput]]:
    """Images per second of each model when several go in together, the median of the rounds.

    Args:
        models, batches, repeat: as for `measure_latency`.
        batch_sizes: images at once; a size that a model cannot process gives NaN, and larger ones are not tried.
        progress: called after each round, at most `len(batch_sizes)` x (1 + repeat) times.
        failed: called with label, batch size and error, if it is another one than that memory was short.
    """
    result: dict[str, list[Throughput]] = {label: [] for label in models}
    able = dict(models)
    for size in batch_sizes:
        together = {label: _together(batches[label], size) for label in models}
        errors = {label: _error_of(model, together[label]) for label, model in able.items()}
        for label, error in errors.items():
            if error is not None:
                del able[label]
                if not _is_of_memory(error):
                    failed(label, size, error)
        works: dict[str, Callable[[], object]] = {label: partial(able[label], together[label]) for label in able}
        with torch.no_grad():
            timings = interleave(works, repeat=repeat, warmup=1, progress=progress)
        seconds = {x.name: statistics.median(x.seconds) for x in timings}
        for label, rows in result.items():
            rows.append(Throughput(size, size / seconds[label] if label in seconds else float("nan")))
    return result


def _together(batches: Sequence[Batch], size: int) -> Batch:
    return [batch[0] for batch in itertools.islice(itertools.cycle(batches), size)]


def _error_of(model: nn.Module, batch: Batch) -> Exception | None:
    try:
        with torch.no_grad():
            model(batch)
    except Exception as error:  # models of users may take one image only, and the others are still to be timed
        return error
    return None


def _is_of_memory(error: Exception) -> bool:
    wants = isinstance(error, RuntimeError) and ("alloc" in str(error) or "out of memory" in str(error))
    return wants or isinstance(error, MemoryError)
