"""Which library a state dict comes from, and its way into the layout of another."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from . import huggingface, official
from .rules import ConversionError, Rule, StateDict, apply_rules


@dataclass(frozen=True)
class Layout:
    """How a library names the tensors of a family of models.

    Args:
        name: short, as in commands.
        title: for messages.
        signature: names that are in every state dict of this layout, and together in no other.
        rules: the authors' layout on the left, this one on the right.
        class_head: prefix of the tensors with a row for each class.
    """

    name: str
    title: str
    signature: tuple[str, ...]
    rules: Sequence[Rule]
    class_head: str

    def describes(self, names: Container[str]) -> bool:
        """Whether names are those of this layout."""
        return all(name in names for name in self.signature)


OFFICIAL = Layout(
    name="official",
    title="the authors' code",
    signature=("backbone.0.body.conv1.weight", "query_embed.weight", "class_embed.weight"),
    rules=(),
    class_head="class_embed",
)
DETECTRON2 = Layout(
    name="detectron2",
    title="detr_d2",
    signature=("backbone.stem.conv1.weight", "transformer.query_embed.weight", "head.class_embed.weight"),
    rules=official.DETECTRON2,
    class_head="head.class_embed",
)
WRAPPER = Layout(
    name="wrapper",
    title="the authors' detectron2 wrapper",
    signature=("detr.backbone.0.backbone.stem.conv1.weight", "detr.query_embed.weight", "detr.class_embed.weight"),
    rules=official.WRAPPER,
    class_head="detr.class_embed",
)
_HUGGINGFACE = ("model.query_position_embeddings.weight", "class_labels_classifier.weight")
HUGGINGFACE = Layout(
    name="huggingface",
    title="Hugging Face transformers",
    signature=(f"{huggingface.BACKBONE}conv1.weight", *_HUGGINGFACE),
    rules=huggingface.WITH_TIMM,
    class_head="class_labels_classifier",
)
HUGGINGFACE_NATIVE = Layout(
    name="huggingface-native",
    title="Hugging Face transformers without timm",
    signature=(f"{huggingface.BACKBONE}embedder.embedder.convolution.weight", *_HUGGINGFACE),
    rules=huggingface.WITHOUT_TIMM,
    class_head="class_labels_classifier",
)

# Left behind in files by a tool that counts FLOPs; the authors' loaders skip them as well.
_COUNTERS = ("total_ops", "total_params")

LAYOUTS = (DETECTRON2, OFFICIAL, WRAPPER, HUGGINGFACE, HUGGINGFACE_NATIVE)


def identify(names: Container[str]) -> Layout | None:
    """The layout of a state dict with these names; None if it is of none that is known."""
    return next((layout for layout in LAYOUTS if layout.describes(names)), None)


def convert(state: StateDict, target: Layout, *, source: str) -> dict[str, Tensor]:
    """Renames a state dict of any known layout; every value stays as it is, bit by bit.

    Args:
        state: name -> tensor.
        target: the layout wanted.
        source: file name, for messages.

    Raises:
        ConversionError: if the layout is unknown, or tensors are missing or left over.
    """
    layout = identify(state)
    if layout is None:
        raise ConversionError(unknown_layout(state, source))
    state = {name: tensor for name, tensor in state.items() if not name.endswith(_COUNTERS)}
    if layout is target:
        return state
    if layout is not OFFICIAL:
        state = apply_rules(state, layout.rules, source=f"{source} (of {layout.title})", reverse=True)
    if target is OFFICIAL:
        return dict(state)
    return apply_rules(state, target.rules, source=f"{source} (of {layout.title})")


def unknown_layout(names: Iterable[str], source: str) -> str:
    """A sentence on a file whose names no layout has."""
    first = sorted(names)[:3]
    return (
        f"{source} is not a DETR of {', '.join(layout.title for layout in LAYOUTS)}: its tensors are named "
        f"{', '.join(first) or 'nothing at all'}, ..."
    )
