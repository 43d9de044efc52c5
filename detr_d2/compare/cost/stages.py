"""Which part of a detector every moment of its forward pass belongs to; hooks tell."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from torch import nn
from torchvision.ops import boxes as box_ops

from ...modeling import DETR

NMS = "NMS"
"""All class-wise NMS of boxes, that of a region proposal network too."""

REST = "rest"
"""Preprocessing, decoding, masks, and whatever else no part is timed for."""


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
    """Divides the time of a forward pass among stages: each moment goes to the innermost call that is timed.

    On a CPU a clock is read wherever a stage begins or ends. A GPU works later than it is told to, so there events in
    its stream mark these points; nothing waits for them, and the GPU has to have been waited for before `seconds`.

    Args:
        stages: see `stages_of`.
        on_gpu: whether the model works on one.
    """

    def __init__(self, stages: Mapping[str, Sequence[nn.Module]], *, on_gpu: bool = False) -> None:
        self._stages = stages
        self._moment: Callable[[], Any] = _event if on_gpu else time.perf_counter
        self._between: Callable[[Any, Any], float] = _between_events if on_gpu else _between_readings
        self._open: list[str] = []
        self._marks: list[tuple[Any, str]] = []  # a moment, and the stage that goes on from there

    @contextmanager
    def running(self) -> Iterator[None]:
        """Times what is done while it lasts, and forgets what was done before."""
        handles = []
        for stage, modules in self._stages.items():
            for module in modules:
                handles.append(module.register_forward_pre_hook(partial(self._enter_module, stage)))
                handles.append(module.register_forward_hook(self._leave_module, always_call=True))
        # detectron2's own `batched_nms`, which its detectors have imported by name, looks this one up at every call.
        untimed, box_ops.batched_nms = box_ops.batched_nms, self._timed(NMS, box_ops.batched_nms)
        self._open, self._marks = [], []
        self._enter(REST)
        try:
            yield
        finally:
            self._marks.append((self._moment(), ""))
            box_ops.batched_nms = untimed
            for handle in handles:
                handle.remove()

    def seconds(self) -> dict[str, float]:
        """Stage -> its time; they add up to the whole. `NMS` is among them if there was any."""
        seconds = dict.fromkeys(self._stages, 0.0)
        if any(stage == NMS for _, stage in self._marks):
            seconds[NMS] = 0.0
        seconds[REST] = 0.0
        for (start, stage), (end, _) in itertools.pairwise(self._marks):
            seconds[stage] += self._between(start, end)
        return seconds

    def _enter(self, stage: str) -> None:
        self._open.append(stage)
        self._marks.append((self._moment(), stage))

    def _leave(self) -> None:
        self._open.pop()
        self._marks.append((self._moment(), self._open[-1]))

    def _enter_module(self, stage: str, _module: nn.Module, _inputs: object) -> None:
        self._enter(stage)

    def _leave_module(self, _module: nn.Module, _inputs: object, _output: object) -> None:
        self._leave()

    def _timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._enter(stage)
            try:
                return function(*args, **kwargs)
            finally:
                self._leave()

        return timed


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between_events(start: torch.cuda.Event, end: torch.cuda.Event) -> float:
    return start.elapsed_time(end) / 1000


def _between_readings(start: float, end: float) -> float:
    return end - start
