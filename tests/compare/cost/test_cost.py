"""Work, stages of the latency, throughput."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from coco_files import CocoFiles
from detectron2.modeling import build_model
from fvcore.nn import FlopCountAnalysis
from tiny_baselines import build_lively, tiny_faster_rcnn_cfg, tiny_retinanet_cfg
from tiny_models import tiny_cfg, tiny_detr
from torch import Tensor, nn
from torchvision.ops import roi_align

from detr_d2 import model_zoo
from detr_d2.compare.cost import cost as compare_cost
from detr_d2.compare.cost import latency as compare_latency
from detr_d2.compare.cost.cost import CostSettings, measure_costs
from detr_d2.compare.cost.flops import HANDLES, count_flops
from detr_d2.compare.cost.latency import StageClock, measure_latency, measure_throughput, stages_of
from detr_d2.compare.measure.intervals import latency_differences
from detr_d2.prediction.predictor import ImagePredictor


def image(height: int = 64, width: int = 96) -> list[dict[str, Any]]:
    return [{"image": torch.zeros(3, height, width), "height": height, "width": width}]


class Attention(nn.Module):
    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value)


class Pooling(nn.Module):
    def forward(self, values: Tensor, boxes: Tensor) -> Tensor:
        return roi_align(values, boxes, output_size=7)


def test_operators_that_fvcore_does_not_count() -> None:
    attention = tuple(torch.rand(shape) for shape in ((2, 4, 7, 8), (2, 4, 11, 8), (2, 4, 11, 16)))
    assert counted(Attention(), attention) == 2 * 4 * 7 * 11 * (8 + 16)
    boxes = torch.tensor([[0, 1.0, 1, 5, 5], [0, 2, 2, 8, 9]])
    assert counted(Pooling(), (torch.rand(1, 3, 20, 20), boxes)) == 4 * 2 * 3 * 7 * 7


def counted(module: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    analysis = FlopCountAnalysis(module, inputs).unsupported_ops_warnings(False)
    assert analysis.total() == 0
    for operator, handle in HANDLES.items():
        analysis.set_op_handle(operator, handle)
    return analysis.total()


def test_work_of_a_detr_grows_with_the_image_and_its_attention_is_counted() -> None:
    model = tiny_detr().eval()
    small, large = (count_flops(model, [image(*size)]) for size in ((64, 96), (128, 96)))
    assert small.uncounted == {}
    assert 1.9 < large.gflops / small.gflops < 2.3
    both = count_flops(model, [image(64, 96), image(128, 96)])
    assert both.images == 2
    assert both.gflops == pytest.approx((small.gflops + large.gflops) / 2)
    saved = HANDLES.pop("aten::scaled_dot_product_attention")
    try:
        without = count_flops(model, [image()])
    finally:
        HANDLES["aten::scaled_dot_product_attention"] = saved
    tokens, queries, width = 4 * 6, 8, 32
    attention = 2 * width * (2 * tokens**2 + 3 * (queries**2 + queries * tokens))
    assert small.gflops - without.gflops == pytest.approx(attention / 1e9)
    assert without.uncounted == {"aten::scaled_dot_product_attention": 8}


@pytest.mark.parametrize("build", [tiny_faster_rcnn_cfg, tiny_retinanet_cfg])
def test_work_of_other_detectors(build: Any) -> None:
    assert count_flops(build_lively(build()), [image()]).gflops > 0.1


@pytest.mark.slow
def test_detr_r50_comes_to_the_published_work() -> None:
    cfg = model_zoo.get_config("detr_r50.yaml")
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.DETR.NUM_CLASSES", 80])
    # Landscape pictures of COCO, 640 x 480 and 640 x 427, with a short side of 800. Paper, Table 1: 86 G.
    count = count_flops(build_model(cfg).eval(), [image(800, 1066), image(800, 1199)])
    assert count.gflops == pytest.approx(86, abs=2)


class Sleeper(nn.Module):
    def __init__(self, seconds: float, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.seconds = seconds
        self.inner = inner

    def forward(self, x: int) -> int:
        time.sleep(self.seconds)
        return x if self.inner is None else self.inner(x)


class Clock:
    """Time that passes in `sleep` only."""

    def __init__(self) -> None:
        self.now = 100.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def perf_counter(self) -> float:
        return self.now


def test_stages_add_up_and_count_nested_parts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(time, "sleep", clock.sleep)
    monkeypatch.setattr(time, "perf_counter", clock.perf_counter)
    inner = Sleeper(2)
    outer, other = Sleeper(3, inner), Sleeper(10)
    stages = StageClock({"first": [outer, inner], "second": [other]})
    with stages.running():
        for part in (outer, other, inner, inner):
            part(1)
    assert stages.seconds == {"first": 3 + 2 + 2 + 2, "second": 10}
    outer(1)  # not counted any more
    assert stages.seconds["first"] == 9


def test_a_part_that_fails_does_not_upset_the_clock() -> None:
    class Failing(nn.Module):
        def forward(self) -> None:
            raise RuntimeError("broken")

    part = Failing()
    clock = StageClock({"only": [part]})
    for _ in range(2):
        with pytest.raises(RuntimeError, match="broken"), clock.running():
            part()
    assert not part._forward_hooks


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (tiny_detr, ["backbone", "transformer"]),
        (lambda: build_model(tiny_faster_rcnn_cfg()), ["backbone", "proposals", "heads"]),
        (lambda: build_model(tiny_retinanet_cfg()), ["backbone", "heads"]),
    ],
)
def test_every_stage_takes_part_in_a_forward_pass(model: Any, names: list[str]) -> None:
    built = model().eval()
    batches = {"a": [image(), image(96, 64)]}
    done: list[int] = []
    latency = measure_latency({"a": built}, batches, repeat=3, progress=lambda: done.append(1))["a"].stages
    assert [x.stage for x in latency] == ["total", *names, "post-processing"]
    assert all(x.p50_ms > 0 for x in latency)
    assert len(done) == 2 * (compare_latency.WARMUP + 3)
    assert list(stages_of(built)) == names


def test_unknown_models_have_a_total_only() -> None:
    class Other(nn.Module):
        def forward(self, _batch: Any) -> list[Any]:
            return []

    latency = measure_latency({"a": Other()}, {"a": [image()]}, repeat=2)["a"]
    assert [x.stage for x in latency.stages] == ["total"]
    assert len(latency.seconds) == 2


def test_difference_in_time_is_paired_by_rounds() -> None:
    rounds = [0.010, 0.030, 0.020, 0.090, 0.040, 0.050]
    same, ab, _ = latency_differences({"a": rounds, "b": [x - 0.005 for x in rounds], "c": rounds[::-1]})
    assert (same.first, same.second, same.metric) == ("a", "b", "latency_ms")
    assert [same.difference.value, same.difference.low, same.difference.high] == pytest.approx([5, 5, 5])
    assert (ab.first, ab.second) == ("a", "c")
    assert ab.difference.value == 0
    assert ab.difference.low < 0 < ab.difference.high
    (few,) = latency_differences({"a": rounds[:5], "b": [x - 0.005 for x in rounds[:5]]})
    assert np.isnan(few.difference.low)


def test_what_cannot_be_measured_is_unknown_and_said(tiny_coco: CocoFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("cannot\nbe traced")

    monkeypatch.setattr(compare_cost, "count_flops", fails)
    monkeypatch.setattr(compare_cost, "peak_memory_mb", fails)
    cfg = tiny_cfg("INPUT.MIN_SIZE_TEST", 48)
    predictors = {"D": ImagePredictor(cfg, model=tiny_detr())}
    files = sorted(str(x) for x in tiny_coco.image_root.iterdir())
    settings = CostSettings(repeat=1, batch_sizes=(2,), images=3)
    done: list[int] = []
    found = measure_costs(predictors, {"D": cfg}, files, settings, progress=lambda: done.append(1))
    cost, notes = found.costs["D"], found.notes
    assert found.differences == []
    assert np.isnan(cost.gflops)
    assert np.isnan(cost.peak_memory_mb)
    assert notes == [
        "D: its work could not be counted (RuntimeError: cannot be traced)",
        "D: its peak memory could not be measured (RuntimeError: cannot be traced)",
    ]
    assert cost.backbone_path == "fast"
    plain = {"P": ImagePredictor(cfg, model=tiny_detr("MODEL.DETR.OPTIMIZE_INFERENCE", False))}
    assert measure_costs(plain, {"P": cfg}, files, settings).costs["P"].backbone_path == "plain"
    assert cost.image_size == [48, 48]  # of 48 x 64, 64 x 48 and 48 x 48
    assert (cost.device, cost.repeat, len(cost.latency), len(cost.throughput)) == ("cpu", 1, 4, 1)
    assert len(done) == settings.num_steps(1)


def test_throughput_of_batches_and_what_does_not_fit() -> None:
    seen: list[int] = []

    class Model(nn.Module):
        def __init__(self, limit: int) -> None:
            super().__init__()
            self.limit = limit

        def forward(self, batch: list[Any]) -> None:
            seen.append(len(batch))
            if len(batch) > self.limit:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    models = {"big": Model(100), "small": Model(2)}
    found = measure_throughput(models, {name: [image()] for name in models}, [1, 2, 4], repeat=2)
    assert [x.batch_size for x in found["big"]] == [1, 2, 4]
    assert all(x.images_per_second > 0 for x in found["big"])
    assert np.isnan(found["small"][2].images_per_second)
    assert not np.isnan(found["small"][1].images_per_second)
    assert set(seen) == {1, 2, 4}


def test_a_model_of_one_image_at_a_time_is_told_of_and_the_others_are_timed() -> None:
    class OneByOne(nn.Module):
        def forward(self, batch: list[Any]) -> None:
            assert len(batch) == 1, "one only"

    failures: list[tuple[str, int, str]] = []
    models = {"one": OneByOne(), "any": nn.Identity()}
    found = measure_throughput(
        models,
        {name: [image()] for name in models},
        [1, 2],
        repeat=1,
        failed=lambda label, size, error: failures.append((label, size, str(error))),
    )
    assert [np.isnan(x.images_per_second) for x in found["one"]] == [False, True]
    assert not np.isnan(found["any"][1].images_per_second)
    assert [x[:2] for x in failures] == [("one", 2)]
