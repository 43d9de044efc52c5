"""`python -m detr_d2 convert`: DETR checkpoints between the authors' code, detectron2 and Hugging Face."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import ImageList
from detectron2.utils.logger import setup_logger
from torch import Tensor

from ..checkpoint import local_file
from ..checkpoint.class_head import NUMBERINGS, PANOPTIC, num_rows
from ..checkpoint.converting import FOLDER_FILES, TARGETS, Converted, convert_checkpoint, write_checkpoint
from ..checkpoint.layouts.identify import WITH_MASKS, Layout, convert
from ..checkpoint.reading.open import read_model_file
from ..checkpoint.renaming import DILATED, HEADS
from ..cli import quiet_libraries
from ..data import read_image
from ..engine.startup.setup import load_config
from ..model_zoo import list_configs
from ..other_libraries.deformable_reference import build_authors_network, is_deformable
from ..other_libraries.references import (
    Forward,
    authors_forward,
    build_transformers_model,
    our_forward,
    transformers_forward,
)
from ..prediction.predictor import ImagePredictor

TOLERANCE = 1e-4  # largest difference of logits, normalised boxes and mask logits that `--verify` accepts


def build_parser() -> argparse.ArgumentParser:
    """The command line of convert."""
    parser = argparse.ArgumentParser(
        prog="python -m detr_d2 convert",
        description="Convert a DETR checkpoint between libraries. SRC may be of detr_d2, of the authors, of their "
        "detectron2 wrapper, or of Hugging Face transformers. Every tensor must be accounted for.",
    )
    parser.add_argument("src", metavar="SRC", help="file, folder of transformers, URL, or hf://ORG/NAME[@REVISION]")
    parser.add_argument("dst", metavar="DST", help="file to write; for huggingface a folder")
    parser.add_argument("--to", required=True, choices=TARGETS, help="library to write for")
    parser.add_argument(
        "--keep-all-rows",
        action="store_true",
        help="leave the class head as it is (otherwise: COCO's 80 classes, of panoptic models 133, for detectron2, a "
        "row for each id elsewhere)",
    )
    parser.add_argument(
        "--config-file",
        metavar="FILE",
        help="config, for what tensors do not tell, such as heads and DC5 (default: the shipped DETR of the depth)",
    )
    parser.add_argument("--without-timm", action="store_true", help="huggingface: the backbone of transformers itself")
    parser.add_argument("--verify", action="store_true", help="run both models and compare what they predict")
    parser.add_argument("--image", metavar="FILE", help="image for --verify (default: random pixels)")
    parser.add_argument("--overwrite", action="store_true", help="replace DST")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Converts; returns 1 if the models differ."""
    args = build_parser().parse_args(argv)
    quiet_libraries()
    setup_logger(name="detr_d2")
    _check_destination(args.dst, folder=args.to == "huggingface", overwrite=args.overwrite)
    path = local_file(args.src)
    content = read_model_file(path)
    converted = convert_checkpoint(content, path, args.to, keep_all_rows=args.keep_all_rows, timm=not args.without_timm)
    if args.verify and converted.source_layout.name == "wrapper":
        raise ValueError("--verify cannot run the authors' detectron2 wrapper: leave it out.")
    needs_config = args.verify or args.to == "huggingface" or args.config_file
    cfg = _config(args.config_file, converted) if needs_config else None
    before, after = converted.source_layout.title, converted.layout.title
    print(f"{args.src}: {len(content['model'])} tensors of {before} become {len(converted.state)} of {after}")
    for note in converted.notes:
        print(note)
    if cfg is not None and args.verify and not _verify(cfg, content["model"], converted, args.image):
        return 1
    write_checkpoint(converted, args.dst, cfg)
    print(f"{args.dst}: written")
    return 0


def _check_destination(path: str, *, folder: bool, overwrite: bool) -> None:
    if path.endswith(os.sep) and not folder:
        raise ValueError(f"DST {path} must be a file, but is named like a folder.")
    parent = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(parent):
        raise ValueError(f"the folder {parent} does not exist: make it, or choose another DST.")
    if not os.path.exists(path):
        return
    if os.path.isdir(path) != folder:
        kinds = ("a folder", "a file") if folder else ("a file", "a folder")
        raise ValueError(f"DST {path} must be {kinds[0]}, but is {kinds[1]}.")
    if folder and not set(os.listdir(path)) <= set(FOLDER_FILES):
        raise ValueError(f"DST {path} is a folder with other things in it: choose another DST.")
    if not overwrite:
        raise ValueError(f"DST {path} exists already: choose another one, or pass --overwrite.")


def _config(config_file: str | None, converted: Converted) -> CfgNode:
    """The config given, or the shipped one of the family, the backbone's depth and, where the file tells, DC5."""
    state = convert(converted.state, "detectron2", source="the converted model")
    depth, family = _depth(state), converted.layout.family
    stated = converted.facts.get("architecture", {})
    name = config_file or _default_config(state, family, dilated=bool(stated.get(DILATED)))
    if not name:
        raise ValueError(f"no config is shipped for a {family} on a ResNet-{depth}: pass --config-file.")
    cfg = load_config(name)
    if cfg.MODEL.META_ARCHITECTURE != "DETR" or depth != cfg.MODEL.RESNETS.DEPTH or not _is_of_family(cfg, family):
        raise ValueError(f"{name} is not a config of this model, which is a {family} on a ResNet-{depth}.")
    _check_stated(name, cfg, stated)
    if config_file is None:
        dc5 = "DC5" if cfg.MODEL.RESNETS.RES5_DILATION == 2 else "no DC5"
        heads = cfg.MODEL.DETR.TRANSFORMER.NUM_HEADS
        print(f"What the file does not tell is taken from {name} ({heads} heads, {dc5}); see --config-file.")
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    cfg.MODEL.DETR.NUM_CLASSES = _num_classes(state, cfg)
    if "transformer.query_embed.weight" in state:
        cfg.MODEL.DETR.NUM_QUERIES = len(state["transformer.query_embed.weight"])
    return cfg


def _is_of_family(cfg: CfgNode, family: str) -> bool:
    """Whether the model of a config may be of a family of layouts."""
    if family not in ("DETR", WITH_MASKS):
        return is_deformable(cfg)
    return cfg.MODEL.DETR.TRANSFORMER.NAME == "DETRTransformer" and (family == WITH_MASKS) == cfg.MODEL.MASK_ON


def _check_stated(name: str, cfg: CfgNode, stated: Mapping[str, Any]) -> None:
    """Raises ValueError if a file says of its model what the config does not."""
    dilated, heads = cfg.MODEL.RESNETS.RES5_DILATION == 2, cfg.MODEL.DETR.TRANSFORMER.NUM_HEADS
    if stated.get(DILATED, dilated) != dilated or stated.get(HEADS, heads) != heads:
        raise ValueError(f"{name} is not a config of this model, of which its file says: {dict(stated)}.")


def _default_config(state: Mapping[str, Tensor], family: str, *, dilated: bool) -> str:
    """Name of the shipped config; "" if there is none."""
    depth = _depth(state)
    if family == WITH_MASKS:
        panoptic = num_rows(state) - 1 in (len(PANOPTIC.ids), PANOPTIC.num_ids)
        name = f"detr_r{depth}{'_dc5' if dilated else ''}_{'panoptic' if panoptic else 'segm'}.yaml"
        return name if name in list_configs() else ""
    if family == "DETR":
        return f"detr_r{depth}{'_dc5' if dilated else ''}.yaml" if depth in (50, 101) else ""
    single = "neck.input_proj.1.0.weight" not in state
    variants = {
        "Deformable DETR": ("_single_scale_dc5" if dilated else "_single_scale") if single else "",
        "Deformable DETR with box refinement": "_refine",
        "two-stage Deformable DETR": "_two_stage",
    }
    return f"deformable_detr_r50{variants[family]}.yaml" if depth == 50 and family in variants else ""


def _num_classes(state: Mapping[str, Tensor], cfg: CfgNode) -> int:
    return num_rows(state) - int(cfg.MODEL.DETR.CRITERION.CLASSIFICATION == "softmax")


def _depth(state: Mapping[str, Tensor]) -> int:
    blocks = {name.split(".")[2] for name in state if name.startswith("backbone.res4.")}
    bottleneck = "backbone.res2.0.conv3.weight" in state
    return {2: 18, 6: 50 if bottleneck else 34, 23: 101, 36: 152}.get(len(blocks), 0)


def _verify(cfg: CfgNode, source: Mapping[str, Tensor], converted: Converted, image: str | None) -> bool:
    """Runs the source in its own library and the result in its own, and compares what they say of one image."""
    images = _images(cfg, image)
    mask = images.tensor.new_zeros((1, *images.tensor.shape[-2:]), dtype=torch.bool)
    names, outputs = [], []
    for layout, state in ((converted.source_layout, source), (converted.layout, converted.state)):
        name, forward = _model_of(layout, state, cfg)
        with torch.no_grad():
            logits, *others = (x[-1] for x in forward(images.tensor, mask))
        names.append(name)
        outputs.append((logits, *others))
    count = min(logits.shape[-1] for logits, *_ in outputs)
    first, second = ((_common_rows(logits, count), *others) for logits, *others in outputs)
    differences = [float((a - b).abs().max()) for a, b in zip(first, second, strict=True)]
    same = max(differences) <= TOLERANCE
    found = ", ".join(f"of {name} {x:.2g}" for name, x in zip(_OUTPUTS, differences, strict=False))
    print(
        f"verified, {names[0]} against {names[1]}: largest difference {found}"
        + ("" if same else f"; more than {TOLERANCE:g}, so nothing is written")
    )
    return same


_OUTPUTS = ("logits", "boxes", "mask logits")


def _common_rows(logits: Tensor, count: int) -> Tensor:
    """The logits of COCO's classes, where the other model has no others."""
    if logits.shape[-1] == count:
        return logits
    numbering = next(x for x in NUMBERINGS if x.num_ids - len(x.ids) == logits.shape[-1] - count)
    return numbering.select(logits.movedim(-1, 0)).movedim(0, -1)


def _images(cfg: CfgNode, image: str | None) -> ImageList:
    cfg = _without_maps(cfg)
    model = build_model(cfg)
    if image is None:
        pixels = torch.rand(3, 480, 640, generator=torch.Generator().manual_seed(0)) * 255
        return model.preprocess_image([{"image": pixels}])
    return model.preprocess_image([ImagePredictor(cfg, model=model).inputs(read_image(image, "BGR"))])


def _without_maps(cfg: CfgNode) -> CfgNode:
    """A copy whose model does not make panoptic maps, for which it would have to know the classes."""
    cfg = cfg.clone()
    cfg.MODEL.DETR.PANOPTIC.ENABLED = False
    return cfg


def _model_of(layout: Layout, state: Mapping[str, Tensor], cfg: CfgNode) -> tuple[str, Forward]:
    """The model of a library; the authors' detectron2 wrapper stands around the authors' own."""
    cfg = _without_maps(cfg)
    cfg.MODEL.DETR.NUM_CLASSES = _num_classes(convert(state, "detectron2", source=layout.title), cfg)
    if layout.name == "detectron2":
        model = build_model(cfg).eval()
        model.load_state_dict(state)
        return layout.title, our_forward(model)
    if layout.name.startswith("huggingface"):
        model = build_transformers_model(cfg, state, timm=layout.name == "huggingface")
        return layout.title, transformers_forward(model)
    model = build_authors_network(cfg)
    model.load_state_dict(convert(state, "official", source=layout.title))
    return "the authors' code", authors_forward(model.eval())
