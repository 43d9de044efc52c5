"""Contestants of a benchmark of whole models: implementations of the same detector with the same weights.

`ours` and `ours-eager` (nothing folded), `transformers`, `authors`, and `detectron2:CONFIG`, another detector, which
can be timed beside them but not compared with them. `ours-recompute` trains with recomputation of the transformer and,
if it is a ResNet, of the backbone. `ours-float32` is without autocast. `ours-compiled` predicts with `torch.compile` of
`ours-eager`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from ..checkpoint.layouts.identify import convert
from ..modeling import DETR, build_model
from ..other_libraries.deformable_reference import build_authors_network, is_deformable
from ..other_libraries.references import (
    AUTHORS_REPOSITORY,
    authors_forward,
    authors_repository,
    build_transformers_model,
)
from ..prediction.detector_keys import set_num_classes
from .inputs import DETECTRON2, Inputs, normalised_batch, random_detr
from .losses import Losses, authors_losses, transformers_losses, transformers_trainable
from .report import relative_difference

COMPILED = "ours-compiled"
_DEFAULT_COMPILERS = {"darwin": "clang++", "win32": "cl"}
DEFAULT = ("ours", "ours-eager", "transformers", "authors")

Network = Callable[[Inputs], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Contestant:
    """One implementation.

    Attributes:
        name: as the user wrote it.
        model: its module, on the device.
        detect: from 8-bit images to detections, in evaluation mode.
        losses: weighted losses in training mode.
        network: from 8-bit images to logits (B, Q, K or K + 1) and boxes (B, Q, 4) of the last decoder layer; None if
            this is another detector.
    """

    name: str
    model: nn.Module
    detect: Callable[[Inputs], object]
    losses: Callable[[Inputs], Losses]
    network: Network | None


def chosen_contestants(args: argparse.Namespace, cfg: CfgNode) -> list[str]:
    """The names of those that take part: those of `--contestants`, or those of `DEFAULT` that are there.

    Args:
        args: `what` they do, and their names.
        cfg: of our model.

    Raises:
        ValueError: an unknown name, one that occurs twice, or one that was asked for and cannot take part.
    """
    names, all_names = args.contestants, (*DEFAULT, COMPILED)
    if names is None:
        problems = {name: missing(name, cfg) for name in DEFAULT}
        for name, problem in problems.items():
            if problem is not None:
                print(f"not there: {name}: {problem}")
        return [name for name, problem in problems.items() if problem is None]
    for name in names:
        if name not in all_names and not name.startswith(DETECTRON2):
            expected = ", ".join((*all_names, f"{DETECTRON2}CONFIG"))
            raise ValueError(f"there is no contestant {name!r}; expected some of {expected}")
        if name == COMPILED and args.what != "infer":
            raise ValueError(f"contestant {COMPILED} takes part in `benchmark infer` only: leave it out of {args.what}")
        problem = missing(name, cfg)
        if problem is not None:
            raise ValueError(f"contestant {name}: {problem}")
    if len(set(names)) < len(names):
        raise ValueError(f"the contestants {' '.join(names)} have one twice")
    return list(names)


def missing(name: str, cfg: CfgNode) -> str | None:
    """Why a contestant cannot take part; None if it can."""
    mixed = is_deformable(cfg) and cfg.MODEL.DETR.TRANSFORMER.DEFORMABLE.MIXED_SELECTION
    if mixed and name in ("transformers", "authors"):
        return "it has no mixed query selection (MODEL.DETR.TRANSFORMER.DEFORMABLE.MIXED_SELECTION)"
    if name == "transformers" and importlib.util.find_spec("transformers") is None:
        return 'the package transformers is not installed: pip install "detr_d2[hf]"'
    if name == "authors":
        try:
            authors_repository("DEFORMABLE_DETR_REPO" if is_deformable(cfg) else AUTHORS_REPOSITORY)
        except ValueError as error:
            return str(error)
    return why_not_compiled(cfg.MODEL.DEVICE) if name == COMPILED else None


def why_not_compiled(device: str) -> str | None:
    """What `torch.compile` lacks for a device; None if nothing: on a CPU it needs a C++ compiler."""
    compiler = (os.environ.get("CXX") or _DEFAULT_COMPILERS.get(sys.platform, "g++")).split()[0]
    if device != "cpu" or shutil.which(compiler):
        return None
    return f"torch.compile needs a C++ compiler, and {compiler} is not there: install it, or name another one in CXX"


def our_weights(cfg: CfgNode, seed: int, weights: str = "") -> dict[str, Tensor]:
    """State dict of this package's model: random, or of a file in any layout that the package reads."""
    model = random_detr(cfg, seed)
    if weights:
        from ..checkpoint import Checkpointer

        Checkpointer(model).load(os.fspath(weights))
    return {name: x.detach().cpu().clone() for name, x in model.state_dict().items()}


def build_contestant(
    name: str, cfg: CfgNode, state: Mapping[str, Tensor], others: Mapping[str, CfgNode], device: str
) -> Contestant:
    """Builds one.

    Args:
        name: as in `chosen_contestants`.
        cfg: of our model, with its number of classes.
        state: of our model; the others get it through the converter.
        others: config of every contestant `detectron2:CONFIG`, by that name; these get random weights.
        device: of all of them.
    """
    if name.startswith(DETECTRON2):
        return _of_detectron2(name, others[name], cfg.MODEL.DETR.NUM_CLASSES, device)
    builders: dict[str, Callable[..., Contestant]] = {"transformers": _transformers, "authors": _authors}
    return builders.get(name, partial(_ours, name))(cfg, state, device)


def _ours(name: str, cfg: CfgNode, state: Mapping[str, Tensor], device: str) -> Contestant:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = device
    if name in ("ours-eager", COMPILED):
        cfg.MODEL.DETR.OPTIMIZE_INFERENCE = cfg.MODEL.DETR.OPTIMIZE_TRAINING = False
    if name == "ours-recompute":
        cfg.MODEL.DETR.TRANSFORMER.RECOMPUTE = True
        cfg.MODEL.DETR.RECOMPUTE_BACKBONE = "resnet" in cfg.MODEL.BACKBONE.NAME
    model = build_model(cfg)
    assert isinstance(model, DETR)
    model.train()  # an evaluated model may refuse a state dict
    model.load_state_dict(dict(state))
    if name == COMPILED:  # all between normalised images and the head's predictions; decoding stays as it is
        model.predict = torch.compile(model.predict, dynamic=False)

    def network(inputs: Inputs) -> tuple[Tensor, Tensor]:
        predictions = model.predict(model.preprocess_image(inputs), all_layers=False)
        return predictions.logits[-1], predictions.boxes_cxcywh[-1]

    return Contestant(name, model, model, model, network)


def _of_detectron2(name: str, cfg: CfgNode, num_classes: int, device: str) -> Contestant:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = device, ""
    set_num_classes(cfg, num_classes)
    model = build_model(cfg)
    return Contestant(name, model, model, model, None)


def _authors(cfg: CfgNode, state: Mapping[str, Tensor], device: str) -> Contestant:
    model = build_authors_network(cfg)
    model.load_state_dict(convert(dict(state), "official", source="the model"))
    model.to(device)
    forward = authors_forward(model)
    # Its class is in the authors' file that also holds their decoder of outputs.
    decode: Any = type(model).forward.__globals__["PostProcess"]()

    def network(inputs: Inputs) -> tuple[Tensor, Tensor]:
        logits, boxes = forward(*normalised_batch(inputs, cfg, device))[:2]
        return logits[-1], boxes[-1]

    def detect(inputs: Inputs) -> object:
        logits, boxes = network(inputs)
        return decode({"pred_logits": logits, "pred_boxes": boxes}, _sizes(inputs, device))

    return Contestant("authors", model, detect, authors_losses(model, cfg, device), network)


def _transformers(cfg: CfgNode, state: Mapping[str, Tensor], device: str) -> Contestant:
    import transformers

    timm = importlib.util.find_spec("timm") is not None
    model: Any = build_transformers_model(cfg, dict(state), timm=timm).to(device)
    transformers_trainable(model, cfg)
    kind = "DeformableDetrImageProcessor" if is_deformable(cfg) else "DetrImageProcessor"
    processor: Any = getattr(transformers, kind)()

    def outputs(inputs: Inputs) -> Any:
        images, mask = normalised_batch(inputs, cfg, device)
        return model(pixel_values=images, pixel_mask=(~mask).long())

    def network(inputs: Inputs) -> tuple[Tensor, Tensor]:
        result = outputs(inputs)
        return result.logits, result.pred_boxes

    def detect(inputs: Inputs) -> object:
        result = outputs(inputs)
        return processor.post_process_object_detection(result, threshold=0.0, target_sizes=_sizes(inputs, device))

    return Contestant("transformers", model, detect, transformers_losses(model, cfg, device), network)


def _sizes(inputs: Inputs, device: str) -> Tensor:
    return torch.tensor([[x["height"], x["width"]] for x in inputs], device=device)


def network_differences(contestants: Sequence[Contestant], inputs: Inputs) -> dict[str, dict[str, float]]:
    """Largest differences of logits and boxes of the others to the first that can be compared.

    Returns:
        name -> "logits", "boxes" -> absolute, or relative to the largest value where that exceeds 1.
    """
    results = {}
    for contestant in contestants:
        contestant.model.eval()
        if contestant.network is not None:
            with torch.no_grad():
                results[contestant.name] = [x.float() for x in contestant.network(inputs)]
    expected = next(iter(results.values()), None)
    return {
        name: {what: relative_difference(a, b) for what, a, b in zip(("logits", "boxes"), got, expected, strict=True)}
        for name, got in list(results.items())[1:]
        if expected is not None
    }
