"""What is copied between host and device in training: nothing but costs and matching.

The first test runs the network on tensors that only claim to be on a GPU, which needs no GPU.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.structures import ImageList
from segmentation_cases import MASKS
from tiny_deformable import tiny_deformable
from tiny_models import random_predictions, random_targets, tiny_detr
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from detr_d2.modeling import DETR, HungarianMatcher, Matching, Step, Targets

GRID = ["MODEL.DETR.TRANSFORMER.SAMPLING_BACKEND", "grid_sample"]


class Copies(TorchDispatchMode):
    """Counts, inside, what makes the host wait for the device or the device for the host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        tensors = [x for x in (*args, result) if isinstance(x, Tensor)]
        devices = {x.device.type for x in tensors}
        if name in ("_to_copy", "copy_") and len(devices) > 1:
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


@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="this build of torch has no CUDA")
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


def test_the_matcher_copies_once_down_and_once_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU these copies are none, so the calls that would make them are counted."""
    calls: list[str] = []
    down, up = Tensor.cpu, Tensor.to

    def count_down(self: Tensor) -> Tensor:
        calls.append("down")
        return down(self)

    def count_up(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if any(isinstance(x, torch.device) for x in (*args, *kwargs.values())):
            calls.append("up")
        return up(self, *args, **kwargs)

    monkeypatch.setattr(Tensor, "cpu", count_down)
    monkeypatch.setattr(Tensor, "to", count_up)
    logits, boxes = random_predictions(3, 2, 8)
    HungarianMatcher()(logits, boxes, random_targets([3, 1]))
    assert calls == ["down", "up"]
