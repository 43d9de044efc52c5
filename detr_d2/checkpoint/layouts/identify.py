"""Which library and which kind of model a state dict comes from, and its way into the layout of another library."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import deformable, huggingface, official, segmentation
from .rules import ConversionError, Rule, StateDict, apply_rules


@dataclass(frozen=True)
class Layout:
    """How a library names the tensors of a family of models.

    Args:
        name: of the library, as in commands.
        title: of the library, for messages.
        family: of models.
        names: name of a tensor -> whether every state dict of this layout has it, or none.
        rules: the authors' layout on the left, this one on the right.
        equal: two names of one tensor, where a file has both.
    """

    name: str
    title: str
    family: str
    names: Mapping[str, bool]
    rules: Sequence[Rule]
    equal: tuple[str, str] | None = None

    def describes(self, state: StateDict) -> bool:
        """Whether a state dict is of this layout."""
        if any((name in state) != there for name, there in self.names.items()):
            return False
        if self.equal is None or any(name not in state for name in self.equal):
            return True
        first, second = (state[name] for name in self.equal)
        return torch.equal(first, second)


_TITLES = {
    "official": "the authors' code",
    "detectron2": "detr_d2",
    "wrapper": "the authors' detectron2 wrapper",
    "huggingface": "Hugging Face transformers",
    "huggingface-native": "Hugging Face transformers without timm",
}
_HF_BACKBONES = {
    "huggingface": f"{huggingface.BACKBONE}conv1.weight",
    "huggingface-native": f"{huggingface.BACKBONE}embedder.embedder.convolution.weight",
}
_OFFICIAL_BACKBONE = "backbone.0.body.conv1.weight"
_DETECTRON2_BACKBONE = "backbone.stem.conv1.weight"


_HF_QUERIES, _HF_CLASSES = "model.query_position_embeddings.weight", "class_labels_classifier.weight"
_MASKS = f"{segmentation.MASK_HEAD}out_lay.weight"


def _detr(name: str, signature: tuple[str, ...], rules: Sequence[Rule], **names: bool) -> Layout:
    return Layout(name, _TITLES[name], "DETR", {**dict.fromkeys(signature, True), **names}, rules)


OFFICIAL = _detr("official", (_OFFICIAL_BACKBONE, "query_embed.weight", "class_embed.weight"), ())
DETECTRON2 = _detr(
    "detectron2",
    (_DETECTRON2_BACKBONE, "transformer.query_embed.weight", "head.class_embed.weight"),
    official.DETECTRON2,
    **{_MASKS: False},
)
WRAPPER = _detr(
    "wrapper",
    ("detr.backbone.0.backbone.stem.conv1.weight", "detr.query_embed.weight", "detr.class_embed.weight"),
    official.WRAPPER,
)
HUGGINGFACE, HUGGINGFACE_NATIVE = (
    _detr(name, (backbone, _HF_QUERIES, _HF_CLASSES), rules)
    for (name, backbone), rules in zip(
        _HF_BACKBONES.items(), (huggingface.WITH_TIMM, huggingface.WITHOUT_TIMM), strict=True
    )
)

WITH_MASKS = "DETR with a mask head"
"""Family of the models for instance and panoptic segmentation."""


def _with_masks(box_model: Layout, prefix: str, masks: str, rules: Sequence[Rule]) -> Layout:
    """The layout of a library whose box model stands behind a prefix; `masks` is a name in the mask head."""
    names = {f"{prefix}{name}": there for name, there in box_model.names.items()}
    return Layout(box_model.name, box_model.title, WITH_MASKS, {**names, masks: True}, rules)


_SEGMENTATION = (
    _with_masks(DETECTRON2, "", _MASKS, segmentation.DETECTRON2),
    _with_masks(OFFICIAL, "detr.", "mask_head.out_lay.weight", ()),
    _with_masks(WRAPPER, "detr.", "detr.mask_head.out_lay.weight", segmentation.WRAPPER),
    _with_masks(HUGGINGFACE, "detr.", "mask_head.out_lay.weight", segmentation.WITH_TIMM),
    _with_masks(HUGGINGFACE_NATIVE, "detr.", "mask_head.out_lay.weight", segmentation.WITHOUT_TIMM),
)

_VARIANTS = {
    "": "Deformable DETR",
    "refine": "Deformable DETR with box refinement",
    "two_stage": "two-stage Deformable DETR",
}

_CONTENT = "transformer.query_embed.weight"  # what a two-stage model has with mixed selection only


def _deformable(variant: str) -> list[Layout]:
    """The layouts of one variant; a second box head tells refinement, `enc_output` two stages.

    `transformers` may have left out the names inside the decoder, or the others, when it saved the file.
    """
    refines, two_stage = variant != "", variant == "two_stage"
    box = "bbox_embed.0.layers.0.weight"
    ours = {"transformer.level_embed": True, "transformer.enc_output.weight": two_stage}
    theirs = {"model.level_embed": True, "model.enc_output.weight": two_stage}
    theirs |= {} if refines else {f"model.decoder.{box}": False}
    head = {"head.class_embed.0.weight": True, "head.class_embed.1.weight": refines}
    tables: dict[str, tuple[dict[str, bool], Sequence[Rule]]] = {
        "official": ({_OFFICIAL_BACKBONE: True, **ours, f"transformer.decoder.{box}": refines}, ()),
        "detectron2": (
            {_DETECTRON2_BACKBONE: True, **ours, **head, **({_CONTENT: False} if two_stage else {})},
            deformable.DETECTRON2[variant],
        ),
        "huggingface": (theirs, deformable.WITH_TIMM[variant]),
        "huggingface-native": (theirs, deformable.WITHOUT_TIMM[variant]),
    }
    for name, backbone in _HF_BACKBONES.items():
        tables[name] = {backbone: True, **theirs}, tables[name][1]
    equal = None if refines else (box, "bbox_embed.1.layers.0.weight")
    return [
        Layout(name, _TITLES[name], _VARIANTS[variant], names, rules, equal if name in _HF_BACKBONES else None)
        for name, (names, rules) in tables.items()
    ]


# The other libraries have no such model.
MIXED = Layout(
    "detectron2",
    _TITLES["detectron2"],
    "two-stage Deformable DETR with mixed query selection",
    dict.fromkeys((_DETECTRON2_BACKBONE, "transformer.enc_output.weight", "head.class_embed.1.weight", _CONTENT), True),
    (),
)

# Shared heads come before refining ones, as a file may name them alike.
LAYOUTS = (
    *(DETECTRON2, OFFICIAL, WRAPPER, HUGGINGFACE, HUGGINGFACE_NATIVE),
    *_SEGMENTATION,
    *(layout for variant in _VARIANTS for layout in _deformable(variant)),
    MIXED,
)

# Left behind in files by a tool that counts FLOPs; the authors' loaders skip them as well.
_COUNTERS = ("total_ops", "total_params")


def identify(state: StateDict) -> Layout | None:
    """The layout of a state dict; None if it is of none that is known."""
    return next((layout for layout in LAYOUTS if layout.describes(state)), None)


def layout_of(library: str, family: str) -> Layout:
    """The layout of a library for a family of models.

    Raises:
        ConversionError: if the library has no such models.
    """
    for layout in LAYOUTS:
        if (layout.name, layout.family) == (library, family):
            return layout
    raise ConversionError(f"{_TITLES[library]} has no {family}.")


def convert(state: StateDict, target: Layout | str, *, source: str) -> dict[str, Tensor]:
    """Renames a state dict of any known layout; every value stays as it is, bit by bit.

    Args:
        state: name -> tensor.
        target: the library wanted: its name, or one of its layouts.
        source: file name, for messages.

    Raises:
        ConversionError: if the layout is unknown, or tensors are missing or left over.
    """
    layout = identify(state)
    if layout is None:
        raise ConversionError(unknown_layout(state, source))
    state = {name: tensor for name, tensor in state.items() if not name.endswith(_COUNTERS)}
    if layout.name.startswith("huggingface") and layout.family == _VARIANTS["refine"]:
        state = deformable.with_tied_classifiers(state)
    target = layout_of(target if isinstance(target, str) else target.name, layout.family)
    if layout is target:
        return state
    if layout.name != "official":
        state = apply_rules(state, layout.rules, source=f"{source} (of {layout.title})", reverse=True)
    if target.name == "official":
        return dict(state)
    return apply_rules(state, target.rules, source=f"{source} (of {layout.title})")


def unknown_layout(names: Iterable[str], source: str) -> str:
    """A sentence on a file whose names no layout has."""
    first = sorted(names)[:3]
    return (
        f"{source} is not a DETR or Deformable DETR of {', '.join(list(_TITLES.values())[:-1])}: its tensors are named "
        f"{', '.join(first) or 'nothing at all'}, ..."
    )
