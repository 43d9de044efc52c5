"""What all benchmarks share: they compare before they measure, take turns, and print and write the figures alike."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

from ..compare.cost.timing import Timing, interleave, machine_info, ratio_of
from ..compare.records.files import to_json
from ..files import write_json

TOLERANCE = 1e-4
"""Two implementations of the same thing may differ by this much, relative above 1; more, and they are not timed."""


def measure(work: Mapping[str, Callable[[], object]], repeat: int, *, warmup: int = 2) -> list[Timing]:
    """Times the contestants in turn, with a progress bar on a terminal."""
    with tqdm(total=repeat + warmup, unit="round", leave=False, disable=not sys.stderr.isatty()) as progress:
        return interleave(work, repeat=repeat, warmup=warmup, progress=progress.update)


def relative_difference(got: Tensor, expected: Tensor) -> float:
    """Largest absolute difference, divided by the largest expected value where that exceeds 1; infinite for NaN."""
    if got.shape != expected.shape:
        return math.inf
    difference = float((got - expected).abs().max() / expected.abs().max().clamp(min=1))
    return math.inf if math.isnan(difference) else difference


def differ(differences: Mapping[str, Mapping[str, float]], tolerance: float = TOLERANCE) -> bool:
    """Prints the differences of the contestants to the first one; True, with an error, if one is too large.

    Args:
        differences: contestant -> what is compared -> largest difference.
        tolerance: the largest difference that is allowed; NaN is not.
    """
    bad = []
    for name, values in differences.items():
        print(f"largest difference to {name}: {', '.join(f'{what} {x:.1e}' for what, x in values.items())}")
        bad += [f"{name} ({what} by {x:.1e})" for what, x in values.items() if not x <= tolerance]
    if bad:
        print(
            f"error: the results differ by more than {tolerance:g} from those of {', '.join(bad)}; times would mean "
            "nothing",
            file=sys.stderr,
        )
    return bool(bad)


def report(timings: Sequence[Timing], more: Mapping[str, Any], args: argparse.Namespace) -> None:
    """Prints the table, the ratios to the first contestant, and writes the JSON file when asked for.

    Args:
        timings: of the contestants.
        more: what else goes into the file; "warm_up_seconds", by contestant, are printed too.
        args: of the command.
    """
    print_machine(args)
    first, rows = timings[0], []
    for x in timings:
        warm_up = more.get("warm_up_seconds", {}).get(x.name)
        after = "" if warm_up is None else f", after a first call of {warm_up:.1f} s that compiles"
        rows.append((x.name, f"{x.median_ms:.2f} ms", f"{x.p95_ms:.2f} ms", f"{ratio_of(x, first)}{after}"))
    heads = ["", "median", "p95", f"time / {first.name}, median (quartiles)"]
    print(tabulate(rows, heads, tablefmt="plain", disable_numparse=True, colalign=("left", "right", "right", "left")))
    write_report({**more, "timings": list(rows_of(timings))}, args)


def rows_of(timings: Sequence[Timing]) -> Iterator[dict[str, Any]]:
    """Timings as they stand in the JSON file; ratios are to the first."""
    for timing in timings:
        yield {
            "name": timing.name,
            "median_ms": timing.median_ms,
            "p95_ms": timing.p95_ms,
            "time_ratio": vars(ratio_of(timing, timings[0])),
            "seconds": timing.seconds,
        }


def print_machine(args: argparse.Namespace) -> None:
    """The line about processor, threads and versions."""
    print(", ".join(f"{key} {value}" for key, value in machine_info(args.device).items()))


def write_report(content: Mapping[str, Any], args: argparse.Namespace) -> None:
    """Writes the JSON file, with machine and settings, when `--output` asks for it."""
    if args.output:
        settings = {key: value for key, value in vars(args).items() if key != "output"}
        machine = machine_info(args.device)
        write_json(args.output, to_json({"machine": machine, "settings": settings, **content}))  # NaN becomes null
        print(f"written: {args.output}")
