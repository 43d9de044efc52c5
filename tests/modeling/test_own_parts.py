"""A transformer, a head and a criterion of a user's own file, which denoise, propose and add a loss."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from segmentation_cases import MASKS, segmentation_input
from tiny_models import random_input, tiny_detr

from detr_d2.engine.startup.setup import import_user_modules
from detr_d2.modeling import CRITERION_REGISTRY, DETR, QUERY_HEAD_REGISTRY, TRANSFORMER_REGISTRY

QUERIES = 8  # of the tiny models

OWN = '''
import torch
from detr_d2.modeling import *

GROUPS = 2


@TRANSFORMER_REGISTRY.register()
class Denoising(DETRTransformer):
    """One more query for every object and group; the first three tokens are proposed."""

    def forward(self, inputs):
        output = super().forward(inputs)
        last = [inputs.head.class_embed(output.memory[:, :3]), inputs.head.bbox_embed(output.memory[:, :3]).sigmoid()]
        output.proposals = Proposals(*last, class_agnostic=False)
        if inputs.targets is None:
            return output
        targets = inputs.targets
        count = GROUPS * max(targets.counts)
        noisy = output.hidden_states[:, :, :1].expand(-1, -1, count, -1) + 1
        output.hidden_states = torch.cat([noisy, output.hidden_states], dim=2)
        place = torch.cat([torch.arange(n) for n in targets.counts])
        query = torch.cat([place + g * max(targets.counts) for g in range(GROUPS)])
        matching = Matching(
            image=targets.image_index.repeat(GROUPS),
            query=query.expand(len(noisy), -1),
            target=torch.arange(len(targets.labels)).repeat(GROUPS).expand(len(noisy), -1),
        )
        output.denoising = DenoisingQueries(count, matching, GROUPS)
        return output


@QUERY_HEAD_REGISTRY.register()
class Spread(DETRHead):
    """Tells its criterion how the hidden states spread."""

    def forward(self, output):
        return super().forward(output)._replace(extra={"spread": output.hidden_states.std(-1)})


@CRITERION_REGISTRY.register()
class Narrow(SetCriterion):
    """Wants matched queries to spread little."""

    @classmethod
    def from_config(cls, cfg):
        arguments = super().from_config(cfg)
        arguments["loss_weights"]["loss_spread"] = 0.5
        return arguments

    def layer_losses(self, predictions, targets, matching, step, class_weights=None):
        losses = super().layer_losses(predictions, targets, matching, step, class_weights)
        if predictions.extra:
            layers = torch.arange(len(predictions.logits))[:, None]
            spread = predictions.extra["spread"][layers, matching.image, matching.query]
            losses["loss_spread"] = spread.sum(1) / step.num_boxes
        return losses
'''


@pytest.fixture
def own_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options that choose the parts of a file outside the package; their names are forgotten after the test."""
    for registry in (TRANSFORMER_REGISTRY, QUERY_HEAD_REGISTRY, CRITERION_REGISTRY):
        monkeypatch.setattr(registry, "_obj_map", dict(registry._obj_map))
    monkeypatch.delitem(sys.modules, "own_parts", raising=False)
    file = tmp_path / "own_parts.py"
    file.write_text(OWN)
    import_user_modules([str(file)])
    names = {"TRANSFORMER": "Denoising", "HEAD": "Spread", "CRITERION": "Narrow"}
    return [x for part, name in names.items() for x in (f"MODEL.DETR.{part}.NAME", name)]


def own_losses(model: DETR, counts: tuple[int, ...] = (2, 3), make: Any = random_input) -> dict[str, torch.Tensor]:
    return model([make(64, 64, count) for count in counts])


def test_own_parts_train(own_parts: list[str]) -> None:
    model = tiny_detr(*own_parts)
    losses = own_losses(model)
    layers = [f"{kind}{i}" for kind in ("", "_dn") for i in ("", "_0", "_1")]
    usual = {f"loss_{name}{x}" for name in ("ce", "bbox", "giou") for x in [*layers, "_enc"]}
    assert losses.keys() == usual | {f"loss_spread{x}" for x in layers}
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_without_objects_the_losses_have_the_same_names(own_parts: list[str]) -> None:
    model = tiny_detr(*own_parts)
    none = own_losses(model, (0, 0))
    assert none.keys() == own_losses(model).keys()
    assert all(x == 0 for name, x in none.items() if "_dn" in name)


def test_denoising_queries_are_none_of_the_others(own_parts: list[str]) -> None:
    model = tiny_detr(*own_parts, *MASKS)
    images = model.preprocess_image(inputs := [segmentation_input(64, 64, 2), segmentation_input(64, 64, 3)])
    plain = model.predict(images, all_layers=True)
    with_targets = model.predict(images, all_layers=True, targets=model.pack_targets(inputs, images))
    assert plain.logits.shape[2] == QUERIES
    torch.testing.assert_close(with_targets[:2], plain[:2])
    torch.testing.assert_close(with_targets.extra["spread"], plain.extra["spread"])
    assert plain.masks is not None
    assert with_targets.masks is not None
    queries = [torch.arange(QUERIES)] * 2
    torch.testing.assert_close(with_targets.masks(queries), plain.masks(queries))
    assert with_targets.denoising is not None
    assert with_targets.denoising.predictions.logits.shape[2] == 2 * 3
    assert with_targets.denoising.predictions.extra["spread"].shape[2] == 2 * 3
    assert "loss_mask" in model(inputs)


def test_in_evaluation_nothing_is_denoised(own_parts: list[str]) -> None:
    model = tiny_detr(*own_parts).eval()
    with torch.no_grad():
        (result,) = model([random_input(64, 64, 2)])
    assert len(result["instances"]) == QUERIES
