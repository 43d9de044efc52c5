"""Other implementations of DETR, built to be compared with this one: the authors' code and `transformers`.

Both come as a callable that takes normalised images and their padding mask, so that what is compared is the network.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import ImageList
from torch import Tensor, nn

from ..checkpoint.layouts.identify import convert
from ..checkpoint.layouts.transformers_config import model_config
from ..modeling import DETR

AUTHORS_REPOSITORY = "DETR_REPO"
"""Environment variable with the path of a checkout of https://github.com/facebookresearch/detr."""

# Environment variable of each repository -> its address and a file that is in it.
REPOSITORIES = {
    AUTHORS_REPOSITORY: ("https://github.com/facebookresearch/detr", "models/detr.py"),
    "DEFORMABLE_DETR_REPO": ("https://github.com/fundamentalvision/Deformable-DETR", "models/deformable_detr.py"),
}

Forward = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
"""Normalised padded images (B, 3, H, W), padding mask (B, H, W) -> logits (L, B, Q, K + 1), boxes (L, B, Q, 4), and of
models with a mask head the masks of the last layer, logits (1, B, Q, h, w)."""

_PACKAGES = ("models", "util", "datasets")  # top-level names of the authors' repository


def our_forward(model: DETR) -> Forward:
    """Runs this package's DETR on its last decoder layer (L is 1)."""

    def forward(images: Tensor, padding_mask: Tensor) -> tuple[Tensor, ...]:
        sizes = [tuple(int(x) for x in (~mask).nonzero().amax(0) + 1) for mask in padding_mask]
        predictions = model.predict(ImageList(images, sizes), all_layers=False)
        logits, boxes = predictions.logits, predictions.boxes_cxcywh
        if predictions.masks is None:
            return logits, boxes
        all_queries = [torch.arange(logits.shape[2], device=logits.device)] * len(images)
        return logits, boxes, predictions.masks(all_queries).unflatten(0, logits.shape[1:3])[None]

    return forward


def authors_repository(variable: str = AUTHORS_REPOSITORY) -> Path:
    """The checkout that an environment variable names, one of `REPOSITORIES`.

    Raises:
        ValueError: if it names none, or something else.
    """
    address, file = REPOSITORIES[variable]
    path = os.environ.get(variable, "")
    if not path or not Path(path, file).is_file():
        raise ValueError(
            f"{variable} is {path!r}, expected the folder of a checkout of the authors' repository ({address}), with "
            f"{file} in it."
        )
    return Path(path)


@contextmanager
def authors_modules(variable: str = AUTHORS_REPOSITORY) -> Iterator[SimpleNamespace]:
    """The authors' modules, importable for as long as the context lasts: their top-level names are common ones.

    Args:
        variable: which of `REPOSITORIES`.

    Yields:
        An object with the functions `module(name)`.
    """
    repository = str(authors_repository(variable))
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in _PACKAGES}
    sys.path.insert(0, repository)
    try:
        yield SimpleNamespace(module=importlib.import_module)
    finally:
        sys.path.remove(repository)
        for name in [name for name in sys.modules if name.partition(".")[0] in _PACKAGES]:
            del sys.modules[name]
        sys.modules.update(hidden)


def authors_arguments(cfg: CfgNode, **changes: Any) -> argparse.Namespace:
    """What the authors' command line would hold for a config of this package."""
    detr, transformer = cfg.MODEL.DETR, cfg.MODEL.DETR.TRANSFORMER
    arguments = {
        "dataset_file": "coco",
        "device": "cpu",
        "masks": cfg.MODEL.MASK_ON,
        "frozen_weights": None,
        "backbone": f"resnet{cfg.MODEL.RESNETS.DEPTH}",
        "dilation": cfg.MODEL.RESNETS.RES5_DILATION == 2,
        "lr_backbone": cfg.SOLVER.BASE_LR * cfg.SOLVER.BACKBONE_MULTIPLIER,
        "position_embedding": detr.POSITION_ENCODING.NAME,
        "hidden_dim": transformer.HIDDEN_DIM,
        "nheads": transformer.NUM_HEADS,
        "dim_feedforward": transformer.FEEDFORWARD_DIM,
        "enc_layers": transformer.NUM_ENCODER_LAYERS,
        "dec_layers": transformer.NUM_DECODER_LAYERS,
        "dropout": transformer.DROPOUT,
        "pre_norm": transformer.DETR.PRE_NORM,
        "num_queries": detr.NUM_QUERIES,
        "aux_loss": detr.AUX_LOSS,
        "set_cost_class": detr.MATCHER.COST_CLASS,
        "set_cost_bbox": detr.MATCHER.COST_L1,
        "set_cost_giou": detr.MATCHER.COST_GIOU,
        "bbox_loss_coef": detr.CRITERION.LOSS_L1,
        "giou_loss_coef": detr.CRITERION.LOSS_GIOU,
        "mask_loss_coef": detr.CRITERION.LOSS_MASK,
        "dice_loss_coef": detr.CRITERION.LOSS_DICE,
        "eos_coef": detr.CRITERION.NO_OBJECT_WEIGHT,
    }
    return argparse.Namespace(**{**arguments, **changes})


def build_authors_model(cfg: CfgNode) -> tuple[nn.Module, nn.Module]:
    """The authors' DETR for a config, with random weights, and their criterion.

    Raises:
        ValueError: if `DETR_REPO` names no checkout.
    """
    with authors_modules() as authors, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        authors.module("models.backbone").is_main_process = lambda: False  # or it would download ImageNet weights
        model, criterion, _ = authors.module("models").build_model(authors_arguments(cfg))
    boxes = model.get_submodule("detr") if cfg.MODEL.MASK_ON else model
    head = getattr(boxes, "class_embed")  # noqa: B009  # 91 ids and "no object", whatever the config says
    num_classes = cfg.MODEL.DETR.NUM_CLASSES
    if num_classes not in (0, head.out_features - 1):
        boxes.class_embed = nn.Linear(head.in_features, num_classes + 1)
        criterion.num_classes = num_classes
        criterion.empty_weight = torch.ones(num_classes + 1)
        criterion.empty_weight[-1] = cfg.MODEL.DETR.CRITERION.NO_OBJECT_WEIGHT
    return model, criterion


def authors_forward(model: nn.Module) -> Forward:
    """Runs a model of the authors of DETR or of Deformable DETR."""
    nested_tensor = type(model).forward.__globals__["NestedTensor"]  # of the repository that the model is from

    def forward(images: Tensor, padding_mask: Tensor) -> tuple[Tensor, ...]:
        outputs = model(nested_tensor(images, padding_mask))
        layers = [*outputs.get("aux_outputs", []), outputs]
        masks = [outputs["pred_masks"][None]] if "pred_masks" in outputs else []
        return torch.stack([x["pred_logits"] for x in layers]), torch.stack([x["pred_boxes"] for x in layers]), *masks

    return forward


def build_transformers_model(cfg: CfgNode, state: Mapping[str, Tensor], *, timm: bool = True) -> nn.Module:
    """`(Deformable)DetrForObjectDetection` or `DetrForSegmentation` with the weights of a state dict, in eval mode.

    Args:
        cfg: of the model.
        state: name -> tensor, in any layout.
        timm: build the backbone by timm, as DC5 needs.

    Raises:
        ModuleNotFoundError: if `transformers`, or timm, is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise ModuleNotFoundError('this needs the package transformers: pip install "detr_d2[hf]".') from error
    weights = convert(state, "huggingface" if timm else "huggingface-native", source="the model")
    weights = {name: tensor.clone() for name, tensor in weights.items()}  # or the model would share them
    keys = model_config(cfg, weights, class_names=None, timm=timm)
    config = transformers.AutoConfig.for_model(**keys)
    architecture = getattr(transformers, keys["architectures"][0])
    with _quiet(transformers):
        return architecture.from_pretrained(None, config=config, state_dict=weights).eval()


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    log = transformers.utils.logging
    level, progress = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if progress:
            log.enable_progress_bar()


def transformers_forward(model: nn.Module) -> Forward:
    """Runs `DetrForObjectDetection` or `DetrForSegmentation`; L is 1, the last decoder layer."""

    def forward(images: Tensor, padding_mask: Tensor) -> tuple[Tensor, ...]:
        outputs = model(pixel_values=images, pixel_mask=(~padding_mask).long())
        masks = outputs.get("pred_masks")
        return outputs.logits[None], outputs.pred_boxes[None], *([] if masks is None else [masks[None]])

    return forward
