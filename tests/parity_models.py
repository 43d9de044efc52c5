"""DETRs in which every number counts, inputs that are padded, and what all comparisons share.

With `-s` every comparison prints the largest difference that it has seen.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, ImageList, Instances
from tiny_models import random_boxes_xyxy
from torch import Tensor, nn

from detr_d2 import model_zoo
from detr_d2.checkpoint.layouts.identify import convert
from detr_d2.layers import padding_mask
from detr_d2.modeling import DETR, Targets
from detr_d2.other_libraries.references import AUTHORS_REPOSITORY, authors_modules, build_authors_model

FLOAT32, FLOAT64 = 1e-4, 1e-9
"""Largest absolute differences allowed of logits and boxes."""

SIZES = [(96, 128), (128, 80)]
"""Height and width of two images that pad each other."""

needs_authors = pytest.mark.skipif(
    not os.environ.get(AUTHORS_REPOSITORY),
    reason=f"set {AUTHORS_REPOSITORY} to a checkout of https://github.com/facebookresearch/detr to compare with it",
)


def published_cfg(name: str, *options: Any) -> CfgNode:
    """A shipped config, with the authors' 91 category ids and no weights, on the CPU."""
    cfg = model_zoo.get_config(name)
    cfg.merge_from_list(["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", "MODEL.DETR.NUM_CLASSES", 91, *options])
    return cfg


def small_cfg(*options: Any) -> CfgNode:
    """`detr_r50` on ResNet-18 with narrow transformer layers: two and three of them, 12 queries, 5 classes."""
    small: list[Any] = ["MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64]
    small += ["MODEL.DETR.TRANSFORMER.HIDDEN_DIM", 32, "MODEL.DETR.TRANSFORMER.NUM_HEADS", 4]
    small += ["MODEL.DETR.TRANSFORMER.FEEDFORWARD_DIM", 64, "MODEL.DETR.NUM_QUERIES", 12]
    small += ["MODEL.DETR.TRANSFORMER.NUM_ENCODER_LAYERS", 2, "MODEL.DETR.TRANSFORMER.NUM_DECODER_LAYERS", 3]
    return published_cfg("detr_r50.yaml", *small, "MODEL.DETR.NUM_CLASSES", 5, *options)


def build_detr(cfg: CfgNode, dtype: torch.dtype = torch.float32) -> DETR:
    """A DETR with random weights, none of them 0 or 1, in evaluation mode."""
    model = build_model(cfg)
    randomise(model)
    return model.to(dtype).eval()


# Sharp attention that adds little to each token, and heads that spread what is left: queries stay apart.
_GAINS = {r"o(ut)?_proj": 0.3, r"(in|q|k|v)_proj": 1.5, r"(class|bbox)_": 1.5, "": 1.0}


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Moves every bias, norm and batch statistic from where it starts, so that none of them can be lost unseen.

    Matrices and queries are drawn anew, too: the attention of a new network is a plain mean, which makes all queries
    the same after a few layers.
    """
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.add_(0.1 * torch.randn_like(parameter))
        elif "query" in name:
            parameter.normal_(0, 3)
        elif parameter.dim() == 2:
            gain = next(x for pattern, x in _GAINS.items() if re.search(pattern, name))
            parameter.normal_(0, gain / parameter.shape[1] ** 0.5)
        elif parameter.dim() == 4 and "backbone" in name:
            nn.init.kaiming_normal_(parameter, mode="fan_out", nonlinearity="relu")
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
        elif name.endswith("weight"):  # of frozen batch norms; small, as every block adds to the one before
            buffer.uniform_(0.5, 1.0)
        elif name.endswith(("running_mean", "bias")):
            buffer.normal_(0, 0.1)


def padded_images(dtype: torch.dtype = torch.float32, sizes: list[tuple[int, int]] = SIZES) -> tuple[ImageList, Tensor]:
    """Normalised random images, and their padding mask (B, H, W)."""
    images = ImageList.from_tensors([torch.randn(3, *size, dtype=dtype) for size in sizes])
    mask = padding_mask(images.image_sizes, tuple(images.tensor.shape[-2:]), "cpu")
    return images, torch.zeros(images.tensor[:, 0].shape, dtype=torch.bool) if mask is None else mask


def random_instances(sizes: list[tuple[int, int]], counts: list[int], num_classes: int) -> list[dict[str, Any]]:
    """The part of detectron2's inputs that losses read: `counts` objects per image."""
    inputs = []
    for (height, width), count in zip(sizes, counts, strict=True):
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(random_boxes_xyxy(count, height, width))
        instances.gt_classes = torch.randint(0, num_classes, (count,))
        inputs.append({"instances": instances})
    return inputs


def targets_per_image(
    inputs: list[dict[str, Any]], num_classes: int, *, labels: str = "labels"
) -> list[dict[str, Tensor]]:
    """The same objects as dictionaries of class indices and normalised boxes_cxcywh, in float64."""
    targets = Targets.from_instances([x["instances"] for x in inputs], num_classes=num_classes)
    classes, boxes = targets.labels.split(targets.counts), targets.boxes_cxcywh.double().split(targets.counts)
    return [{labels: x, "boxes": y} for x, y in zip(classes, boxes, strict=True)]


def losses_of(
    model: DETR, images: ImageList, inputs: list[dict[str, Any]], *, all_layers: bool = True
) -> dict[str, Tensor]:
    """Weighted losses of images that are normalised already."""
    targets = model.pack_targets(inputs, images)
    return model.losses(model.predict(images, all_layers=all_layers, targets=targets), targets, inputs)


def gradients_of(model: DETR, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of every parameter for the sum of losses."""
    model.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def train_everything(model: nn.Module) -> None:
    """Unfreezes all parameters: what libraries freeze by default differs, and gradients are compared of all."""
    for parameter in model.parameters():
        parameter.requires_grad_(True)


def under_our_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict, or gradients beside the buffers of one, through the converter."""
    return convert(state, "detectron2", source="the reference")


def transformers_tensors(model: Any, folder: Path) -> dict[str, Tensor]:
    """What `save_pretrained` writes, under our names."""
    from safetensors.torch import load_file

    model.save_pretrained(folder)
    return under_our_names(load_file(folder / "model.safetensors"))


def in_float32(weight: float) -> float:
    """Class weights are kept in float32."""
    return float(torch.tensor(weight, dtype=torch.float32))


@contextmanager
def double_precision_constants() -> Iterator[None]:
    """`transformers` makes its class weights anew at every call, in the default type."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def loss_of_all_layers(
    theirs: Any, images: Tensor, mask: Tensor, labels: list[dict[str, Tensor]]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of `transformers` with its auxiliary losses.

    Its network must not know of them: in version 5.23 `auxiliary_loss=True` feeds the normed output of each decoder
    layer to the next one and norms the last output twice, which is another network than DETR.
    """
    layers: list[Tensor] = []
    hooks = [x.register_forward_hook(lambda _module, _args, y: layers.append(y)) for x in theirs.model.decoder.layers]
    theirs(pixel_values=images, pixel_mask=(~mask).long())
    for hook in hooks:
        hook.remove()
    hidden_states = theirs.model.decoder.layernorm(torch.stack(layers))
    logits = theirs.class_labels_classifier(hidden_states)
    boxes = theirs.bbox_predictor(hidden_states).sigmoid()
    theirs.config.auxiliary_loss = True
    with double_precision_constants():
        total, losses, _ = theirs.loss_function(
            logits[-1], labels, images.device, boxes[-1], theirs.config, logits, boxes
        )
    theirs.config.auxiliary_loss = False
    return total, losses


def plain_adamw(model: nn.Module) -> torch.optim.Optimizer:
    """The authors' optimizer for any library's model, as their main.py builds it."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [parameter for name, parameter in named if "backbone" not in name]},
        {"params": [parameter for name, parameter in named if "backbone" in name], "lr": 1e-5},
    ]
    return torch.optim.AdamW(groups, lr=1e-4, weight_decay=1e-4)


def assert_close(what: str, got: Tensor, expected: Tensor, atol: float) -> None:
    """Compares, and prints the largest absolute difference beside the spread of what is compared."""
    assert got.shape == expected.shape, f"{what}: {tuple(got.shape)} and {tuple(expected.shape)}"
    difference = float((got - expected).detach().abs().max())
    print(f"{what}: max difference {difference:.1e} (largest value {float(expected.detach().abs().max()):.1e})")
    assert difference <= atol, f"{what} differs by {difference:.2e}, allowed is {atol:.0e}"


def assert_predictions_close(what: str, got: Sequence[Tensor], expected: Sequence[Tensor], atol: float) -> None:
    """Compares logits (L, B, Q, K + 1) and boxes_cxcywh (L, B, Q, 4), after checking that there is much to compare."""
    for name, x, y in zip(("logits", "boxes"), got, expected, strict=True):
        y = y.detach()
        assert float(y.std(2).mean()) > 1e-3, f"{what}: all queries have nearly the same {name}"
        assert float((y[:, 0] - y[:, 1]).abs().max()) > 1e-3, f"{what}: both images have nearly the same {name}"
        assert_close(f"{what}, {name}", x, y, atol)


def assert_all_close(what: str, got: Mapping[str, Tensor], expected: Mapping[str, Tensor], atol: float) -> None:
    """Compares tensors by name, relative to the largest of them all; prints the largest difference of any."""
    assert got.keys() == expected.keys(), f"{what}: {sorted(got.keys() ^ expected.keys())[:5]} only in one"
    scale = max(float(x.detach().abs().max()) for x in expected.values())
    worst = max((float((got[name] - x).detach().abs().max()) / scale, name) for name, x in expected.items())
    print(f"{what}: max difference {worst[0]:.1e} x the largest value {scale:.1e}, in {worst[1]} ({len(got)} tensors)")
    assert worst[0] <= atol, f"{what}: {worst[1]} differs by {worst[0]:.2e} x {scale:.1e}, allowed is {atol:.0e}"


def authors_twin(model: DETR, cfg: Any) -> tuple[nn.Module, nn.Module]:
    """The authors' model with our weights, and their criterion."""
    theirs, criterion = build_authors_model(cfg)
    theirs.load_state_dict(convert(model.state_dict(), "official", source="the model"))
    dtype = next(model.parameters()).dtype
    return theirs.to(dtype).train(model.training), criterion.to(dtype)


def authors_losses(theirs: nn.Module, criterion: Any, images: Tensor, mask: Tensor, targets: Any) -> dict[str, Tensor]:
    """Their losses, weighted as their training loop does."""
    with authors_modules() as authors:
        outputs = theirs(authors.module("util.misc").NestedTensor(images, mask))
    unweighted = criterion(outputs, targets)
    return {name: weight * unweighted[name] for name, weight in criterion.weight_dict.items() if name in unweighted}


def under_names_of(model: DETR, theirs: nn.Module, read: Callable[[nn.Parameter], Any]) -> dict[str, Tensor]:
    """What `read` says of each of the authors' parameters, by the names of ours."""
    state = {name: buffer.detach() for name, buffer in theirs.named_buffers()}
    state.update({name: read(parameter) for name, parameter in theirs.named_parameters()})
    state = under_our_names(state)
    return {name: state[name] for name, _ in model.named_parameters()}
