"""Which part of a model takes the time: parts that sum up to the total, with NMS by itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.layers import batched_nms
from tiny_baselines import build_lively, tiny_faster_rcnn_cfg, tiny_retinanet_cfg
from tiny_models import tiny_detr
from torch import Tensor, nn
from torchvision.ops import boxes as box_ops

from detr_d2.compare.cost import latency as compare_latency
from detr_d2.compare.cost.latency import latency_of, measure_latency
from detr_d2.compare.cost.stages import NMS, REST, StageClock, stages_of
from detr_d2.modeling import accelerate
from detr_d2.modeling.backbone import fast_resnet


def image(height: int = 64, width: int = 96) -> list[dict[str, Any]]:
    return [{"image": torch.rand(3, height, width) * 255, "height": height, "width": width}]


class Clock:
    """Time that passes in `sleep` only; as a class of CUDA events, too."""

    def __init__(self) -> None:
        self.now = 100.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def perf_counter(self) -> float:
        return self.now

    def event(self, enable_timing: bool) -> Event:
        assert enable_timing
        return Event(self)


class Event:
    """What torch.cuda.Event is, on that clock."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def record(self) -> None:
        self.at = self.clock.now

    def elapsed_time(self, end: Event) -> float:
        return 1000 * (end.at - self.at)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock.perf_counter)
    monkeypatch.setattr(torch.cuda, "Event", clock.event)
    return clock


class Sleeper(nn.Module):
    def __init__(self, clock: Clock, seconds: float, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.clock, self.seconds, self.inner = clock, seconds, inner

    def forward(self, x: int) -> int:
        self.clock.sleep(self.seconds)
        return x if self.inner is None else self.inner(x)


@pytest.mark.parametrize("on_gpu", [False, True])
def test_each_moment_goes_to_the_innermost_stage(clock: Clock, on_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box_ops, "batched_nms", lambda *_: clock.sleep(1000))
    inner = Sleeper(clock, 2)
    same, other = Sleeper(clock, 3, inner), Sleeper(clock, 10, inner)

    class Suppressing(nn.Module):
        def forward(self) -> None:
            clock.sleep(100)
            batched_nms(torch.zeros(1, 4), torch.zeros(1), torch.zeros(1), 0.5)
            clock.sleep(200)

    suppressing = Suppressing()
    stages = StageClock({"first": [same, inner], "second": [other, suppressing], "never": []}, on_gpu=on_gpu)
    with stages.running():
        clock.sleep(0.5)
        for part in (same, other, inner, inner):
            part(1)
            clock.sleep(0.25)
        suppressing()
    expected = {"first": 3 + 2 + 2 + 2 + 2, "second": 10 + 100 + 200, "never": 0, NMS: 1000, REST: 0.5 + 4 * 0.25}
    assert stages.seconds() == expected
    assert list(stages.seconds()) == list(expected)
    same(1)  # not counted any more
    assert stages.seconds() == expected
    with stages.running():
        inner(1)
    assert stages.seconds() == {"first": 2, "second": 0, "never": 0, REST: 0}


def test_a_part_that_fails_does_not_upset_the_clock(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(nn.Module):
        def forward(self) -> None:
            clock.sleep(1)
            batched_nms(torch.zeros(1, 4), torch.zeros(1), torch.zeros(1), 0.5)

    def broken(*_: object) -> Tensor:
        clock.sleep(2)
        raise RuntimeError("broken")

    monkeypatch.setattr(box_ops, "batched_nms", broken)
    part = Failing()
    stages = StageClock({"only": [part]})
    for _ in range(2):
        with pytest.raises(RuntimeError, match="broken"), stages.running():
            part()
    assert stages.seconds() == {"only": 1, NMS: 2, REST: 0}
    assert not part._forward_hooks
    assert not part._forward_pre_hooks
    assert box_ops.batched_nms is broken


def fast(cfg_of: Callable[..., Any], *options: Any) -> nn.Module:
    """A model of detectron2 as `compare` runs it."""
    model = build_lively(cfg_of(*options))
    accelerate(model)
    return model


MODELS: list[tuple[Callable[[], nn.Module], list[str]]] = [
    (tiny_detr, ["backbone", "transformer", REST]),
    (partial(fast, tiny_faster_rcnn_cfg), ["backbone", "proposals", "heads", NMS, REST]),
    (partial(fast, tiny_faster_rcnn_cfg, "MODEL.MASK_ON", True), ["backbone", "proposals", "heads", NMS, REST]),
    (partial(fast, tiny_retinanet_cfg), ["backbone", "heads", NMS, REST]),
]


@pytest.mark.parametrize(("build", "names"), MODELS, ids=["DETR", "Faster R-CNN", "Mask R-CNN", "RetinaNet"])
def test_every_stage_takes_part_and_the_parts_are_the_total(
    build: Any, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build().eval()
    fused: list[bool] = []
    convolution = fast_resnet.fused_convolution

    def counted(*args: Any, **kwargs: Any) -> Tensor:
        fused.append(True)
        return convolution(*args, **kwargs)

    monkeypatch.setattr(fast_resnet, "fused_convolution", counted)
    done: list[int] = []
    found = measure_latency({"a": model}, {"a": [image(), image(96, 64)]}, repeat=5, progress=lambda: done.append(1))
    total, *parts = found["a"].stages
    assert [total.stage, *(x.stage for x in parts)] == ["total", *names]
    assert all(x.p50_ms > 0 for x in parts)
    assert sum(x.p50_ms for x in parts) == pytest.approx(total.p50_ms)
    assert total.p50_ms == pytest.approx(1000 * np.median(found["a"].seconds))
    assert len(found["a"].seconds) == 5
    assert len(done) == compare_latency.WARMUP + 5
    assert list(stages_of(model)) == [x for x in names if x not in (NMS, REST)]
    assert fused  # the hooks of the clock do not keep the backbone from its fast path


@pytest.mark.parametrize(("build", "calls"), [(MODELS[1][0], 2), (MODELS[3][0], 1)])
def test_nms_of_proposals_and_of_detections_is_nms(
    build: Any, calls: int, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, suppress = build().eval(), box_ops.batched_nms

    def slow(*args: Any) -> Tensor:
        clock.sleep(7)
        return suppress(*args)

    monkeypatch.setattr(box_ops, "batched_nms", slow)
    stages = StageClock(stages_of(model))
    with torch.no_grad(), stages.running():
        model(image())
    assert {name: x for name, x in stages.seconds().items() if x} == {NMS: 7 * calls}


def test_unknown_models_have_a_total_only_but_for_nms() -> None:
    class Other(nn.Module):
        def __init__(self, suppresses: bool) -> None:
            super().__init__()
            self.suppresses = suppresses

        def forward(self, _batch: Any) -> list[Any]:
            if self.suppresses:
                batched_nms(torch.rand(9, 4), torch.rand(9), torch.zeros(9), 0.5)
            return []

    models = {"without": Other(False), "with": Other(True)}
    found = measure_latency(models, {label: [image()] for label in models}, repeat=2)
    assert [x.stage for x in found["without"].stages] == ["total"]
    assert [x.stage for x in found["with"].stages] == ["total", NMS, REST]
    assert len(found["without"].seconds) == 2


def test_shares_of_the_total_come_from_the_rounds_in_the_middle() -> None:
    """Totals of 2, 10, 12, 14 and 100 s: the median is 12; of the middle three, 36 s, "a" has 2 + 3 + 4, a quarter."""
    rounds = [(4, 10), (1, 1), (90, 10), (2, 8), (3, 9)]
    found = latency_of([{"a": float(a), "rest": float(b)} for a, b in rounds])
    assert found.seconds == (14, 2, 100, 10, 12)
    assert [(x.stage, x.p50_ms) for x in found.stages] == [("total", 12_000), ("a", 3_000), ("rest", 9_000)]
    assert [x.p95_ms for x in found.stages] == pytest.approx([82_800, 72_800, 10_000])  # 0.8 of the way to the largest


def test_a_stage_that_a_round_does_not_have_took_no_time() -> None:
    found = latency_of([{"a": 1.0, NMS: 1.0, REST: 2.0}, {"a": 2.0, REST: 2.0}])
    assert [(x.stage, x.p50_ms) for x in found.stages] == [("total", 4000), ("a", 1500), (NMS, 500), (REST, 2000)]
