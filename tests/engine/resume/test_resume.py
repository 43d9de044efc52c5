"""How an optimizer computes its steps is not the checkpoint's business."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from detectron2.solver import LRMultiplier
from fvcore.common.param_scheduler import ConstantParamScheduler
from torch import nn

from detr_d2.engine.resume.training_state import apply_config, hyperparameters, next_iteration


def adamw(device: str = "cpu", **variant: Any) -> torch.optim.AdamW:
    parameter = nn.Parameter(torch.ones(3, device=device))
    return torch.optim.AdamW([parameter], lr=0.1, **variant)


def schedule(optimizer: torch.optim.Optimizer, kind: str) -> Any:
    if kind == "ours":
        return LRMultiplier(optimizer, ConstantParamScheduler(1.0), max_iter=9)
    return torch.optim.lr_scheduler.StepLR(optimizer, 3)


@pytest.mark.parametrize("scheduler", ["ours", "another"])
@pytest.mark.parametrize("saved", [{"foreach": True}, {"fused": True}, {"foreach": False}])
@pytest.mark.parametrize("built", [{"foreach": True}, {"fused": True}])
def test_the_implementation_is_that_which_was_built(
    saved: dict[str, Any], built: dict[str, Any], scheduler: str
) -> None:
    first, second = adamw(**saved), adamw(**built)
    for _ in range(2):
        first.param_groups[0]["params"][0].grad = torch.ones(3)
        first.step()
    lr = schedule(second, scheduler)
    fresh = hyperparameters(second)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    apply_config(second, lr, fresh, 2)
    (group,) = second.param_groups
    assert {key: group[key] for key in ("foreach", "fused")} == {"foreach": None, "fused": None, **built}
    (parameter,) = group["params"]
    parameter.data.copy_(first.param_groups[0]["params"][0])
    for optimizer in (first, second):
        optimizer.param_groups[0]["lr"] = 0.1
        optimizer.param_groups[0]["params"][0].grad = torch.ones(3)
        optimizer.step()
    torch.testing.assert_close(parameter, first.param_groups[0]["params"][0])
    assert second.state[parameter]["step"] == 3


@pytest.mark.parametrize(
    ("flag", "place"), [("fused", "meta"), ("capturable", "meta"), ("foreach", "cpu"), ("differentiable", "cpu")]
)
def test_counts_of_steps_lie_where_the_implementation_reads_them(flag: str, place: str) -> None:
    optimizer = adamw("meta")  # in the place of a GPU
    (group,) = optimizer.param_groups
    (parameter,) = group["params"]
    optimizer.state[parameter] = {"step": torch.tensor(2.0), "exp_avg": torch.zeros(3, device="meta")}
    lr = schedule(optimizer, "ours")
    apply_config(optimizer, lr, [{**hyperparameters(optimizer)[0], flag: True}], 2)
    assert optimizer.state[parameter]["step"].device.type == place


def test_a_run_that_was_to_end_earlier_is_said() -> None:
    assert next_iteration(9, 10, "a.pth") == 10  # nothing is left to train
    with pytest.raises(ValueError, match=r"^a\.pth has been trained for 11 iterations, more than SOLVER.MAX_ITER 10"):
        next_iteration(10, 10, "a.pth")
