"""The losses of two processes against those of one that sees all their images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from other_processes import WORLD, together
from tiny_deformable import tiny_deformable
from tiny_models import random_input, tiny_detr

Result = tuple[dict[str, float], torch.Tensor]


def build(kind: str) -> Any:
    """In double precision, so that tolerances can be tight."""
    if kind == "two_stage":
        return tiny_deformable("two_stage").double()
    return tiny_detr("MODEL.DETR.CRITERION.CE_NORM", kind).double()


def losses_and_gradient(model: Any, inputs: list[dict[str, Any]]) -> Result:
    losses = model(inputs)
    model.zero_grad()
    sum(losses.values()).backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return {name: value.item() for name, value in losses.items()}, gradient


def losses_of_all(rank: int, folder: Path) -> dict[str, list[Result]]:
    job = torch.load(folder / "job.pth", weights_only=False)
    results = {}
    for kind, state in job["models"].items():
        model = build(kind)
        model.load_state_dict(state)
        results[kind] = [losses_and_gradient(model, case[rank]) for case in job["cases"]]
    return results


def test_two_processes_equal_one(tmp_path: Path):
    torch.manual_seed(0)
    cases = [[[random_input(32, 48, n)] for n in counts] for counts in ((1, 5), (4, 0), (0, 0))]
    model, two_stage = build("global"), build("two_stage")
    states = {"global": model.state_dict(), "local": model.state_dict(), "two_stage": two_stage.state_dict()}
    torch.save({"models": states, "cases": cases}, tmp_path / "job.pth")
    ranks = together(losses_of_all, tmp_path)
    for i, (first, second) in enumerate(cases):
        single, single_gradient = losses_and_gradient(model, [*first, *second])
        for ce_norm in ("global", "local"):
            results: list[Result] = [rank[ce_norm][i] for rank in ranks]
            for name, value in single.items():
                mean = sum(losses[name] for losses, _ in results) / WORLD
                if ce_norm == "global" or "ce" not in name:
                    assert mean == pytest.approx(value, rel=1e-9), name
            if ce_norm == "global":  # DistributedDataParallel averages gradients
                torch.testing.assert_close(sum(g for _, g in results) / WORLD, single_gradient, atol=1e-9, rtol=1e-6)
    for i, (first, second) in enumerate(cases[:2]):  # without any object, each process divides by 1
        single, single_gradient = losses_and_gradient(two_stage, [*first, *second])
        results = [rank["two_stage"][i] for rank in ranks]
        assert "loss_ce_enc" in single
        for name, value in single.items():
            assert sum(losses[name] for losses, _ in results) / WORLD == pytest.approx(value, rel=1e-9), name
        torch.testing.assert_close(sum(g for _, g in results) / WORLD, single_gradient, atol=1e-9, rtol=1e-6)
    unequal = sum(rank["local"][0][0]["loss_ce"] for rank in ranks) / WORLD
    single, _ = losses_and_gradient(model, [*cases[0][0], *cases[0][1]])
    assert abs(unequal - single["loss_ce"]) > 1e-4  # the mean over unequal batches is not the mean over all queries
