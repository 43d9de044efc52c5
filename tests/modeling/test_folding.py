"""`FastResNet` against detectron2's ResNet: values, gradients, and everything that may change a weight in between."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling import ResNet
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock
from torch import Tensor, nn

from detr_d2.modeling.fast_resnet import FastResNet

ALL = ("stem", "res2", "res3")
IMAGES = torch.randn(2, 3, 37, 50, generator=torch.Generator().manual_seed(0))


class OtherBlock(BottleneckBlock):
    """Not detectron2's: its result is doubled."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def make(norm: str = "FrozenBN", *, basic: bool = False, freeze_at: int = 0, **changes: Any) -> Any:
    """Two small stages, whose norms are all different."""
    torch.manual_seed(0)
    stem = BasicStem(3, 64 if basic else 32, norm=norm)
    stages, width = [], stem.out_channels
    for stride in (1, 2):
        kwargs: dict[str, Any] = {"in_channels": width, "out_channels": 64 * stride, "norm": norm}
        if basic:
            blocks = ResNet.make_stage(BasicBlock, 2, stride_per_block=[stride, 1], **kwargs)
        else:
            kwargs.update(bottleneck_channels=32, dilation_per_block=[1, stride], num_groups=2, **changes)
            blocks = ResNet.make_stage(BottleneckBlock, 2, stride_per_block=[stride, 1], **kwargs)
        stages.append(blocks)
        width = 64 * stride
    resnet = FastResNet(stem, stages, out_features=list(ALL), freeze_at=freeze_at)
    norms: list[Any] = [
        module
        for module in resnet.modules()
        if isinstance(module, (FrozenBatchNorm2d, nn.modules.batchnorm._BatchNorm))
    ]
    for module in norms:
        nn.init.uniform_(module.weight, 0.5, 1.5)
        nn.init.normal_(module.bias, std=0.2)
        module.running_mean.normal_(std=0.2)
        module.running_var.uniform_(0.5, 1.5)
    return resnet


def plain(resnet: Any, x: Tensor) -> dict[str, Tensor]:
    return ResNet.forward(resnet, x)


@torch.no_grad()
def assert_equal_to_plain(resnet: Any, x: Tensor = IMAGES, tolerance: float = 2e-5) -> None:
    x = x.to(resnet.stem.conv1.weight.dtype)
    expected, got = plain(resnet, x), resnet(x)
    assert list(got) == list(expected)
    for name, value in expected.items():
        scale = float(value.abs().max())
        torch.testing.assert_close(got[name] / scale, value / scale, atol=tolerance, rtol=0, msg=name)


def is_folded(resnet: Any) -> bool:
    return len(resnet._folded) > 0


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
    slow.optimize_training = False
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
    resnet.res3[0].conv1.weight.data.mul_(0.5)
    resnet.refresh()


def cast(resnet: Any) -> None:
    resnet.double()


def train_a_step(resnet: Any) -> None:
    resnet.train()
    optimizer = torch.optim.SGD(resnet.parameters(), lr=0.1)
    resnet(IMAGES)["res3"].mean().backward()
    optimizer.step()
    resnet.eval()


CHANGES = (
    write_in_place, write_buffer, ema, load, load_by_assignment, replace_parameter, replace_data, replace_norm,
    replace_block, write_through_data, cast, train_a_step,
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda x: x.__name__)
def test_follows_every_change_of_a_weight(change: Any) -> None:
    resnet = make().eval()
    with torch.no_grad():
        before = resnet(IMAGES)["res3"]
    change(resnet)
    assert_equal_to_plain(resnet)
    with torch.no_grad():
        changed = resnet(IMAGES.to(resnet.stem.conv1.weight.dtype))["res3"]
    assert change is cast or not torch.allclose(before, changed)


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
    assert resnet._folded.get(resnet.res3[0].conv1, torch.float32) is not first  # with gradients: another
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


def test_other_blocks_and_convolutions_keep_their_own_forward() -> None:
    class OtherConvolution(Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    resnet = make().eval()
    replace_block(resnet)
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


@pytest.mark.parametrize("training", [False, True])
def test_can_be_switched_off(training: bool) -> None:
    resnet = make().train(training)
    resnet.optimize_inference = resnet.optimize_training = False
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
