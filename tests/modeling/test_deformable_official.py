"""The whole of Deformable DETR against the authors' modules: outputs, proposals, losses and gradients.

Needs a checkout of github.com/fundamentalvision/Deformable-DETR in the environment variable DEFORMABLE_DETR_REPO. Their
sampling operator need not be compiled: their own plain PyTorch version stands in for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_deformable import VARIANTS, stir, tiny_deformable
from tiny_models import NUM_CLASSES, random_input
from torch import Tensor, nn

from detr_d2.layers import padding_mask
from detr_d2.modeling import DETR
from detr_d2.other_libraries.deformable_reference import authors_deformable_modules

WIDTH = 256  # their code for the positions of proposals takes it for granted
REPO = os.environ.get("DEFORMABLE_DETR_REPO")
pytestmark = pytest.mark.skipif(not REPO, reason="DEFORMABLE_DETR_REPO names no checkout of the authors' repository")


@pytest.fixture(scope="module")
def authors() -> Iterator[SimpleNamespace]:
    """Their modules, imported without the compiled operator."""
    names = {"detr": "models.deformable_detr", "transformer": "models.deformable_transformer"}
    names.update(matcher="models.matcher", position="models.position_encoding", misc="util.misc")
    with authors_deformable_modules() as modules:
        yield SimpleNamespace(**{key: modules.module(name) for key, name in names.items()})


class Body(nn.Module):
    """Our backbone in their clothes."""

    def __init__(self, model: DETR, misc: Any) -> None:
        super().__init__()
        self.backbone, self.names, self.misc = model.backbone, model.in_features, misc

    def forward(self, samples: Any) -> list[Any]:
        features = self.backbone(samples.tensors)
        nested = []
        for name in self.names:
            size = features[name].shape[-2:]
            mask = nn.functional.interpolate(samples.mask[None].float(), size=size).bool()[0]
            nested.append(self.misc.NestedTensor(features[name], mask))
        return nested


class Joiner(nn.Sequential):
    """Backbone and position encoding, as theirs."""

    def __init__(self, model: DETR, authors: SimpleNamespace) -> None:
        encoding = authors.position.PositionEmbeddingSine(WIDTH // 2, normalize=True)
        super().__init__(Body(model, authors.misc), encoding)
        shapes = model.backbone.output_shape()
        self.num_channels = [shapes[name].channels for name in model.in_features]
        self.strides = [shapes[name].stride for name in model.in_features]

    def forward(self, samples: Any) -> tuple[list[Any], list[Tensor]]:
        features = self[0](samples)
        return features, [self[1](x) for x in features]


def their_model(model: DETR, authors: SimpleNamespace, variant: str) -> Any:
    refine, two_stage = variant in ("refine", "two_stage"), variant == "two_stage"
    transformer = authors.transformer.DeformableTransformer(
        WIDTH, 8, 2, 3, 64, 0.0, "relu", True, model.transformer.num_levels, 4, 4, two_stage, 8
    )
    joiner = Joiner(model, authors)
    return authors.detr.DeformableDETR(
        joiner, transformer, NUM_CLASSES, 8, model.transformer.num_levels, True, refine, two_stage
    )


def their_name(name: str) -> str:
    part, _, rest = name.partition(".")
    if part == "backbone":
        return f"backbone.0.{name}"
    return rest if part in ("neck", "head") or rest.startswith("query_embed") else name


def their_state(model: DETR, theirs: Any) -> dict[str, Tensor]:
    """Our parameters under all the names that they have there."""
    state = {their_name(name): value for name, value in model.state_dict().items()}
    for name in theirs.state_dict():
        source = name.replace("transformer.decoder.class_embed", "class_embed")
        source = source.replace("transformer.decoder.bbox_embed", "bbox_embed")
        if source not in state:  # one head for all layers
            part, _, rest = source.split(".", 2)
            source = f"{part}.0.{rest}"
        state[name] = state[source]
    return state


@pytest.mark.filterwarnings("ignore:torch.meshgrid", "ignore:invalid escape sequence")
@pytest.mark.parametrize("sizes", [[(64, 96), (96, 80)], [(64, 64), (64, 64)]], ids=["padded", "equal"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_the_authors(variant: str, sizes: list[tuple[int, int]], authors: SimpleNamespace):
    options = ["MODEL.DETR.TRANSFORMER.HIDDEN_DIM", WIDTH, "MODEL.DETR.TRANSFORMER.NUM_HEADS", 8]
    model = tiny_deformable(variant, *options)
    stir(model)
    theirs = their_model(model, authors, variant)
    theirs.load_state_dict(their_state(model, theirs))
    inputs = [random_input(*size, count) for size, count in zip(sizes, (3, 1), strict=True)]
    images = model.preprocess_image(inputs)
    mask = padding_mask(images.image_sizes, tuple(images.tensor.shape[-2:]), "cpu")
    mask = torch.zeros_like(images.tensor[:, 0], dtype=torch.bool) if mask is None else mask

    predictions = model.predict(images, all_layers=True)
    out = theirs(authors.misc.NestedTensor(images.tensor, mask))
    layers = [*out["aux_outputs"], out]
    expected = [torch.stack([x[key] for x in layers]) for key in ("pred_logits", "pred_boxes")]
    torch.testing.assert_close(predictions.logits, expected[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(predictions.boxes_cxcywh, expected[1], atol=1e-5, rtol=0)
    assert (predictions.proposals is None) == (variant != "two_stage")
    if predictions.proposals is not None:
        encoder = out["enc_outputs"]
        torch.testing.assert_close(predictions.proposals[0], encoder["pred_logits"], atol=1e-4, rtol=0)
        torch.testing.assert_close(predictions.proposals[1], encoder["pred_boxes"], atol=1e-5, rtol=0)

    losses = model.losses(predictions, model.pack_targets(inputs, images), inputs)
    matcher = authors.matcher.HungarianMatcher(2, 5, 2)
    criterion = authors.detr.SetCriterion(NUM_CLASSES, matcher, {}, ["labels", "boxes"])
    their_losses = criterion(out, [their_target(x["instances"]) for x in inputs])
    weights = {"loss_ce": 2.0, "loss_bbox": 5.0, "loss_giou": 2.0}
    assert set(losses) == {name for name in their_losses if name.startswith("loss")}
    for name, value in losses.items():
        reference = weights["_".join(name.split("_")[:2])] * their_losses[name]
        torch.testing.assert_close(value, reference, atol=1e-4, rtol=1e-4)

    torch.stack(list(losses.values())).sum().backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    total = sum(weights["_".join(k.split("_")[:2])] * v for k, v in their_losses.items() if k.startswith("loss"))
    total.backward()
    parameters = dict(theirs.named_parameters(remove_duplicate=False))
    for name, gradient in ours.items():
        twin = model.get_parameter(name) if name.startswith("backbone.") else parameters[their_name(name)]
        reference = twin.grad
        assert reference is not None, name
        scale = reference.abs().max()
        assert float((gradient - reference).abs().max()) <= 2e-4 * float(scale), name


def their_target(instances: Any) -> dict[str, Tensor]:
    height, width = instances.image_size
    x1, y1, x2, y2 = (instances.gt_boxes.tensor / torch.tensor([width, height, width, height])).unbind(1)
    return {
        "labels": instances.gt_classes,
        "boxes": torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], dim=1),
    }
