"""Timing of several contestants on the same work.

Machines are noisy and drift, so an absolute time proves little. Contestants run in turn within each round, and what is
reported about two of them is the ratio of the times of one round, its median over the rounds and its spread.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch


@dataclass(frozen=True)
class Timing:
    """Wall times of one contestant.

    Args:
        name: of the contestant.
        seconds: one per round, in the order of the rounds.
    """

    name: str
    seconds: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        """Median, in milliseconds."""
        return 1000 * statistics.median(self.seconds)

    @property
    def p95_ms(self) -> float:
        """95th percentile (the slowest round of 20), in milliseconds."""
        return 1000 * float(np.quantile(self.seconds, 0.95))


@dataclass(frozen=True)
class Ratio:
    """How many times as long one contestant took as another, measured within rounds.

    Args:
        median: over the rounds.
        low: first quartile.
        high: third quartile.
    """

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f}x ({self.low:.2f} - {self.high:.2f})"


def interleave(
    contestants: Mapping[str, Callable[[], object]],
    *,
    repeat: int,
    warmup: int = 2,
    progress: Callable[[], object] = lambda: None,
) -> list[Timing]:
    """Time the contestants in turn: A B C, A B C, ...

    Args:
        contestants: name -> the work, a function without arguments.
        repeat: number of timed rounds.
        warmup: rounds before them that are not timed.
        progress: called after each round.

    Returns:
        One timing per contestant, in their order. A GPU is waited for before and after each piece of work.

    Raises:
        ValueError: `repeat` is not positive.
    """
    if repeat < 1:
        raise ValueError(f"the number of repeats is {repeat}, expected at least 1")
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for round_index in range(-warmup, repeat):
        for name, work in contestants.items():
            elapsed = _timed(work)
            if round_index >= 0:
                seconds[name].append(elapsed)
        progress()
    return [Timing(name=name, seconds=tuple(values)) for name, values in seconds.items()]


def _timed(work: Callable[[], object]) -> float:
    wait_for_gpu()
    start = time.perf_counter()
    work()
    wait_for_gpu()
    return time.perf_counter() - start


def wait_for_gpu() -> None:
    """Lets a GPU finish what it was given, so that a clock read afterwards means something."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def ratio_of(slow: Timing, fast: Timing) -> Ratio:
    """Time of `slow` divided by the time of `fast`, round by round."""
    ratios = [a / b for a, b in zip(slow.seconds, fast.seconds, strict=True)]
    low, median, high = (float(x) for x in np.quantile(ratios, (0.25, 0.5, 0.75)))
    return Ratio(median=median, low=low, high=high)


def machine_info(device: str) -> dict[str, str | int]:
    """What a reader needs to judge a time: processor, threads, torch, device."""
    info: dict[str, str | int] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": device,
    }
    if device.startswith("cuda"):
        info["gpu"] = torch.cuda.get_device_name(device)
    return info


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
