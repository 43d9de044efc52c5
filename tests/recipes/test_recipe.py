"""The recipe of the paper, pinned on the R50 model: what is trained, at which rates, clipped how, from which start.

Figures: Carion et al. 2020 and the code of its authors. Augmentation: `data/test_augmentation_draws.py`.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from tiny_models import random_targets
from torch import nn
from torchvision.models import resnet50

from detr_d2.engine import Trainer
from detr_d2.model_zoo import get_config
from detr_d2.modeling import Predictions, SetCriterion


@pytest.fixture(scope="module")
def cfg() -> CfgNode:
    cfg = get_config("detr_r50.yaml")
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.DETR.NUM_CLASSES", 91])
    cfg.freeze()
    return cfg


@pytest.fixture(scope="module")
def model(cfg: CfgNode) -> nn.Module:
    return build_model(cfg)


def test_parameter_groups(cfg: CfgNode, model: nn.Module):
    """Two rates, one weight decay for all: norms, biases and embeddings too."""
    optimizer = Trainer.build_optimizer(cfg, model)
    assert isinstance(optimizer, torch.optim.AdamW)
    names = {id(p): name for name, p in model.named_parameters()}
    grouped: dict[tuple[float, float], list[str]] = {}
    for group in optimizer.param_groups:
        assert group["betas"] == (0.9, 0.999)
        assert group["eps"] == 1e-8
        key = (round(group["lr"], 12), group["weight_decay"])
        grouped.setdefault(key, []).extend(names[id(p)] for p in group["params"])
    assert set(grouped) == {(1e-4, 1e-4), (1e-5, 1e-4)}
    slow, fast = grouped[1e-5, 1e-4], grouped[1e-4, 1e-4]
    assert len(set(slow + fast)) == len(slow + fast)
    assert {name.split(".")[0] for name in slow} == {"backbone"}
    assert {name.split(".")[0] for name in fast} == {"neck", "transformer", "head"}
    # weights of the 3x3 and 1x1 convolutions of layer2, layer3 and layer4: 3 a block and one shortcut a stage
    assert len(slow) == 3 * (4 + 6 + 3) + 3
    counts = {name: p.numel() for name, p in model.named_parameters()}
    assert sum(counts[name] for name in slow) == 23_454_912 - 222_400
    assert sum(counts[name] for name in slow + fast) == 41_302_368


def test_frozen_are_stem_and_first_stage_and_all_batch_norms(model: nn.Module):
    """The list of torchvision's names: conv1 and layer1 alone have no gradient; no batch norm has parameters."""
    convolutions = [name for name, _ in resnet50(weights=None).named_parameters() if "bn" not in name]
    frozen = {name for name in convolutions if name.startswith(("conv1", "layer1"))} - {"fc.weight", "fc.bias"}
    frozen = {name for name in frozen if ".downsample.1." not in name}
    expected = {"stem.conv1.weight"}
    for name in frozen - {"conv1.weight"}:
        _, block, *rest = name.split(".")
        part = "shortcut" if rest[0] == "downsample" else rest[0]
        expected.add(f"res2.{block}.{part}.weight")
    got = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert got == {f"backbone.{name}" for name in expected}
    assert len(got) == 11  # 1 + 3 blocks of 3 + 1 shortcut
    norms = [name for name, _ in model.backbone.named_modules() if name.endswith("norm")]  # type: ignore[union-attr]
    assert len(norms) == 53
    parameters = {name for name, _ in model.named_parameters()}
    for name in norms:
        assert not any(parameter.startswith(f"backbone.{name}.") for parameter in parameters)
        assert f"backbone.{name}.running_var" in model.state_dict()


def test_clips_the_norm_of_all_gradients_together(cfg: CfgNode, model: nn.Module):
    """3 in the backbone, 4 and 12 elsewhere: a norm of 13, scaled to 0.1 as one vector."""
    model = copy.deepcopy(model)
    optimizer: Any = Trainer.build_optimizer(cfg, model)
    parts = [model.get_parameter(name) for name in (
        "backbone.res5.2.conv3.weight", "transformer.encoder.layers.0.norm1.weight", "head.class_embed.bias"
    )]  # fmt: skip
    for parameter, value in zip(parts, (3.0, -4.0, 12.0), strict=True):
        parameter.grad = torch.zeros_like(parameter)
        parameter.grad.view(-1)[0] = value
    optimizer.step()
    assert float(optimizer.grad_norm) == pytest.approx(13)
    for parameter, value in zip(parts, (3.0, -4.0, 12.0), strict=True):
        assert parameter.grad is not None
        assert float(parameter.grad.view(-1)[0]) == pytest.approx(0.1 * value / 13, rel=1e-4)
        moment = optimizer.state[parameter]["exp_avg"].view(-1)[0]
        assert float(moment) == pytest.approx(0.1 * 0.1 * value / 13, rel=1e-4)  # (1 - beta1) x clipped


@pytest.mark.parametrize(("epochs", "drop"), [(500, 400), (300, 200)])
def test_schedule_in_iterations(cfg: CfgNode, epochs: int, drop: int):
    iterations_an_epoch = 118_287 // 64
    assert iterations_an_epoch == 1_848
    if epochs == 300:  # as the comment in Base-DETR.yaml says
        cfg = cfg.clone()
        cfg.defrost()
        cfg.SOLVER.STEPS, cfg.SOLVER.MAX_ITER = (369_600,), 554_400
    assert (drop * 1_848,) == cfg.SOLVER.STEPS
    assert epochs * 1_848 == cfg.SOLVER.MAX_ITER
    weights = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    optimizer = torch.optim.AdamW([{"params": weights[:1], "lr": 1e-4}, {"params": weights[1:], "lr": 1e-5}])
    scheduler = Trainer.build_lr_scheduler(cfg, optimizer)
    for iteration, factor in {
        0: 1.0, 1: 1.0, 999: 1.0, drop * 1_848 - 1: 1.0, drop * 1_848: 0.1, epochs * 1_848 - 1: 0.1
    }.items():  # fmt: skip
        scheduler.last_epoch = iteration
        assert scheduler.get_lr() == pytest.approx([1e-4 * factor, 1e-5 * factor], rel=1e-9), iteration


def test_auxiliary_layers_weigh_as_much_as_the_last(cfg: CfgNode):
    """Six layers with the same predictions: six times the same three losses, by the paper's weights."""
    criterion = SetCriterion(cfg)
    logits, boxes = torch.randn(1, 2, 100, 92), torch.rand(1, 2, 100, 4) * 0.5 + 0.2
    targets = random_targets([3, 5])
    losses = criterion(Predictions(logits.expand(6, -1, -1, -1), boxes.expand(6, -1, -1, -1)), targets)
    suffixes = ["", "_0", "_1", "_2", "_3", "_4"]
    assert set(losses) == {f"loss_{kind}{suffix}" for kind in ("ce", "bbox", "giou") for suffix in suffixes}
    unweighted = cfg.clone()
    unweighted.defrost()
    for key in ("LOSS_CLASS", "LOSS_L1", "LOSS_GIOU"):
        unweighted.MODEL.DETR.CRITERION[key] = 1.0
    plain = SetCriterion(unweighted)(Predictions(logits, boxes), targets)
    for kind, weight in (("ce", 1.0), ("bbox", 5.0), ("giou", 2.0)):
        for suffix in suffixes:
            expected = weight * plain[f"loss_{kind}"]
            torch.testing.assert_close(losses[f"loss_{kind}{suffix}"], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "std", "bound"),
    [
        ("neck.input_proj.weight", 0.0128, 2048**-0.5),
        ("neck.input_proj.bias", None, 2048**-0.5),
        ("head.class_embed.weight", 1 / 16 / 3**0.5, 1 / 16),
        ("head.class_embed.bias", None, 1 / 16),  # not the prior of focal models
        ("head.bbox_embed.layers.0.weight", 1 / 16 / 3**0.5, 1 / 16),
        ("head.bbox_embed.layers.2.weight", 0.036, 1 / 16),  # not zero
        ("transformer.encoder.layers.5.self_attn.in_proj_weight", 0.0442, 0.0765469),
        ("transformer.decoder.layers.3.multihead_attn.in_proj_weight", 0.0442, 0.0765469),
        ("transformer.decoder.layers.0.self_attn.out_proj.weight", (2 / 512) ** 0.5, (6 / 512) ** 0.5),
        ("transformer.decoder.layers.5.linear1.weight", (2 / 2304) ** 0.5, (6 / 2304) ** 0.5),
        ("transformer.decoder.layers.5.linear2.bias", None, 2048**-0.5),
        ("transformer.query_embed.weight", 1.0, None),
    ],
)
def test_initial_spread(model: nn.Module, name: str, std: float | None, bound: float | None):
    values = model.get_parameter(name).detach()
    if std is not None:
        deviation = (0.5 if bound is None else 0.2) / values.numel()  # variance of a sample's std: normal, uniform
        assert float(values.std()) == pytest.approx(std, rel=0.005 + 7 * deviation**0.5)
        assert abs(float(values.mean())) < 7 * std / values.numel() ** 0.5
    if bound is not None:  # uniform up to the bound
        largest = float(values.abs().max())
        assert largest <= bound * (1 + 1e-6)
        assert largest > bound * (1 - 30 / values.numel())


def test_initial_biases_of_attention_are_zero(model: nn.Module):
    for name, parameter in model.transformer.named_parameters():  # type: ignore[union-attr]
        if name.endswith(("in_proj_bias", "out_proj.bias")) or ("norm" in name and name.endswith("bias")):
            assert not parameter.any(), name
        elif "norm" in name:
            assert bool((parameter == 1).all()), name
