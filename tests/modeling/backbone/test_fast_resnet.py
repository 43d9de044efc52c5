"""`FastResNet` against detectron2's ResNet: values, gradients, and whatever else a call of a module does."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling import ResNet
from detectron2.modeling.backbone.resnet import BasicStem, BottleneckBlock
from fast_resnets import ALL, IMAGES, OtherBlock, assert_equal_to_plain, is_folded, make, plain
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from detr_d2.modeling.backbone.fast_resnet import FastResNet


@pytest.mark.parametrize("basic", [False, True], ids=["bottleneck", "basic"])
@pytest.mark.parametrize("norm", ["FrozenBN", "BN", "SyncBN", "naiveSyncBN", "GN", ""])
def test_evaluation_equals_detectron2s(norm: str, basic: bool) -> None:
    resnet = make(norm, basic=basic).eval()
    assert_equal_to_plain(resnet)
    assert is_folded(resnet) == (norm != "GN")
    assert_equal_to_plain(resnet, IMAGES[:1, :, :33, :41])


@pytest.mark.parametrize("stride_in_1x1", [False, True])
def test_stride_in_either_convolution(stride_in_1x1: bool) -> None:
    assert_equal_to_plain(make(stride_in_1x1=stride_in_1x1).eval())


@pytest.mark.parametrize("basic", [False, True], ids=["bottleneck", "basic"])
@pytest.mark.parametrize("norm", ["FrozenBN", "BN", "GN"])
@pytest.mark.parametrize("freeze_at", [0, 2])
def test_training_has_the_same_gradients(norm: str, basic: bool, freeze_at: int) -> None:
    fast = make(norm, basic=basic, freeze_at=freeze_at).double().train()
    slow = copy.deepcopy(fast)
    slow.fast_training = False
    for resnet in (fast, slow):
        loss = sum((value.square().mean() * (i + 1) for i, value in enumerate(resnet(IMAGES.double()).values())))
        assert isinstance(loss, Tensor)
        loss.backward()
    assert is_folded(fast) == (freeze_at > 0 and norm != "GN")  # what is frozen is folded once
    for (name, a), b in zip(fast.named_parameters(), slow.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, msg=name)
    for (name, a), b in zip(fast.named_buffers(), slow.buffers(), strict=True):  # running statistics
        torch.testing.assert_close(a, b, msg=name)


def test_gradients_in_evaluation_reach_parameters_and_image() -> None:
    resnet = make("BN").double().eval()
    with torch.no_grad():
        resnet(IMAGES.double())
    images = IMAGES.double().requires_grad_()
    tensors = [images, *resnet.parameters()]
    got = torch.autograd.grad(resnet(images)["res3"].sum(), tensors)
    expected = torch.autograd.grad(plain(resnet, images)["res3"].sum(), tensors)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_maps_that_are_returned_are_not_written_to_later() -> None:
    resnet = make(basic=True).eval()  # the first block of res2 adds the stem's output as it is
    with torch.no_grad():
        torch.testing.assert_close(resnet(IMAGES)["stem"], resnet.stem(IMAGES), atol=1e-5, rtol=1e-5)


def test_state_dict_is_detectron2s() -> None:
    resnet = make()
    before = {name: x.clone() for name, x in resnet.state_dict().items()}
    resnet.eval()
    with torch.no_grad():
        resnet(IMAGES)
    after = resnet.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert [name for name, _ in resnet.named_modules()] == [name for name, _ in make().named_modules()]


def test_other_blocks_and_convolutions_keep_their_own_forward() -> None:
    class OtherConvolution(Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    resnet = make().eval()
    resnet.res3[1] = OtherBlock(128, 128, bottleneck_channels=32, norm="FrozenBN")
    resnet.res2[1].conv2.__class__ = OtherConvolution
    resnet.res2[0].conv1.activation = torch.tanh
    assert_equal_to_plain(resnet.eval())


@pytest.mark.parametrize("watched", ["stem", "res2", "res3.0", "res3.1.conv2", "res2.0.conv1.norm"])
def test_hooks_are_called(watched: str) -> None:
    resnet = make().eval()
    calls = []
    handle = resnet.get_submodule(watched).register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        resnet(IMAGES)
    assert calls == [1]
    handle.remove()
    assert_equal_to_plain(resnet)


@pytest.mark.parametrize("watched", ["stem", "res2", "res3.0", "res3.1.conv2", "res2.0.conv1.norm"])
def test_forwards_that_were_replaced_are_called(watched: str) -> None:
    resnet = make().eval()
    module = resnet.get_submodule(watched)
    own = module.forward
    module.forward = lambda x: 2 * own(x)
    assert_equal_to_plain(resnet)


@pytest.mark.parametrize("cls", [BasicStem, BottleneckBlock, Conv2d, FrozenBatchNorm2d])
def test_forwards_of_classes_that_were_replaced_are_called(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    resnet = make().eval()
    own = cls.forward
    monkeypatch.setattr(cls, "forward", lambda self, x: 2 * own(self, x))
    assert_equal_to_plain(resnet)


def test_hooks_on_all_modules_are_called() -> None:
    resnet, called = make().eval(), set()
    with nn.modules.module.register_module_forward_hook(lambda module, *_: called.add(module)), torch.no_grad():
        resnet(IMAGES)
    assert called == set(resnet.modules())


def test_fake_tensors_leave_nothing_behind() -> None:
    resnet = make().eval()
    for _ in range(2):
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
            assert type(resnet(torch.zeros(2, 3, 37, 50))["res3"]) is FakeTensor
        assert_equal_to_plain(resnet)
        assert is_folded(resnet)


def test_meta_device() -> None:
    resnet = make().to("meta").eval()
    for _ in range(2):
        with torch.no_grad():
            shapes = {name: x.shape for name, x in resnet(IMAGES.to("meta")).items()}
    resnet.train()(IMAGES.to("meta"))["res3"].sum().backward()
    with torch.no_grad():
        assert shapes == {name: x.shape for name, x in make()(IMAGES).items()}


@pytest.mark.parametrize("training", [False, True])
def test_can_be_switched_off(training: bool) -> None:
    resnet = make().train(training)
    resnet.fast_inference = resnet.fast_training = False
    with torch.no_grad():
        got, expected = resnet(IMAGES), plain(resnet, IMAGES)
    assert all(torch.equal(got[name], expected[name]) for name in ALL)
    assert not is_folded(resnet)


def test_made_of_detectron2s_own() -> None:
    fast = make().eval()
    stock = ResNet.__new__(ResNet)
    stock.__dict__.update({name: value for name, value in fast.__dict__.items() if name != "_folded"})
    again = FastResNet.of(stock)
    assert again.res3 is stock.res3
    assert_equal_to_plain(again)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    resnet = make().eval()
    with torch.no_grad():
        exact = plain(resnet, IMAGES)["res3"]
        with torch.autocast("cpu", dtype=dtype):
            got = resnet(IMAGES)["res3"]
        full = resnet(IMAGES)["res3"]
    assert got.dtype == dtype
    assert full.dtype == torch.float32
    assert float((got.float() - exact).abs().max()) < 0.05 * float(exact.abs().max())
    torch.testing.assert_close(full, exact, atol=1e-4, rtol=1e-4)


def test_export_sees_detectron2s_modules() -> None:
    resnet = make().eval()
    program = torch.export.export(resnet, (IMAGES,))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(IMAGES)["res3"], plain(resnet, IMAGES)["res3"])
    assert not any("mkldnn" in str(node.target) for node in program.graph.nodes)
