"""Work, throughput, and all of the cost."""

from __future__ import annotations

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

from detr_d2 import model_zoo, modeling
from detr_d2.compare.cost import cost as compare_cost
from detr_d2.compare.cost.cost import CostSettings, measure_costs
from detr_d2.compare.cost.flops import HANDLES, FlopCount, count_flops
from detr_d2.compare.cost.latency import measure_throughput
from detr_d2.compare.measure.intervals import latency_differences
from detr_d2.prediction.predictor import ImagePredictor


def image(height: int = 64, width: int = 96) -> list[dict[str, Any]]:
    return [{"image": torch.zeros(3, height, width), "height": height, "width": width}]


@pytest.fixture
def only_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither work nor memory, which take longer."""
    monkeypatch.setattr(compare_cost, "count_flops", lambda *_: FlopCount(1.0, 1, {}))
    monkeypatch.setattr(compare_cost, "image_memory_mb", lambda *_: 1.0)


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
@pytest.mark.parametrize(
    ("name", "published", "tolerance"),
    [
        ("detr_r50.yaml", 86, 2),  # Carion et al. 2020, Table 1
        ("deformable_detr_r50.yaml", 173, 4),  # Zhu et al. 2021, Table 1
    ],
)
def test_work_comes_to_what_was_published(name: str, published: float, tolerance: float) -> None:
    cfg = model_zoo.get_config(name)
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.DETR.NUM_CLASSES", 80])
    # Landscape pictures of COCO, 640 x 480 and 640 x 427, with a short side of 800.
    count = count_flops(build_model(cfg).eval(), [image(800, 1066), image(800, 1199)])
    assert count.gflops == pytest.approx(published, abs=tolerance)


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
    seen: list[tuple[Any, ...]] = []

    def fails(*arguments: object) -> None:
        seen.append(arguments)
        raise RuntimeError("cannot\nbe traced")

    monkeypatch.setattr(compare_cost, "count_flops", fails)
    monkeypatch.setattr(compare_cost, "image_memory_mb", fails)
    cfg = tiny_cfg("INPUT.MIN_SIZE_TEST", 48)
    predictors = {"D": ImagePredictor(cfg, model=tiny_detr())}
    files = sorted((str(x) for x in tiny_coco.image_root.iterdir()), reverse=True)
    settings = CostSettings(repeat=1, batch_sizes=(2,), images=3)
    done: list[int] = []
    found = measure_costs(predictors, {"D": cfg}, files, settings, progress=lambda: done.append(1))
    cost, notes = found.costs["D"], found.notes
    assert found.differences == []
    assert np.isnan(cost.gflops)
    assert np.isnan(cost.image_memory_mb)
    assert cost.weights_memory_mb == pytest.approx(4 * cost.parameters / 1e6, rel=0.01)  # and some statistics
    assert notes == [
        "D: its work could not be counted (RuntimeError: cannot be traced)",
        "D: its memory could not be measured (RuntimeError: cannot be traced)",
    ]
    assert cost.backbone_path == "fast"
    plain = {"P": ImagePredictor(cfg, model=tiny_detr("MODEL.DETR.OPTIMIZE_INFERENCE", False))}
    assert measure_costs(plain, {"P": cfg}, files, settings).costs["P"].backbone_path == "plain"
    assert cost.image_size == [48, 48]  # of 48 x 48, 64 x 48 and 48 x 64
    assert seen[1] == (predictors["D"].model, cfg, files[1], ())  # the largest
    assert (cost.device, cost.repeat, len(cost.latency), len(cost.throughput)) == ("cpu", 1, 4, 1)
    assert len(done) == settings.num_steps(1)


@pytest.mark.usefixtures("only_times")
def test_resnets_of_detectron2_take_the_path_that_detrs_take(tiny_coco: CocoFiles) -> None:
    size = ["INPUT.MIN_SIZE_TEST", 48]
    configs = {
        "DETR": tiny_cfg(*size),
        "Faster R-CNN": tiny_faster_rcnn_cfg(*size),
        "Mask R-CNN": tiny_faster_rcnn_cfg(*size, "MODEL.MASK_ON", True),
        "RetinaNet": tiny_retinanet_cfg(*size),
        "as detectron2 runs it": tiny_retinanet_cfg(*size, "MODEL.RESNETS.FAST", False),
    }
    predictors = {label: ImagePredictor(cfg, model=modeling.build_model(cfg)) for label, cfg in configs.items()}
    files = sorted(str(x) for x in tiny_coco.image_root.iterdir())
    costs = measure_costs(predictors, configs, files, CostSettings(repeat=1, batch_sizes=(1,), images=1)).costs
    assert [x.backbone_path for x in costs.values()] == ["fast", "fast", "fast", "fast", "plain"]


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
