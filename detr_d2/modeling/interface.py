"""What the parts of a model hand to each other, and how a config names them.

backbone, neck -> `TransformerInputs` -> transformer -> `TransformerOutput` -> head -> `Predictions` -> criterion, or
`Instances`. A part may leave aside what it does not need: another field is nothing to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from detectron2.config import CfgNode
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from ..layers.box_ops import at_least_float32
from .matcher import Matching
from .targets import Targets

if TYPE_CHECKING:
    from .segmentation.mask_head import QueryMasks

TRANSFORMER_REGISTRY = Registry("TRANSFORMER")
TRANSFORMER_REGISTRY.__doc__ = """
Transformers: `forward(inputs: TransformerInputs) -> TransformerOutput`. A registered class is an `nn.Module` that is
called with `cfg` (give it a `from_config`); `DETRTransformer` is the model.

It must return `hidden_states` and `memory`; of its inputs it may ignore `all_layers` if it has one layer only, `head`
if no layer depends on the predictions of another, and `targets` if it makes no queries of them. One that gives
`reference_logits` says so by an attribute `gives_references = True`: a head that ignores them is refused sooner. An
encoder over maps, such as a hybrid of attention and convolutions, belongs here: necks get no masks and no positions.
"""

Part = TypeVar("Part")


def build_part(node: str, build: Callable[..., Part], *args: Any) -> Part:
    """Builds a part that knows nothing of configs; where it complains of an argument, says which keys set them.

    Args:
        node: of the config that has the part's keys, such as "MODEL.DETR.CRITERION".
        build: called with `args`.
    """
    try:
        return build(*args)
    except ValueError as error:
        if "MODEL." in str(error):
            raise
        raise ValueError(f"{node}: {error}") from error


def build_transformer(cfg: CfgNode) -> nn.Module:
    """Builds `MODEL.DETR.TRANSFORMER.NAME` from the registry."""
    transformer = TRANSFORMER_REGISTRY.get(cfg.MODEL.DETR.TRANSFORMER.NAME)
    return build_part("MODEL.DETR.TRANSFORMER", transformer, cfg)


class LayerHead(Protocol):
    """What a transformer may ask of the head, which it is handed and does not own.

    Layers are counted from 0; the one after the last stands for the proposals of a two-stage encoder. A head that has
    more to carry from layer to layer than boxes has methods of its own for the transformer that it belongs to, which
    puts what they return into `TransformerOutput.extra`.
    """

    def classify(self, hidden_states: Tensor, layer: int) -> Tensor:
        """Class logits (..., num_logits) of hidden states (..., C) of a layer."""

    def box_logits(self, hidden_states: Tensor, layer: int, reference_logits: Tensor) -> Tensor:
        """Logits of boxes_cxcywh (..., 4) relative to references (..., 2 or 4), float32 or wider."""


@dataclass
class TransformerInputs:
    """The encoded images, and what a transformer may need besides.

    Attributes:
        maps: a feature map (B, C, H, W) for each level, finest first.
        padding_masks: masks (B, H, W), True on padding; or None for all levels when nothing is padded.
        positions: encodings (B or 1, C, H, W).
        all_layers: return every decoder layer, not just the last.
        head: the head of the model, a `LayerHead` if the transformer is to ask it.
        targets: the objects of the images, in training.
    """

    maps: Sequence[Tensor]
    padding_masks: Sequence[Tensor | None]
    positions: Sequence[Tensor]
    all_layers: bool
    head: Any = None
    targets: Targets | None = None


class Proposals(NamedTuple):
    """What a two-stage encoder says of N tokens: of all of them, or of those that become queries.

    Attributes:
        logits: (B, N, num_logits).
        boxes_cxcywh: (B, N, 4), normalised by the unpadded image.
        class_agnostic: whether they are trained to find objects of whatever class, as class 0.
    """

    logits: Tensor
    boxes_cxcywh: Tensor
    class_agnostic: bool = True


@dataclass
class DenoisingQueries:
    """Queries that are made of noisy objects, in training: what each is to find is known (DN-DETR, DINO).

    Attributes:
        count: D; these queries stand before all others. Where no image has objects, D is 0: the losses must have the
            same names in every step and on every process, and so must what makes the queries take part with a gradient
            of 0, since DistributedDataParallel waits for all parameters.
        matching: the objects that they are to find; queries without one are to find nothing.
        groups: G, how often each object is among them.
    """

    count: int
    matching: Matching
    groups: int


@dataclass
class TransformerOutput:
    """Decoded object queries and the encoded image.

    Attributes:
        hidden_states: (L, B, Q, C), the decoder layers asked for, the last one at the end.
        memory: (B, S, C), the encoder's output tokens of all levels.
        reference_logits: of each of these layers the points (B, Q, 2) or boxes_cxcywh (B, Q, 4) to which its predicted
            boxes are relative, as logits of coordinates normalised by the unpadded image. They may have a history: the
            loss of a layer's boxes then trains the layer before, too. None for transformers without references.
        proposals: of a two-stage encoder.
        denoising: says that the first D of the Q queries are of that kind.
        extra: what else the head of the paper wants to know.
    """

    hidden_states: Tensor
    memory: Tensor
    reference_logits: Sequence[Tensor] | None = None
    proposals: Proposals | None = None
    denoising: DenoisingQueries | None = None
    extra: dict[str, Any] = field(default_factory=dict)


class Predictions(NamedTuple):
    """What a head says of the queries, and what the network knows besides; all that criteria and outputs are made of.

    Attributes:
        logits: (L, B, Q, num_logits), the last decoder layer at the end.
        boxes_cxcywh: (L, B, Q, 4) in (0, 1), normalised by the unpadded image.
        extra: what a paper's own head tells its own criterion, (L or 1, B, Q, ...) each.
        proposals: of a two-stage encoder.
        denoising: predictions of denoising queries, of which nothing is left in `logits`, `boxes_cxcywh` and `extra`.
        masks: queries (N_b,) of each image -> logits (N, h, w) of their masks by the last layer, the first image's
            first; of models with a mask head.
    """

    logits: Tensor
    boxes_cxcywh: Tensor
    extra: Mapping[str, Tensor] = {}
    proposals: Proposals | None = None
    denoising: Denoising | None = None
    masks: QueryMasks | None = None

    def completed(self, output: TransformerOutput) -> Predictions:
        """What a head says of all queries of a transformer's output, the denoising ones taken apart."""
        if output.denoising is None:
            return self._replace(proposals=output.proposals)
        count = output.denoising.count
        denoising = Denoising(self.of_queries(slice(count)), output.denoising)
        return self.of_queries(slice(count, None))._replace(proposals=output.proposals, denoising=denoising)

    def of_queries(self, part: slice) -> Predictions:
        """The predictions of a range of queries."""
        extra = {name: x[:, :, part] for name, x in self.extra.items()}
        return Predictions(self.logits[:, :, part], self.boxes_cxcywh[:, :, part], extra)

    def at_least_float32(self) -> Predictions:
        """The same with logits and boxes in float32 or wider."""
        return self._replace(logits=at_least_float32(self.logits), boxes_cxcywh=at_least_float32(self.boxes_cxcywh))


class Denoising(NamedTuple):
    """Predictions of denoising queries, and what these are."""

    predictions: Predictions
    queries: DenoisingQueries
