"""The optimised DETR against the plain one: detections, losses, and what people do with a model between two images."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import DefaultPredictor
from detectron2.modeling import ResNet
from detectron2.structures import Instances
from tiny_deformable import stir, tiny_deformable
from tiny_models import random_input, tiny_cfg, tiny_detr
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from detr_d2.modeling import DETR, refresh
from detr_d2.modeling.backbone import folding
from detr_d2.modeling.backbone.fast_resnet import FastResNet
from detr_d2.modeling.interface import TransformerInputs
from detr_d2.solver import build_optimizer

PLAIN = ("MODEL.DETR.OPTIMIZE_INFERENCE", False, "MODEL.DETR.OPTIMIZE_TRAINING", False)
MODELS: dict[str, Callable[..., DETR]] = {"detr": tiny_detr, "deformable": partial(tiny_deformable, "refine")}


def randomise(model: DETR) -> None:
    """Norms that are not the identity, so that folding them matters."""
    for name, buffer in model.backbone.named_buffers():
        if name.endswith(("weight", "running_var")):
            buffer.uniform_(0.5, 1.5)
        elif buffer.is_floating_point():
            buffer.normal_(std=0.1)


def pair(kind: str = "detr", *options: Any) -> tuple[DETR, DETR]:
    """An optimised model, and a plain one with the same weights."""
    torch.manual_seed(0)
    fast = MODELS[kind](*options)
    randomise(fast)
    stir(fast)
    plain = MODELS[kind](*options, *PLAIN)
    plain.load_state_dict(fast.state_dict())
    assert (fast.backbone.fast_inference, fast.backbone.fast_training) == (True, True)
    assert (plain.backbone.fast_inference, plain.backbone.fast_training) == (False, False)
    return fast, plain


def batch(padded: bool = True) -> list[dict[str, Any]]:
    return [random_input(64, 96, 3), random_input(*((80, 70) if padded else (64, 96)), 2)]


def detections(model: nn.Module, inputs: list[dict[str, Any]]) -> list[Instances]:
    with torch.inference_mode():
        return [x["instances"] for x in model(inputs)]


def assert_same_detections(model: nn.Module, reference: nn.Module, padded: bool = True) -> None:
    inputs = batch(padded)
    for got, expected in zip(detections(model, inputs), detections(reference, inputs), strict=True):
        assert len(got) == len(expected) > 0
        torch.testing.assert_close(got.scores, expected.scores, atol=1e-5, rtol=0)
        torch.testing.assert_close(got.pred_boxes.tensor, expected.pred_boxes.tensor, atol=1e-2, rtol=0)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_detections_are_the_plain_models(kind: str, padded: bool) -> None:
    fast, plain = pair(kind)
    assert_same_detections(fast.eval(), plain.eval(), padded)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
@pytest.mark.parametrize("kind", MODELS)
def test_gradients_are_the_plain_models(kind: str, norm: str, padded: bool) -> None:
    fast, plain = (x.double().train() for x in pair(kind, "MODEL.RESNETS.NORM", norm))
    inputs = batch(padded)
    for model in (fast, plain):
        sum(model(inputs).values()).backward()
    compared = 0
    for (name, a), b in zip(fast.named_parameters(), plain.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            compared += 1
            torch.testing.assert_close(a.grad, b.grad, msg=name)
    assert compared > 50


def test_loss_curves_are_the_plain_models() -> None:
    cfg = tiny_cfg("SOLVER.OPTIMIZER", "ADAMW", "SOLVER.BASE_LR", 1e-4)
    curves = []
    for model in pair():
        torch.manual_seed(1)
        optimizer, losses = build_optimizer(cfg, model.double().train()), []
        for _ in range(6):
            loss = sum(model(batch()).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        curves.append(losses)
    assert curves[0] == pytest.approx(curves[1], rel=1e-6)
    assert len(set(curves[0])) == 6


def test_detectron2s_own_resnet_is_optimised_too() -> None:
    options = ("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.STRIDE_IN_1X1", False)
    fast, plain = pair("detr", *options)
    assert type(fast.backbone) is FastResNet
    assert_same_detections(fast.eval(), plain.eval())


def test_evaluation_training_evaluation() -> None:
    fast, plain = (x.double() for x in pair())
    for model in (fast, plain):
        model.eval()
        detections(model, batch())
        model.train()
        torch.manual_seed(1)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        sum(model(batch()).values()).backward()
        optimizer.step()
    keys = list(fast.state_dict())
    assert_same_detections(fast.eval(), plain.eval())
    assert list(fast.state_dict()) == keys == list(plain.state_dict())


def test_moving_average_of_weights() -> None:
    fast, plain = pair()
    source = tiny_detr()
    randomise(source)
    for model in (fast.eval(), plain.eval()):
        detections(model, batch())
        with torch.no_grad():
            for mean, new in zip(model.state_dict().values(), source.state_dict().values(), strict=True):
                mean.lerp_(new, 0.3)
    assert_same_detections(fast, plain)


@pytest.mark.parametrize("on_gpu", [False, True])
def test_writes_through_data(on_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if on_gpu:
        monkeypatch.setattr(folding, "_can_be_read", lambda _: False)
    fast, plain = pair()
    for model in (fast.eval(), plain.eval()):
        detections(model, batch())
        for parameter in model.parameters():
            parameter.data.mul_(1.1)
    if on_gpu:
        refresh(nn.Sequential(fast))
    assert_same_detections(fast, plain)


def test_the_network_runs_on_the_meta_device() -> None:
    model = tiny_detr("MODEL.DETR.INFERENCE_DTYPE", "bfloat16").to("meta")
    inputs = [{"image": torch.zeros(3, *size)} for size in ((64, 96), (80, 70))]
    for training in (False, True):
        with model.train(training)._precision():
            found = model.predict(model.preprocess_image(inputs), all_layers=training)
        assert found.boxes_cxcywh.shape == (3 if training else 1, 2, 8, 4)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies(duplicate: Any) -> None:
    fast, plain = pair()
    detections(fast.eval(), batch())
    assert_same_detections(duplicate(fast), plain.eval())


def test_predictor_that_loads_weights_after_eval(tmp_path: Path) -> None:
    fast, plain = pair()
    DetectionCheckpointer(fast, str(tmp_path)).save("model")
    cfg = tiny_cfg("MODEL.WEIGHTS", str(tmp_path / "model.pth"), "INPUT.MIN_SIZE_TEST", 64, "INPUT.FORMAT", "BGR")
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    got = DefaultPredictor(cfg)(image)["instances"]
    tensor = torch.as_tensor(image.astype("float32").transpose(2, 0, 1))
    (expected,) = detections(plain.eval(), [{"image": tensor, "height": 64, "width": 96}])
    torch.testing.assert_close(got.scores, expected.scores, atol=1e-5, rtol=0)


def test_distributed_training(tmp_path: Path) -> None:
    fast, plain = (x.double() for x in pair())
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(fast.train())
        inputs = batch()
        sum(wrapped(inputs).values()).backward()
        sum(plain.train()(inputs).values()).backward()
    finally:
        dist.destroy_process_group()
    for (name, a), b in zip(fast.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


@pytest.mark.parametrize("kind", MODELS)
def test_autocast_in_training(kind: str) -> None:
    fast, plain = pair(kind)
    inputs = batch()
    exact = sum(plain.train()(inputs).values())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = sum(fast.train()(inputs).values())
    loss.backward()
    assert loss.item() == pytest.approx(exact.item(), rel=0.1)
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in fast.parameters())
    assert all(p.grad is None or p.grad.isfinite().all() for p in fast.parameters())


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_prediction_in_half_precision(name: str) -> None:
    fast, plain = pair("detr", "MODEL.DETR.INFERENCE_DTYPE", name)
    plain.inference_dtype = torch.float32
    seen = []
    fast.backbone.register_forward_hook(lambda _module, _inputs, maps: seen.append(maps["res4"].dtype))
    inputs = batch()
    for got, exact in zip(detections(fast.eval(), inputs), detections(plain.eval(), inputs), strict=True):
        torch.testing.assert_close(got.scores.float(), exact.scores, atol=0.05, rtol=0)
        assert got.pred_boxes.tensor.dtype == torch.float32
    assert seen == [getattr(torch, name)]
    fast.train()(inputs)
    assert seen[1] == torch.float32  # training is the trainer's


def test_unknown_precision_is_named() -> None:
    with pytest.raises(ValueError, match="INFERENCE_DTYPE is 'int8', expected one of float32, bfloat16, float16"):
        tiny_detr("MODEL.DETR.INFERENCE_DTYPE", "int8")


def test_export_takes_the_plain_way() -> None:
    fast, _ = pair()
    fast.eval()

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = fast

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            maps = self.model.neck([self.model.backbone(images)["res4"]])
            position = self.model.position_encoding(tuple(maps[0].shape[-2:]), None, images.device)
            inputs = TransformerInputs(maps, [None], [position], all_layers=False, head=self.model.head)
            logits: torch.Tensor = self.model.head(self.model.transformer(inputs)).logits
            return logits

    images = torch.randn(1, 3, 64, 96)
    program = torch.export.export(Network(), (images,))
    assert not any("mkldnn" in str(node.target) for node in program.graph.nodes)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(images), Network()(images), atol=1e-4, rtol=1e-4)


def test_the_plain_model_calls_detectron2s_modules() -> None:
    _, plain = pair()
    calls = []
    plain.get_submodule("backbone.stem.conv1").register_forward_hook(lambda *_: calls.append(1))
    detections(plain.eval(), batch())
    assert calls == [1]
    assert isinstance(plain.backbone, ResNet)
