"""Folded weights follow everything that may change a weight."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.distributed as dist
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from fast_resnets import IMAGES, OtherBlock, assert_equal_to_plain, is_folded, make
from torch import nn

from detr_d2.modeling.backbone import folding
from detr_d2.modeling.backbone.fast_resnet import FastResNet
from detr_d2.solver import with_global_clipping


def write_in_place(resnet: Any) -> None:
    with torch.no_grad():
        resnet.res3[1].conv2.weight.mul_(1.5)


def write_buffer(resnet: Any) -> None:
    resnet.res2[0].shortcut.norm.running_mean.add_(1.0)


def ema(resnet: Any) -> None:
    with torch.no_grad():
        parameters = list(resnet.parameters())
        torch._foreach_lerp_(parameters, [torch.randn_like(p) for p in parameters], 0.3)


def load(resnet: Any) -> None:
    resnet.load_state_dict({name: x * 1.1 for name, x in resnet.state_dict().items()})


def load_by_assignment(resnet: Any) -> None:
    resnet.load_state_dict({name: x * 1.1 for name, x in resnet.state_dict().items()}, assign=True)


def replace_parameter(resnet: Any) -> None:
    resnet.res3[0].conv1.weight = nn.Parameter(resnet.res3[0].conv1.weight.detach() * 0.5)


def replace_data(resnet: Any) -> None:
    resnet.res3[0].conv1.weight.data = resnet.res3[0].conv1.weight.data * 0.5


def replace_norm(resnet: Any) -> None:
    resnet.res3[0].conv3.norm = FrozenBatchNorm2d(128)


def replace_block(resnet: Any) -> None:
    resnet.res3[1] = OtherBlock(128, 128, bottleneck_channels=32, norm="FrozenBN")


def write_through_data(resnet: Any) -> None:
    for x in [*resnet.parameters(), *resnet.buffers()]:
        x.data.mul_(1.1)


def write_one_number(resnet: Any) -> None:
    resnet.res3[0].conv1.weight.data[3, 1, 0, 0] += 1.0


def exchange_numbers(resnet: Any) -> None:
    for x in (resnet.res3[0].conv1.weight.data, resnet.res2[1].conv3.norm.bias.data):
        x.copy_(x.flip(0))  # sums stay


def exchange_numbers_of_rows(resnet: Any) -> None:
    x = resnet.res3[0].conv1.weight.data
    x.copy_(x.flip(1))


def write_statistics_through_data(resnet: Any) -> None:
    resnet.res3[1].conv1.norm.running_var.data.mul_(1.5)


def write_through_numpy(resnet: Any) -> None:
    resnet.stem.conv1.weight.detach().numpy()[2] *= 1.5


def receive(resnet: Any) -> None:
    """From another process, here from this one: collectives do not count as writes."""
    weight = resnet.res3[0].conv2.weight
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        sent = weight.detach() * 1.5
        dist.all_gather([weight.detach()], sent)
        assert torch.equal(weight, sent)
    finally:
        dist.destroy_process_group()


def change_geometry(resnet: Any) -> None:
    resnet.res3[1].conv2.dilation = resnet.res3[1].conv2.padding = (1, 1)


def change_epsilon(resnet: Any) -> None:
    resnet.res2[0].conv1.norm.eps = 0.5


def cast(resnet: Any) -> None:
    resnet.double()


def cast_a_part(resnet: Any) -> None:
    for parameter in resnet.res3.parameters():
        parameter.data = parameter.data.bfloat16().float()


def train_a_step(resnet: Any, mode: bool = True, kind: Any = torch.optim.SGD, **variant: Any) -> None:
    resnet.train(mode)
    optimizer = with_global_clipping(kind, 10.0)(resnet.parameters(), lr=0.1, **variant)
    resnet(IMAGES)["res3"].mean().backward()
    optimizer.step()
    resnet.eval()


def train_a_fused_step_in_evaluation_mode(resnet: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet, "train", lambda _: None)  # nobody says that weights may have changed
        train_a_step(resnet, False, torch.optim.AdamW, fused=True)


TRACED = (
    write_in_place, write_buffer, ema, load, load_by_assignment, replace_parameter, replace_data, replace_norm,
    replace_block, change_geometry, change_epsilon, cast, cast_a_part, train_a_step,
    train_a_fused_step_in_evaluation_mode,
)  # fmt: skip
TRACELESS = (
    write_through_data, write_one_number, exchange_numbers, exchange_numbers_of_rows, write_statistics_through_data,
    write_through_numpy, receive,
)  # fmt: skip


@pytest.mark.parametrize("is_read", [True, False], ids=["values", "traces"])  # as on a CPU, as on a GPU
@pytest.mark.parametrize("change", TRACED + TRACELESS, ids=lambda x: x.__name__)
def test_follows_every_change_of_a_weight(change: Any, is_read: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_read:
        monkeypatch.setattr(folding, "_can_be_read", lambda _: False)
    resnet = make().eval()
    with torch.no_grad():
        before = resnet(IMAGES)["res3"]
    change(resnet)
    if change in TRACELESS and not is_read:
        resnet.refresh()
    assert_equal_to_plain(resnet)
    with torch.no_grad():
        changed = resnet(IMAGES.to(resnet.stem.conv1.weight.dtype))["res3"]
    assert change is cast or not torch.allclose(before, changed)


@pytest.mark.parametrize("is_read", [True, False], ids=["values", "traces"])
def test_nothing_trained_is_kept_in_training(is_read: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "_can_be_read", lambda _: is_read)
    resnet = make(freeze_at=2).train()
    optimizer = torch.optim.AdamW([x for x in resnet.parameters() if x.requires_grad], lr=0.01, fused=True)
    for _ in range(2):
        assert_equal_to_plain(resnet)
        assert set(resnet._folded._entries) == {
            x for x in [*resnet.stem.modules(), *resnet.res2.modules()] if type(x) is Conv2d
        }
        resnet(IMAGES)["res3"].mean().backward()
        optimizer.step()
    assert_equal_to_plain(resnet)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_small_writes_are_seen_in_every_type_and_layout(dtype: torch.dtype, memory_format: Any) -> None:
    resnet = make().to(dtype=dtype, memory_format=memory_format).eval()
    convolution = resnet.res3[0].conv2
    with torch.no_grad():
        convolution.weight.mul_(64).round_().div_(64)  # so that the sums below are exact
        resnet(IMAGES.to(dtype))
        first = resnet._folded.get(convolution, dtype)
        resnet(IMAGES.to(dtype))
        assert resnet._folded.get(convolution, dtype) is first
        convolution.weight.data[5, 3, 1, 1] += 0.001
        resnet(IMAGES.to(dtype))
        second = resnet._folded.get(convolution, dtype)
        assert second is not first
        convolution.weight.data.copy_(convolution.weight.flip(1))
        resnet(IMAGES.to(dtype))
        assert resnet._folded.get(convolution, dtype) is not second


@pytest.mark.parametrize("move", [lambda x: x.train(), lambda x: x.double(), lambda x: x.refresh()])
def test_folded_weights_are_dropped(move: Any) -> None:
    resnet = make().eval()
    with torch.no_grad():
        resnet(IMAGES)
    assert is_folded(resnet)
    move(resnet)
    assert not is_folded(resnet)


def test_weights_are_folded_once() -> None:
    resnet = make().eval()
    with torch.no_grad():
        resnet(IMAGES)
        first = resnet._folded.get(resnet.res3[0].conv1, torch.float32)
        resnet(IMAGES)
    resnet(IMAGES)  # with gradients, by detectron2's own blocks
    with torch.no_grad():
        assert resnet._folded.get(resnet.res3[0].conv1, torch.float32) is first


def test_weights_folded_in_inference_mode_serve_in_training() -> None:
    resnet = make(freeze_at=2).train()
    with torch.inference_mode():
        resnet(IMAGES)
    resnet(IMAGES)["res3"].mean().backward()
    resnet.eval()
    with torch.inference_mode():
        resnet(IMAGES)
    images = IMAGES.clone().requires_grad_()
    for parameter in resnet.parameters():
        parameter.requires_grad_(False)
    resnet(images)["res3"].mean().backward()
    assert images.grad is not None


def test_weights_made_in_inference_mode() -> None:
    with torch.inference_mode():
        resnet = make().eval()
        assert_equal_to_plain(resnet)
        resnet.res3[1].conv2.weight.mul_(1.5)
        assert_equal_to_plain(resnet)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_stand_alone(duplicate: Any) -> None:
    resnet = make().eval()
    with torch.no_grad():
        before = resnet(IMAGES)["res3"]
    other = duplicate(resnet)
    assert isinstance(other, FastResNet)
    assert not is_folded(other)
    write_in_place(other)
    assert_equal_to_plain(other)
    with torch.no_grad():
        assert torch.equal(resnet(IMAGES)["res3"], before)
