"""What hooks compute between two steps, they compute with the weights of now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import HookBase, hooks
from detectron2.evaluation.evaluator import inference_context
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from tiny_models import random_input, tiny_detr

from detr_d2.engine import Trainer
from detr_d2.engine.build import share_buffers
from detr_d2.modeling import accelerate
from detr_d2.modeling.backbone import folding


@pytest.fixture(params=["values", "traces"], autouse=True)
def evidence(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How writes to weights are seen: as on a CPU, as on a GPU."""
    if request.param == "traces":
        monkeypatch.setattr(folding, "_can_be_read", lambda _: False)


class ValidationLoss(HookBase):
    """The well-known hook that computes losses on other images between two steps, in training mode.

    Args:
        frozen_statistics: the backbone stays in evaluation mode, as many do to keep batch norms.
    """

    def __init__(self, frozen_statistics: bool) -> None:
        self.frozen_statistics = frozen_statistics
        self.losses: list[tuple[float, float]] = []

    def before_train(self) -> None:
        if self.frozen_statistics:
            self.trainer.model.backbone.eval()

    @torch.no_grad()
    def after_step(self) -> None:
        torch.manual_seed(0)
        batch = [random_input(48, 64, 3)]
        self.losses.append((self._loss(batch), self._loss(batch, fast=False)))

    def _loss(self, batch: list[dict[str, Any]], fast: bool = True) -> float:
        accelerate(self.trainer.model, inference=fast, training=fast)
        loss = sum(self.trainer.model(batch).values())
        accelerate(self.trainer.model, inference=True, training=True)
        return float(loss)


@pytest.mark.parametrize("frozen_statistics", [False, True])
def test_a_hook_that_computes_validation_losses(detr_cfg: Callable[..., CfgNode], frozen_statistics: bool) -> None:
    options = ["MODEL.RESNETS.NORM", "FrozenBN", "MODEL.DETR.TRANSFORMER.DROPOUT", 0.0, "SOLVER.MAX_ITER", 3]
    cfg = detr_cfg(*options, "SOLVER.BACKBONE_MULTIPLIER", 1.0, "SOLVER.BASE_LR", 1e-3, "SOLVER.CHECKPOINT_PERIOD", 99)
    seed_all_rng(cfg.SEED)
    hook = ValidationLoss(frozen_statistics)
    trainer = Trainer(cfg)
    assert trainer.optimizer.param_groups[0]["fused"]  # what leaves no version behind
    trainer.checkpointer.save_to_disk = False
    trainer.build_writers = list  # type: ignore[method-assign]
    trainer._hooks = []
    trainer.register_hooks([hook])
    trainer.train()
    fast, fresh = zip(*hook.losses, strict=True)
    assert fast == pytest.approx(fresh, rel=1e-4)
    assert max(fresh) - min(fresh) > 0.01  # so that old weights would be seen


def test_detectron2s_hooks_for_statistics_and_evaluation(detr_cfg: Callable[..., CfgNode]) -> None:
    cfg = detr_cfg("SOLVER.MAX_ITER", 3)
    trainer = Trainer(cfg)
    trainer.checkpointer.save_to_disk = False
    image = torch.randn(1, 3, 32, 32)
    seen = []

    def evaluate() -> dict[str, float]:
        backbone = trainer.model.backbone
        with inference_context(backbone), torch.no_grad():
            for fast in (True, False):
                accelerate(backbone, inference=fast, training=fast)
                seen.append(backbone(image)["res3"])
        accelerate(backbone, inference=True, training=True)
        return {}

    trainer._hooks = []
    precise = hooks.PreciseBN(1, trainer.model, trainer.build_train_loader(cfg), num_iter=2)
    trainer.register_hooks([precise, hooks.EvalHook(1, evaluate)])
    trainer.train()
    for got, expected in zip(seen[::2], seen[1::2], strict=True):
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    assert len(seen) >= 6
    assert not torch.allclose(seen[0], seen[2])


def test_buffers_of_the_main_process_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    def receive(x: torch.Tensor, _: int) -> None:
        version = x._version
        x.data.add_(1)
        assert x._version == version  # as collectives

    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "broadcast", receive)
    model = tiny_detr("MODEL.RESNETS.NORM", "BN").eval()
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        before = model.backbone(image)["res4"]
        share_buffers(model)
        got = model.backbone(image)["res4"]
        accelerate(model, inference=False, training=False)
        torch.testing.assert_close(got, model.backbone(image)["res4"], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(got, before)
