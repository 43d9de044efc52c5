"""The time of one image in each model, whole and by its parts, and images per second; all models in turn."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from ..records.cost import StageLatency, Throughput
from .stages import StageClock, stages_of
from .timing import interleave

Batch = list[dict[str, Any]]

WARMUP = 2


@dataclass(frozen=True)
class Latency:
    """Time of one image in one model.

    Args:
        stages: "total" and, where there are several, what it consists of.
        seconds: of the total, one per round.
    """

    stages: list[StageLatency]
    seconds: tuple[float, ...]


def measure_latency(
    models: Mapping[str, nn.Module],
    batches: Mapping[str, Sequence[Batch]],
    *,
    repeat: int,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, Latency]:
    """Time of one image in each model, whole and by stages, both of the same rounds.

    Args:
        models: label -> model in eval mode.
        batches: label -> inputs of one image each, used in turn.
        repeat: timed rounds, each of all models.
        progress: called after each round, `WARMUP` + repeat times.

    Returns:
        Label -> its times.
    """
    passes = {label: _TimedPasses(model, batches[label]) for label, model in models.items()}
    with torch.no_grad():
        interleave(passes, repeat=repeat, warmup=WARMUP, progress=progress)
    return {label: latency_of([x.seconds() for x in timed.clocks[-repeat:]]) for label, timed in passes.items()}


class _TimedPasses:
    """Forward passes on one image after the other; keeps the clock of each."""

    def __init__(self, model: nn.Module, batches: Sequence[Batch]) -> None:
        self.model = model
        self.clocks: list[StageClock] = []
        self._stages = {name: modules for name, modules in stages_of(model).items() if modules}
        self._on_gpu = any(x.is_cuda for x in model.parameters())
        self._turns = itertools.cycle(batches)

    def __call__(self) -> None:
        batch = next(self._turns)
        self.clocks.append(StageClock(self._stages, on_gpu=self._on_gpu))
        with self.clocks[-1].running():
            self.model(batch)


def latency_of(rounds: Sequence[Mapping[str, float]]) -> Latency:
    """What to say of the rounds of one model.

    The median of a sum is not the sum of medians. A part is given its share of the median total, taken from the middle
    half of the rounds by their totals, where neither the slow moments of a machine nor its luckiest ones are.

    Args:
        rounds: stage -> seconds, which add up to the total; a stage that a round does not have took no time in it.
    """
    totals = np.array([sum(x.values()) for x in rounds])
    total = _percentiles(totals)
    stages = [StageLatency("total", *total)]
    longest = max(rounds, key=len)
    cut = len(rounds) // 4
    middle = np.argsort(totals, kind="stable")[cut : len(rounds) - cut]
    for stage in longest if len(longest) > 1 else ():
        seconds = np.array([x.get(stage, 0.0) for x in rounds])
        share = float(seconds[middle].sum() / totals[middle].sum())
        stages.append(StageLatency(stage, share * total[0], _percentiles(seconds)[1]))
    return Latency(stages=stages, seconds=tuple(totals.tolist()))


def _percentiles(seconds: np.ndarray) -> tuple[float, float]:
    """Median and 95th percentile, in milliseconds."""
    p50, p95 = 1000 * np.quantile(seconds, (0.5, 0.95))
    return float(p50), float(p95)


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
