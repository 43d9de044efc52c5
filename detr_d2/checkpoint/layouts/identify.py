"""Which library and which kind of model a state dict comes from, and its way into the layout of another library."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
        signature: names that are in every state dict of this layout.
        rules: the authors' layout on the left, this one on the right.
        absent: names that are in no state dict of this layout.
        equal: two names of one tensor, where a file has both.
    """

    name: str
    title: str
    family: str
    signature: tuple[str, ...]
    rules: Sequence[Rule]
    absent: tuple[str, ...] = ()
    equal: tuple[str, str] | None = None

    def describes(self, state: StateDict) -> bool:
        """Whether a state dict is of this layout."""
        if not all(name in state for name in self.signature) or any(name in state for name in self.absent):
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


def _detr(name: str, signature: tuple[str, ...], rules: Sequence[Rule], absent: tuple[str, ...] = ()) -> Layout:
    return Layout(name, _TITLES[name], "DETR", signature, rules, absent)


OFFICIAL = _detr("official", (_OFFICIAL_BACKBONE, "query_embed.weight", "class_embed.weight"), ())
DETECTRON2 = _detr(
    "detectron2",
    (_DETECTRON2_BACKBONE, "transformer.query_embed.weight", "head.class_embed.weight"),
    official.DETECTRON2,
    absent=(_MASKS,),
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
    signature = (*(f"{prefix}{name}" for name in box_model.signature), masks)
    return Layout(box_model.name, box_model.title, WITH_MASKS, signature, rules)


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
    """The layouts of one variant; a second box head tells refinement, `enc_output` two stages."""
    box = "bbox_embed.0.layers.0.weight"
    return [
        _deformable_layout(
            "official",
            variant,
            always=(_OFFICIAL_BACKBONE, "transformer.level_embed"),
            refinement=f"transformer.decoder.{box}",
            rules=(),
        ),
        _deformable_layout(
            "detectron2",
            variant,
            always=(_DETECTRON2_BACKBONE, "transformer.level_embed", "head.class_embed.0.weight"),
            refinement="head.class_embed.1.weight",
            rules=deformable.DETECTRON2[variant],
        ),
        *_huggingface_deformable(variant),
    ]


def _deformable_layout(
    name: str, variant: str, *, always: tuple[str, ...], refinement: str, rules: Sequence[Rule]
) -> Layout:
    telling = {refinement: variant != "", "transformer.enc_output.weight": variant == "two_stage"}
    present = tuple(x for x, there in telling.items() if there)
    absent = tuple(x for x, there in telling.items() if not there)
    if (name, variant) == ("detectron2", "two_stage"):
        absent = (*absent, _CONTENT)
    return Layout(name, _TITLES[name], _VARIANTS[variant], (*always, *present), rules, absent)


def _huggingface_deformable(variant: str) -> list[Layout]:
    """`transformers` may have left out the names inside the decoder, or the others, when it saved the file."""
    proposals = "model.enc_output.weight"
    signature: tuple[str, ...] = ("model.level_embed",)
    absent: tuple[str, ...] = (proposals,)
    equal = None
    if variant == "two_stage":
        signature, absent = (*signature, proposals), ()
    if variant == "":
        absent = (*absent, "model.decoder.bbox_embed.0.layers.0.weight")
        equal = ("bbox_embed.0.layers.0.weight", "bbox_embed.1.layers.0.weight")
    tables = (deformable.WITH_TIMM[variant], deformable.WITHOUT_TIMM[variant])
    return [
        Layout(name, _TITLES[name], _VARIANTS[variant], (backbone, *signature), rules, absent, equal)
        for (name, backbone), rules in zip(_HF_BACKBONES.items(), tables, strict=True)
    ]


# The other libraries have no such model.
MIXED = Layout(
    "detectron2",
    _TITLES["detectron2"],
    "two-stage Deformable DETR with mixed query selection",
    (_DETECTRON2_BACKBONE, "transformer.enc_output.weight", "head.class_embed.1.weight", _CONTENT),
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
