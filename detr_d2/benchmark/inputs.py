"""What contestants work on: the configs that the options describe, and random images and objects, the same for all."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torch.nn import functional as F

from ..engine.startup.setup import load_config
from ..modeling import DETR, build_model

DETECTRON2 = "detectron2:"
"""What the names of contestants begin with that are other detectors; a config follows."""

FLOAT32 = "ours-float32"
"""Ours without the autocast that all others run under."""

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}

Inputs = list[dict[str, Any]]
"""detectron2's inputs: "image" (3, H, W) uint8, "height", "width", "instances" with ground truth."""


def model_config(args: argparse.Namespace) -> CfgNode:
    """The config of our model that the options describe."""
    cfg = load_config(args.config_file, [*args.opts, "MODEL.DEVICE", args.device, "MODEL.WEIGHTS", ""])
    cfg.MODEL.DETR.NUM_CLASSES = args.classes
    return cfg


def other_configs(names: Sequence[str], device: str) -> dict[str, CfgNode]:
    """Contestant of detectron2 -> its config."""
    options = ["MODEL.DEVICE", device, "MODEL.WEIGHTS", ""]
    return {x: load_config(x.removeprefix(DETECTRON2), options) for x in names if x.startswith(DETECTRON2)}


def chosen_inputs(args: argparse.Namespace, **changes: Any) -> Inputs:
    """`random_inputs` of the options; `changes` of size and batch."""
    size, batch = changes.get("size", args.size), changes.get("batch", args.batch)
    return random_inputs(size, batch, objects=args.objects, num_classes=args.classes, mixed=args.mixed, seed=args.seed)


def describe(what: str, args: argparse.Namespace, names: Sequence[str]) -> None:
    """Says what is timed."""
    height, width = args.size
    mixed = ", mixed sizes that pad each other" if args.mixed else ""
    precision = f", {args.amp} autocast" if args.amp else ""
    print(f"{what} of {args.config_file}, {args.batch} x {width}x{height} pixels{mixed}{precision}: {', '.join(names)}")


def autocast(name: str, args: argparse.Namespace) -> AbstractContextManager[Any]:
    """What a contestant of a name runs under."""
    if not args.amp or name == FLOAT32:
        return contextlib.nullcontext()
    return torch.autocast(torch.device(args.device).type, PRECISIONS[args.amp])


def random_inputs(
    size: tuple[int, int], batch: int, *, objects: int, num_classes: int, mixed: bool = False, seed: int = 0
) -> Inputs:
    """Smooth random images with random objects.

    Args:
        size: height and width in pixels.
        batch: B.
        objects: of every image.
        num_classes: K.
        mixed: every second image has height and width exchanged, and every third one is 3/4 as large, so that the
            images of a batch pad each other.
        seed: of the random numbers.

    Raises:
        ValueError: a size, a batch or a number of classes that is not positive.
    """
    for name, value in {"height": size[0], "width": size[1], "batch": batch, "classes": num_classes}.items():
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
    if objects < 0:
        raise ValueError(f"objects is {objects}, expected 0 or more")
    generator = torch.Generator().manual_seed(seed)
    sizes = mixed_sizes(size, batch) if mixed else [size] * batch
    return [_random_input(x, objects, num_classes, generator) for x in sizes]


def mixed_sizes(size: tuple[int, int], batch: int) -> list[tuple[int, int]]:
    """Height and width of B images that pad each other."""
    sizes = []
    for i in range(batch):
        height, width = size if i % 2 == 0 else size[::-1]
        scale = 0.75 if i % 3 == 2 else 1.0
        sizes.append((max(1, int(scale * height)), max(1, int(scale * width))))
    return sizes


def _random_input(size: tuple[int, int], objects: int, num_classes: int, generator: torch.Generator) -> dict[str, Any]:
    height, width = size
    coarse = torch.rand(1, 3, max(1, height // 16), max(1, width // 16), generator=generator)
    image = F.interpolate(coarse, size=size, mode="bilinear")[0]
    noise = 0.1 * torch.rand(3, height, width, generator=generator)
    instances = Instances(size)
    extent = 0.05 + 0.4 * torch.rand(objects, 2, generator=generator)
    corner = (1 - extent) * torch.rand(objects, 2, generator=generator)
    scale = torch.tensor([width, height, width, height], dtype=torch.float32)
    instances.gt_boxes = Boxes(torch.cat([corner, corner + extent], dim=1) * scale)
    instances.gt_classes = torch.randint(num_classes, (objects,), generator=generator)
    pixels = (255 * (image + noise).clamp(max=1)).to(torch.uint8)
    return {"image": pixels, "height": height, "width": width, "instances": instances}


def normalised_batch(inputs: Inputs, cfg: CfgNode, device: str) -> tuple[Tensor, Tensor]:
    """What other implementations take: padded images (B, 3, H, W) and their padding mask (B, H, W).

    The plain way that their own data loaders have: every image is normalised, then copied into zeros.
    """
    mean, std = (torch.tensor(x, device=device).view(-1, 1, 1) for x in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))
    images = [(x["image"].to(device) - mean) / std for x in inputs]
    height, width = (max(image.shape[i] for image in images) for i in (1, 2))
    padded = torch.zeros(len(images), 3, height, width, device=device)
    mask = torch.ones(len(images), height, width, dtype=torch.bool, device=device)
    for image, target, padding in zip(images, padded, mask, strict=True):
        target[:, : image.shape[1], : image.shape[2]] = image
        padding[: image.shape[1], : image.shape[2]] = False
    return padded, mask


def normalised_targets(inputs: Inputs, device: str, labels: str) -> list[dict[str, Tensor]]:
    """Ground truth of other implementations: class indices under the key `labels`, normalised centre boxes."""
    targets = []
    for x in inputs:
        height, width = x["instances"].image_size
        scale = torch.tensor([width, height, width, height], device=device)
        low, high = (x["instances"].gt_boxes.tensor.to(device) / scale).chunk(2, dim=-1)
        boxes = torch.cat([(low + high) / 2, high - low], dim=-1)
        targets.append({labels: x["instances"].gt_classes.to(device), "boxes": boxes})
    return targets


def random_detr(cfg: CfgNode, seed: int) -> DETR:
    """The DETR of a config with random weights on which the output depends as on trained ones.

    New norms scale by 1 and shift by 0, new biases are 0, and new attention is a plain mean: what is done wrong with
    them would not show. So they are moved, the norms of residual branches such that activations stay small.

    Raises:
        ValueError: the config is of another architecture.
    """
    if cfg.MODEL.META_ARCHITECTURE != "DETR":
        raise ValueError(f"the config is of a {cfg.MODEL.META_ARCHITECTURE}, expected a DETR: others are contestants")
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = build_model(cfg)
    assert isinstance(model, DETR)
    _move_weights(model, generator)
    return model.eval()


_SHARPENED = ("in_proj_weight", "attention_weights.weight", "class_embed.weight")


@torch.no_grad()
def _move_weights(model: nn.Module, generator: torch.Generator) -> None:
    tensors: Sequence[tuple[str, Tensor]] = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in tensors:
        values = torch.rand(tensor.shape, generator=generator).to(tensor.device)
        norm = ".norm." in name and name.startswith("backbone.")
        if norm and name.endswith((".weight", ".running_var")):
            tensor.copy_(0.5 + 0.5 * values if name.endswith(".weight") else 0.75 + 0.5 * values)
        elif tensor.dim() == 1 and name.endswith((".bias", ".running_mean")):
            tensor.add_(0.2 * values - 0.1)
        elif "query" in name and tensor.dim() == 2:
            tensor.copy_(6 * values - 3)
        elif tensor.dim() == 2 and name.endswith(_SHARPENED):
            tensor.mul_(2)
        elif tensor.dim() == 2 and not tensor.any():
            tensor.copy_(0.1 * values - 0.05)
