"""What is copied between host and device in training: nothing but costs and matching.

The first test runs the network on tensors that only claim to be on a GPU, which needs no GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from detectron2.structures import ImageList
from segmentation_cases import MASKS
from tiny_deformable import tiny_deformable
from tiny_models import random_input, random_predictions, random_targets, tiny_detr
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from detr_d2.modeling import DETR, HungarianMatcher, Matching, Step, Targets

NEEDS_CUDA_BUILD = pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="this build of torch has no CUDA")
GRID = ["MODEL.DETR.TRANSFORMER.SAMPLING_BACKEND", "grid_sample"]


class Copies(TorchDispatchMode):
    """Counts, inside, what makes the host wait for the device or the device for the host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
        devices = {x.device.type for x in tensors if x.dim() or name in ("_to_copy", "copy_")}  # a number is no copy
        if len(devices) > 1:
            self.found.append(f"{name} of {tuple(tensors[0].shape)} to {tensors[-1].device}")
        if name in ("_local_scalar_dense", "nonzero", "_unique2", "masked_select"):
            self.found.append(name)
        return result


def to_fake_gpu(module: nn.Module) -> None:
    """Replaces parameters and buffers; inside a `FakeTensorMode`."""
    for part in module.modules():
        for name, x in part._parameters.items():
            if x is not None:
                fake = torch.empty(x.shape, dtype=x.dtype, device="cuda")
                part._parameters[name] = nn.Parameter(fake, requires_grad=x.requires_grad)
        for name, y in part._buffers.items():
            if y is not None:
                part._buffers[name] = torch.empty(y.shape, dtype=y.dtype, device="cuda")


def fake_targets(masks: bool) -> Targets:
    """Of an image with two objects and one with one."""
    return Targets(
        labels=torch.zeros(3, dtype=torch.long, device="cuda"),
        boxes_cxcywh=torch.rand(3, 4, device="cuda"),
        image_index=torch.zeros(3, dtype=torch.long, device="cuda"),
        counts=[2, 1],
        masks=torch.zeros(3, 96, 96, dtype=torch.bool, device="cuda") if masks else None,
        step=Step(torch.ones((), device="cuda"), [torch.zeros(2, dtype=torch.long), torch.zeros(1, dtype=torch.long)]),
    )


class Given(HungarianMatcher):
    """A matching that is known."""

    def __call__(self, logits: Tensor, *_: Any, **__: Any) -> Matching:
        index = torch.zeros(len(logits), 3, dtype=torch.long, device="cuda")
        return Matching(image=index[0], query=index, target=index)


def build(kind: str) -> DETR:
    if kind in ("multi_scale", "two_stage"):
        return tiny_deformable(kind, *GRID)
    return tiny_detr(*(MASKS if kind == "masks" else []))


@NEEDS_CUDA_BUILD
@pytest.mark.parametrize(
    "copy",
    [
        lambda x: x.cpu(),
        lambda x: torch.tensor([1.0], device=x.device),
        lambda x: x[[0]],
        lambda x: x[torch.tensor([0])],
        lambda x: x.copy_(torch.zeros(4)),
    ],
    ids=["down", "from a list", "index of numbers", "index on the host", "into"],
)
def test_copies_are_seen(copy: Callable[[Tensor], Any]) -> None:
    with FakeTensorMode():
        x = torch.ones(4, device="cuda")
        with Copies() as copies:
            (x * 2 + torch.tensor(1.0)).sum()
        assert not copies.found
        with Copies() as copies:
            copy(x)
    assert copies.found


def test_targets_are_packed_before_the_backbone_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_detr()
    order: list[str] = []
    pack = model.pack_targets

    def packed(*arguments: Any) -> Targets:
        order.append("targets")
        return pack(*arguments)

    monkeypatch.setattr(model, "pack_targets", packed)
    model.backbone.register_forward_pre_hook(lambda *_: order.append("backbone"))
    model([random_input(64, 64, 2)])
    assert order == ["targets", "backbone"]


@NEEDS_CUDA_BUILD
@pytest.mark.parametrize("sizes", [[(96, 64), (64, 96)], [(96, 96), (96, 96)]], ids=["padded", "equal"])
@pytest.mark.parametrize("kind", ["detr", "masks", "multi_scale", "two_stage"])
def test_nothing_is_copied_in_forward_and_losses(kind: str, sizes: list[tuple[int, int]]) -> None:
    model = build(kind)
    with FakeTensorMode():
        to_fake_gpu(model)
        model.criterion.matcher = Given()
        images = ImageList(torch.rand(2, 3, 96, 96, device="cuda"), sizes)
        targets = fake_targets(kind == "masks")
        with Copies() as copies:
            predictions = model.predict(images, all_layers=True, targets=targets)
            losses = model.losses(predictions, targets, [])  # a backward needs a GPU
    assert {x.device.type for x in losses.values()} == {"cuda"}
    assert not copies.found


class Waits(TorchFunctionMode):
    """Lists, inside, the calls that copy from or to a GPU, on a CPU too, where they copy nothing."""

    NAMES = ("cpu", "cuda", "item", "tolist", "nonzero", "__bool__", "__int__", "__float__", "__index__", "__array__")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        to_device = name == "to" and any(isinstance(x, torch.device) for x in (*args, *kwargs.values()))
        if name in self.NAMES or to_device:
            self.found.append(name)
        return func(*args, **kwargs)


@pytest.mark.parametrize("counts", [[3, 1], [0, 9], [0, 0]])
def test_the_matcher_copies_once_down_and_once_up(counts: list[int]) -> None:
    logits, boxes = random_predictions(3, 2, 8)
    targets = random_targets(counts)
    with Waits() as waits:
        HungarianMatcher()(logits, boxes, targets)
    assert waits.found == ["cpu", "to"]
