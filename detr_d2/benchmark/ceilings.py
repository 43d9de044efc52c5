"""What a machine can do at most: a large matrix product, a 3x3 convolution, a memory copy; and what inference does."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from ..compare.cost.flops import count_flops
from ..compare.cost.timing import Timing
from .contestants import build_contestant, our_weights
from .inputs import PRECISIONS, chosen_inputs, model_config
from .models import inference_work
from .report import measure, print_machine, rows_of, write_report

_MATRIX = 2048
_IMAGES, _CHANNELS, _SIDE = 1, 256, 96
_COPIED = 64 * 2**20  # floats: more than caches hold


def ceilings(args: argparse.Namespace) -> int:
    """The machine's ceilings, and the part of the matrix product's rate that inference of a model reaches."""
    cfg = model_config(args)
    print_machine(args)
    dtype = PRECISIONS.get(args.amp, torch.float32)
    work, amounts = ceilings_work(args.device, dtype)
    with torch.no_grad():
        found = rates(measure(work, args.repeat), amounts)
    for name, rate in found.items():
        unit = "GB/s read and written" if name == "memory copy" else "10^9 multiply-adds a second"
        print(f"{name}: {rate:.1f} {unit}")
    state, inputs = our_weights(cfg, args.seed, args.weights), chosen_inputs(args)
    counted = count_flops(build_contestant("ours-eager", cfg, state, {}, args.device).model.eval(), [inputs[:1]])
    ours = build_contestant("ours", cfg, state, {}, args.device)
    timing = measure(inference_work([ours], inputs, args), args.repeat)[0]
    rate = counted.gflops * len(inputs) / (timing.median_ms / 1000)
    fraction = rate / found["matrix product"]
    print(
        f"{args.config_file}: {counted.gflops:.1f} x 10^9 multiply-adds an image, {timing.median_ms:.1f} ms for "
        f"{len(inputs)}: {rate:.1f} x 10^9 a second, {fraction:.0%} of the matrix product"
    )
    content = {"ceilings": found, "gflops": counted.gflops, "fraction": fraction, "timings": list(rows_of([timing]))}
    write_report(content, args)
    return 0


def ceilings_work(
    device: str, dtype: torch.dtype = torch.float32, scale: float = 1.0
) -> tuple[dict[str, Callable[[], object]], dict[str, float]]:
    """The three works and how much each does.

    Args:
        device: where.
        dtype: of the numbers.
        scale: of every side; below 1 for tests.

    Returns:
        name -> work, and name -> its 10^9 multiply-adds, or 10^9 bytes read and written for the copy.
    """
    side, channels, cells = (max(8, int(scale * x)) for x in (_MATRIX, _CHANNELS, _SIDE))
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    image = torch.randn(_IMAGES, channels, cells, cells, device=device, dtype=dtype)
    convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False, device=device, dtype=dtype)
    convolution = convolution.to(memory_format=torch.channels_last)
    source = torch.randn(max(8, int(scale * _COPIED)), device=device)
    target = torch.empty_like(source)
    work: dict[str, Callable[[], object]] = {
        "matrix product": partial(torch.mm, a, b),
        "3x3 convolution": partial(convolution, image.to(memory_format=torch.channels_last)),
        "memory copy": partial(target.copy_, source),
    }
    amounts = {
        "matrix product": side**3 / 1e9,
        "3x3 convolution": 9 * (channels * cells) ** 2 * _IMAGES / 1e9,
        "memory copy": 2 * source.numel() * source.element_size() / 1e9,
    }
    return work, amounts


def rates(timings: list[Timing], amounts: dict[str, float]) -> dict[str, float]:
    """name -> amount in a second: 10^9 multiply-adds, or 10^9 bytes; the fastest round counts, as for any ceiling."""
    return {timing.name: amounts[timing.name] / min(timing.seconds) for timing in timings}
