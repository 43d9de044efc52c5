"""`MODEL.DETR.RECOMPUTE_BACKBONE`: the same losses and gradients, with less kept between the two passes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from detectron2.structures import BitMasks
from tiny_models import random_input, tiny_detr
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from detr_d2.modeling import DETR
from detr_d2.modeling.backbone.fast_resnet import FastResNet

KEY = "MODEL.DETR.RECOMPUTE_BACKBONE"
PLAIN = ("MODEL.DETR.OPTIMIZE_INFERENCE", False, "MODEL.DETR.OPTIMIZE_TRAINING", False)
MASKS = ("MODEL.MASK_ON", True, "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4"])
CASES: dict[str, tuple[Any, ...]] = {
    "fast": (),
    "plain": PLAIN,
    "group norm": ("MODEL.RESNETS.NORM", "GN"),
    "bottleneck": ("MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.RES2_OUT_CHANNELS", 256, "MODEL.BACKBONE.FREEZE_AT", 2),
    "masks": MASKS,
    "dropout": ("MODEL.DETR.TRANSFORMER.DROPOUT", 0.3, "MODEL.DETR.TRANSFORMER.RECOMPUTE", True),
}


def pair(*options: Any) -> tuple[DETR, DETR]:
    """A model that checkpoints its backbone, and one with the same weights that does not."""
    torch.manual_seed(0)
    models = tiny_detr(KEY, True, *options).train(), tiny_detr(*options).train()
    models[1].load_state_dict(models[0].state_dict())
    return models


def batch(masks: bool = False) -> list[dict[str, Any]]:
    inputs = [random_input(48, 64, 3), random_input(40, 32, 2)]
    for x in inputs if masks else []:
        instances = x["instances"]
        instances.gt_masks = BitMasks(torch.rand(len(instances), *instances.image_size) > 0.5)
    return inputs


def step(model: nn.Module, inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
    torch.manual_seed(3)
    losses = model(inputs)
    torch.stack(list(losses.values())).sum().backward()
    return {name: x.detach() for name, x in losses.items()}


def assert_same_step(model: nn.Module, reference: nn.Module, inputs: list[dict[str, Any]]) -> None:
    losses, expected = step(model, inputs), step(reference, inputs)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, atol=1e-6, rtol=1e-6, msg=name)
    compared = 0
    for (name, a), b in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None and b.grad is not None:
            compared += 1
            torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-6, msg=name)
    assert compared > 50


@contextmanager
def counted(model: DETR, name: str) -> Iterator[list[int]]:
    """How often a block runs."""
    calls: list[int] = []
    handle = model.backbone.get_submodule(name).register_forward_pre_hook(lambda *_: calls.append(1))
    yield calls
    handle.remove()


def kept_bytes(function: Callable[[], object]) -> int:
    found: dict[int, int] = {}
    alive = []

    def pack(x: Tensor) -> Tensor:
        alive.append(x)  # so that no other tensor gets its address
        found[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        result = function()
    assert result is not None
    return sum(found.values())


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_are_the_same(case: str) -> None:
    model, reference = pair(*CASES[case])
    assert list(model.state_dict()) == list(reference.state_dict())
    assert_same_step(model, reference, batch(masks=case == "masks"))


@pytest.mark.parametrize("options", [(), PLAIN], ids=["fast", "plain"])
def test_trained_blocks_run_twice(options: tuple[Any, ...]) -> None:
    model, reference = pair("MODEL.BACKBONE.FREEZE_AT", 2, *options)
    for detr, name, expected in ((model, "res3.1", 2), (model, "res2.1", 1), (reference, "res3.1", 1)):
        with counted(detr, name) as calls:
            step(detr, batch())
        assert len(calls) == expected, name


def test_a_watched_stage_is_run_again_as_a_whole() -> None:
    model, reference = pair()
    with counted(model, "res3") as calls:
        assert_same_step(model, reference, batch())
    assert len(calls) == 2


def test_less_is_kept() -> None:
    images = torch.randn(1, 3, 64, 64)
    backbones = [x.backbone for x in pair("MODEL.BACKBONE.FREEZE_AT", 2)]
    weights = sum(4 * x.numel() for x in backbones[0].state_dict().values())
    recomputed, plain = (kept_bytes(lambda b=b: b(images)["res4"]) for b in backbones)  # type: ignore[misc]
    # ResNet-18: the inputs of res3.0 (64 x 16 x 16), res3.1 (128 x 8 x 8), res4.0 (same), res4.1 (256 x 4 x 4)
    assert recomputed == 4 * (64 * 16 * 16 + 2 * 128 * 8 * 8 + 256 * 4 * 4)
    assert recomputed < plain < weights


def test_evaluation_is_not_affected() -> None:
    model, reference = pair()
    with counted(model, "res3.1") as calls:
        images = torch.randn(1, 3, 48, 64, requires_grad=True)
        got = model.eval().backbone(images)["res4"]
        got.sum().backward()
    assert len(calls) == 1
    torch.testing.assert_close(got, reference.eval().backbone(images)["res4"], atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        assert not model.train().backbone(images)["res4"].requires_grad


def test_autocast() -> None:
    model, reference = pair()
    inputs = batch()
    for detr in (model, reference):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = detr(inputs)
        torch.stack([x.float() for x in losses.values()]).sum().backward()
    for (name, a), b in zip(model.named_parameters(), reference.parameters(), strict=True):
        if a.grad is not None and b.grad is not None:
            assert torch.equal(a.grad, b.grad), name


def test_distributed_training(tmp_path: Path) -> None:
    model, reference = pair()
    inputs = batch()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        assert_same_step(DistributedDataParallel(model, find_unused_parameters=False), reference, inputs)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies(duplicate: Any) -> None:
    model, reference = pair()
    step(model, batch())
    model.zero_grad()
    other = duplicate(model)
    with counted(other, "res3.1") as calls:
        assert_same_step(other, reference, batch())
    assert len(calls) == 2


def test_detectron2s_own_resnet() -> None:
    options = ("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.STRIDE_IN_1X1", False)
    model, reference = pair(*options)
    assert isinstance(model.backbone, FastResNet)
    assert_same_step(model, reference, batch())


def test_part_of_the_backbone_frozen() -> None:
    model, reference = pair("MODEL.DETR.FREEZE", ["res4"])
    assert model.get_parameter("backbone.res4.0.conv1.weight").requires_grad is False
    assert_same_step(model, reference, batch())


def test_batch_norms_that_train_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the BatchNorm2d backbone\.stem\.conv1\.norm is not frozen"):
        tiny_detr(KEY, True, "MODEL.RESNETS.NORM", "BN")
    with pytest.raises(ValueError, match=r"the BatchNorm2d backbone\.res2\.0\."):
        tiny_detr(KEY, True, "MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", 1)
    tiny_detr(KEY, True, "MODEL.RESNETS.NORM", "BN", "MODEL.DETR.FREEZE", ["backbone"])


def test_other_backbones_are_refused() -> None:
    options = ("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.FPN.IN_FEATURES", ["res4"])
    with pytest.raises(ValueError, match="RECOMPUTE_BACKBONE is True, but the backbone is a FPN, expected a ResNet"):
        tiny_detr(KEY, True, *options, "MODEL.DETR.IN_FEATURES", ["p4"])
