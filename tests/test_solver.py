"""Parameter groups, global clipping (plain, foreach, fused; with and without a gradient scaler), and schedules."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.solver import build_lr_scheduler as build_detectron2_lr_scheduler
from detectron2.solver import build_optimizer as build_detectron2_optimizer
from tiny_deformable import tiny_deformable
from tiny_models import tiny_cfg, tiny_detr
from torch import nn

from detr_d2 import solver
from detr_d2.config import get_cfg


class Toy(nn.Module):
    """A backbone, a neck and a norm; the loss of all-ones input is a sum of the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        self.neck = nn.Linear(2, 2)
        self.norm = nn.LayerNorm(2)


def group_of(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, Any]:
    (group,) = [g for g in optimizer.param_groups if any(p is parameter for p in g["params"])]
    return group


def recipe(*options: Any) -> Any:
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *["SOLVER.OPTIMIZER", "ADAMW", "SOLVER.BASE_LR", 1e-4, "SOLVER.BACKBONE_MULTIPLIER", 0.1],
            *["SOLVER.WEIGHT_DECAY", 1e-4, "SOLVER.WEIGHT_DECAY_NORM", 1e-4],
            *["SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm"],
            *["SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.1, "SOLVER.CLIP_GRADIENTS.FULL_MODEL", True],
        ]
    )
    cfg.merge_from_list(list(options))
    return cfg


def test_recipe_of_the_paper():
    model = Toy()
    optimizer = solver.build_optimizer(recipe(), model)
    assert isinstance(optimizer, torch.optim.AdamW)
    for name, parameter in model.named_parameters():
        group = group_of(optimizer, parameter)
        assert group["lr"] == pytest.approx(1e-5 if name.startswith("backbone.") else 1e-4), name
        assert group["weight_decay"] == 1e-4, name  # norms and biases too


def test_input_projection_of_detr_is_not_backbone():
    model = tiny_detr()
    optimizer = solver.build_optimizer(recipe(), model)
    slow = [n for n, p in model.named_parameters() if p.requires_grad and group_of(optimizer, p)["lr"] < 5e-5]
    fast = [n for n, p in model.named_parameters() if p.requires_grad and group_of(optimizer, p)["lr"] > 5e-5]
    assert slow
    assert all(name.startswith("backbone.") for name in slow)
    assert any(name.startswith("neck.") for name in fast)


def test_slow_names_of_deformable_detr():
    model = tiny_deformable("refine")
    names = ["reference_points", "sampling_offsets"]
    optimizer = solver.build_optimizer(recipe("SOLVER.SLOW_NAMES", names, "SOLVER.SLOW_MULTIPLIER", 0.05), model)
    rates = {n: group_of(optimizer, p)["lr"] for n, p in model.named_parameters()}
    for name, rate in rates.items():
        factor = 0.1 if name.startswith("backbone.") else 0.05 if any(x in name for x in names) else 1
        assert rate == pytest.approx(factor * 1e-4), name
    slow = {name.rpartition(".")[0] for name, rate in rates.items() if rate == pytest.approx(5e-6)}
    layers = [f"encoder.layers.{i}.self_attn" for i in range(2)] + [f"decoder.layers.{i}.cross_attn" for i in range(3)]
    assert slow == {"transformer.reference_points", *(f"transformer.{x}.sampling_offsets" for x in layers)}
    assert all(g["weight_decay"] == 1e-4 for g in optimizer.param_groups)


def test_the_backbone_has_its_own_rate_whatever_its_names():
    model = Toy()
    optimizer = solver.build_optimizer(recipe("SOLVER.SLOW_NAMES", ["weight"], "SOLVER.SLOW_MULTIPLIER", 0.5), model)
    assert group_of(optimizer, model.get_parameter("backbone.0.weight"))["lr"] == pytest.approx(1e-5)
    assert group_of(optimizer, model.get_parameter("neck.weight"))["lr"] == pytest.approx(5e-5)
    assert group_of(optimizer, model.get_parameter("neck.bias"))["lr"] == pytest.approx(1e-4)


def test_frozen_parameters_have_no_group():
    model = Toy()
    model.backbone.requires_grad_(False)
    optimizer = solver.build_optimizer(recipe(), model)
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {
        id(p) for n, p in model.named_parameters() if not n.startswith("backbone")
    }


@pytest.mark.parametrize("clip", [False, True])
def test_plain_config_gives_detectron2s_optimizer(clip: bool):
    ours, theirs = get_cfg(), get_detectron2_cfg()
    for cfg in (ours, theirs):
        cfg.SOLVER.CLIP_GRADIENTS.ENABLED = clip
        cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "norm"
        cfg.SOLVER.WEIGHT_DECAY_BIAS = 0.01
    torch.manual_seed(0)
    first = Toy()
    second = copy.deepcopy(first)
    optimizers = [solver.build_optimizer(ours, first), build_detectron2_optimizer(theirs, second)]
    assert len(optimizers[0].param_groups) == len(optimizers[1].param_groups)
    for _ in range(3):
        for model, optimizer in zip((first, second), optimizers, strict=True):
            optimizer.zero_grad()
            (1e3 * torch.stack([(p**2).sum() for p in model.parameters()]).sum()).backward()
            optimizer.step()
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def gradients_of_norm_5(model: nn.Module) -> list[torch.Tensor]:
    """3 and 4 in two tensors of different groups, zero elsewhere."""
    gradients = [torch.zeros_like(p) for p in model.parameters()]
    gradients[0].view(-1)[0], gradients[-1].view(-1)[0] = 3.0, 4.0
    return gradients


VARIANTS = [{"foreach": False}, {"foreach": True}, {"fused": True}]


@pytest.mark.parametrize("variant", VARIANTS, ids=["plain", "foreach", "fused"])
@pytest.mark.parametrize("scaled", ["", "unscaled", "left to step"], ids=["fp32", "unscaled", "left-to-step"])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_clips_all_gradients_together(kind: Any, scaled: str, variant: dict[str, Any]):
    model = Toy()
    before = [p.detach().clone() for p in model.parameters()]
    groups = [{"params": [p]} for p in model.parameters()]
    optimizer = solver.with_global_clipping(kind, max_norm=0.1)(groups, lr=1.0, weight_decay=0.0, **variant)
    gradients = gradients_of_norm_5(model)
    loss = torch.stack([(p * g).sum() for p, g in zip(model.parameters(), gradients, strict=True)]).sum()
    if scaled:
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
        scaler.scale(loss).backward()
        if scaled == "unscaled":
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
    else:
        loss.backward()
        optimizer.step()
    assert optimizer.grad_norm is not None
    assert optimizer.grad_norm.item() == pytest.approx(5.0)
    if kind is torch.optim.SGD:  # the step is the clipped gradient: (3, 4) / 5 x 0.1
        steps = [b - p.detach() for b, p in zip(before, model.parameters(), strict=True)]
        assert steps[0].view(-1)[0].item() == pytest.approx(0.06, abs=1e-6)
        assert steps[-1].view(-1)[0].item() == pytest.approx(0.08, abs=1e-6)
    else:  # the second moment remembers the clipped gradient: 0.001 x 0.06^2
        moment = optimizer.state[next(model.parameters())]["exp_avg_sq"].view(-1)[0].item()
        assert moment == pytest.approx(0.001 * 0.06**2, rel=1e-4)


@pytest.mark.parametrize("variant", VARIANTS, ids=["plain", "foreach", "fused"])
def test_scaler_skips_a_step_with_infinite_gradients(variant: dict[str, Any]):
    model = Toy()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = solver.with_global_clipping(torch.optim.AdamW, max_norm=0.1)(model.parameters(), lr=1.0, **variant)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    loss = torch.stack([(p * torch.inf).sum() for p in model.parameters()]).sum()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert scaler.get_scale() == 2.0**15


@pytest.mark.parametrize("clip", ["full", "each", "none"])
def test_fused_steps_are_those_of_plain_adamw(clip: str):
    torch.manual_seed(0)
    model = Toy().double()
    reference = copy.deepcopy(model)
    cfg = recipe("SOLVER.CLIP_GRADIENTS.ENABLED", clip != "none", "SOLVER.CLIP_GRADIENTS.FULL_MODEL", clip == "full")
    optimizer = solver.build_optimizer(cfg, model)
    # A gradient scaler leaves scaled gradients to fused optimizers, of which detectron2's clipping knows nothing.
    assert optimizer.defaults["fused"] is (None if clip == "each" else True)
    groups = []
    for p, q in zip(reference.parameters(), model.parameters(), strict=True):
        group = group_of(optimizer, q)
        groups.append({"params": [p], "lr": group["lr"], "weight_decay": group["weight_decay"]})
    plain = torch.optim.AdamW(groups, foreach=False)
    for _ in range(4):
        gradients = [torch.randn_like(p) for p in model.parameters()]
        for p, q, g in zip(model.parameters(), reference.parameters(), gradients, strict=True):
            p.grad, q.grad = g.clone(), g.clone()
        if clip == "full":
            nn.utils.clip_grad_norm_(reference.parameters(), cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE)
        elif clip == "each":
            for q in reference.parameters():
                nn.utils.clip_grad_norm_(q, cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE)
        optimizer.step()
        plain.step()
    for p, q in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)


def test_small_gradients_pass_unclipped():
    weight = nn.Parameter(torch.zeros(2))
    optimizer = solver.with_global_clipping(torch.optim.SGD, max_norm=10.0)([weight], lr=1.0)
    weight.grad = torch.tensor([3.0, 4.0])
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([-3.0, -4.0]))


def test_norm_type_is_honoured():
    weight = nn.Parameter(torch.zeros(2))
    optimizer = solver.with_global_clipping(torch.optim.SGD, max_norm=1.0, norm_type=math.inf)([weight], lr=1.0)
    weight.grad = torch.tensor([3.0, 4.0])
    optimizer.step()
    assert optimizer.grad_norm.item() == 4.0
    torch.testing.assert_close(weight.detach(), torch.tensor([-0.75, -1.0]), atol=1e-5, rtol=0)


def test_full_model_and_per_parameter_clipping_differ():
    sizes = {}
    for full in (True, False):
        model = Toy()
        cfg = recipe("SOLVER.OPTIMIZER", "SGD", "SOLVER.BASE_LR", 1.0, "SOLVER.BACKBONE_MULTIPLIER", 1.0)
        cfg.merge_from_list(["SOLVER.MOMENTUM", 0.0, "SOLVER.WEIGHT_DECAY", 0.0, "SOLVER.WEIGHT_DECAY_NORM", 0.0])
        cfg.SOLVER.CLIP_GRADIENTS.FULL_MODEL = full
        optimizer = solver.build_optimizer(cfg, model)
        before = [p.detach().clone() for p in model.parameters()]
        for p, g in zip(model.parameters(), gradients_of_norm_5(model), strict=True):
            p.grad = g
        optimizer.step()
        sizes[full] = [(b - p.detach()).norm().item() for b, p in zip(before, model.parameters(), strict=True)]
    assert sizes[True][0] == pytest.approx(0.06, abs=1e-6)
    assert sizes[False][0] == pytest.approx(0.1, abs=1e-6)  # detectron2 clips every parameter to 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["SOLVER.OPTIMIZER", "LION"], "SOLVER.OPTIMIZER is 'LION', expected one of SGD, ADAMW"),
        (["SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "value"], "CLIP_TYPE is 'value', but FULL_MODEL clips by norm"),
        (["SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.0], "CLIP_VALUE is 0.0, expected a norm above 0"),
    ],
)
def test_mistakes_are_named(options: list[Any], message: str):
    with pytest.raises(ValueError, match=message):
        solver.build_optimizer(recipe(*options), Toy())


def test_nothing_to_train_is_an_error():
    model = Toy().requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter"):
        solver.build_optimizer(recipe(), model)


def learning_rates(scheduler: Any, optimizer: torch.optim.Optimizer, steps: int) -> list[list[float]]:
    rates = []
    for _ in range(steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return rates


def test_a_schedule_that_is_gone_says_which_to_take():
    cfg = recipe("SOLVER.LR_SCHEDULER_NAME", "OneCycleLR")
    with pytest.raises(ValueError, match=r'OneCycleLR is gone: set SOLVER\.LR_SCHEDULER_NAME to "WarmupCosineLR"'):
        solver.build_lr_scheduler(cfg, solver.build_optimizer(cfg, Toy()))


def test_paper_schedule_drops_once_without_warm_up():
    cfg = tiny_cfg("SOLVER.BASE_LR", 1e-4, "SOLVER.STEPS", (6,), "SOLVER.MAX_ITER", 10)
    cfg.merge_from_list(["SOLVER.WARMUP_ITERS", 0, "SOLVER.WARMUP_FACTOR", 1.0])
    model = Toy()
    optimizer = solver.build_optimizer(cfg, model)
    rates = learning_rates(solver.build_lr_scheduler(cfg, optimizer), optimizer, 10)
    assert [r[0] for r in rates] == pytest.approx([1e-4] * 6 + [1e-5] * 4)


def test_other_schedules_are_detectron2s():
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.MAX_ITER", 20, "SOLVER.WARMUP_ITERS", 5])
    rates = []
    for build in (solver.build_lr_scheduler, build_detectron2_lr_scheduler):
        optimizer = solver.build_optimizer(cfg, Toy())
        rates.append(learning_rates(build(cfg, optimizer), optimizer, 20))
    assert rates[0] == rates[1]
