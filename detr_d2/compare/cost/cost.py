"""What models cost: parameters, work, time and memory, all models in one process and in turn."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode

from ...data import read_image
from ...modeling import resnet_path
from ...prediction.detector_keys import count_parameters
from ...prediction.predictor import ImagePredictor
from ..measure.intervals import latency_differences
from ..records.comparison import Difference
from ..records.cost import Cost
from .flops import count_flops
from .latency import WARMUP, measure_latency, measure_throughput
from .memory import image_memory_mb, weights_memory_mb


@dataclass(frozen=True)
class CostSettings:
    """How the cost is measured.

    Args:
        repeat: timed rounds.
        batch_sizes: of the throughput.
        images: different ones that are timed, in turn.
        flops_images: of them, counted.
    """

    repeat: int = 30
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8)
    images: int = 20
    flops_images: int = 3

    @property
    def throughput_repeat(self) -> int:
        """Rounds for each batch size: fewer, as a batch takes longer."""
        return max(1, self.repeat // 5)

    def num_steps(self, num_models: int) -> int:
        """How often `measure_costs` calls `progress`."""
        timed = WARMUP + self.repeat + len(self.batch_sizes) * (1 + self.throughput_repeat)
        return timed + 2 * num_models


@dataclass(frozen=True)
class Costs:
    """What the models cost.

    Args:
        costs: label -> cost.
        notes: what could not be measured and is NaN.
        differences: in the time of one image.
    """

    costs: dict[str, Cost]
    notes: list[str]
    differences: list[Difference]


def measure_costs(
    predictors: Mapping[str, ImagePredictor],
    configs: Mapping[str, CfgNode],
    file_names: Sequence[str],
    settings: CostSettings,
    *,
    imports: Sequence[str] = (),
    progress: Callable[[], object] = lambda: None,
) -> Costs:
    """Measures all models.

    Args:
        predictors: label -> model as it is used, with its preprocessing.
        configs: label -> config, with its number of classes.
        file_names: images; the first `settings.images` are used.
        imports: modules and files that register parts of the models.
        progress: called after each step.
    """
    notes: list[str] = []
    images = [read_image(name, "BGR") for name in file_names[: settings.images]]
    batches = {label: [[x.inputs(image)] for image in images] for label, x in predictors.items()}
    models = {label: x.model for label, x in predictors.items()}
    latency = measure_latency(models, batches, repeat=settings.repeat, progress=progress)
    throughput = measure_throughput(
        models,
        batches,
        settings.batch_sizes,
        repeat=settings.throughput_repeat,
        progress=progress,
        failed=lambda label, size, error: notes.append(f"{label}: {size} images at once failed ({_sentence(error)})"),
    )
    costs = {}
    for label, model in models.items():
        gflops, uncounted = float("nan"), {}
        try:
            count = count_flops(model, batches[label][: settings.flops_images])
            gflops, uncounted = count.gflops, count.uncounted
        except Exception as error:  # tracing runs the user's model in ways it may not have been written for
            notes.append(f"{label}: its work could not be counted ({_sentence(error)})")
        progress()
        memory, sizes = float("nan"), [_pixels(batch[0]) for batch in batches[label]]
        try:
            memory = image_memory_mb(model, configs[label], file_names[sizes.index(max(sizes))], imports)
        except (OSError, RuntimeError) as error:
            notes.append(f"{label}: its memory could not be measured ({_sentence(error)})")
        progress()
        shapes = [batch[0]["image"].shape for batch in batches[label]]
        costs[label] = Cost(
            parameters=count_parameters(model),
            gflops=gflops,
            flops_images=len(images[: settings.flops_images]),
            flops_uncounted=uncounted,
            image_size=[int(statistics.median_low(shape[axis] for shape in shapes)) for axis in (1, 2)],
            latency=latency[label].stages,
            throughput=throughput[label],
            image_memory_mb=memory,
            weights_memory_mb=weights_memory_mb(model),
            repeat=settings.repeat,
            device=torch.device(configs[label].MODEL.DEVICE).type,
            backbone_path=resnet_path(model),
        )
    return Costs(costs, notes, latency_differences({label: x.seconds for label, x in latency.items()}))


def _sentence(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _pixels(inputs: Mapping[str, Any]) -> tuple[int, int]:
    """Of an image as it enters the network, then as it was: masks are made at that size."""
    return inputs["image"][0].numel(), inputs["height"] * inputs["width"]
