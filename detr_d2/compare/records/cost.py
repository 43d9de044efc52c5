"""What a model costs, as records; units are those of `comparison`."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class StageLatency:
    """Time of one part of the model for one image.

    Args:
        stage: "total", "backbone", "transformer", "proposals" (RPN), "heads", "NMS" (all of it, that of the RPN too),
            "rest" (preprocessing, decoding, masks and all else).
        p50_ms: of the total its median over the rounds; of a part its share of that, taken from the middle half of the
            same rounds, so that the parts sum up to the total.
        p95_ms: 95th percentile over the rounds.
    """

    stage: str
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True)
class Throughput:
    """Images per second when several images go in together.

    Args:
        batch_size: images at once.
        images_per_second: median; NaN where it did not fit into memory.
    """

    batch_size: int
    images_per_second: float


@dataclass(frozen=True)
class Cost:
    """What the model costs. Times were taken with all models in turn.

    Args:
        parameters: all of them.
        gflops: multiply-adds of one image, in 10^9, mean over `flops_images`, the NMS and element-wise work excluded.
        flops_images: images that were counted.
        flops_uncounted: operators that the count left out -> how often they ran.
        image_size: (height, width) that enters the network, in pixels, median of the timed images.
        latency: per stage; the first is "total".
        throughput: per batch size.
        repeat: timed rounds.
        device: "cpu" or "cuda".
        backbone_path: "fast" for detectron2's ResNet as this package runs it, "plain" for any other backbone; "" if the
            model was not run.
        image_memory_mb: what the largest of the timed images adds at its peak to a fresh process that holds the model
            and has run it on a small image: on a GPU what torch allocated, on a CPU the resident size of the process.
        weights_memory_mb: of parameters and buffers.
        given: whether the user gave these figures (`--cost`), instead of a measurement.
    """

    parameters: int
    gflops: float
    flops_images: int
    flops_uncounted: dict[str, int]
    image_size: list[int]
    latency: list[StageLatency]
    throughput: list[Throughput]
    repeat: int
    device: str
    backbone_path: str = ""
    image_memory_mb: float = math.nan
    weights_memory_mb: float = math.nan
    given: bool = False
